//! `set_timer_op`: the caller's single-shot timer.

use super::Reply;
use super::cx::Cx;
use crate::hw::{Nanos, Platform};
use crate::time::Slot;

/// Sets the single-shot timer to a system time; 0 stops it. A time that is past fires at once.
#[inline]
pub(super) fn set_single<P: Platform>(cx: &Cx<'_, P>, timeout: u64) {
    let deadline = (timeout != 0).then(|| cx.system.clock.ticks(Nanos::new(timeout)));
    cx.system.timers.set(cx.system.platform.current_cpu(), cx.vcpu, Slot::Single, deadline);
}

pub(super) fn set_timer<P: Platform>(cx: &mut Cx<'_, P>, timeout: u64) -> Reply {
    set_single(cx, timeout);
    Ok(0)
}
