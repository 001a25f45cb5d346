//! The guest's own page tables, walked in software.
//!
//! Every entry is read through the physmap, once. Nothing that is found is kept beyond the borrow of the physmap under
//! which it was found. Rights are those of the guest's kernel: it makes the hypercalls (user pages are readable and
//! writable to it; write protection counts as CR0.WP says). Accessed and dirty bits of the final entry are set as the
//! hardware would.
//!
//! Sources: AMD64 manual volume 2, chapter 5 ("Page Translation and Protection").

use super::access::Physical;
use super::trail::Steps;
use crate::hw::{EntryFormat, HostPhys, PhysMemory};
use core::sync::atomic::Ordering::Relaxed;
use pv_abi::ids::{GuestPhys, GuestVirt};
use pv_abi::{Errno, Result};

const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
const EFER_LMA: u64 = 1 << 10;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
/// The address in an entry of 64 bits.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// How a guest translates linear addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Not at all.
    Off,
    /// Two levels of 32-bit entries.
    Bits32 {
        /// Entries of the upper level may map 4 MiB.
        large: bool,
    },
    /// Three levels of 64-bit entries.
    Pae,
    /// Four levels.
    Long,
    /// In a way that guests here do not have: no address leads anywhere.
    Unsupported,
}

/// The registers that say how a guest translates linear addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Paging {
    cr0: u64,
    cr3: u64,
    cr4: u64,
    efer: u64,
}

impl Paging {
    /// With these control registers.
    #[inline]
    pub const fn new(cr0: u64, cr3: u64, cr4: u64, efer: u64) -> Self {
        Self { cr0, cr3, cr4, efer }
    }

    /// How addresses are translated.
    pub const fn mode(&self) -> Mode {
        if self.cr0 & CR0_PG == 0 {
            Mode::Off
        } else if self.efer & EFER_LMA != 0 {
            if self.cr4 & CR4_LA57 == 0 { Mode::Long } else { Mode::Unsupported }
        } else if self.cr4 & CR4_PAE != 0 {
            Mode::Pae
        } else {
            Mode::Bits32 { large: self.cr4 & CR4_PSE != 0 }
        }
    }

    /// Whether write protection counts for the guest's kernel.
    const fn write_protect(&self) -> bool {
        self.cr0 & CR0_WP != 0
    }
}

/// The linear addresses of a guest at one moment, on top of its physical ones.
pub(super) struct Walker<'w, 'a, F, M> {
    pub(super) physical: &'w mut Physical<'a, F, M>,
    pub(super) paging: &'w Paging,
    /// The entries on the way, in long mode.
    pub(super) steps: Steps,
}

impl<F: EntryFormat, M: PhysMemory> Walker<'_, '_, F, M> {
    /// Where the byte at `gva` is in the machine.
    #[inline(always)]
    pub(super) fn walk(&mut self, gva: GuestVirt, write: bool) -> Result<HostPhys> {
        let gpa = match self.paging.mode() {
            Mode::Long => self.long(gva.raw(), write)?,
            Mode::Off => u64::from(narrow(gva)?),
            Mode::Pae => self.pae(narrow(gva)?, write)?,
            Mode::Bits32 { large } => self.bits32(narrow(gva)?, large, write)?,
            Mode::Unsupported => return Err(Errno::EFAULT),
        };
        self.physical.locate(GuestPhys::new(gpa), write)
    }

    #[inline(always)]
    fn long(&mut self, va: u64, write: bool) -> Result<u64> {
        // Canonical: bits 47 to 63 are the same.
        if (va.cast_signed() << 16 >> 16).cast_unsigned() != va {
            return Err(Errno::EFAULT);
        }
        let (table, rights) =
            self.entry64(self.paging.cr3 & ADDRESS, (va >> 39) & 511, 4, write, WRITABLE)?.table()?;
        self.three_levels(va, table, rights, write)
    }

    #[cold]
    fn pae(&mut self, va: u32, write: bool) -> Result<u64> {
        let va = u64::from(va);
        // The four entries of the top have no rights and no size.
        let at = GuestPhys::new((self.paging.cr3 & 0xffff_ffe0) + (va >> 30) * 8);
        let raw = self.physical.word64(at)?.1.load(Relaxed);
        if raw & PRESENT == 0 {
            return Err(Errno::EFAULT);
        }
        self.two_levels(va, raw & ADDRESS, WRITABLE, write)
    }

