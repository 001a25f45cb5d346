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
    let rax = context.hw.gprs().rax;
    #[allow(clippy::cast_possible_truncation)] // masked
    let value = io.write.then_some((rax & mask(io.bytes)) as u32);
    let access = PortAccess { port: io.port, bytes: io.bytes, value };
    if around.forward(access) {
        return Resume::Emulated(access);
    }
    finish_port(&mut context.hw, access, around.port(access).unwrap_or(u32::MAX));
    Resume::Continue
}

/// Ends the instruction that made an access: what it read is put where it wants it.
pub fn finish_port<H: VcpuHw>(hw: &mut H, access: PortAccess, answer: u32) {
    if access.value.is_none() {
        let mask = mask(access.bytes);
        let rax = hw.gprs().rax;
        let read = u64::from(answer) & mask;
        // A 32-bit read clears the upper half, the others keep what they do not reach.
        hw.gprs_mut().rax = if access.bytes == 4 { read } else { rax & !mask | read };
    }
    hw.skip();
}

/// The bits that an access of 1, 2 or 4 bytes reaches.
fn mask(bytes: u8) -> u64 {
    u64::from(u32::MAX >> (32 - 8 * u32::from(bytes)))
}
