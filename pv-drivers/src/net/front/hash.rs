//! What the control ring is asked about hashes: spreading packets over the queues by their Toeplitz hash, so that the two
//! ways of a connection have queues of their own that do not change.

use pv_abi::errno::Errno;
use pv_abi::ids::DomainId;
use pv_abi::io::netif::{self, CtrlResponse};

use super::control::Question;
use crate::platform::{Access, Platform, SharedMemory};
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
enum Step {
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

pub(super) struct Hash<P: Platform> {
    key: Shared<P>,
    mapping: Shared<P>,
    step: Step,
    /// The types of hashes that the back end knows.
    types: u32,
}

impl<P: Platform> Hash<P> {
    pub fn new(platform: &P, peer: DomainId, queues: u32) -> Result<Self, Errno> {
        let key = Shared::new(platform, peer, 1, Access::ReadOnly)?;
        key.memory().copy_in(0, &KEY);
        let mapping = Shared::new(platform, peer, 1, Access::ReadOnly)?;
        for (offset, entry) in (0..).step_by(4).zip(0..MAPPING) {
            mapping.memory().write_u32(offset, entry % queues.max(1));
        }
        Ok(Self { key, mapping, step: Step::Algorithm, types: 0 })
    }

    pub fn is_done(&self) -> bool {
        self.step == Step::Done
    }

    /// What is to be asked next.
    pub fn question(&self) -> Option<Question> {
        let grant = |shared: &Shared<P>| shared.grants().first().map_or(0, |grant| grant.raw());
        let size = u32::try_from(KEY.len()).unwrap_or(0);
        Some(match self.step {
            Step::Algorithm => {
                (netif::CTRL_TYPE_SET_HASH_ALGORITHM, [netif::CTRL_HASH_ALGORITHM_TOEPLITZ, 0, 0])
            }
            Step::Types => (netif::CTRL_TYPE_GET_HASH_FLAGS, [0; 3]),
            Step::Key => (netif::CTRL_TYPE_SET_HASH_KEY, [grant(&self.key), size, 0]),
            Step::Size => (netif::CTRL_TYPE_SET_HASH_MAPPING_SIZE, [MAPPING, 0, 0]),
            Step::Mapping => (netif::CTRL_TYPE_SET_HASH_MAPPING, [grant(&self.mapping), MAPPING, 0]),
            Step::Flags => (netif::CTRL_TYPE_SET_HASH_FLAGS, [self.types, 0, 0]),
            Step::Done | Step::Refused => return None,
        })
    }

    /// Takes the answer to the last question.
    pub fn answer(&mut self, response: &CtrlResponse) {
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
}
