//! The control ring: asks the back end to spread packets over the queues by their Toeplitz hash (`io/netif.h`, "Control
//! messages"), so that the two ways of a connection have queues of their own that do not change.
//!
//! One request is in the ring at a time. A back end that refuses one spreads packets as it likes, which is no error.

use alloc::string::String;

use pv_abi::errno::Errno;
use pv_abi::ids::{DomainId, GrantRef, Port};
use pv_abi::io::netif::{self, CtrlRequest, CtrlResponse};

use crate::platform::{Access, Platform, SharedMemory};
use crate::ring::{FrontRing, RingFault};
use crate::share::Shared;

/// The key of Microsoft's published examples, which spreads connections evenly.
const KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
    0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
    0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];
/// Entries of the mapping.
const MAPPING: u32 = 128;

/// Where the conversation stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    Algorithm,
    Types,
    Key,
    Size,
    Mapping,
    Flags,
    /// The back end hashes.
    Done,
    /// The back end refused.
    Refused,
}

pub(in super::super) struct Control<P: Platform> {
    platform: P,
    ring: FrontRing<P>,
    key: Shared<P>,
    mapping: Shared<P>,
    port: Port,
    step: Step,
    /// The types of hashes that the back end knows.
    types: u32,
    /// The request that is in the ring.
    asked: Option<CtrlRequest>,
    next_id: u16,
}

impl<P: Platform> Control<P> {
    pub fn new(platform: &P, peer: DomainId, queues: u32) -> Result<Self, Errno> {
        let ring = FrontRing::new(platform, peer, 1, netif::CTRL_SLOT_SIZE)?;
        let key = Shared::new(platform, peer, 1, Access::ReadOnly)?;
        key.memory().copy_in(0, &KEY);
        let mapping = Shared::new(platform, peer, 1, Access::ReadOnly)?;
        for (offset, entry) in (0..).step_by(4).zip(0..MAPPING) {
            mapping.memory().write_u32(offset, entry % queues.max(1));
        }
        let port = platform.alloc_unbound(peer)?;
        let platform = platform.clone();
        let (step, types, asked, next_id) = (Step::Algorithm, 0, None, 0);
        Ok(Self { platform, ring, key, mapping, port, step, types, asked, next_id })
    }

    pub fn grant(&self) -> GrantRef {
        self.ring.grants().first().copied().unwrap_or_default()
    }

    pub fn port(&self) -> Port {
        self.port
    }

    pub fn is_hashing(&self) -> bool {
        self.step == Step::Done
    }

    /// Takes answers and asks on.
    pub fn poll(&mut self) -> Result<(), String> {
        let broken = |fault: RingFault| alloc::format!("control ring: {fault}");
        loop {
            while let Some((_, response)) = self.ring.pop::<CtrlResponse>().map_err(broken)? {
                let asked = self.asked.take().ok_or("control ring: an answer to no request")?;
                if (response.id, response.kind) != (asked.id, asked.kind) {
                    return Err("control ring: an answer to another request".into());
                }
                self.advance(&response);
            }
            if self.asked.is_none() {
                let Some(request) = self.request() else { return Ok(()) };
                self.next_id = self.next_id.wrapping_add(1);
                self.asked = Some(request);
                let _ = self.ring.push(&request);
                if self.ring.publish() {
                    self.platform.notify(self.port);
                }
            }
            if !self.ring.arm(1).map_err(broken)? {
                return Ok(());
            }
        }
    }

    fn advance(&mut self, response: &CtrlResponse) {
        if response.status != netif::CTRL_STATUS_SUCCESS {
            log::info!("the back end spreads packets as it likes: {:?} was refused", self.step);
            self.step = Step::Refused;
            return;
        }
        self.step = match self.step {
            Step::Algorithm => Step::Types,
            Step::Types => {
                self.types = response.data;
                Step::Key
            }
            Step::Key => Step::Size,
            Step::Size => Step::Mapping,
            Step::Mapping => Step::Flags,
            Step::Flags | Step::Done => Step::Done,
            Step::Refused => Step::Refused,
        };
    }

    /// The request of a step.
    fn request(&self) -> Option<CtrlRequest> {
        let grant = |shared: &Shared<P>| shared.grants().first().map_or(0, |grant| grant.raw());
        let size = u32::try_from(KEY.len()).unwrap_or(0);
        let (kind, data) = match self.step {
            Step::Algorithm => {
                (netif::CTRL_TYPE_SET_HASH_ALGORITHM, [netif::CTRL_HASH_ALGORITHM_TOEPLITZ, 0, 0])
            }
            Step::Types => (netif::CTRL_TYPE_GET_HASH_FLAGS, [0; 3]),
            Step::Key => (netif::CTRL_TYPE_SET_HASH_KEY, [grant(&self.key), size, 0]),
            Step::Size => (netif::CTRL_TYPE_SET_HASH_MAPPING_SIZE, [MAPPING, 0, 0]),
            Step::Mapping => (netif::CTRL_TYPE_SET_HASH_MAPPING, [grant(&self.mapping), MAPPING, 0]),
            Step::Flags => (netif::CTRL_TYPE_SET_HASH_FLAGS, [self.types, 0, 0]),
            Step::Done | Step::Refused => return None,
        };
        Some(CtrlRequest { id: self.next_id, kind, data })
    }
}

impl<P: Platform> Drop for Control<P> {
    fn drop(&mut self) {
        self.platform.close(self.port);
    }
}
