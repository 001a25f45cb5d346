//! The guest's end.

use pv_abi::ids::Port;

use crate::platform::Platform;
use crate::ring::{RingFault, StreamLayout, StreamReader, StreamWriter};

/// The guest's end of its console. After a fault of the back end it swallows what is written.
pub struct ConsoleFront<P: Platform> {
    platform: P,
    page: P::Memory,
    port: Port,
    writer: StreamWriter,
    reader: StreamReader,
    fault: Option<RingFault>,
}

impl<P: Platform> ConsoleFront<P> {
    /// Attaches to the ring in `page`.
    pub fn new(platform: &P, page: P::Memory, port: Port) -> Self {
        Self {
            platform: platform.clone(),
            writer: StreamWriter::attach(StreamLayout::CONSOLE_OUT, &page),
            reader: StreamReader::attach(StreamLayout::CONSOLE_IN, &page),
            page,
            port,
            fault: None,
        }
    }

    /// The event channel to the back end.
    #[must_use]
    pub fn port(&self) -> Port {
        self.port
    }

    /// How the back end broke the ring, if it did.
    #[must_use]
    pub fn fault(&self) -> Option<RingFault> {
        self.fault
    }

    /// Writes as many bytes as fit and says how many; the rest goes when the port has fired. A broken console takes
    /// everything, so that nobody waits for it.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        if self.fault.is_some() {
            return bytes.len();
        }
        match self.writer.write(&self.page, bytes) {
            Ok(count) => {
                if count > 0 {
                    self.platform.notify(self.port);
                }
                count
            }
            Err(fault) => {
                self.fault = Some(fault);
                bytes.len()
            }
        }
    }

    /// Reads what was typed, and says how many bytes.
    pub fn read(&mut self, to: &mut [u8]) -> usize {
        if self.fault.is_some() {
            return 0;
        }
        match self.reader.read(&self.page, to) {
            Ok(count) => {
                if count > 0 {
                    self.platform.notify(self.port);
                }
                count
            }
            Err(fault) => {
                self.fault = Some(fault);
                0
            }
        }
    }
}
