//! A pair of rings of a front end, with the event channel of both.

use alloc::collections::VecDeque;
use alloc::string::String;

use pv_abi::errno::Errno;
use pv_abi::ids::{DomainId, Port};

use super::rx::Rx;
use super::tx::Tx;
use super::{Frame, NetCounters};
use crate::platform::Platform;

pub(super) struct Queue<P: Platform> {
    platform: P,
    pub port: Port,
    pub tx: Tx<P>,
    pub rx: Rx<P>,
}

impl<P: Platform> Queue<P> {
    pub fn new(platform: &P, peer: DomainId, rx_pages: usize) -> Result<Self, Errno> {
        let tx = Tx::new(platform, peer)?;
        let rx = Rx::new(platform, peer, rx_pages)?;
        let port = platform.alloc_unbound(peer)?;
        Ok(Self { platform: platform.clone(), port, tx, rx })
    }

    /// Shows requests to the back end.
    pub fn kick(&mut self, counters: &mut NetCounters) {
        let wants_tx = self.tx.publish();
        let wants_rx = self.rx.publish();
        if wants_tx || wants_rx {
            counters.notifications += 1;
            self.platform.notify(self.port);
        }
    }

    /// Takes responses; packets until `limit` of them are there.
    pub fn poll(
        &mut self,
        limit: usize,
        received: &mut VecDeque<Frame>,
        counters: &mut NetCounters,
    ) -> Result<(), String> {
        let found = self.tx.poll(counters)? | self.rx.poll(limit, received, counters)?;
        counters.busy_polls += u64::from(found);
        Ok(())
    }
}

impl<P: Platform> Drop for Queue<P> {
    fn drop(&mut self) {
        self.platform.close(self.port);
    }
}
