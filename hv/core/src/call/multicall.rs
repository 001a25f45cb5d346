//! `multicall`: several calls in one.
//!
//! The cursor is the entry's index in the upper half and the entry's own cursor in the lower.

use super::args::GuestArray;
use super::cx::Cx;
use super::{Reply, Stop, call};
use crate::hw::Platform;
use pv_abi::Errno;
use pv_abi::call::MulticallEntry;
use pv_abi::call::number::MULTICALL;

/// Entries after which the call looks whether others wait.
const ENTRIES: u64 = 64;

pub(super) fn multicall<P: Platform>(cx: &mut Cx<'_, P>, calls: GuestArray<MulticallEntry>) -> Reply {
    let count = u64::from(calls.count);
    let (mut index, mut inner) = (cx.cursor >> 32, cx.cursor & 0xffff_ffff);
    let end = count.min(index + ENTRIES);
    while index < end {
        let place = (size_of::<MulticallEntry>() as u64)
            .checked_mul(index)
            .and_then(|offset| calls.at.checked_add(offset))
            .ok_or(Errno::EFAULT)?;
        let mut entry = cx.guest(|memory| {
            memory.check_write(place, size_of::<MulticallEntry>() as u64)?;
            memory.read::<MulticallEntry>(place)
        })?;
        cx.cursor = inner;
        let [a, b, c, d, e, _] = entry.args;
        // A call that contains itself would use the stack up.
        let reply = if entry.op == MULTICALL {
            Err(Errno::EINVAL.into())
        } else {
            cx.words = Some([a, b, c, d, e]);
            let reply = call(cx, entry.op, a);
            cx.words = None;
            reply
        };
        entry.result = match reply {
            Ok(result) => result,
            Err(Stop::Refused(errno)) => errno.to_return().cast_unsigned(),
            // Cursors count elements of arrays, which are fewer than 2^32.
            Err(Stop::Preempted(inner)) => return Err(Stop::Preempted(index << 32 | inner)),
        };
        cx.guest(|memory| memory.write(place, &entry))?;
        inner = 0;
        index += 1;
    }
    if index < count { Err(Stop::Preempted(index << 32)) } else { Ok(0) }
}
