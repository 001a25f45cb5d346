//! Pointers in hypercalls: unmapped, non-canonical, read-only, crossing pages.
#![no_std]
#![no_main]

use pv_abi::call::number;
use pv_abi::{Errno, hvm, version};
use pv_guest_kernel::arch::probe;
use pv_guest_kernel::conf::{Outcome, Test, error, raw};
use pv_guest_kernel::mm::paging::{self, Flags};
use pv_guest_kernel::mm::{PAGE, frames};
use pv_guest_kernel::xen::identity;

pv_guest_kernel::conformance!(run);

/// A range of virtual addresses that nothing else uses.
const WINDOW: u64 = 0xffff_d000_0000_0000;

fn features(address: u64) -> Result<u64, Errno> {
    // Index 0 and no answer yet, as far as the place is mapped.
    if (WINDOW..WINDOW + 3 * PAGE).contains(&address) {
        // SAFETY: the window is this test's own; where it is not writable the fault is caught.
        let _ = unsafe { probe::write(address, 0) };
    }
    raw(number::XEN_VERSION, [version::op::GET_FEATURES, address, 0, 0, 0])
}

fn time(address: u64) -> Result<u64, Errno> {
    raw(number::HVM_OP, [hvm::op::GET_TIME, address, 0, 0, 0])
}

async fn run(t: &mut Test) -> Outcome {
    // Two pages side by side whose frames are not, one that is read-only, and nothing behind.
    let page = || frames::allocate_zeroed().ok_or_else(|| error("frames", "none"));
    let (a, _gap, b, c) = (page()?, page()?, page()?, page()?);
    paging::map(WINDOW, a.0, Flags::WRITABLE);
    paging::map(WINDOW + PAGE, b.0, Flags::WRITABLE);
    paging::map(WINDOW + 2 * PAGE, c.0, Flags::NO_EXECUTE);

    t.equal("a good pointer", features(WINDOW), Ok(0));
    t.equal("across two pages", features(WINDOW + PAGE - 4), Ok(0));
    t.equal("across two pages, one byte", features(WINDOW + PAGE - 1), Ok(0));
    for (what, address) in [
        ("null", 0),
        ("low and unmapped", 0x1000),
        ("unmapped behind the last page", WINDOW + 3 * PAGE),
        ("non-canonical", 0x8000_0000_0000),
        ("non-canonical, high", 0xffff_7fff_ffff_f000),
        ("across into nothing", WINDOW + 3 * PAGE - 4),
        ("the end of the address space", u64::MAX - 3),
        ("the very end", u64::MAX),
        ("across into the non-canonical", 0x7fff_ffff_fffc),
    ] {
        if what.starts_with("non-canonical") && !identity().is_xenolith() {
            // Xen ignores the bits above the 48th.
            continue;
        }
        t.equal(what, features(address), Err(Errno::EFAULT));
        t.equal(what, time(address), Err(Errno::EFAULT));
    }
    t.equal("read from a read-only page, then write to it", features(WINDOW + 2 * PAGE), Err(Errno::EFAULT));
    t.equal("write to a read-only page", time(WINDOW + 2 * PAGE), Err(Errno::EFAULT));
    t.equal("write across into a read-only page", time(WINDOW + 2 * PAGE - 4), Err(Errno::EFAULT));

    // A huge array that begins well and ends nowhere.
    let bad =
        raw(number::GRANT_TABLE_OP, [pv_abi::grant::op::QUERY_SIZE, WINDOW + 3 * PAGE - 16, 1 << 20, 0, 0]);
    t.check("an array into nothing", bad.is_err());
    t.equal("still alive", features(WINDOW), Ok(0));
    for i in 0..3 {
        paging::unmap(WINDOW + i * PAGE);
    }
    t.equal("unmapped again", features(WINDOW), Err(Errno::EFAULT));
    Ok(())
}
