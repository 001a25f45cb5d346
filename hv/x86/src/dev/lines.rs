//! Device interrupts: a line has one vector, the same on every CPU, and goes to one CPU.
//!
//! The handler masks a level-triggered line before it acknowledges it; [`end`] unmasks it again. Lock:
//! [`LINES`], never taken by a handler; the handler reads what it needs from [`LEVEL_GSI`].

use core::sync::atomic::{AtomicU32, Ordering};

use hv_core::hw::{Gsi, LineId, MsiMessage, NoLine, Polarity, Trigger};
use spin::Mutex;

use super::ioapic;
use crate::cpu::percpu::{PerCpu, pending};
use crate::cpu::traps;

/// How many lines there can be.
const COUNT: usize = (traps::END_LINES - traps::FIRST_LINE) as usize;
const NONE: u32 = u32::MAX;

/// What a line is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    Free,
    Gsi(Gsi),
    Msi,
}

static LINES: Mutex<[Line; COUNT]> = Mutex::new([Line::Free; COUNT]);
/// The global system interrupt of each line that is level-triggered.
static LEVEL_GSI: [AtomicU32; COUNT] = [const { AtomicU32::new(NONE) }; COUNT];

fn take(lines: &mut [Line; COUNT], new: Line) -> Result<usize, NoLine> {
    let index = lines.iter().position(|line| *line == Line::Free).ok_or(NoLine)?;
    lines[index] = new;
    Ok(index)
}

fn vector(index: usize) -> u8 {
    traps::FIRST_LINE + index as u8
}

/// Routes a global system interrupt to a CPU, masked; one that is routed already keeps its line.
pub fn route_gsi(gsi: Gsi, trigger: Trigger, polarity: Polarity, cpu: &PerCpu) -> Result<LineId, NoLine> {
    if !ioapic::has(gsi) || cpu.apic().raw() > 0xfe {
        return Err(NoLine);
    }
    let mut lines = LINES.lock();
    let index = match lines.iter().position(|line| *line == Line::Gsi(gsi)) {
        Some(index) => index,
        None => take(&mut lines, Line::Gsi(gsi))?,
    };
    let level = if trigger == Trigger::Level { gsi.raw() } else { NONE };
    LEVEL_GSI[index].store(level, Ordering::Release);
    ioapic::route(gsi, vector(index), cpu.apic(), trigger, polarity);
    Ok(LineId::new(index as u16))
}

/// Makes a line for a message-signalled interrupt to a CPU (AMD64 manual volume 2, section 16.11.2: fixed
/// delivery, edge, physical destination).
pub fn route_msi(cpu: &PerCpu) -> Result<(LineId, MsiMessage), NoLine> {
    if cpu.apic().raw() > 0xfe {
        return Err(NoLine);
    }
    let index = take(&mut LINES.lock(), Line::Msi)?;
    let message =
        MsiMessage { address: 0xfee0_0000 | u64::from(cpu.apic().raw()) << 12, data: vector(index).into() };
    Ok((LineId::new(index as u16), message))
}

fn gsi(line: LineId) -> Option<Gsi> {
    match LINES.lock().get(usize::from(line.raw())) {
        Some(Line::Gsi(gsi)) => Some(*gsi),
        _ => None,
    }
}

/// Masks or unmasks a line of a global system interrupt.
pub fn mask(line: LineId, masked: bool) {
    if let Some(gsi) = gsi(line) {
        ioapic::mask(gsi, masked);
    }
}

/// Unmasks a level-triggered line that its handler masked.
pub fn end(line: LineId) {
    if let Some(level) = LEVEL_GSI.get(usize::from(line.raw()))
        && level.load(Ordering::Acquire) != NONE
    {
        mask(line, false);
    }
}

/// Gives a line back.
pub fn release(line: LineId) {
    mask(line, true);
    let index = usize::from(line.raw());
    if let Some(slot) = LINES.lock().get_mut(index) {
        LEVEL_GSI[index].store(NONE, Ordering::Release);
        *slot = Line::Free;
    }
}

/// A line was raised on this CPU: its handler calls this before it acknowledges.
pub fn raised(cpu: &PerCpu, index: u8) {
    let index = usize::from(index);
    let level = LEVEL_GSI[index].load(Ordering::Acquire);
    if level != NONE {
        ioapic::mask(Gsi::new(level), true);
    }
    cpu.lines[index / 64].fetch_or(1 << (index % 64), Ordering::AcqRel);
    cpu.set_pending(pending::LINES);
}

/// Takes one line that was raised on this CPU.
pub fn next_raised(cpu: &PerCpu) -> Option<LineId> {
    for (word, lines) in (0u16..).zip(&cpu.lines) {
        let raised = lines.load(Ordering::Acquire);
        if raised != 0 {
            let bit = raised.trailing_zeros();
            lines.fetch_and(!(1 << bit), Ordering::AcqRel);
            return Some(LineId::new(word * 64 + bit as u16));
        }
    }
    None
}