    #[inline(always)]
    fn three_levels(&mut self, va: u64, table: u64, rights: u64, write: bool) -> Result<u64> {
        match self.entry64(table, (va >> 30) & 511, 3, write, rights)? {
            Found::Table(table, rights) => self.two_levels(va, table, rights, write),
            Found::Page(page) => Ok(page | (va & 0x3fff_ffff)),
        }
    }

    #[inline(always)]
    fn two_levels(&mut self, va: u64, table: u64, rights: u64, write: bool) -> Result<u64> {
        match self.entry64(table, (va >> 21) & 511, 2, write, rights)? {
            Found::Page(page) => Ok(page | (va & 0x1f_ffff)),
            Found::Table(table, rights) => match self.entry64(table, (va >> 12) & 511, 1, write, rights)? {
                Found::Page(page) => Ok(page | (va & 0xfff)),
                Found::Table(..) => Err(Errno::EFAULT),
            },
        }
    }

    /// Reads one 64-bit entry of the table at `table`.
    #[inline(always)]
    fn entry64(&mut self, table: u64, index: u64, level: u32, write: bool, rights: u64) -> Result<Found> {
        let (at, word) = self.physical.word64(GuestPhys::new(table + index * 8))?;
        let raw = word.load(Relaxed);
        if raw & PRESENT == 0 {
            return Err(Errno::EFAULT);
        }
        let rights = rights & raw;
        let leaf = level == 1 || raw & LARGE != 0;
        if !leaf {
            self.steps.note(at, raw);
            return Ok(Found::Table(raw & ADDRESS, rights));
        }
        if level == 4 || (write && rights == 0 && self.paging.write_protect()) {
            return Err(Errno::EFAULT);
        }
        let marks = if write { ACCESSED | DIRTY } else { ACCESSED };
        let mut says = raw;
        if raw & marks != marks && self.physical.is_writable() {
            // Only while the entry is still the one that was read: never resurrect one that the guest just changed.
            let _ = word.compare_exchange(raw, raw | marks, Relaxed, Relaxed);
            says |= marks;
        }
        self.steps.note(at, says);
        let inside = (1 << (12 + 9 * (level - 1))) - 1;
        Ok(Found::Page(raw & ADDRESS & !inside))
    }

    #[cold]
    fn bits32(&mut self, va: u32, large: bool, write: bool) -> Result<u64> {
        let top = (self.paging.cr3 & 0xffff_f000) + u64::from(va >> 22) * 4;
        let upper = self.entry32(top, write && large, None)?;
        if large && upper & LARGE != 0 {
            self.check32(upper, write)?;
            // Bits 13 to 20 are bits 32 to 39 of the address.
            return Ok((upper & 0xffc0_0000) | ((upper & 0x1f_e000) << 19) | u64::from(va & 0x3f_ffff));
        }
        let at = (upper & 0xffff_f000) + u64::from((va >> 12) & 1023) * 4;
        let lower = self.entry32(at, write, Some(upper))?;
        self.check32(upper & lower, write)?;
        Ok((lower & 0xffff_f000) | u64::from(va & 0xfff))
    }

    /// Reads one 32-bit entry; marks it if it is final: below `upper`, or large.
    fn entry32(&mut self, at: u64, write: bool, upper: Option<u64>) -> Result<u64> {
        let word = self.physical.word32(GuestPhys::new(at))?;
        let old = word.load(Relaxed);
        let raw = u64::from(old);
        if raw & PRESENT == 0 {
            return Err(Errno::EFAULT);
        }
        let is_final = upper.is_some() || raw & LARGE != 0;
        let allowed = !write || self.check32(upper.unwrap_or(u64::MAX) & raw, true).is_ok();
        let marks: u32 = if write { 0x60 } else { 0x20 };
        if is_final && allowed && self.physical.is_writable() && old & marks != marks {
            let _ = word.compare_exchange(old, old | marks, Relaxed, Relaxed);
        }
        Ok(raw)
    }

    const fn check32(&self, rights: u64, write: bool) -> Result<()> {
        if write && self.paging.write_protect() && rights & WRITABLE == 0 {
            Err(Errno::EFAULT)
        } else {
            Ok(())
        }
    }
}

/// What an entry leads to: a table and the rights so far, or a page.
enum Found {
    Table(u64, u64),
    Page(u64),
}

impl Found {
    #[inline]
    fn table(self) -> Result<(u64, u64)> {
        match self {
            Self::Table(table, rights) => Ok((table, rights)),
            Self::Page(_) => Err(Errno::EFAULT),
        }
    }
}

/// A linear address of a guest that has 32 bits of them.
fn narrow(gva: GuestVirt) -> Result<u32> {
    u32::try_from(gva.raw()).map_err(|_| Errno::EFAULT)
}
