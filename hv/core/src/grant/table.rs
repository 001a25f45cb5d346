//! A domain's grant table: the entries that it shares, and which of them are in use.

use super::track::Mappings;
use crate::hw::{EntryFormat, HostPhys, Mfn, PAGE_BYTES, Pages, PhysMemory};
use crate::mem::{DomainMemory, Lookaside, PageAccount, PageRef, Ram, SharedPage, make_room};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use pv_abi::grant::{ENTRIES_PER_FRAME, GrantEntry, GrantFlags, GrantStatus};
use pv_abi::ids::{DomainId, Gfn, GrantRef};
use pv_abi::manifest::GRANT_FRAMES;
use pv_abi::{Errno, Result};
use spin::Mutex;

/// How often an entry may change while it is being pinned, as many times as Xen tries.
const MOST_TRIES: u32 = 5;
const ENTRY_BYTES: u64 = size_of::<GrantEntry>() as u64;

/// Pages that are charged for each frame beyond [`GRANT_FRAMES`]: the frame itself, and the records of its uses.
const CHARGE: Pages =
    Pages::new(1 + (ENTRIES_PER_FRAME as u64 * size_of::<Active>() as u64).div_ceil(PAGE_BYTES));

/// How large a grant table and a list of mappings may become.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GrantLimits {
    /// Frames of the table.
    pub frames: u32,
    /// Mappings of others' grants.
    pub mappings: u32,
}

impl Default for GrantLimits {
    fn default() -> Self {
        Self { frames: GRANT_FRAMES, mappings: 32_768 }
    }
}

impl GrantLimits {
    /// Pages that a table of this size charges to its domain.
    pub const fn charge(&self) -> Pages {
        Pages::new(self.frames.saturating_sub(GRANT_FRAMES) as u64 * CHARGE.raw())
    }
}

/// How much of a grant table is in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Frames that the table has.
    pub frames: u32,
    /// Entries that others use at this moment.
    pub pinned: u32,
    /// Mappings of others' grants.
    pub mappings: u32,
}

/// The uses of one entry.
#[derive(Clone, Copy, Debug)]
struct Active {
    readers: u32,
    writers: u32,
    mfn: Mfn,
    grantee: DomainId,
}

impl Active {
    const NONE: Self = Self { readers: 0, writers: 0, mfn: Mfn::new(0), grantee: DomainId::INVALID };

    const fn is_pinned(&self) -> bool {
        self.readers > 0 || self.writers > 0
    }
}

#[derive(Debug)]
struct Entries {
    frames: Vec<SharedPage>,
    active: Vec<Active>,
    /// The domain is dying: nothing new is pinned.
    closed: bool,
}

/// A domain's grant table, and the list of its mappings of others' grants.
#[derive(Debug)]
pub struct GrantTable {
    owner: DomainId,
    account: Arc<PageAccount>,
    limits: GrantLimits,
    entries: Mutex<Entries>,
    pub(super) mappings: Mutex<Mappings>,
}

/// Which entry, and how it is used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Use {
    pub(super) gref: GrantRef,
    pub(super) grantee: DomainId,
    pub(super) write: bool,
}

impl Entries {
    /// The address of an entry and the record of its uses.
    #[inline]
    fn find(&mut self, gref: GrantRef) -> Option<(HostPhys, &mut Active)> {
        let index = usize::try_from(gref.raw()).ok()?;
        let per_frame = ENTRIES_PER_FRAME as usize;
        let frame = self.frames.get(index / per_frame)?;
        let active = self.active.get_mut(index)?;
        Some((frame.mfn().at((index % per_frame) as u64 * ENTRY_BYTES), active))
    }

    fn grow<M: PhysMemory>(
        &mut self,
        ram: Ram<'_, M>,
        owner: DomainId,
        account: &PageAccount,
        frames: usize,
    ) -> Result<()> {
        if self.closed {
            return Err(Errno::EINVAL);
        }
        while self.frames.len() < frames {
            make_room(ram.memory, &mut self.frames, 1)?;
            make_room(ram.memory, &mut self.active, ENTRIES_PER_FRAME as usize)?;
            let charge = if self.frames.len() < GRANT_FRAMES as usize { Pages::new(0) } else { CHARGE };
            account.charge(charge).map_err(|_| Errno::ENOMEM)?;
            let page = ram.alloc_zeroed().inspect_err(|_| account.credit(charge))?;
            self.frames.push(ram.as_shared(page, owner));
            self.active.resize(self.frames.len() * ENTRIES_PER_FRAME as usize, Active::NONE);
        }
        Ok(())
    }
}

