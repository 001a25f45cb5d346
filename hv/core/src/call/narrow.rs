//! Calls of 32-bit kernels: boot loaders, mostly.
//!
//! Their arguments are in EBX, ECX, EDX, ESI and EDI, and the result goes into EAX. A call whose structures look the
//! same to them goes the way of all calls, with the registers taken from there; those of [`pv_abi::ia32`] are widened
//! here. All others are refused as unknown: that is what a 32-bit kernel may use, and not more.
//!
//! What is shared in memory has a width too: [`Width`](crate::event::Width), which the domain chooses by the mode in
//! which it asks for the hypercall page.

use super::cx::{After, Cx};
use super::{Answer, Reply, finish, handlers, observed, route};
use crate::domain::Domain;
use crate::event::Width;
use crate::hw::{Gprs, HostPhys, PhysMemory, Platform, Reg, VcpuHw};
use crate::system::System;
use crate::time::publish_wall_clock;
use core::sync::atomic::Ordering;
use pv_abi::ids::GuestVirt;
use pv_abi::{Call, Errno, ia32};
use zerocopy::{FromBytes, Immutable, IntoBytes};

const CR0_PE: u64 = 1;
const EFER_LMA: u64 = 1 << 10;

/// The lower half of a register.
const fn low(register: u64) -> u64 {
    register & 0xffff_ffff
}

/// Makes the call of a guest that is not in 64-bit code.
#[cold]
pub(super) fn hypercall<P: Platform>(cx: &mut Cx<'_, P>) -> After {
    let answer = match decode(cx) {
        Ok(call) => observed(cx, call, cx.system.trace.is_on(), make),
        Err(errno) => Answer::from(Err(errno.into())),
    };
    done(cx, answer)
}

/// Goes on with a call that was preempted.
#[cold]
pub(super) fn resume<P: Platform>(cx: &mut Cx<'_, P>) -> After {
    let answer = match decode(cx) {
        Ok(call) => make(cx, call),
        Err(errno) => Answer::from(Err(errno.into())),
    };
    done(cx, answer)
}

/// A result has 32 bits, but for a user program of 64.
fn done<P: Platform>(cx: &mut Cx<'_, P>, answer: Answer) -> After {
    cx.words = None;
    let after = finish(cx, answer);
    if matches!(answer, Answer::Done(_)) && width(&cx.context.hw) == Width::Bits32 {
        let gprs = cx.context.hw.gprs_mut();
        gprs.rax = low(gprs.rax);
    }
    after
}

/// Finds the call and puts its arguments where handlers look for them. User programs make no calls, nor does real mode.
fn decode<P: Platform>(cx: &mut Cx<'_, P>) -> Result<Call, Errno> {
    if cx.context.hw.privilege_level() != 0 || cx.context.hw.get(Reg::Cr0) & CR0_PE == 0 {
        return Err(Errno::EPERM);
    }
    let Gprs { rax, rbx, rcx, rdx, rsi, rdi, .. } = *cx.context.hw.gprs();
    let words = [rbx, rcx, rdx, rsi, rdi].map(low);
    cx.words = Some(words);
    let [first, ..] = words;
    let call = Call::decode(low(rax), first);
    if call.is_none() {
        cx.stats().unknown_calls.add(1);
    }
    call.ok_or(Errno::ENOSYS)
}

/// Makes a call whose structures are the same, or known.
fn make<P: Platform>(cx: &mut Cx<'_, P>, call: Call) -> Answer {
    match call {
        Call::EvtchnSend
        | Call::EvtchnUnmask
        | Call::EvtchnAllocUnbound
        | Call::EvtchnBindInterdomain
        | Call::EvtchnBindVirq
        | Call::EvtchnBindIpi
        | Call::EvtchnBindVcpu
        | Call::EvtchnClose
        | Call::EvtchnStatus
        | Call::EvtchnReset
        | Call::SchedYield
        | Call::SchedBlock
        | Call::SchedShutdown
        | Call::SchedShutdownCode
        | Call::HvmSetParam
        | Call::HvmGetParam
        | Call::HvmSetUpcallVector
        | Call::VersionNumber
        | Call::VersionExtra
        | Call::VersionFeatures
        | Call::VersionPagesize
        | Call::ConsoleWrite => route(cx, call),
        _ => Answer::from(widened(cx, call)),
    }
}

/// Makes a call with structures of its own.
fn widened<P: Platform>(cx: &mut Cx<'_, P>, call: Call) -> Reply {
    match call {
        Call::MemoryAddToPhysmap => {
            let add = argument::<ia32::AddToPhysmap, _>(cx)?;
            handlers::memory_add_to_physmap(cx, &add.into())
        }
        Call::MemoryRemoveFromPhysmap => {
            let remove = argument::<ia32::RemoveFromPhysmap, _>(cx)?;
            handlers::memory_remove_from_physmap(cx, &remove.into())
        }
        Call::MemoryMap => {
            let narrow = argument::<ia32::MemoryMap, _>(cx)?;
            let place = GuestVirt::new(cx.word(1));
            cx.guest(|memory| memory.check_write(place, size_of::<ia32::MemoryMap>() as u64))?;
            let mut map = narrow.into();
            let reply = handlers::memory_map(cx, &mut map)?;
            let narrow = ia32::MemoryMap { nr_entries: map.nr_entries, ..narrow };
            cx.guest(|memory| memory.write(place, &narrow))?;
            Ok(reply)
        }
        Call::SchedPoll => {
            let poll = argument::<ia32::Poll, _>(cx)?;
            handlers::sched_poll(cx, &poll.into())
        }
        Call::SetTimer => {
            // A time of 64 bits takes two registers.
            let timeout = cx.word(0) | cx.word(1) << 32;
            handlers::set_timer(cx, timeout)
        }
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// Copies in the structure behind the sub-operation.
fn argument<V: FromBytes + IntoBytes + Immutable, P: Platform>(cx: &mut Cx<'_, P>) -> Result<V, Errno> {
    let place = GuestVirt::new(cx.word(1));
    cx.guest(|memory| memory.read(place))
}

/// How wide the guest's words in memory are, by what it runs now.
pub(crate) fn width<H: VcpuHw>(hw: &H) -> Width {
    let long = hw.get(Reg::Efer) & EFER_LMA != 0 && hw.is_64_bit();
    if long { Width::Bits64 } else { Width::Bits32 }
}

/// Takes the width of a domain's shared page from the mode of a vCPU of its that asks for the hypercall page or for
/// upcalls.
#[cold]
pub(crate) fn latch_width<P: Platform>(system: &System<P>, domain: &Domain<P>, width: Width) {
    if !domain.events.set_width(width) {
        return;
    }
    let (memory, shared) = (system.memory(), domain.shared_info.base());
    if width == Width::Bits64 {
        // The narrow clock lies among the wide bits of ports.
        let clock = ia32::shared_info::WC_VERSION;
        for offset in [clock, clock + 4, clock + 8, ia32::shared_info::WC_SEC_HI] {
            memory.u32_at(HostPhys::new(shared.raw() + offset as u64)).store(0, Ordering::Relaxed);
        }
    }
    publish_wall_clock(memory, shared, width, system.platform.wall_clock_base());
}
