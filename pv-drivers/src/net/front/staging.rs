//! What the control ring is asked about pages that stay mapped (`XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING` and its like): the
//! back end may then copy without a hypercall.
//!
//! Nothing depends on it: a back end that refuses, or has no room for all pages, copies by their grants. Pages are not
//! taken back one by one: the back end unmaps all of them when it lets go, and what it keeps mapped is retired.

use alloc::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::ids::{DomainId, GrantRef};
use pv_abi::io::netif::{self, CtrlGref, CtrlResponse};
use zerocopy::IntoBytes;

use super::control::Question;
use crate::platform::{Access, PAGE_SIZE, Platform, SharedMemory};
use crate::share::Shared;

/// The most entries of a list: those of its page.
const LIST: usize = PAGE_SIZE / size_of::<CtrlGref>();

/// Of one queue.
struct Pages {
    /// How many more the back end takes; unknown before it was asked.
    room: Option<u32>,
    /// Not asked for yet.
    offered: Vec<CtrlGref>,
}

/// What was asked last.
#[derive(Clone, Copy)]
enum Asked {
    Size(usize),
    /// So many pages of a queue.
    Add(usize, u32),
}

pub(super) struct Staging<P: Platform> {
    /// The list that the back end reads. The header wants it writable.
    list: Shared<P>,
    queues: Vec<Pages>,
    asked: Option<Asked>,
    /// Pages that stay mapped, of all queues.
    pub mapped: u32,
}

impl<P: Platform> Staging<P> {
    pub fn new(platform: &P, peer: DomainId, queues: u32) -> Result<Self, Errno> {
        let list = Shared::new(platform, peer, 1, Access::ReadWrite)?;
        let queues = (0..queues).map(|_| Pages { room: None, offered: Vec::new() }).collect();
        Ok(Self { list, queues, asked: None, mapped: 0 })
    }

    /// Notes pages of a queue that the back end may keep mapped.
    pub fn offer(&mut self, queue: usize, grants: impl Iterator<Item = GrantRef>, access: Access) {
        let flags = if access == Access::ReadOnly { netif::CTRLF_GREF_READONLY } else { 0 };
        if let Some(queue) = self.queues.get_mut(queue).filter(|queue| queue.room != Some(0)) {
            queue.offered.extend(grants.map(|grant| CtrlGref { gref: grant.raw(), flags, status: 0 }));
        }
    }

    /// What is to be asked next.
    pub fn question(&mut self) -> Option<Question> {
        let (number, queue) =
            self.queues.iter_mut().enumerate().find(|(_, queue)| !queue.offered.is_empty())?;
        let index = u32::try_from(number).ok()?;
        let Some(room) = queue.room else {
            self.asked = Some(Asked::Size(number));
            return Some((netif::CTRL_TYPE_GET_GREF_MAPPING_SIZE, [index, 0, 0]));
        };
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let entries: Vec<_> = queue.offered.drain(..queue.offered.len().min(LIST).min(room)).collect();
        self.list.memory().copy_in(0, entries.as_bytes());
        let count = u32::try_from(entries.len()).ok()?;
        self.asked = Some(Asked::Add(number, count));
        let list = self.list.grants().first()?.raw();
        Some((netif::CTRL_TYPE_ADD_GREF_MAPPING, [index, list, count]))
    }

    /// Takes the answer to the last question.
    pub fn answer(&mut self, response: &CtrlResponse) {
        let is_good = response.status == netif::CTRL_STATUS_SUCCESS;
        let Some(asked) = self.asked.take() else { return };
        let (Asked::Size(number) | Asked::Add(number, _)) = asked;
        let Some(queue) = self.queues.get_mut(number) else { return };
        queue.room = Some(match asked {
            // It takes none, or no more.
            _ if !is_good => 0,
            Asked::Size(_) => response.data,
            Asked::Add(_, count) => {
                self.mapped = self.mapped.saturating_add(count);
                queue.room.unwrap_or(0).saturating_sub(count)
            }
        });
        if queue.room == Some(0) {
            queue.offered.clear();
        }
    }
}
