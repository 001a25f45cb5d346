//! HVM parameters and upcall vectors.
#![no_std]
#![no_main]

use pv_abi::hvm::{EvtchnUpcallVector, Param, param};
use pv_abi::{DomainId, Errno};
use pv_guest_kernel::arch::{apic, cpu, trap};
use pv_guest_kernel::conf::{Outcome, Test, error, wait_for};
use pv_guest_kernel::xen::{clock, events, hv, params, sched, stub};

pv_guest_kernel::conformance!(run);

async fn run(t: &mut Test) -> Outcome {
    t.check(
        "CALLBACK_IRQ reads back",
        params::get(param::CALLBACK_IRQ).is_ok_and(|v| v & 0xff == u64::from(trap::UPCALL_VECTOR)),
    );
    for index in [param::COUNT, 100, u32::MAX] {
        t.equal("no such parameter", params::get(index), Err(Errno::EINVAL));
        t.equal("no such parameter to set", params::set(index, 0), Err(Errno::EINVAL));
    }
    let mut other = Param { domid: DomainId::new(999), pad: 0, index: param::STORE_PFN, value: 0 };
    let result = stub::hvm_get_param(hv(), &mut other);
    t.check("another domain's", matches!(result, Err(Errno::ESRCH | Errno::EPERM)));
    if let Ok(before) = params::get(param::STORE_PFN) {
        let changed = params::set(param::STORE_PFN, before.wrapping_add(1));
        t.check("a parameter that the toolstack sets", changed.is_err());
        t.equal("is as before", params::get(param::STORE_PFN), Ok(before));
    }

    // Vectors.
    let set =
        |vcpu, vector| stub::hvm_set_upcall_vector(hv(), &EvtchnUpcallVector { vcpu, vector, pad: [0; 3] });
    t.equal("a vector below 16", set(0, 15), Err(Errno::EINVAL));
    t.equal("no such vCPU", set(4000, trap::TEST_VECTOR), Err(Errno::ENOENT));
    apic::enable();
    if let Err(e) = set(cpu::this().id, trap::TEST_VECTOR) {
        return Err(error("per-vCPU vector", e));
    }
    let before = events::test_vector_count();
    for _ in 0..5 {
        let seen = events::test_vector_count();
        sched::set_timer(clock::now() + 3_000_000);
        t.check("a timer by the per-vCPU vector", wait_for(|| events::test_vector_count() != seen));
    }
    t.check("it came by that vector", events::test_vector_count() > before);
    Ok(())
}
