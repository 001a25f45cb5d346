//! Hypercalls: from a guest's registers to a handler, and back.
//!
//! Everything is generated from the one table of `pv-abi`: a call is found by number and sub-operation, its privilege
//! is checked, its arguments are copied in and checked, the handler of the row's name does the work, and what the call
//! gives out is copied back. A row without a handler does not compile.
//!
//! Handlers check everything first and then do what cannot fail. Guests' structures are copied once; places that will
//! be written are probed before anything has happened. No lock is held when a handler is entered, and none when it
//! returns.
//!
//! Long calls do a part of their work and return [`After::Preempted`], with a cursor in [`Cx::cursor`]: the registers are
//! as they were, and the vCPU calls [`resume`] before it may enter its guest again. So no register of the guest ever holds
//! a cursor, and the guest can neither see nor forge one.

mod args;
mod console;
mod control;
mod cx;
mod event;
mod grant;
mod hvm;
mod memory;
mod multicall;
mod narrow;
mod physdev;
mod sched;
mod timer;
mod vcpu;
mod version;

#[cfg(test)]
mod tests;

pub use cx::{After, Cx};
pub(crate) use narrow::{latch_width, width};

use crate::domain::Roles;
use crate::hw::{Gprs, Platform, VcpuHw};
use args::Decode;
use core::marker::PhantomData;
use pv_abi::call::ANY;
use pv_abi::call::args::{Array, Buffer, In, InOut, Out, Ptr, Text, Word};
use pv_abi::control::{TraceRecord, trace};
use pv_abi::{Call, Errno, Privilege};

/// All handlers by the names of their rows.
mod handlers {
    pub(super) use super::console::*;
    pub(super) use super::control::*;
    pub(super) use super::event::*;
    pub(super) use super::grant::*;
    pub(super) use super::hvm::*;
    pub(super) use super::memory::*;
    pub(super) use super::multicall::*;
    pub(super) use super::physdev::*;
    pub(super) use super::sched::*;
    pub(super) use super::timer::*;
    pub(super) use super::vcpu::*;
    pub(super) use super::version::*;
}

/// Why a handler did not finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The call is refused; nothing has happened.
    Refused(Errno),
    /// A part is done; go on from this cursor.
    Preempted(u64),
}

impl From<Errno> for Stop {
    #[inline]
    fn from(errno: Errno) -> Self {
        Self::Refused(errno)
    }
}

/// What a handler returns: the call's result.
pub(crate) type Reply = Result<u64, Stop>;

/// What a call came to, in two registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// It is done or refused: what RAX gets.
    Done(u64),
    /// A part is done; it goes on from this cursor.
    Preempted(u64),
}

impl From<Reply> for Answer {
    #[inline(always)]
    fn from(reply: Reply) -> Self {
        match reply {
            Ok(result) => Self::Done(result),
            Err(Stop::Refused(errno)) => Self::Done(errno.to_return().cast_unsigned()),
            Err(Stop::Preempted(cursor)) => Self::Preempted(cursor),
        }
    }
}

/// Makes the hypercall that a guest's registers name, while nothing is traced.
#[inline]
pub fn hypercall<P: Platform>(cx: &mut Cx<'_, P>) -> After {
    make(cx, false)
}

/// The same while calls are traced.
#[cold]
#[inline(never)]
pub fn traced_hypercall<P: Platform>(cx: &mut Cx<'_, P>) -> After {
    make(cx, true)
}

#[inline(always)]
fn make<P: Platform>(cx: &mut Cx<'_, P>, is_traced: bool) -> After {
    if !is_kernel_in_long_mode(&cx.context.hw) {
        return narrow::hypercall(cx);
    }
    let Gprs { rax, rdi, .. } = *cx.context.hw.gprs();
    let answer = call(cx, rax, rdi, is_traced);
    finish(cx, answer)
}

/// Goes on with a call that returned [`After::Preempted`] with this cursor.
pub fn resume<P: Platform>(cx: &mut Cx<'_, P>, cursor: u64) -> After {
    cx.cursor = cursor;
    if !is_kernel_in_long_mode(&cx.context.hw) {
        return narrow::resume(cx);
    }
    let Gprs { rax, rdi, .. } = *cx.context.hw.gprs();
    let answer = match Call::decode(rax, rdi) {
        Some(call) => route(cx, call),
        None => Answer::from(Err(Errno::ENOSYS.into())),
    };
    finish(cx, answer)
}

