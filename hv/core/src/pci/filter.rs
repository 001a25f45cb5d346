//! What a domain reads and writes of the configuration of its functions.

use super::config::{Register, all_ones, command, offset};
use super::function::Function;
use crate::hw::Platform;
use crate::system::System;
use core::sync::atomic::Ordering;

/// The bits of the command register that a domain may change.
const COMMAND_BITS: u32 =
    command::IO | command::MEMORY | command::MASTER | command::NO_PIN | (1 << 6) | (1 << 8);
/// The capability of PCI Express, and the bit of its device control that resets the function, and so its BARs (PCI
/// Express Base Specification 3.0, section 7.8.4).
const EXPRESS: u8 = 0x10;
const EXPRESS_RESET: u32 = 1 << 15;

/// The bits that `bytes` bytes at `offset` of a word are in.
const fn place(offset: u8, bytes: u8) -> (u32, u32) {
    let shift = 8 * (offset & 3) as u32;
    (shift, all_ones(bytes) << shift)
}

/// What a register reads as.
pub(super) fn read<P: Platform>(system: &System<P>, function: &Function, register: Register) -> u32 {
    let (shift, mask) = place(register.offset, register.bytes);
    let word = match register.offset & 0xfc {
        at @ offset::BAR0..0x28 if !function.is_bridge() => {
            let sizing = function.sizing.load(Ordering::Relaxed) & (1 << ((at - offset::BAR0) / 4)) != 0;
            match function.bar_at(at) {
                Some((bar, upper)) if sizing => bar.mask(upper),
                Some(_) => system.pci.config(&system.platform).word(function.address, at),
                // What is not decoded, or not for domains, is not there.
                None => 0,
            }
        }
        offset::ROM if !function.is_bridge() => 0,
        _ => return system.pci.config(&system.platform).read(register),
    };
    (word & mask) >> shift
}

/// Writes a register as far as a domain may. What it may not write, it writes without effect.
pub(super) fn write<P: Platform>(system: &System<P>, function: &Function, register: Register, value: u32) {
    let config = system.pci.config(&system.platform);
    let end = register.offset.saturating_add(register.bytes);
    match register.offset & 0xfc {
        offset::COMMAND => {
            // A write that reaches the status too would clear bits that are one: only the command is written.
            let (shift, mask) = place(register.offset, register.bytes);
            let written = mask & COMMAND_BITS & 0xffff;
            if written != 0 {
                config.command(function.address, (value << shift) & written, written & !(value << shift));
            }
        }
        offset::HEADER if end <= offset::HEADER + 2 => config.write(register, value),
        at @ offset::BAR0..0x28 => {
            let bit = 1 << ((at - offset::BAR0) / 4);
            // Ones ask for the size; any other value ends that. The address itself stays.
            if register.bytes == 4 && value == u32::MAX {
                function.sizing.fetch_or(bit, Ordering::Relaxed);
            } else {
                function.sizing.fetch_and(!bit, Ordering::Relaxed);
            }
        }
        offset::INTERRUPT if register.offset == offset::INTERRUPT && register.bytes == 1 => {
            config.write(register, value);
        }
        0..offset::HEADER_END => {}
        _ if is_guarded(function, register) => {}
        at => {
            let mut value = value;
            if let Some(control) = express_control(system, function)
                && at == control
            {
                let (shift, _) = place(register.offset, register.bytes);
                value &= !(EXPRESS_RESET >> shift);
            }
            config.write(register, value);
        }
    }
}

fn is_guarded(function: &Function, register: Register) -> bool {
    let (start, end) = (u16::from(register.offset), u16::from(register.offset) + u16::from(register.bytes));
    function.guarded.iter().any(|&(first, count)| {
        let (first, past) = (u16::from(first), u16::from(first) + u16::from(count));
        first < end && start < past
    })
}

/// The word that the device control of the PCI Express capability is in.
fn express_control<P: Platform>(system: &System<P>, function: &Function) -> Option<u8> {
    let config = system.pci.config(&system.platform);
    if config.word(function.address, offset::COMMAND) & (1 << 20) == 0 {
        return None;
    }
    let mut at = config.word(function.address, offset::CAPABILITIES).to_le_bytes()[0] & 0xfc;
    for _ in 0..48 {
        if at < offset::HEADER_END {
            return None;
        }
        let [id, next, ..] = config.word(function.address, at).to_le_bytes();
        if id == EXPRESS {
            return at.checked_add(8);
        }
        at = next & 0xfc;
    }
    None
}

/// Makes a function neither move data nor interrupt.
pub(super) fn quiesce<P: Platform>(system: &System<P>, function: &Function) {
    let config = system.pci.config(&system.platform);
    config.command(function.address, command::NO_PIN, command::MASTER);
    function.sizing.store(0, Ordering::Relaxed);
}