impl GrantTable {
    /// Makes a table of one frame. `account` is that of the owner's memory.
    pub fn new<M: PhysMemory>(
        ram: Ram<'_, M>,
        owner: DomainId,
        account: Arc<PageAccount>,
        limits: GrantLimits,
    ) -> Result<Self> {
        let mut entries = Entries { frames: Vec::new(), active: Vec::new(), closed: false };
        entries.grow(ram, owner, &account, 1)?;
        let mappings = Mutex::new(Mappings::new(limits.mappings));
        Ok(Self { owner, account, limits, entries: Mutex::new(entries), mappings })
    }

    /// Whose it is.
    pub const fn owner(&self) -> DomainId {
        self.owner
    }

    /// The account of the owner's pages.
    pub(super) fn account(&self) -> &PageAccount {
        &self.account
    }

    /// How many frames the table has.
    pub fn frames(&self) -> u32 {
        u32::try_from(self.entries.lock().frames.len()).unwrap_or(u32::MAX)
    }

    /// How many frames it may have.
    pub const fn most_frames(&self) -> u32 {
        self.limits.frames
    }

    /// How much is in use.
    pub fn usage(&self) -> Usage {
        let (frames, pinned) = {
            let entries = self.entries.lock();
            (entries.frames.len(), entries.active.iter().filter(|active| active.is_pinned()).count())
        };
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Usage { frames: count(frames), pinned: count(pinned), mappings: self.mappings.lock().live() }
    }

    /// Makes the table at least this large.
    pub fn grow<M: PhysMemory>(&self, ram: Ram<'_, M>, frames: u32) -> Result<()> {
        if frames > self.limits.frames {
            return Err(Errno::EINVAL);
        }
        self.entries.lock().grow(ram, self.owner, &self.account, frames as usize)
    }

    /// Where the owner has frame `index` of the table; all ones if nowhere yet. `None` if there is no such frame.
    pub fn frame_gfn<M: PhysMemory>(&self, ram: Ram<'_, M>, index: u32) -> Option<Gfn> {
        self.entries.lock().frames.get(index as usize).map(|page| ram.gfn_of(page.mfn()))
    }

    /// Does something with frame `index` of the table, which grows to have it.
    pub fn with_frame<M: PhysMemory, R>(
        &self,
        ram: Ram<'_, M>,
        index: u64,
        work: impl FnOnce(&SharedPage) -> Result<R>,
    ) -> Result<R> {
        let index =
            u32::try_from(index).ok().filter(|index| *index < self.limits.frames).ok_or(Errno::EINVAL)?;
        let mut entries = self.entries.lock();
        entries.grow(ram, self.owner, &self.account, index as usize + 1)?;
        work(entries.frames.get(index as usize).ok_or(Errno::EINVAL)?)
    }

    /// Writes an entry for the owner, before it runs.
    pub fn preset<M: PhysMemory>(
        &self,
        memory: &M,
        gref: GrantRef,
        grantee: DomainId,
        gfn: Gfn,
    ) -> Result<()> {
        let frame = u32::try_from(gfn.raw()).map_err(|_| Errno::EINVAL)?;
        let mut entries = self.entries.lock();
        let (at, _) = entries.find(gref).ok_or(Errno::EINVAL)?;
        memory.u32_at(frame_word(at)).store(frame, Relaxed);
        memory.u32_at(at).store(header(GrantFlags::PERMIT_ACCESS, grantee), Release);
        Ok(())
    }

    /// Pins an entry for the duration of a copy, or of a mapping if the frame is also referred to. `map` is the owner's
    /// memory, whose lock is held: shared is enough.
    #[inline]
    pub(super) fn pin<F: EntryFormat, M: PhysMemory>(
        &self,
        ram: Ram<'_, M>,
        map: &DomainMemory<F>,
        near: &mut Lookaside,
        wanted: Use,
    ) -> core::result::Result<Mfn, GrantStatus> {
        let mut entries = self.entries.lock();
        if entries.closed {
            return Err(GrantStatus::BAD_DOMAIN);
        }
        let (at, active) = entries.find(wanted.gref).ok_or(GrantStatus::BAD_GNTREF)?;
        let was_pinned = active.is_pinned();
        if was_pinned && active.grantee != wanted.grantee {
            return Err(GrantStatus::BAD_GNTREF);
        }
        if !was_pinned || (wanted.write && active.writers == 0) {
            announce(ram.memory, at, wanted, was_pinned)?;
        }
        if !was_pinned {
            let gfn = Gfn::new(u64::from(ram.memory.u32_at(frame_word(at)).load(Relaxed)));
            let Some(mfn) = map.locate_page(ram.memory, gfn, true, near) else {
                withdraw(ram.memory, at, active, wanted.write);
                return Err(GrantStatus::BAD_PAGE);
            };
            active.mfn = mfn;
            active.grantee = wanted.grantee;
        }
        // Only ordinary memory of the owner's, and still: nothing foreign, special, or given back meanwhile.
        if !ram.is_memory_of(active.mfn, self.owner) {
            withdraw(ram.memory, at, active, wanted.write);
            return Err(GrantStatus::BAD_PAGE);
        }
        let count = if wanted.write { &mut active.writers } else { &mut active.readers };
        *count = count.saturating_add(1);
        Ok(active.mfn)
    }

