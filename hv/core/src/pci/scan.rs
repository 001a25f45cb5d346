//! Finding the machine's functions.

use super::PciAddress;
use super::config::{Config, ConfigPorts, command, offset};
use super::function::{Bar, BarKind, Function, Guarded, Msi, Msix, NOBODY};
use crate::hw::{HostPhys, Platform};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, AtomicU32};

/// The highest address of registers that is used: above, there is no mapping for them.
const HIGHEST: u64 = 1 << 40;

/// Numbers of capabilities (PCI Code and ID Assignment Specification 1.11, section 2).
mod capability {
    pub const POWER: u8 = 0x01;
    pub const MSI: u8 = 0x05;
    pub const MSIX: u8 = 0x11;
    pub const ADVANCED_FEATURES: u8 = 0x13;
}

/// Looks at bus 0 and at all buses behind bridges.
pub fn scan<P: Platform>(platform: &P, ports: &ConfigPorts) -> Vec<Function> {
    let config = Config::new(platform, ports);
    let mut functions: Vec<Function> = Vec::new();
    let mut buses = alloc::vec![0];
    let mut index = 0;
    while let Some(bus) = buses.get(index).copied() {
        index += 1;
        for device in 0..32 {
            scan_device(&config, bus, device, &mut functions, &mut buses);
        }
    }
    functions.sort_unstable_by_key(|function| function.address);
    functions
}

fn scan_device<P: Platform>(
    config: &Config<'_, P>,
    bus: u8,
    device: u8,
    functions: &mut Vec<Function>,
    buses: &mut Vec<u8>,
) {
    for function in 0..8 {
        let address = PciAddress { segment: 0, bus, device, function };
        let ids = config.word(address, offset::IDS);
        let absent = ids & 0xffff == 0xffff || ids == 0;
        if absent && function == 0 {
            return;
        }
        if absent {
            continue;
        }
        let header = (config.word(address, offset::HEADER) >> 16) & 0xff;
        // Type 1: a bridge with a bus behind it.
        let behind = (header & 0x7f == 1).then(|| config.word(address, offset::BUSES).to_le_bytes());
        if let Some([_, secondary, ..]) = behind
            && secondary != 0
            && !buses.contains(&secondary)
        {
            buses.push(secondary);
        }
        functions.push(describe(config, address, ids, header & 0x7f == 0));
        // Bit 7: there are more functions than the first.
        if function == 0 && header & 0x80 == 0 {
            return;
        }
    }
}

fn describe<P: Platform>(config: &Config<'_, P>, address: PciAddress, ids: u32, ordinary: bool) -> Function {
    let class = config.word(address, offset::CLASS) >> 8;
    let [line, pin, ..] = config.word(address, offset::INTERRUPT).to_le_bytes();
    let [vendor_low, vendor_high, device_low, device_high] = ids.to_le_bytes();
    let is_bridge = class >> 16 == 6;
    let bars = if ordinary && !is_bridge { size_bars(config, address) } else { [None; 6] };
    let mut function = Function {
        address,
        vendor: u16::from_le_bytes([vendor_low, vendor_high]),
        device: u16::from_le_bytes([device_low, device_high]),
        class,
        bars,
        pin,
        line,
        msi: None,
        msix: None,
        guarded: Vec::new(),
        owner: AtomicU32::new(NOBODY),
        sizing: AtomicU8::new(0),
    };
    if ordinary {
        find_capabilities(config, &mut function);
    }
    function
}

