//! A first guest: says where it is, and ends.
#![no_std]
#![no_main]

use core::fmt::Write;

use pv_abi::guest::Guest;
use pv_abi::memory::DomainArg;
use pv_abi::{DomainId, stub};

pv_abi::pvh_entry!(main);

fn main(mut guest: Guest) -> ! {
    let hv = guest.hv();
    let version = stub::version_number(&hv).expect("every hypervisor tells its version");
    let mut extra = [0; 16];
    stub::version_extra(&hv, &mut extra).expect("and the rest of it");
    let extra = core::str::from_utf8(&extra).unwrap_or_default().trim_end_matches('\0');
    let me = DomainArg { domid: DomainId::SELF };
    let pages = stub::memory_current_reservation(&hv, &me).unwrap_or(0);

    let _ = writeln!(guest, "A first guest on {}.{}{extra}", version >> 16, version & 0xffff);
    let _ = writeln!(guest, "It has {} KiB of memory.", pages * 4);
    let _ = writeln!(guest, "It was told: {}", guest.command_line());
    guest.power_off()
}
