//! Byte streams in a shared page: one direction of a console or XenStore ring.

use pv_abi::io::ring::RingIndex;
use pv_abi::io::{console, xs_wire};

use super::RingFault;
use super::fence;
use crate::platform::SharedMemory;

/// Where one direction of a byte ring lies in its page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamLayout {
    data: usize,
    size: u32,
    cons: usize,
    prod: usize,
}

impl StreamLayout {
    /// From the console's back end to the guest.
    pub const CONSOLE_IN: Self =
        Self { data: console::IN, size: console::IN_SIZE, cons: console::IN_CONS, prod: console::IN_PROD };
    /// From the guest to the console's back end.
    pub const CONSOLE_OUT: Self = Self {
        data: console::OUT,
        size: console::OUT_SIZE,
        cons: console::OUT_CONS,
        prod: console::OUT_PROD,
    };
    /// From a XenStore client to the server.
    pub const STORE_REQ: Self = Self {
        data: xs_wire::REQ,
        size: xs_wire::RING_SIZE,
        cons: xs_wire::REQ_CONS,
        prod: xs_wire::REQ_PROD,
    };
    /// From the XenStore server to a client.
    pub const STORE_RSP: Self = Self {
        data: xs_wire::RSP,
        size: xs_wire::RING_SIZE,
        cons: xs_wire::RSP_CONS,
        prod: xs_wire::RSP_PROD,
    };

    const fn slot(self, index: RingIndex) -> usize {
        // Sizes are powers of two, below the width of usize.
        (index.raw() & (self.size - 1)) as usize
    }
}

/// The end that writes bytes.
pub struct StreamWriter {
    layout: StreamLayout,
    prod: RingIndex,
}

impl StreamWriter {
    /// Attaches where the page says that the stream stands.
    #[must_use]
    pub fn attach(layout: StreamLayout, page: &impl SharedMemory) -> Self {
        Self { layout, prod: RingIndex::new(page.read_u32(layout.prod)) }
    }

    /// Bytes that fit now.
    ///
    /// # Errors
    /// The reader's index is impossible.
    pub fn free(&self, page: &impl SharedMemory) -> Result<u32, RingFault> {
        let claimed = self.prod.ahead_of(RingIndex::new(page.read_u32(self.layout.cons)));
        if claimed > self.layout.size {
            return Err(RingFault::ConsumerRunaway { claimed, possible: self.layout.size });
        }
        Ok(self.layout.size - claimed)
    }

    /// Writes as many bytes as fit and says how many. The peer wants an event if that is not zero.
    ///
    /// # Errors
    /// As [`Self::free`].
    pub fn write(&mut self, page: &impl SharedMemory, bytes: &[u8]) -> Result<usize, RingFault> {
        let count = bytes.len().min(self.free(page)? as usize);
        let start = self.layout.slot(self.prod);
        let first = count.min(self.layout.size as usize - start);
        let (head, tail) = bytes.get(..count).unwrap_or_default().split_at(first);
        page.copy_in(self.layout.data + start, head);
        page.copy_in(self.layout.data, tail);
        // `count` is at most the size of the stream.
        #[allow(clippy::cast_possible_truncation)]
        let advanced = self.prod.advance(count as u32);
        self.prod = advanced;
        page.write_u32(self.layout.prod, advanced.raw());
        fence();
        Ok(count)
    }
}

/// The end that reads bytes.
pub struct StreamReader {
    layout: StreamLayout,
    cons: RingIndex,
}

impl StreamReader {
    /// Attaches where the page says that the stream stands.
    #[must_use]
    pub fn attach(layout: StreamLayout, page: &impl SharedMemory) -> Self {
        Self { layout, cons: RingIndex::new(page.read_u32(layout.cons)) }
    }

    /// Bytes that wait.
    ///
    /// # Errors
    /// The writer's index is impossible.
    pub fn pending(&self, page: &impl SharedMemory) -> Result<u32, RingFault> {
        let claimed = RingIndex::new(page.read_u32(self.layout.prod)).ahead_of(self.cons);
        if claimed > self.layout.size {
            return Err(RingFault::ProducerRunaway { claimed, possible: self.layout.size });
        }
        Ok(claimed)
    }

    /// Reads as many bytes as wait and fit, and says how many. The peer wants an event if that is not zero.
    ///
    /// # Errors
    /// As [`Self::pending`].
    pub fn read(&mut self, page: &impl SharedMemory, to: &mut [u8]) -> Result<usize, RingFault> {
        let count = to.len().min(self.pending(page)? as usize);
        let start = self.layout.slot(self.cons);
        let first = count.min(self.layout.size as usize - start);
        let (head, tail) = to.get_mut(..count).unwrap_or_default().split_at_mut(first);
        page.copy_out(self.layout.data + start, head);
        page.copy_out(self.layout.data, tail);
        // The bytes must be out before the writer may use their place again.
        fence();
        // `count` is at most the size of the stream.
        #[allow(clippy::cast_possible_truncation)]
        let advanced = self.cons.advance(count as u32);
        self.cons = advanced;
        page.write_u32(self.layout.cons, advanced.raw());
        fence();
        Ok(count)
    }
}
