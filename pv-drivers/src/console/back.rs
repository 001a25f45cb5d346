//! The end that shows what guests write.

use alloc::collections::VecDeque;

use pv_abi::ids::{DomainId, Port};

use crate::platform::{Nanos, Platform};
use crate::ring::{RingFault, StreamLayout, StreamReader, StreamWriter};

/// Typed bytes that are kept for a guest that does not read.
const INPUT_MAX: usize = 4096;

/// How fast a guest may write. A guest that writes faster is not cut short: its ring stays full and it waits.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// Bytes in a second in the long run.
    pub bytes_per_second: u64,
    /// Bytes that may come at once.
    pub burst: u64,
}

impl Default for Limit {
    fn default() -> Self {
        Self { bytes_per_second: 1 << 20, burst: 256 << 10 }
    }
}

/// What a poll did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Nothing more to do until the guest's next event.
    Idle,
    /// The guest writes too fast: poll again at this time.
    Throttled(Nanos),
    /// The guest broke the ring; its console is dead.
    Dead(RingFault),
}

/// The back end of one guest's console.
pub struct ConsoleBack<P: Platform> {
    platform: P,
    domain: DomainId,
    page: P::Memory,
    port: Port,
    reader: StreamReader,
    writer: StreamWriter,
    input: VecDeque<u8>,
    limit: Limit,
    allowance: u64,
    refilled: Nanos,
    fault: Option<RingFault>,
}

impl<P: Platform> ConsoleBack<P> {
    /// Connects a guest: `page` is a mapping of its ring, `port` is bound to its end of the event channel.
    pub fn new(platform: &P, domain: DomainId, page: P::Memory, port: Port, limit: Limit) -> Self {
        Self {
            platform: platform.clone(),
            domain,
            reader: StreamReader::attach(StreamLayout::CONSOLE_OUT, &page),
            writer: StreamWriter::attach(StreamLayout::CONSOLE_IN, &page),
            page,
            port,
            input: VecDeque::new(),
            limit,
            allowance: limit.burst,
            refilled: platform.now(),
            fault: None,
        }
    }

    /// The guest.
    #[must_use]
    pub fn domain(&self) -> DomainId {
        self.domain
    }

    /// Our end of the event channel.
    #[must_use]
    pub fn port(&self) -> Port {
        self.port
    }

    /// Queues typed bytes for the guest; what it does not read in time is lost beyond a few KiB.
    pub fn send(&mut self, bytes: &[u8]) {
        let room = INPUT_MAX.saturating_sub(self.input.len());
        self.input.extend(bytes.iter().take(room));
        if let Err(fault) = self.flush() {
            self.break_off(fault);
        }
    }

    /// Takes what the guest wrote and gives it to `show` piece by piece; call it when the port fires.
    pub fn poll(&mut self, show: &mut dyn FnMut(&[u8])) -> Progress {
        if let Some(fault) = self.fault {
            return Progress::Dead(fault);
        }
        match self.flush().and_then(|()| self.drain(show)) {
            Ok(progress) => progress,
            Err(fault) => self.break_off(fault),
        }
    }

    #[cfg(test)]
    pub(super) fn page_for_test(&self) -> &P::Memory {
        &self.page
    }

    fn break_off(&mut self, fault: RingFault) -> Progress {
        if self.fault.is_none() {
            log::warn!("{}: console closed: {fault}", self.domain);
        }
        self.fault = Some(fault);
        Progress::Dead(fault)
    }

    fn flush(&mut self) -> Result<(), RingFault> {
        let mut moved = false;
        while self.fault.is_none() && !self.input.is_empty() {
            let (head, _) = self.input.as_slices();
            let count = self.writer.write(&self.page, head)?;
            if count == 0 {
                break;
            }
            self.input.drain(..count);
            moved = true;
        }
        if moved {
            self.platform.notify(self.port);
        }
        Ok(())
    }

    fn drain(&mut self, show: &mut dyn FnMut(&[u8])) -> Result<Progress, RingFault> {
        self.refill();
        let mut moved = false;
        let progress = loop {
            let mut piece = [0; 512];
            let most = piece.len().min(usize::try_from(self.allowance).unwrap_or(usize::MAX));
            let count = self.reader.read(&self.page, piece.get_mut(..most).unwrap_or_default())?;
            if count > 0 {
                moved = true;
                self.allowance = self.allowance.saturating_sub(count as u64);
                show(piece.get(..count).unwrap_or_default());
            } else if self.reader.pending(&self.page)? > 0 {
                break Progress::Throttled(self.next_refill());
            } else {
                break Progress::Idle;
            }
        };
        // One event for the whole batch: the guest may be waiting for room.
        if moved {
            self.platform.notify(self.port);
        }
        Ok(progress)
    }

    fn refill(&mut self) {
        let now = self.platform.now();
        let gained =
            u128::from(now.since(self.refilled)) * u128::from(self.limit.bytes_per_second) / 1_000_000_000;
        if gained > 0 {
            let gained = u64::try_from(gained).unwrap_or(u64::MAX);
            self.allowance = self.allowance.saturating_add(gained).min(self.limit.burst.max(1));
            self.refilled = now;
        }
    }

    /// When an eighth of the burst will have come together.
    fn next_refill(&self) -> Nanos {
        let bytes = u128::from((self.limit.burst / 8).max(1));
        let wait = bytes * 1_000_000_000 / u128::from(self.limit.bytes_per_second.max(1));
        Nanos::new(self.refilled.raw().saturating_add(u64::try_from(wait).unwrap_or(u64::MAX)))
    }
}

impl<P: Platform> Drop for ConsoleBack<P> {
    fn drop(&mut self) {
        self.platform.close(self.port);
    }
}
