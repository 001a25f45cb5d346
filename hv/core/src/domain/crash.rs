//! The end of a domain that broke the contract: why, where, and what came before, in the log.

use super::{Domain, Format, ShutdownReason};
use crate::hw::{Platform, Reg, Segment, VcpuHw};
use crate::mem::{Linear, Paging};
use crate::system::System;
use crate::vcpu::Vcpu;
use core::fmt;
use pv_abi::ids::GuestVirt;

/// How many trace entries are shown.
const TRACED: usize = 16;
/// How many bytes of code are shown.
const CODE: usize = 16;

/// Ends a domain because of what its vCPU, whose registers are `hw`, did.
pub fn crash<P: Platform, H: VcpuHw>(
    system: &System<P>,
    domain: &Domain<P>,
    vcpu: &Vcpu<P>,
    hw: &H,
    why: fmt::Arguments<'_>,
) {
    log::error!("{domain}, {}: {why}", vcpu.id);
    dump(system, domain, hw);
    for record in system.trace.last(system.platform.current_cpu(), TRACED) {
        log::error!(
            "  {:>16} {}{} kind {} {:#x} {:#x}",
            record.tsc,
            record.domid,
            pv_abi::ids::VcpuId::new(record.vcpu),
            record.kind,
            record.a,
            record.b
        );
    }
    system.shut_down(domain, ShutdownReason::Crash);
}

fn dump<P: Platform, H: VcpuHw>(system: &System<P>, domain: &Domain<P>, hw: &H) {
    let gprs = hw.gprs();
    let rows = [
        [("rax", gprs.rax), ("rbx", gprs.rbx), ("rcx", gprs.rcx), ("rdx", gprs.rdx)],
        [("rsi", gprs.rsi), ("rdi", gprs.rdi), ("rbp", gprs.rbp), ("rsp", hw.get(Reg::Rsp))],
        [(" r8", gprs.r8), (" r9", gprs.r9), ("r10", gprs.r10), ("r11", gprs.r11)],
        [("r12", gprs.r12), ("r13", gprs.r13), ("r14", gprs.r14), ("r15", gprs.r15)],
        [
            ("rip", hw.get(Reg::Rip)),
            ("flg", hw.get(Reg::Rflags)),
            ("efr", hw.get(Reg::Efer)),
            (" cs", hw.segment(Segment::Cs).selector.into()),
        ],
        [
            ("cr0", hw.get(Reg::Cr0)),
            ("cr2", hw.get(Reg::Cr2)),
            ("cr3", hw.get(Reg::Cr3)),
            ("cr4", hw.get(Reg::Cr4)),
        ],
    ];
    for [a, b, c, d] in rows {
        log::error!("  {} {:016x} {} {:016x} {} {:016x} {} {:016x}", a.0, a.1, b.0, b.1, c.0, c.1, d.0, d.1);
    }
    log::error!("  code at rip: {}", Code(code(system, domain, hw)));
}

/// The bytes at the instruction pointer, as far as they can be read.
fn code<P: Platform, H: VcpuHw>(system: &System<P>, domain: &Domain<P>, hw: &H) -> [Option<u8>; CODE] {
    let paging = Paging::new(hw.get(Reg::Cr0), hw.get(Reg::Cr3), hw.get(Reg::Cr4), hw.get(Reg::Efer));
    let long = hw.segment(Segment::Cs).attributes & (1 << 9) != 0;
    let base = if long { 0 } else { hw.segment(Segment::Cs).base };
    let start = hw.get(Reg::Rip).wrapping_add(base);
    let memory = domain.memory.read();
    let mut guest = Linear::<Format<P>, _>::new(&memory, system.memory(), paging);
    let mut at = start;
    [(); CODE].map(|()| {
        let mut byte = [0];
        let read = guest.read_bytes(GuestVirt::new(at), &mut byte);
        at = at.wrapping_add(1);
        read.ok().map(|()| byte[0])
    })
}

struct Code([Option<u8>; CODE]);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            match byte {
                Some(byte) => write!(f, "{byte:02x} ")?,
                None => f.write_str("?? ")?,
            }
        }
        Ok(())
    }
}
