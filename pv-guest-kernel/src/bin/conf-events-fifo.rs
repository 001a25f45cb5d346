//! Event channels with FIFO queues.
#![no_std]
#![no_main]

use pv_guest_kernel::conf::{Outcome, Test, events, skip};
use pv_guest_kernel::xen::events::{Abi, abi};

pv_guest_kernel::conformance!(run);

async fn run(t: &mut Test) -> Outcome {
    if abi() != Abi::Fifo {
        return Err(skip("the hypervisor has no FIFO event channels"));
    }
    events::common(t)?;
    events::priorities(t)?;
    // More than one page of the event array holds.
    events::many(t, 1500)
}
