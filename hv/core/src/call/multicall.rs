//! `multicall`: several calls in one.
//!
//! The cursor is the entry's index in the upper half and the entry's own cursor in the lower. The page of the list that
//! is worked on stays pinned from its first entry to its last, so that its place is looked for once.

use super::args::GuestArray;
use super::cx::Cx;
use super::{Answer, Reply, Stop, call};
use crate::hw::{HostPhys, PAGE_BYTES, PhysMemory, Platform};
use crate::mem::PageRef;
use core::mem::offset_of;
use core::sync::atomic::Ordering::Relaxed;
use pv_abi::Errno;
use pv_abi::call::MulticallEntry;
use pv_abi::call::number::MULTICALL;
use pv_abi::errno::Result;
use pv_abi::ids::GuestVirt;
use pv_abi::transport::Words;

/// Entries after which the call looks whether others wait.
const ENTRIES: u64 = 64;
/// Entries after which it looks at the time: it gives way too after a part of a time slice.
const GROUP: u64 = 8;
const _: () = assert!(offset_of!(MulticallEntry, op) == 0 && offset_of!(MulticallEntry, args) == 16);
const ENTRY_BYTES: u64 = size_of::<MulticallEntry>() as u64;

pub(super) fn multicall<P: Platform>(cx: &mut Cx<'_, P>, calls: GuestArray<MulticallEntry>) -> Reply {
    let mut window = None;
    let reply = entries(cx, calls, &mut window);
    cx.words = None;
    if let Some(Window { frame, .. }) = window {
        cx.unpin(cx.domain, frame);
    }
    reply
}

fn entries<P: Platform>(
    cx: &mut Cx<'_, P>,
    calls: GuestArray<MulticallEntry>,
    window: &mut Option<Window>,
) -> Reply {
    let count = u64::from(calls.count);
    let (mut index, mut inner) = (cx.cursor >> 32, cx.cursor & 0xffff_ffff);
    let end = count.min(index + ENTRIES);
    let is_traced = cx.system.trace.is_on();
    let (began, most) = (cx.system.platform.tsc(), cx.system.scheduler.slice() / 8);
    while index < end {
        let slot = Window::slot(window, cx, calls, index)?;
        let (op, words) = slot.read(cx)?;
        cx.cursor = inner;
        // A call that contains itself would use the stack up.
        let answer = if op == MULTICALL {
            Answer::from(Err(Errno::EINVAL.into()))
        } else {
            let [first, ..] = words;
            cx.words = Some(words);
            call(cx, op, first, is_traced)
        };
        match answer {
            Answer::Done(result) => slot.write(cx, result)?,
            // Cursors count elements of arrays, which are fewer than 2^32.
            Answer::Preempted(inner) => return Err(Stop::Preempted(index << 32 | inner)),
        }
        inner = 0;
        index += 1;
        if index.is_multiple_of(GROUP) && cx.system.platform.tsc().since(began).raw() > most {
            break;
        }
    }
    if index < count { Err(Stop::Preempted(index << 32)) } else { Ok(0) }
}

/// What is left of the page of the list that is worked on.
struct Window {
    frame: PageRef,
    /// Where the next entry is.
    next: HostPhys,
    /// How many entries from there on are wholly in the page.
    left: u64,
}

/// Where an entry is.
enum Slot {
    /// In the window.
    Here(HostPhys),
    /// Anywhere: across two pages, or in memory that is not the caller's own.
    There(GuestVirt),
}

impl Window {
    /// Where the entry with this index is, which follows the one that was asked for last.
    #[inline(always)]
    fn slot<P: Platform>(
        window: &mut Option<Self>,
        cx: &mut Cx<'_, P>,
        calls: GuestArray<MulticallEntry>,
        index: u64,
    ) -> Result<Slot> {
        match window {
            Some(Self { next, left, .. }) if *left != 0 => {
                let slot = Slot::Here(*next);
                *next = field(*next, size_of::<MulticallEntry>());
                *left -= 1;
                Ok(slot)
            }
            _ => {
                // Fewer than 2^32 entries: only the sum can overflow.
                let place = calls.at.checked_add(ENTRY_BYTES * index).ok_or(Errno::EFAULT)?;
                Self::advance(window, cx, place)
            }
        }
    }

    #[cold]
    fn advance<P: Platform>(window: &mut Option<Self>, cx: &mut Cx<'_, P>, place: GuestVirt) -> Result<Slot> {
        if let Some(Self { frame, .. }) = window.take() {
            cx.unpin(cx.domain, frame);
        }
        let (ram, owner) = (cx.system.ram(), cx.domain.id);
        let whole = (PAGE_BYTES - place.offset()) / ENTRY_BYTES;
        if whole != 0
            && place.raw().is_multiple_of(align_of::<u64>() as u64)
            && let Ok(frame) = cx.guest(|memory| memory.pin(ram, owner, place))
        {
            let slot = frame.mfn().at(place.raw());
            let next = field(slot, size_of::<MulticallEntry>());
            *window = Some(Self { frame, next, left: whole - 1 });
            return Ok(Slot::Here(slot));
        }
        cx.guest(|memory| memory.check_write(place, ENTRY_BYTES))?;
        Ok(Slot::There(place))
    }
}

impl Slot {
    /// Reads the call, each word once.
    #[inline(always)]
    fn read<P: Platform>(&self, cx: &mut Cx<'_, P>) -> Result<(u64, Words)> {
        match *self {
            Self::Here(at) => {
                let [op, _result, a, b, c, d, e] = cx.system.memory().read_words(at);
                Ok((op, [a, b, c, d, e]))
            }
            Self::There(place) => {
                let entry = cx.guest(|memory| memory.read::<MulticallEntry>(place))?;
                let [a, b, c, d, e, _] = entry.args;
                Ok((entry.op, [a, b, c, d, e]))
            }
        }
    }

    /// Writes the result.
    #[inline(always)]
    fn write<P: Platform>(&self, cx: &mut Cx<'_, P>, result: u64) -> Result<()> {
        const AT: usize = offset_of!(MulticallEntry, result);
        match *self {
            Self::Here(at) => {
                cx.system.memory().u64_at(field(at, AT)).store(result, Relaxed);
                Ok(())
            }
            Self::There(place) => {
                let place = place.checked_add(AT as u64).ok_or(Errno::EFAULT)?;
                cx.guest(|memory| memory.write(place, &result))
            }
        }
    }
}

/// A place within the page of the list, or its end.
const fn field(entry: HostPhys, offset: usize) -> HostPhys {
    HostPhys::new(entry.raw() + offset as u64)
}