#[inline]
fn finish<P: Platform>(cx: &mut Cx<'_, P>, answer: Answer) -> After {
    match answer {
        Answer::Done(result) => {
            cx.context.hw.gprs_mut().rax = result;
            cx.after
        }
        Answer::Preempted(cursor) => {
            cx.cursor = cursor;
            After::Preempted
        }
    }
}

/// Whether the guest is at privilege level 0 in 64-bit code.
#[inline]
fn is_kernel_in_long_mode<H: VcpuHw>(hw: &H) -> bool {
    hw.privilege_level() == 0 && hw.is_64_bit()
}

/// Finds, counts, traces and makes the call with this number and first argument.
#[inline(always)]
fn call<P: Platform>(cx: &mut Cx<'_, P>, number: u64, first: u64, is_traced: bool) -> Answer {
    match Call::decode(number, first) {
        Some(call) => observed(cx, call, is_traced, route),
        None => unknown(cx),
    }
}

#[cold]
fn unknown<P: Platform>(cx: &mut Cx<'_, P>) -> Answer {
    cx.stats().unknown_calls.add(1);
    Answer::from(Err(Errno::ENOSYS.into()))
}

/// Counts and traces a call around making it.
#[inline(always)]
fn observed<P: Platform>(
    cx: &mut Cx<'_, P>,
    call: Call,
    is_traced: bool,
    make: impl FnOnce(&mut Cx<'_, P>, Call) -> Answer,
) -> Answer {
    cx.stats().count_call(call);
    if is_traced { traced(cx, call, make) } else { make(cx, call) }
}

#[cold]
#[inline(never)]
fn traced<P: Platform>(
    cx: &mut Cx<'_, P>,
    call: Call,
    make: impl FnOnce(&mut Cx<'_, P>, Call) -> Answer,
) -> Answer {
    let answer = make(cx, call);
    let result = match answer {
        Answer::Done(result) => result,
        Answer::Preempted(_) => Errno::EAGAIN.to_return().cast_unsigned(),
    };
    let platform = &cx.system.platform;
    cx.system.trace.record(platform.current_cpu(), || TraceRecord {
        tsc: platform.tsc().raw(),
        kind: trace::CALL,
        domid: cx.domain.id,
        vcpu: cx.vcpu.id.raw(),
        a: call as u64,
        b: result,
    });
    answer
}

/// Whether a domain with these roles may make a call.
#[inline(always)]
const fn permits(roles: Roles, privilege: Privilege) -> bool {
    match privilege {
        Privilege::Guest => true,
        Privilege::Driver => roles.contains(Roles::DRIVER),
        Privilege::Control => roles.contains(Roles::CONTROL),
        Privilege::Store => roles.contains(Roles::STORE),
    }
}

/// Makes a call.
#[inline(always)]
fn route<P: Platform>(cx: &mut Cx<'_, P>, call: Call) -> Answer {
    match Entries::<P>::ALL.get(call as usize) {
        Some(entry) => entry(cx),
        None => unknown(cx), // there is none without
    }
}

macro_rules! dispatch {
    ($(
        $(#[doc = $doc:literal])+
        $variant:ident, $name:ident, $number:expr, $sub:expr, $privilege:ident,
        ($($arg:ident: $kind:ty),*), [$($errno:ident),*];
    )*) => {
        /// One function a call: privilege, arguments in, handler, arguments out. Kept out of line, so that the route to
        /// a short one pays for no stack of a long one.
        mod entry {
            use super::*;
            $(
                #[inline(never)]
                pub(super) fn $name<P: Platform>(cx: &mut Cx<'_, P>) -> Answer {
                    #[inline(always)]
                    fn reply<P: Platform>(cx: &mut Cx<'_, P>) -> Reply {
                        if !permits(cx.domain.roles, Privilege::$privilege) {
                            return Err(Errno::EPERM.into());
                        }
                        let at: usize = if $sub == ANY { 0 } else { 1 };
                        $(
                            let mut $arg = <$kind as Decode>::decode(cx, at)?;
                            let at = at + <$kind as pv_abi::call::args::Arg>::WORDS;
                        )*
                        let _ = at;
                        let result = handlers::$name(cx, $(<$kind as Decode>::hand(&mut $arg)),*)?;
                        $(<$kind as Decode>::commit(&$arg, cx)?;)*
                        Ok(result)
                    }
                    Answer::from(reply(cx))
                }
            )*
        }

        /// The functions in the order of [`Call`].
        struct Entries<P>(PhantomData<P>);

        impl<P: Platform> Entries<P> {
            const ALL: [fn(&mut Cx<'_, P>) -> Answer; Call::COUNT] = [$(entry::$name::<P>),*];
        }
    };
}

pv_abi::for_each_hypercall!(dispatch);
