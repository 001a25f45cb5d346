//! Memory calls: give back, take, move, and every wrong way.
#![no_std]
#![no_main]

use core::arch::asm;

use pv_abi::memory::{AddToPhysmap, DomainArg, RemoveFromPhysmap, Reservation, space};
use pv_abi::{DomainId, Gfn, GuestVirt};
use pv_guest_kernel::conf::{Outcome, Test, error};
use pv_guest_kernel::mm::{self, PAGE, frames, special};
use pv_guest_kernel::xen::{hv, identity, stub};

pv_guest_kernel::conformance!(run);

fn reservation(gfns: &[Gfn], order: u32) -> Reservation {
    Reservation {
        extent_start: GuestVirt::of(gfns),
        nr_extents: gfns.len() as u64,
        extent_order: order,
        mem_flags: 0,
        domid: DomainId::SELF,
        pad: [0; 3],
    }
}

async fn run(t: &mut Test) -> Outcome {
    let me = DomainArg { domid: DomainId::SELF };
    let pages = || stub::memory_current_reservation(hv(), &me);
    let before = pages().map_err(|e| error("current reservation", e))?;
    let most = stub::memory_maximum_reservation(hv(), &me);
    t.check("no more than the most", most.is_ok_and(|most| most >= before));
    t.check(
        "another domain's is not ours to know",
        stub::memory_current_reservation(hv(), &DomainArg { domid: DomainId::new(999) }).is_err(),
    );

    // Give one page back and take another at its place.
    let frame = frames::allocate_zeroed().ok_or_else(|| error("frames", "none"))?;
    let word = mm::ptr::<u64>(frame.0);
    // SAFETY: the frame is this test's own.
    unsafe { word.write_volatile(0x1234_5678) };
    let gfn = [Gfn::new(frame.gfn())];
    if identity().is_xenolith() {
        t.equal("give back", stub::memory_decrease(hv(), &reservation(&gfn, 0)), Ok(1));
        t.equal("one page less", pages(), Ok(before - 1));
        t.equal("give back what is not there", stub::memory_decrease(hv(), &reservation(&gfn, 0)), Ok(0));
        t.equal("take", stub::memory_populate(hv(), &reservation(&gfn, 0)), Ok(1));
        t.equal("as many as before", pages(), Ok(before));
        // SAFETY: as above.
        t.equal("a fresh page is zero", unsafe { word.read_volatile() }, 0);
        // Two at once, one of which is nothing.
        let two = [gfn[0], Gfn::new(1 << 40)];
        t.equal("a list with a bad end", stub::memory_decrease(hv(), &reservation(&two, 0)), Ok(1));
        t.equal("take again", stub::memory_populate(hv(), &reservation(&gfn, 0)), Ok(1));
    }
    for (what, bad) in [
        ("a huge order", Reservation { extent_order: 63, ..reservation(&gfn, 0) }),
        ("a list nowhere", Reservation { extent_start: GuestVirt::new(0x1000), ..reservation(&gfn, 0) }),
        ("another domain", Reservation { domid: DomainId::new(999), ..reservation(&gfn, 0) }),
    ] {
        let result = stub::memory_decrease(hv(), &bad);
        t.check(what, result.is_err() || result == Ok(0));
        let result = stub::memory_populate(hv(), &bad);
        t.check(what, result.is_err() || result == Ok(0));
    }
    // More than the domain may have.
    let place = special::allocate(1).ok_or_else(|| error("special", "none"))?;
    if most == Ok(before) {
        let extra = [Gfn::new(place)];
        t.check("one page too many", stub::memory_populate(hv(), &reservation(&extra, 0)) != Ok(1));
    }
    t.equal("as many as before", pages(), Ok(before));

    // The physmap.
    let add = |space, idx, gpfn| {
        let arg = AddToPhysmap { domid: DomainId::SELF, size: 0, space, idx, gpfn: Gfn::new(gpfn) };
        stub::memory_add_to_physmap(hv(), &arg)
    };
    t.check("no such space", add(77, 0, place).is_err());
    t.check("a grant frame far out", add(space::GRANT_TABLE, 1 << 20, place).is_err());
    t.check("status frames of version 2", add(space::GRANT_TABLE, 0x8000_0000, place).is_err());
    t.check("a place beyond the address space", add(space::SHARED_INFO, 0, 1 << 52).is_err());
    t.check("foreign memory", add(space::GMFN_FOREIGN, 0, place).is_err());
    // Move a page to another place: it is there, and not here.
    // SAFETY: the frame is this test's own.
    unsafe { word.write_volatile(77) };
    t.equal("move a page", add(space::GMFN, frame.gfn(), place), Ok(0));
    // SAFETY: as above; the page is at the new place now.
    t.equal("it is there", unsafe { mm::ptr::<u64>(place * PAGE).read_volatile() }, 77);
    t.equal("move it back", add(space::GMFN, place, frame.gfn()), Ok(0));
    // SAFETY: as above.
    t.equal("it is here", unsafe { word.read_volatile() }, 77);
    let gone = RemoveFromPhysmap { domid: DomainId::SELF, pad: [0; 3], gpfn: Gfn::new(place) };
    t.check("empty an empty place", stub::memory_remove_from_physmap(hv(), &gone).is_err());
    frames::free(frame);
    nothing_there(t, place * PAGE);
    t.check("highest frame number", stub::memory_maximum_gpfn(hv(), &me).is_ok_and(|g| g > 0));
    Ok(())
}

/// Where no memory is, reads give ones and writes go nowhere, whatever their width and their place in the page.
fn nothing_there(t: &mut Test, page: u64) {
    for offset in [0, 1, 2, 7, 0x123, 0xff8] {
        let at = mm::virt(page + offset);
        let (byte, word, double, quad): (u32, u32, u32, u64);
        let mut exchanged = 0x1122_3344_5566_7788u64;
        // SAFETY: nothing is mapped at the page, whose number is this test's own; the table of the direct map has it.
        unsafe {
            asm!(
                "mov byte ptr [{at}], 1",
                "mov word ptr [{at}], 2",
                "mov dword ptr [{at}], {double:e}",
                "mov qword ptr [{at}], {quad}",
                "add dword ptr [{at}], 1",
                "and qword ptr [{at}], 1",
                "xchg qword ptr [{at}], {exchanged}",
                "movzx {byte:e}, byte ptr [{at}]",
                "movzx {word:e}, word ptr [{at}]",
                "mov {double:e}, dword ptr [{at}]",
                "mov {quad}, qword ptr [{at}]",
                at = in(reg) at,
                byte = out(reg) byte,
                word = out(reg) word,
                double = inout(reg) 3u32 => double,
                quad = inout(reg) 4u64 => quad,
                exchanged = inout(reg) exchanged,
                options(nostack),
            );
        }
        t.equal("what is read", (byte, word, double, quad), (0xff, 0xffff, u32::MAX, u64::MAX));
        t.equal("what is exchanged", exchanged, u64::MAX);
    }
}
