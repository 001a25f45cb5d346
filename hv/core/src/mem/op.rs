//! The memory operations of the ABI, on a domain's physmap (`xen/memory.h`).
//!
//! The handlers of the hypercalls read the arrays of a guest in batches, call these for a batch, and remember how far
//! they came: that number is the cursor from which a preempted call goes on.

use super::departures::{BATCH, Departures};
use super::frame::{Ram, SharedPage};
use super::physmap::DomainMemory;
use crate::grant::GrantTable;
use crate::hw::{EntryFormat, Mfn, Order, PhysMemory};
use pv_abi::ids::Gfn;
use pv_abi::memory::space;
use pv_abi::{Errno, Result};
use spin::RwLock;

/// The largest extent of the calls that take an order: 2 MiB, so that none takes long.
pub const MOST_ORDER: Order = crate::hw::PageSize::M2.order();

/// Checks the order that a guest names.
pub fn extent_order(raw: u32) -> Result<Order> {
    let order = u8::try_from(raw).ok().and_then(Order::new).ok_or(Errno::EINVAL)?;
    if order > MOST_ORDER { Err(Errno::EPERM) } else { Ok(order) }
}

/// Gives the domain memory at each of these places (`XENMEM_populate_physmap`); stops at the first that fails. Returns
/// how many were populated: the ABI reports that, not the error.
pub fn populate<F: EntryFormat, M: PhysMemory>(
    ram: Ram<'_, M>,
    memory: &RwLock<DomainMemory<F>>,
    order: Order,
    extents: &[Gfn],
) -> usize {
    let mut memory = memory.write();
    extents.iter().take_while(|gfn| memory.populate(ram, **gfn, order).is_ok()).count()
}

/// Takes the domain's memory at each of these places back (`XENMEM_decrease_reservation`); stops at the first that
/// fails. Returns how many were. `kick` as in [`Flush::perform`](super::Flush::perform).
pub fn decrease<F: EntryFormat, M: PhysMemory>(
    ram: Ram<'_, M>,
    memory: &RwLock<DomainMemory<F>>,
    order: Order,
    extents: &[Gfn],
    mut kick: impl FnMut(u64),
) -> usize {
    let mut done = 0;
    while done < extents.len() {
        let mut guard = memory.write();
        let mut out = guard.departures();
        let (mut took, mut failed) = (0, None);
        for gfn in extents.iter().skip(done) {
            match guard.remove(ram, *gfn, order, &mut out) {
                Ok(()) => took += 1,
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        let was_full = out.room() < BATCH;
        drop(guard);
        out.finish(ram, &mut kick);
        done += took;
        // An extent in more pieces than the rest of the batch had room for gets a batch of its own; one in more pieces
        // than a whole batch is taken page by page.
        match failed {
            None => break,
            Some(Errno::E2BIG) if was_full => {}
            Some(Errno::E2BIG) if decrease_pages(ram, memory, extents.get(done), order, &mut kick) => {
                done += 1
            }
            Some(_) => break,
        }
    }
    done
}

/// Takes one extent back page by page.
fn decrease_pages<F: EntryFormat, M: PhysMemory>(
    ram: Ram<'_, M>,
    memory: &RwLock<DomainMemory<F>>,
    extent: Option<&Gfn>,
    order: Order,
    kick: &mut impl FnMut(u64),
) -> bool {
    let Some(first) = extent else { return false };
    let mut at = 0;
    while at < order.pages() {
        let mut guard = memory.write();
        let mut out = guard.departures();
        let mut result = Ok(());
        while at < order.pages() && out.room() > 0 && result.is_ok() {
            result = guard.remove(ram, Gfn::new(first.raw() + at), Order::PAGE, &mut out);
            at += 1;
        }
        drop(guard);
        out.finish(ram, &mut *kick);
        if result.is_err() {
            return false;
        }
    }
    true
}

/// The pages of a domain that `add_to_physmap` can name.
#[derive(Debug)]
pub struct Specials<'a> {
    /// Its shared information page.
    pub shared_info: &'a SharedPage,
    /// Its grant table.
    pub grants: &'a GrantTable,
}

/// Puts one page at a place of a domain's physmap (`XENMEM_add_to_physmap` and its batch). `idx` is the index in the
/// space, as the ABI says.
pub fn add_to_physmap<F: EntryFormat, M: PhysMemory>(
    ram: Ram<'_, M>,
    memory: &RwLock<DomainMemory<F>>,
    specials: &Specials<'_>,
    (map_space, idx): (u32, u64),
    gpfn: Gfn,
    kick: impl FnOnce(u64),
) -> Result<()> {
    change(ram, memory, kick, |guard, out| match map_space {
        space::SHARED_INFO if idx == 0 => guard.map_special(ram, gpfn, specials.shared_info, out),
        space::GRANT_TABLE => {
            specials.grants.with_frame(ram, idx, |page| guard.map_special(ram, gpfn, page, out))
        }
        space::GMFN | space::GMFN_RANGE => guard.move_page(ram, Gfn::new(idx), gpfn, out),
        space::SHARED_INFO => Err(Errno::EINVAL),
        // Mapping another domain's memory without a grant is for no role here.
        space::GMFN_FOREIGN => Err(Errno::EPERM),
        space::DEV_MMIO => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::ENOSYS),
    })
}

/// Changes a domain's physmap, and then does what is owed for it.
fn change<F: EntryFormat, M: PhysMemory>(
    ram: Ram<'_, M>,
    memory: &RwLock<DomainMemory<F>>,
    kick: impl FnOnce(u64),
    work: impl FnOnce(&mut DomainMemory<F>, &mut Departures) -> Result<()>,
) -> Result<()> {
    let mut guard = memory.write();
    let mut out = guard.departures();
    let result = work(&mut guard, &mut out);
    drop(guard);
    out.finish(ram, kick);
    result
}

/// Puts a page of counters at a place of a domain's physmap, to be read only.
pub fn map_counters<F: EntryFormat, M: PhysMemory>(
    ram: Ram<'_, M>,
    memory: &RwLock<DomainMemory<F>>,
    page: Mfn,
    gpfn: Gfn,
    kick: impl FnOnce(u64),
) -> Result<()> {
    change(ram, memory, kick, |guard, out| guard.map_counters(ram, gpfn, page, out))
}

/// Empties a place of a domain's physmap (`XENMEM_remove_from_physmap`): memory of its own is given back.
pub fn remove_from_physmap<F: EntryFormat, M: PhysMemory>(
    ram: Ram<'_, M>,
    memory: &RwLock<DomainMemory<F>>,
    gpfn: Gfn,
    kick: impl FnOnce(u64),
) -> Result<()> {
    change(ram, memory, kick, |guard, out| match guard.translate(ram.memory, gpfn) {
        Some(_) => guard.vacate(ram, gpfn, out),
        None => Err(Errno::ENOENT),
    })
}
