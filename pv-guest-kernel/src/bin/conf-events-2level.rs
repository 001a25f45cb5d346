//! Event channels with the 2-level bitmap.
#![no_std]
#![no_main]

use pv_guest_kernel::Options;
use pv_guest_kernel::conf::{Outcome, Test, events};
use pv_guest_kernel::xen::events::{Abi, abi};

pv_guest_kernel::conformance!(run, Options { events: Abi::TwoLevel, ..Options::DEFAULT });

async fn run(t: &mut Test) -> Outcome {
    t.equal("flavour", abi(), Abi::TwoLevel);
    events::common(t)?;
    events::many(t, 500)
}