    /// Refers to a pinned frame.
    pub(super) fn refer<M: PhysMemory>(
        &self,
        ram: Ram<'_, M>,
        mfn: Mfn,
    ) -> core::result::Result<PageRef, GrantStatus> {
        ram.get(mfn, self.owner).map_err(|_| GrantStatus::BAD_PAGE)
    }

    /// Ends what [`pin`](Self::pin) began. No CPU can have a translation to the frame because of it any more.
    #[inline]
    pub(super) fn unpin<M: PhysMemory>(&self, memory: &M, gref: GrantRef, write: bool) {
        let mut entries = self.entries.lock();
        if let Some((at, active)) = entries.find(gref) {
            active.release(write);
            withdraw(memory, at, active, write);
        } else if let Some(active) =
            usize::try_from(gref.raw()).ok().and_then(|index| entries.active.get_mut(index))
        {
            // The owner is dead and its frames are gone; the count is all that is left.
            active.release(write);
        }
    }

    /// The owner is dying: nothing new is pinned from here on, and it maps nothing new.
    pub fn close(&self) {
        self.entries.lock().closed = true;
        self.mappings.lock().close();
    }

    /// Frees the frames of a [closed](Self::close) table, which have left the owner's physmap.
    pub fn free_frames<M: PhysMemory>(&self, ram: Ram<'_, M>) {
        let frames = core::mem::take(&mut self.entries.lock().frames);
        for page in frames {
            ram.free_shared(page);
        }
    }
}

impl Active {
    const fn release(&mut self, write: bool) {
        let count = if write { &mut self.writers } else { &mut self.readers };
        *count = count.saturating_sub(1);
    }
}

/// The second word of an entry: the guest frame.
const fn frame_word(entry: HostPhys) -> HostPhys {
    HostPhys::new(entry.raw() + 4)
}

/// The first word of an entry: flags and domain.
const fn header(flags: GrantFlags, domain: DomainId) -> u32 {
    flags.bits() as u32 | ((domain.raw() as u32) << 16)
}

/// Checks an entry and shows its use in its flags, in one step: the granter cannot take it back in between.
#[inline]
fn announce<M: PhysMemory>(
    memory: &M,
    entry: HostPhys,
    wanted: Use,
    was_pinned: bool,
) -> core::result::Result<(), GrantStatus> {
    let word = memory.u32_at(entry);
    let permit = header(GrantFlags::PERMIT_ACCESS, wanted.grantee);
    let kind = header(GrantFlags::from_bits_retain(GrantFlags::TYPE_MASK), DomainId::new(u16::MAX));
    let mut old = word.load(Acquire);
    for _ in 0..MOST_TRIES {
        if !was_pinned && old & kind != permit {
            return Err(GrantStatus::GENERAL_ERROR);
        }
        if wanted.write && old & u32::from(GrantFlags::READONLY.bits()) != 0 {
            return Err(GrantStatus::GENERAL_ERROR);
        }
        let mut marks = GrantFlags::READING;
        if wanted.write {
            marks = marks.union(GrantFlags::WRITING);
        }
        match word.compare_exchange(old, old | u32::from(marks.bits()), AcqRel, Acquire) {
            Ok(_) => return Ok(()),
            Err(now) => old = now,
        }
    }
    Err(GrantStatus::GENERAL_ERROR)
}

/// Takes the marks of uses that have ended out of an entry's flags.
#[inline]
fn withdraw<M: PhysMemory>(memory: &M, entry: HostPhys, active: &Active, write: bool) {
    let mut marks = GrantFlags::empty();
    if write && active.writers == 0 {
        marks = GrantFlags::WRITING;
    }
    if !active.is_pinned() {
        marks = marks.union(GrantFlags::READING);
    }
    if !marks.is_empty() {
        memory.u16_at(entry).fetch_and(!marks.bits(), AcqRel);
    }
}
