//! I/O ports.

use super::{Around, PortAccess, Resume, raise};
use crate::hw::{Event, IoExit, Platform, VcpuHw};
use crate::vcpu::{Context, Hw};

/// Executes IN or OUT on a port that is not passed through: where nothing answers, reads give ones and writes are
/// lost, as on a bus without a device. String instructions on such ports raise #GP.
pub(super) fn on_io<P: Platform>(
    context: &mut Context<Hw<P>>,
    around: &impl Around<P>,
    io: IoExit,
) -> Resume {
    if io.string || !matches!(io.bytes, 1 | 2 | 4) {
        return raise(context, Event::PROTECTION);
    }
    let mask = u64::from(u32::MAX >> (32 - 8 * u32::from(io.bytes)));
    let rax = context.hw.gprs().rax;
    #[allow(clippy::cast_possible_truncation)] // masked
    let value = io.write.then_some((rax & mask) as u32);
    let answer = around.port(PortAccess { port: io.port, bytes: io.bytes, value });
    if !io.write {
        let read = u64::from(answer.unwrap_or(u32::MAX)) & mask;
        // A 32-bit read clears the upper half, the others keep what they do not reach.
        context.hw.gprs_mut().rax = if io.bytes == 4 { read } else { rax & !mask | read };
    }
    context.hw.skip();
    Resume::Continue
}
