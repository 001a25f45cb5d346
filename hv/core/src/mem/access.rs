//! Guest memory, as hypercalls name it: by linear or by physical address.
//!
//! Everything is copied, once; no reference into guest memory leaves here. Any failure is `EFAULT`. The memory lock of
//! the domain is held shared for as long as one of these objects lives: keep them short, and take no lock of a lower
//! rank meanwhile. Registers of devices are never touched.

use super::frame::{PageRef, Ram};
use super::npt::Lookaside;
use super::physmap::DomainMemory;
use super::trail::{Steps, Trails};
use super::walk::{Paging, Walker};
use crate::hw::{EntryFormat, HostPhys, PAGE_BYTES, PAGE_SHIFT, PhysMemory};
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU32, AtomicU64};
use pv_abi::ids::{DomainId, GuestPhys, GuestVirt};
use pv_abi::{Errno, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A guest's memory by guest-physical address.
#[derive(Debug)]
pub struct Physical<'a, F, M> {
    map: &'a DomainMemory<F>,
    memory: &'a M,
    near: Lookaside,
}

impl<'a, F: EntryFormat, M: PhysMemory> Physical<'a, F, M> {
    /// The memory behind a physmap.
    #[inline]
    pub const fn new(map: &'a DomainMemory<F>, memory: &'a M) -> Self {
        Self { map, memory, near: Lookaside::EMPTY }
    }

    /// Where a byte is in the machine, if it is in memory that may be read, and also written if `write`.
    #[inline(always)]
    pub(super) fn locate(&mut self, gpa: GuestPhys, write: bool) -> Result<HostPhys> {
        self.map.locate(self.memory, gpa, write, &mut self.near).ok_or(Errno::EFAULT)
    }

    /// The word of a page table at `gpa`, and where it is.
    #[inline(always)]
    pub(super) fn word64(&mut self, gpa: GuestPhys) -> Result<(HostPhys, &'a AtomicU64)> {
        let host = self.locate(GuestPhys::new(gpa.raw() & !7), false)?;
        Ok((host, self.memory.u64_at(host)))
    }

    /// The word of a page table at `gpa`.
    pub(super) fn word32(&mut self, gpa: GuestPhys) -> Result<&'a AtomicU32> {
        let host = self.locate(GuestPhys::new(gpa.raw() & !3), false)?;
        Ok(self.memory.u32_at(host))
    }

    /// Whether the memory that was located last may be written.
    pub(super) const fn is_writable(&self) -> bool {
        self.near.is_writable()
    }

    /// Copies guest memory into `into`.
    pub fn read(&mut self, from: GuestPhys, into: &mut [u8]) -> Result<()> {
        let memory = self.memory;
        read_pages(memory, from.raw(), into, |at| self.locate(GuestPhys::new(at), false))
    }

    /// Copies `bytes` to guest memory. On failure a part may have been written.
    pub fn write(&mut self, to: GuestPhys, bytes: &[u8]) -> Result<()> {
        let memory = self.memory;
        write_pages(memory, to.raw(), bytes, |at| self.locate(GuestPhys::new(at), true))
    }

    /// Copies a structure from guest memory.
    pub fn read_value<T: FromBytes + IntoBytes>(&mut self, from: GuestPhys) -> Result<T> {
        let mut value = T::new_zeroed();
        self.read(from, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Copies a structure to guest memory.
    pub fn write_value<T: IntoBytes + Immutable>(&mut self, to: GuestPhys, value: &T) -> Result<()> {
        self.write(to, value.as_bytes())
    }
}

/// The longest range that [`Linear::check_write`] looks at: nothing that a guest names may take for ever.
const MOST_CHECKED: u64 = 1 << 24;

/// A guest's memory by linear address, at one moment of one vCPU.
#[derive(Debug)]
pub struct Linear<'a, F, M> {
    map: &'a DomainMemory<F>,
    memory: &'a M,
    trails: &'a mut Trails,
}

impl<'a, F: EntryFormat, M: PhysMemory> Linear<'a, F, M> {
    /// The memory behind a physmap, as `paging` translates it. `trails` are those of the vCPU.
    #[inline]
    pub fn new(map: &'a DomainMemory<F>, memory: &'a M, paging: Paging, trails: &'a mut Trails) -> Self {
        // The generation changes under the lock that `map` is borrowed from, so it stays what it is now.
        trails.suit(&paging, map.generation().now());
        Self { map, memory, trails }
    }

    /// Refers to the frame of `owner`'s own at a linear address, so that the hypervisor may write to it after the lock is
    /// released. Put the reference back with [`PageAccount::put`](super::PageAccount::put).
    pub fn pin(&mut self, ram: Ram<'_, M>, owner: DomainId, gva: GuestVirt) -> Result<PageRef> {
        let host = self.locate(gva, true)?;
        ram.get(host.mfn(), owner).map_err(|_| Errno::EFAULT)
    }

    /// Where the byte at a linear address is in the machine.
    #[inline]
    fn locate(&mut self, gva: GuestVirt, write: bool) -> Result<HostPhys> {
        match self.trails.follow(self.memory, gva, write) {
            Some(host) => Ok(host),
            None => self.walk(gva, write),
        }
    }

    #[cold]
    #[inline(never)]
    fn walk(&mut self, gva: GuestVirt, write: bool) -> Result<HostPhys> {
        let mut physical = Physical { map: self.map, memory: self.memory, near: self.trails.near };
        let paging = self.trails.paging;
        let mut walker = Walker { physical: &mut physical, paging: &paging, steps: Steps::default() };
        let host = walker.walk(gva, write)?;
        self.trails.keep(gva, host.mfn(), write, walker.steps);
        self.trails.near = physical.near;
        Ok(host)
    }

