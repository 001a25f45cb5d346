//! Several calls in one.
#![no_std]
#![no_main]

use alloc::vec;

use pv_abi::call::{MulticallEntry, number};
use pv_abi::{Errno, version};
use pv_guest_kernel::conf::{Outcome, Test, raw};
use pv_guest_kernel::xen::{hv, stub};

pv_guest_kernel::conformance!(run);

async fn run(t: &mut Test) -> Outcome {
    let entry = |op, sub| MulticallEntry { op, args: [sub, 0, 0, 0, 0, 0], ..MulticallEntry::default() };
    let good = entry(number::XEN_VERSION, version::op::VERSION);
    let expected = stub::version_number(hv()).unwrap_or(0);
    let mut calls = [good, entry(63, 0), good, entry(number::XEN_VERSION, 999), good];
    t.equal("five calls", stub::multicall(hv(), &mut calls), Ok(0));
    let enosys = Errno::ENOSYS.to_return().cast_unsigned();
    t.equal("results", calls.map(|c| c.result), [expected, enosys, expected, enosys, expected]);

    let mut many = vec![good; 500];
    t.equal("many calls", stub::multicall(hv(), &mut many), Ok(0));
    t.check("all done", many.iter().all(|c| c.result == expected));
    t.equal("none", stub::multicall(hv(), &mut []), Ok(0));
    t.equal("a list nowhere", raw(number::MULTICALL, [0x1000, 4, 0, 0, 0]), Err(Errno::EFAULT));

    let mut inner = [good];
    let nested = MulticallEntry {
        op: number::MULTICALL,
        args: [inner.as_mut_ptr().expose_provenance() as u64, 1, 0, 0, 0, 0],
        ..MulticallEntry::default()
    };
    let mut outer = [nested, good];
    let result = stub::multicall(hv(), &mut outer);
    t.check(
        "a list within a list is done or refused, and no more",
        result.is_ok() || result == Err(Errno::EINVAL),
    );
    t.equal("still alive", stub::version_number(hv()), Ok(expected));
    Ok(())
}