/// Finds the sizes of the BARs by writing ones to them (section 6.2.5.1), while the function decodes nothing.
fn size_bars<P: Platform>(config: &Config<'_, P>, address: PciAddress) -> [Option<Bar>; 6] {
    let command_before = config.word(address, offset::COMMAND) & 0xffff;
    config.command(address, 0, command::IO | command::MEMORY);
    let mut bars = [None; 6];
    let probe = |offset: u8| {
        let before = config.word(address, offset);
        config.set_word(address, offset, u32::MAX);
        let mask = config.word(address, offset);
        config.set_word(address, offset, before);
        (before, mask)
    };
    let mut upper_half = false;
    for (slot, at) in bars.iter_mut().zip((offset::BAR0..).step_by(4)) {
        if core::mem::take(&mut upper_half) {
            continue;
        }
        let (value, mask) = probe(at);
        let bar = if value & 1 != 0 {
            // The upper half of a port's address may be fixed at zero.
            let bytes = u64::from(!(mask & 0xfffc) & 0xffff) + 1;
            let found = mask & 0xfffc != 0;
            found.then_some(Bar {
                kind: BarKind::Ports,
                base: (value & 0xfffc).into(),
                bytes,
                flags: value & 3,
            })
        } else {
            let wide = value & 0b110 == 0b100;
            upper_half = wide;
            let (high, high_mask) = if wide { probe(at + 4) } else { (0, u32::MAX) };
            let base = u64::from(high) << 32 | u64::from(value & !0xf);
            let mask = u64::from(high_mask) << 32 | u64::from(mask & !0xf);
            let kind = if wide { BarKind::Memory64 } else { BarKind::Memory32 };
            let found = mask & 0xffff_fff0 != 0 || (wide && high_mask != 0);
            let bytes = (!mask).wrapping_add(1);
            found.then_some(Bar { kind, base, bytes, flags: value & 0xf })
        };
        *slot = bar.filter(|bar| {
            let end = bar.base.checked_add(bar.bytes);
            bar.bytes.is_power_of_two() && bar.base != 0 && end.is_some_and(|end| end <= HIGHEST)
        });
    }
    let register = super::config::Register { function: address, offset: offset::COMMAND, bytes: 2 };
    config.write(register, command_before);
    bars
}

fn find_capabilities<P: Platform>(config: &Config<'_, P>, function: &mut Function) {
    let address = function.address;
    // Bit 4 of the status: there is a list.
    if config.word(address, offset::COMMAND) & (1 << 20) == 0 {
        return;
    }
    let mut at = config.word(address, offset::CAPABILITIES).to_le_bytes()[0] & 0xfc;
    // 48 capabilities fill the space: a longer list goes in a circle.
    for _ in 0..48 {
        if at < offset::HEADER_END {
            return;
        }
        let word = config.word(address, at);
        let [id, next, control_low, control_high] = word.to_le_bytes();
        let control = u16::from_le_bytes([control_low, control_high]);
        let guarded = match id {
            // The state D3 and the way back from it would change the BARs.
            capability::POWER => Some((at, 8)),
            // A reset would change the BARs.
            capability::ADVANCED_FEATURES => Some((at, 6)),
            capability::MSI => Some(msi(function, at, control)),
            capability::MSIX => Some(msix(config, function, at, control)),
            _ => None,
        };
        function.guarded.extend(guarded);
        at = next & 0xfc;
    }
}

fn msi(function: &mut Function, at: u8, control: u16) -> Guarded {
    let (wide, maskable) = (control & (1 << 7) != 0, control & (1 << 8) != 0);
    function.msi = Some(Msi { offset: at, wide, maskable });
    let bytes = match (wide, maskable) {
        (false, false) => 10,
        (true, false) => 14,
        (false, true) => 20,
        (true, true) => 24,
    };
    (at, bytes)
}

fn msix<P: Platform>(config: &Config<'_, P>, function: &mut Function, at: u8, control: u16) -> Guarded {
    let table = config.word(function.address, at.saturating_add(4));
    let (bar, offset) = (table & 7, u64::from(table & !7));
    let entries = (control & 0x7ff) + 1;
    let bar = usize::try_from(bar).ok().and_then(|index| function.bars.get(index).copied().flatten());
    if let Some(bar) = bar.filter(|bar| bar.is_memory() && offset + u64::from(entries) * 16 <= bar.bytes) {
        function.msix = Some(Msix { offset: at, entries, table: HostPhys::new(bar.base + offset) });
    }
    (at, 12)
}
