//! What 32-bit guests see, and what is said to be the same for them.
//!
//! No program of 32 bits need be run: the compiler is asked to assert the values that Rust has.

use crate::entry::{Const, Struct};
use crate::{HEADERS, consts, structs};
use std::fmt::Write;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// Structures that differ.
#[rustfmt::skip]
pub fn structures() -> Vec<Struct> {
    structs! {
        ia32::AddToPhysmap = "struct xen_add_to_physmap" { domid, size, space, idx, gpfn }
        ia32::RemoveFromPhysmap = "struct xen_remove_from_physmap" { domid, gpfn }
        ia32::MemoryMap = "struct xen_memory_map" { nr_entries, buffer }
        ia32::Poll = "struct sched_poll" { ports, nr_ports, timeout }
        ia32::blkif::Request = "struct blkif_request" { operation, nr_segments, handle, id, sector_number, seg }
        ia32::blkif::DiscardRequest = "struct blkif_request_discard" { operation, flag, handle, id, sector_number, nr_sectors }
        ia32::blkif::IndirectRequest = "struct blkif_request_indirect" { operation, indirect_op, nr_segments, id, sector_number, handle, indirect_grefs }
        ia32::blkif::Response = "struct blkif_response" { id, operation, status }
    }
}

/// Places in the shared page.
#[rustfmt::skip]
pub fn constants() -> Vec<Const> {
    consts! {
        ia32::shared_info::PORTS = "sizeof(((struct shared_info *)0)->evtchn_pending) * 8"
        ia32::shared_info::EVTCHN_PENDING = "offsetof(struct shared_info, evtchn_pending)"
        ia32::shared_info::EVTCHN_MASK = "offsetof(struct shared_info, evtchn_mask)"
        ia32::shared_info::WC_VERSION = "offsetof(struct shared_info, wc_version)"
        ia32::shared_info::WC_SEC_HI = "offsetof(struct shared_info, arch.wc_sec_hi)"
        ia32::shared_info::EVTCHN_PENDING_SEL = "offsetof(struct vcpu_info, evtchn_pending_sel)"
    }
}

/// Structures that the hypervisor takes from 32-bit guests as they are.
#[rustfmt::skip]
fn same() -> Vec<Struct> {
    structs! {
        event::Send = "struct evtchn_send" { port }
        event::Unmask = "struct evtchn_unmask" { port }
        event::AllocUnbound = "struct evtchn_alloc_unbound" { dom, remote_dom, port }
        event::BindInterdomain = "struct evtchn_bind_interdomain" { remote_dom, remote_port, local_port }
        event::BindVirq = "struct evtchn_bind_virq" { virq, vcpu, port }
        event::BindIpi = "struct evtchn_bind_ipi" { vcpu, port }
        event::BindVcpu = "struct evtchn_bind_vcpu" { port, vcpu }
        event::Close = "struct evtchn_close" { port }
        event::Status = "struct evtchn_status" { dom, port, status, vcpu }
        event::Reset = "struct evtchn_reset" { dom }
        hvm::Param = "struct xen_hvm_param" { domid, index, value }
        hvm::EvtchnUpcallVector = "struct xen_hvm_evtchn_upcall_vector" { vcpu, vector }
        sched::Shutdown = "struct sched_shutdown" { reason }
        version::FeatureInfo = "struct xen_feature_info" { submap_idx, submap }
        shared_info::VcpuTimeInfo = "struct vcpu_time_info" { version, tsc_timestamp, system_time, tsc_to_system_mul, tsc_shift, flags }
    }
}

#[test]
fn layouts_of_32_bit_guests_are_those_of_the_headers() {
    let mut text = String::from("#include <stdint.h>\n#include <stddef.h>\n");
    for header in HEADERS {
        writeln!(text, "#include <xen/{header}>").unwrap();
    }
    let mut is = |what: String, value: u64| {
        writeln!(text, "_Static_assert(({what}) == {value}, \"here {value}: {}\");", what.replace('"', ""))
            .unwrap();
    };
    let structures: Vec<_> = structures().into_iter().chain(same()).collect();
    for Struct { c, size, fields, .. } in &structures {
        is(format!("sizeof({c})"), *size as u64);
        for field in fields {
            is(format!("offsetof({c}, {})", field.c), field.offset as u64);
            is(format!("sizeof((({c} *)0)->{})", field.c), field.size as u64);
        }
    }
    for constant in constants() {
        is(constant.c.to_owned(), constant.value);
    }
    let mut compiler = Command::new("cc")
        .args(["-m32", "-ffreestanding", "-fsyntax-only", "-std=gnu11", "-w", "-x", "c", "-"])
        .arg("-D__XEN_INTERFACE_VERSION__=0x00040e00")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a C compiler is missing: install gcc");
    compiler.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let done = compiler.wait_with_output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}
