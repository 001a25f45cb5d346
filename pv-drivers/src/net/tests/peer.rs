//! A front end of two queues with a control ring, each word of which a test says itself.

use pv_abi::io::netif::{self, CtrlRequest, CtrlResponse};

use super::*;
use crate::platform::Access;
use crate::ring::FrontRing;
use crate::share::Shared;
use crate::xenbus::XenbusState;
use crate::xs::{TransactionId, write_display};

/// A front end of two queues that is this test.
pub(super) struct Peer {
    pub rig: Rig,
    pub domain: Domain,
    pub control: FrontRing<Domain>,
    pub queues: Vec<(FrontRing<Domain>, FrontRing<Domain>)>,
    /// Pages for packets, and whatever else the back end is to read.
    pub data: Shared<Domain>,
    /// A list of pages.
    pub list: Shared<Domain>,
    pub port: PortId,
}

impl Peer {
    pub fn new() -> Self {
        Self::on(Rig::new(), 1)
    }

    /// On the bridge of a rig, as the guest with this number.
    pub fn on(mut rig: Rig, id: u16) -> Self {
        let port = rig.prepare(id, BackOptions::default(), &[]);
        let domain = rig.machine.domain(id);
        let ring = |slot| FrontRing::new(&domain, DomainId::DOM0, 1, slot).unwrap();
        let control = ring(netif::CTRL_SLOT_SIZE);
        let queues: Vec<_> = (0..2).map(|_| (ring(12), ring(8))).collect();
        let data = Shared::new(&domain, DomainId::DOM0, 8, Access::ReadWrite).unwrap();
        let list = Shared::new(&domain, DomainId::DOM0, 1, Access::ReadWrite).unwrap();
        let dir = frontend_dir(DomainId::new(id), "vif", 0);
        let mut write = |key: &str, value: u32| {
            write_display(&mut rig.store, TransactionId::NONE, &format!("{dir}/{key}"), value).unwrap();
        };
        for (number, (tx, rx)) in queues.iter().enumerate() {
            let channel = domain.alloc_unbound(DomainId::DOM0).unwrap();
            write(&format!("queue-{number}/tx-ring-ref"), tx.grants()[0].raw());
            write(&format!("queue-{number}/rx-ring-ref"), rx.grants()[0].raw());
            write(&format!("queue-{number}/event-channel"), channel.raw());
        }
        let channel = domain.alloc_unbound(DomainId::DOM0).unwrap();
        write("multi-queue-num-queues", 2);
        write("ctrl-ring-ref", control.grants()[0].raw());
        write("event-channel-ctrl", channel.raw());
        write("request-rx-copy", 1);
        write("feature-sg", 1);
        crate::xenbus::write_state(&mut rig.store, &dir, XenbusState::Connected).unwrap();
        rig.talk();
        let vif = rig.bridge.vif(port).unwrap();
        assert!(vif.is_connected(), "{:?}", vif.failure());
        Self { rig, domain, control, queues, data, list, port }
    }

    /// Asks on the control ring: the answer's status and data.
    pub fn ask(&mut self, kind: u16, data: [u32; 3]) -> (u32, u32) {
        let id = kind + 77;
        self.control.push(&CtrlRequest { id, kind, data }).unwrap();
        let _ = self.control.publish();
        self.rig.bridge.poll(64);
        let (_, response) = self.control.pop::<CtrlResponse>().unwrap().expect("an answer");
        assert_eq!((response.id, response.kind), (id, kind));
        (response.status, response.data)
    }

    /// Goes, and leaves nothing behind.
    pub fn end(self) {
        let Self { mut rig, domain, control, queues, data, list, port } = self;
        drop(rig.bridge.remove(port));
        drop((control, queues, data, list));
        domain.retry_retired();
        let left = domain.counts();
        assert_eq!((left.grants, left.pages, left.maps), (0, 0, 0));
        rig.end();
    }
}