    /// Copies guest memory into `into`.
    #[inline]
    pub fn read_bytes(&mut self, from: GuestVirt, into: &mut [u8]) -> Result<()> {
        let memory = self.memory;
        if is_in_one_page(from, into.len()) {
            let host = self.locate(from, false)?;
            memory.read(host, into);
            return Ok(());
        }
        read_pages(memory, from.raw(), into, |at| self.locate(GuestVirt::new(at), false))
    }

    /// Copies `bytes` to guest memory. On failure a part may have been written.
    #[inline]
    pub fn write_bytes(&mut self, to: GuestVirt, bytes: &[u8]) -> Result<()> {
        let memory = self.memory;
        if is_in_one_page(to, bytes.len()) {
            let host = self.locate(to, true)?;
            memory.write(host, bytes);
            return Ok(());
        }
        write_pages(memory, to.raw(), bytes, |at| self.locate(GuestVirt::new(at), true))
    }

    /// Copies a structure from guest memory.
    #[inline(always)]
    pub fn read<T: FromBytes + IntoBytes>(&mut self, from: GuestVirt) -> Result<T> {
        let mut value = T::new_zeroed();
        if size_of::<T>() == 4 && from.raw().is_multiple_of(4) {
            // A port, mostly.
            let word = self.memory.u32_at(self.locate(from, false)?).load(Relaxed);
            value.as_mut_bytes().copy_from_slice(&word.to_ne_bytes());
            return Ok(value);
        }
        self.read_bytes(from, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Copies a structure to guest memory.
    #[inline]
    pub fn write<T: IntoBytes + Immutable>(&mut self, to: GuestVirt, value: &T) -> Result<()> {
        self.write_bytes(to, value.as_bytes())
    }

    /// Copies element `index` of an array from guest memory.
    #[inline]
    pub fn read_element<T: FromBytes + IntoBytes>(&mut self, array: GuestVirt, index: u64) -> Result<T> {
        self.read(element::<T>(array, index)?)
    }

    /// Copies element `index` of an array to guest memory.
    #[inline]
    pub fn write_element<T: IntoBytes + Immutable>(
        &mut self,
        array: GuestVirt,
        index: u64,
        value: &T,
    ) -> Result<()> {
        self.write(element::<T>(array, index)?, value)
    }

    /// Copies elements of an array, from `index` on, from guest memory.
    pub fn read_slice<T: FromBytes + IntoBytes>(
        &mut self,
        array: GuestVirt,
        index: u64,
        into: &mut [T],
    ) -> Result<()> {
        self.read_bytes(element::<T>(array, index)?, into.as_mut_bytes())
    }

    /// Copies elements of an array, from `index` on, to guest memory.
    pub fn write_slice<T: IntoBytes + Immutable>(
        &mut self,
        array: GuestVirt,
        index: u64,
        from: &[T],
    ) -> Result<()> {
        self.write_bytes(element::<T>(array, index)?, from.as_bytes())
    }

    /// Checks that bytes can be written, for calls that must not fail after they have done their work.
    pub fn check_write(&mut self, to: GuestVirt, bytes: u64) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        if bytes > MOST_CHECKED {
            return Err(Errno::E2BIG);
        }
        let last = to.raw().checked_add(bytes - 1).ok_or(Errno::EFAULT)?;
        for page in to.raw() >> PAGE_SHIFT..=last >> PAGE_SHIFT {
            self.locate(GuestVirt::new(page << PAGE_SHIFT), true)?;
        }
        Ok(())
    }
}

/// The address of an element of an array.
#[inline]
fn element<T>(array: GuestVirt, index: u64) -> Result<GuestVirt> {
    let offset = index.checked_mul(size_of::<T>() as u64).ok_or(Errno::EFAULT)?;
    array.checked_add(offset).ok_or(Errno::EFAULT)
}

/// Whether there are bytes, and all are in one page: the usual case, without a loop.
#[inline]
const fn is_in_one_page(at: GuestVirt, len: usize) -> bool {
    len != 0 && at.offset().saturating_add(len as u64) <= PAGE_BYTES
}

/// How many of `len` bytes from `at` on lie in its page.
fn in_page(at: u64, len: usize) -> usize {
    let room = PAGE_BYTES - (at & (PAGE_BYTES - 1));
    usize::try_from(room).map_or(len, |room| room.min(len))
}

fn read_pages<M: PhysMemory>(
    memory: &M,
    from: u64,
    mut into: &mut [u8],
    mut locate: impl FnMut(u64) -> Result<HostPhys>,
) -> Result<()> {
    let mut at = Some(from);
    while !into.is_empty() {
        let here = at.ok_or(Errno::EFAULT)?;
        let (head, tail) = into.split_at_mut(in_page(here, into.len()));
        memory.read(locate(here)?, head);
        at = here.checked_add(head.len() as u64);
        into = tail;
    }
    Ok(())
}

fn write_pages<M: PhysMemory>(
    memory: &M,
    to: u64,
    mut bytes: &[u8],
    mut locate: impl FnMut(u64) -> Result<HostPhys>,
) -> Result<()> {
    let mut at = Some(to);
    while !bytes.is_empty() {
        let here = at.ok_or(Errno::EFAULT)?;
        let (head, tail) = bytes.split_at(in_page(here, bytes.len()));
        memory.write(locate(here)?, head);
        at = here.checked_add(head.len() as u64);
        bytes = tail;
    }
    Ok(())
}
