//! Printing the hypervisor's trace for a program (`trace=dump` on the command line, and `trace` on the hypervisor's).
//!
//! One line for each record: `(trace) CPU TSC KIND DOMAIN VCPU A B`, and one `(trace) hz NUMBER` before them, all numbers
//! decimal but for A and B. Everything is taken before anything is printed: printing makes records too.

use alloc::vec;
use alloc::vec::Vec;

use pv_abi::control::TraceRecord;

use crate::println;
use crate::xen::{clock, hv, stub};

/// More than a CPU keeps.
const MOST: usize = 1 << 14;

/// Prints the traces of all CPUs.
pub fn dump() {
    let mut all = Vec::new();
    for cpu in 0.. {
        let mut records = vec![TraceRecord::default(); 64];
        let mut taken = Vec::new();
        while let Ok(count) = stub::control_trace(hv(), cpu, &mut records) {
            let count = usize::try_from(count).unwrap_or(0).min(records.len());
            taken.extend_from_slice(&records[..count]);
            // What comes while the records are taken is of the taking itself, and there is always some.
            if count < 16 || taken.len() >= MOST {
                break;
            }
        }
        if taken.is_empty() {
            break;
        }
        all.push((cpu, taken));
    }
    println!("(trace) hz {}", clock::tsc_hz());
    for (cpu, records) in all {
        for r in records {
            println!("(trace) {cpu} {} {} {} {} {:x} {:x}", r.tsc, r.kind, r.domid.raw(), r.vcpu, r.a, r.b);
        }
    }
}
