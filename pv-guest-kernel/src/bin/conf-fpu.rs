//! Vector and x87 registers keep their contents while vCPUs change places; and an upcall comes once, where the emulator's
//! processors take turns: QEMU once delivered it again when it went over to the next one.
#![no_std]
#![no_main]

use core::arch::asm;
use core::sync::atomic::Ordering;

use pv_abi::DomainId;
use pv_guest_kernel::arch::cpu;
use pv_guest_kernel::conf::{Outcome, Test, error};
use pv_guest_kernel::task;
use pv_guest_kernel::xen::{clock, events, sched};

pv_guest_kernel::conformance!(run);

/// Fills XMM0-15 with a pattern, gives the CPU away, and counts the registers that came back different.
fn round(seed: u64) -> u32 {
    let before: [u64; 32] =
        core::array::from_fn(|i| seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(i as u32) ^ i as u64);
    let mut after = [0u64; 32];
    macro_rules! all {
        ($insn:literal, $p:expr) => {
            // SAFETY: moves between the array and the vector registers, which the kernel's own code never uses.
            unsafe {
                asm!(
                    concat!(".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n", $insn, "\n.endr"),
                    in("rax") $p,
                    options(nostack, preserves_flags)
                )
            }
        };
    }
    all!("movups xmm\\n, [rax + 16*\\n]", before.as_ptr());
    for _ in 0..4 {
        sched::yield_now();
    }
    all!("movups [rax + 16*\\n], xmm\\n", after.as_mut_ptr());
    before.chunks(2).zip(after.chunks(2)).filter(|(a, b)| a != b).count() as u32
}

/// Fills the x87 registers with integers, gives the CPU away, and counts those that came back different. Leaves them empty,
/// as FNINIT does, so that both kinds of state are switched.
fn round_x87(seed: u64) -> u32 {
    let before: [i64; 8] = core::array::from_fn(|i| (seed << 8 | i as u64) as i64);
    let mut after = [0i64; 8];
    // SAFETY: moves between the arrays and the x87 registers, which the kernel's own code never uses.
    unsafe {
        asm!(
            ".irp n, 0,1,2,3,4,5,6,7\nfild qword ptr [rax + 8*\\n]\n.endr",
            in("rax") before.as_ptr(),
            options(nostack, preserves_flags)
        );
    }
    for _ in 0..4 {
        sched::yield_now();
    }
    // SAFETY: as above; the last filled register comes first.
    unsafe {
        asm!(
            ".irp n, 7,6,5,4,3,2,1,0\nfistp qword ptr [rax + 8*\\n]\n.endr\nfninit",
            in("rax") after.as_mut_ptr(),
            options(nostack, preserves_flags)
        );
    }
    before.iter().zip(&after).filter(|(a, b)| a != b).count() as u32
}

/// Sends events to itself and computes for a while after each, without an exit that would hide a second delivery.
fn events_to_self(count: u64) -> Outcome {
    let here = events::alloc_unbound(DomainId::SELF).map_err(|e| error("a port", e))?;
    let there = events::bind_interdomain(DomainId::SELF, here).map_err(|e| error("its end", e))?;
    events::bind_vcpu(here, cpu::this().id).map_err(|e| error("its vCPU", e))?;
    events::on(here, "conf-fpu", |_| {}, 0);
    for _ in 0..count {
        events::notify(there);
        let end = clock::now() + 2_000_000;
        while clock::now() < end {}
    }
    events::close(there);
    events::close(here);
    Ok(())
}

async fn run(t: &mut Test) -> Outcome {
    let end = clock::now() + 300_000_000;
    let tasks: alloc::vec::Vec<_> = (0..cpu::count())
        .map(|k| {
            task::spawn(async move {
                let (mut rounds, mut bad) = (0u64, 0);
                while clock::now() < end || rounds < 50 {
                    let seed = rounds << 8 | u64::from(k);
                    bad += round(seed) + if rounds % 2 == 0 { round_x87(seed) } else { 0 };
                    rounds += 1;
                }
                (rounds, bad)
            })
        })
        .collect();
    for task in tasks {
        let (rounds, bad) = task.await;
        t.check("enough rounds", rounds >= 50);
        t.equal("registers that changed", bad, 0);
    }
    events_to_self(300)?;
    let idle: u64 = cpu::all().map(|cpu| cpu.idle_upcalls.load(Ordering::Relaxed)).sum();
    t.equal("upcalls without an event", idle, 0);
    // The control words.
    let mut mxcsr = 0x1f80u32;
    // SAFETY: sets the rounding mode of vector arithmetic, which the kernel does not use, and reads it back.
    unsafe {
        let set = 0x7f80u32;
        asm!("ldmxcsr [{}]", in(reg) &raw const set, options(nostack));
        sched::yield_now();
        asm!("stmxcsr [{}]", in(reg) &raw mut mxcsr, options(nostack));
    }
    t.equal("MXCSR", mxcsr, 0x7f80);
    Ok(())
}
