//! The interrupts of a domain's devices, as it numbers them (`PHYSDEVOP_map_pirq` and others of `xen/physdev.h`).
//!
//! A *pirq* names a line of an I/O interrupt controller or a message of a function, routed by the platform to a
//! [`LineId`]. When it comes, the port that the domain bound to the pirq becomes pending. The messages are written into
//! the functions here and nowhere else, so a domain's functions send no others.
//!
//! Lock rule: a domain's list comes before the table of lines; under both only leaves are taken.

use super::PciAddress;
use super::config::{Config, Register, command};
use super::function::Function;
use crate::domain::Domain;
use crate::hw::{CpuId, Gsi, LineId, MsiMessage, Platform, Polarity, Trigger};
use crate::system::System;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use pv_abi::errno::{Errno, Result};
use pv_abi::ids::{DomainId, Pirq};
use pv_abi::physdev::{IrqStatus, MapPirq, pirq_type};
use spin::{Mutex, RwLock};

/// The end of the numbers of pirqs.
const END: u32 = 1024;
/// Messages get numbers from here on: below are those of lines, which keep theirs.
const FIRST_MESSAGE: u32 = 128;

/// Where a pirq comes from.
enum Source {
    Line(Trigger),
    Msi(Arc<Function>),
    Msix(Arc<Function>, u16),
}

struct Mapped {
    line: LineId,
    source: Source,
}

#[derive(Default)]
struct Inner {
    mapped: BTreeMap<Pirq, Mapped>,
    modes: BTreeMap<u32, (Trigger, Polarity)>,
}

/// The pirqs of a domain.
#[derive(Default)]
pub struct Pirqs {
    inner: Mutex<Inner>,
}

/// Which domain's pirq a line is.
#[derive(Default)]
pub struct LineTable {
    lines: RwLock<BTreeMap<LineId, (DomainId, Pirq)>>,
}

impl LineTable {
    /// Whose a line is.
    pub fn find(&self, line: LineId) -> Option<(DomainId, Pirq)> {
        self.lines.read().get(&line).copied()
    }
}

/// A pirq number that is wanted: -1 is any.
fn wanted(pirq: i32) -> Result<Option<Pirq>> {
    match u32::try_from(pirq) {
        Ok(number) if number < END => Ok(Some(Pirq::new(number))),
        Ok(_) => Err(Errno::EINVAL),
        Err(_) => Ok(None),
    }
}

/// A pirq number from `first` on that is not in use.
fn unused(inner: &Inner, first: u32) -> Result<Pirq> {
    let mut numbers = (first..END).chain(16..first).map(Pirq::new);
    numbers.find(|pirq| !inner.mapped.contains_key(pirq)).ok_or(Errno::ENOSPC)
}

/// Maps a line or a message; returns the pirq.
pub fn map<P: Platform>(
    system: &System<P>,
    domain: &Domain<P>,
    request: &MapPirq,
    cpu: CpuId,
) -> Result<Pirq> {
    if domain.life.is_dying() {
        return Err(Errno::ESRCH);
    }
    match request.kind {
        pirq_type::GSI => map_line(system, domain, request, cpu),
        pirq_type::MSI | pirq_type::MSI_SEG => map_message(system, domain, request, cpu),
        pirq_type::MULTI_MSI => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::EINVAL),
    }
}

fn map_line<P: Platform>(
    system: &System<P>,
    domain: &Domain<P>,
    request: &MapPirq,
    cpu: CpuId,
) -> Result<Pirq> {
    let gsi = u32::try_from(request.index).map_err(|_| Errno::EINVAL)?;
    if !domain.pci.may_use_line(gsi) {
        return Err(Errno::EPERM);
    }
    let mut inner = domain.pci.pirqs.inner.lock();
    let pirq = match wanted(request.pirq)? {
        Some(pirq) => pirq,
        None => Pirq::new(gsi),
    };
    if inner.mapped.contains_key(&pirq) {
        return Err(Errno::EEXIST);
    }
    let (trigger, polarity) = mode(&inner, gsi);
    let line = system.platform.route_gsi(Gsi::new(gsi), trigger, polarity, cpu).map_err(|_| Errno::EBUSY)?;
    if system.lines.find(line).is_some() {
        // The platform routes one line once; it is another pirq's.
        return Err(Errno::EBUSY);
    }
    system.lines.lines.write().insert(line, (domain.id, pirq));
    inner.mapped.insert(pirq, Mapped { line, source: Source::Line(trigger) });
    Ok(pirq)
}

/// How a line signals when the domain has not said it: as PCI's do, or, of the first 16, as ISA's.
fn mode(inner: &Inner, gsi: u32) -> (Trigger, Polarity) {
    let isa = gsi == 14 || gsi == 15;
    let default = if isa { (Trigger::Edge, Polarity::High) } else { (Trigger::Level, Polarity::Low) };
    inner.modes.get(&gsi).copied().unwrap_or(default)
}

fn map_message<P: Platform>(
    system: &System<P>,
    domain: &Domain<P>,
    request: &MapPirq,
    cpu: CpuId,
) -> Result<Pirq> {
    let function = own_function(system, domain, request)?;
    let entry = u16::try_from(request.entry_nr).map_err(|_| Errno::EINVAL)?;
    let msix = function.msix.filter(|_| request.table_base != 0);
    match (msix, function.msi) {
        (Some(msix), _) if entry < msix.entries => {}
        (None, Some(_)) if request.table_base == 0 => {}
        (None, _) => return Err(Errno::ENODEV),
        (Some(_), _) => return Err(Errno::EINVAL),
    }
    let mut inner = domain.pci.pirqs.inner.lock();
    let clash = inner.mapped.values().any(|mapped| match &mapped.source {
        Source::Msix(other, used) => other.address == function.address && (msix.is_none() || *used == entry),
        Source::Msi(other) => other.address == function.address,
        Source::Line(_) => false,
    });
    if clash {
        return Err(Errno::EEXIST);
    }
    let pirq = match wanted(request.pirq)? {
        Some(pirq) if inner.mapped.contains_key(&pirq) => return Err(Errno::EEXIST),
        Some(pirq) => pirq,
        None => unused(&inner, FIRST_MESSAGE)?,
    };
    let (line, message) = system.platform.route_msi(cpu).map_err(|_| Errno::ENOSPC)?;
    system.lines.lines.write().insert(line, (domain.id, pirq));
    let source = if msix.is_some() {
        write_msix(system, &function, entry, Some(message));
        Source::Msix(function, entry)
    } else {
        write_msi(system, &function, Some(message));
        Source::Msi(function)
    };
    inner.mapped.insert(pirq, Mapped { line, source });
    Ok(pirq)
}

fn own_function<P: Platform>(
    system: &System<P>,
    domain: &Domain<P>,
    request: &MapPirq,
) -> Result<Arc<Function>> {
    let [bus, _, segment_low, segment_high] = request.bus.to_le_bytes();
    let segment = u16::from_le_bytes([segment_low, segment_high]);
    let devfn = u8::try_from(request.devfn).map_err(|_| Errno::EINVAL)?;
    let address = PciAddress { segment, bus, device: devfn >> 3, function: devfn & 7 };
    let function = system.pci.function(address).ok_or(Errno::ENODEV)?;
    if function.owner() == Some(domain.id) { Ok(function.clone()) } else { Err(Errno::EPERM) }
}

/// Ends a mapping.
pub fn unmap<P: Platform>(system: &System<P>, domain: &Domain<P>, pirq: Pirq) -> Result<()> {
    let mut inner = domain.pci.pirqs.inner.lock();
    let mapped = inner.mapped.remove(&pirq).ok_or(Errno::EINVAL)?;
    disconnect(system, &mut inner, &mapped);
    Ok(())
}

/// Makes the source of an interrupt, which has left the list, silent, and gives its line back.
fn disconnect<P: Platform>(system: &System<P>, inner: &mut Inner, mapped: &Mapped) {
    match &mapped.source {
        Source::Line(_) => system.platform.mask_line(mapped.line, true),
        Source::Msi(function) => write_msi(system, function, None),
        Source::Msix(function, entry) => {
            write_msix(system, function, *entry, None);
            let more = inner.mapped.values().any(
                |other| matches!(&other.source, Source::Msix(same, _) if same.address == function.address),
            );
            if !more {
                enable_msix(system, function, false);
            }
        }
    }
    system.lines.lines.write().remove(&mapped.line);
    system.platform.release_line(mapped.line);
}

/// Ends all mappings of a domain.
pub(super) fn release_all<P: Platform>(system: &System<P>, domain: &Domain<P>) {
    let mut inner = domain.pci.pirqs.inner.lock();
    while let Some((_, mapped)) = inner.mapped.pop_first() {
        disconnect(system, &mut inner, &mapped);
    }
}

/// Notes how a line signals.
pub fn setup_gsi<P: Platform>(
    domain: &Domain<P>,
    gsi: u32,
    trigger: Trigger,
    polarity: Polarity,
) -> Result<()> {
    if !domain.pci.may_use_line(gsi) {
        return Err(Errno::EPERM);
    }
    domain.pci.pirqs.inner.lock().modes.insert(gsi, (trigger, polarity));
    Ok(())
}

/// A pirq number that is not in use.
pub fn free_pirq<P: Platform>(domain: &Domain<P>) -> Result<Pirq> {
    unused(&domain.pci.pirqs.inner.lock(), FIRST_MESSAGE)
}

/// What the domain must do with a pirq.
pub fn status<P: Platform>(domain: &Domain<P>, pirq: Pirq) -> Result<IrqStatus> {
    let inner = domain.pci.pirqs.inner.lock();
    match &inner.mapped.get(&pirq).ok_or(Errno::EINVAL)?.source {
        Source::Line(Trigger::Level) => Ok(IrqStatus::NEEDS_EOI),
        _ => Ok(IrqStatus::empty()),
    }
}

/// Whether the domain has this pirq: what `EVTCHNOP_bind_pirq` asks first.
pub fn is_mapped<P: Platform>(domain: &Domain<P>, pirq: Pirq) -> bool {
    domain.pci.pirqs.inner.lock().mapped.contains_key(&pirq)
}

/// The domain has handled the interrupt.
pub fn end<P: Platform>(system: &System<P>, domain: &Domain<P>, pirq: Pirq) -> Result<()> {
    let inner = domain.pci.pirqs.inner.lock();
    let mapped = inner.mapped.get(&pirq).ok_or(Errno::EINVAL)?;
    if let Source::Line(Trigger::Level) = mapped.source {
        system.platform.end_line(mapped.line);
    }
    Ok(())
}

/// A port was bound to a pirq, or closed: the line is unmasked, or masked.
pub fn set_bound<P: Platform>(system: &System<P>, domain: &Domain<P>, pirq: Pirq, bound: bool) {
    let inner = domain.pci.pirqs.inner.lock();
    if let Some(Mapped { line, source: Source::Line(_) }) = inner.mapped.get(&pirq) {
        system.platform.mask_line(*line, !bound);
    }
}

fn half(
    config: &Config<'_, impl Platform>,
    function: PciAddress,
    offset: u8,
    change: impl FnOnce(u32) -> u32,
) {
    let register = Register { function, offset, bytes: 2 };
    config.write(register, change(config.read(register)));
}

/// Writes the message of the MSI capability and enables it, or disables it.
fn write_msi<P: Platform>(system: &System<P>, function: &Function, message: Option<MsiMessage>) {
    const ENABLE: u32 = 1;
    const COUNT: u32 = 0b111 << 4;
    let (Some(msi), address) = (function.msi, function.address) else { return };
    let config = system.pci.config(&system.platform);
    let control = msi.offset.saturating_add(2);
    half(&config, address, control, |old| old & !(ENABLE | COUNT));
    let Some(message) = message else { return };
    let [low, high] = halves(message.address);
    let after = |bytes: u8| msi.offset.saturating_add(bytes);
    config.set_word(address, after(4), low);
    let (data, mask) = if msi.wide { (after(12), after(16)) } else { (after(8), after(12)) };
    if msi.wide {
        config.set_word(address, after(8), high);
    }
    config.write(Register { function: address, offset: data, bytes: 2 }, message.data & 0xffff);
    if msi.maskable {
        config.set_word(address, mask, 0);
    }
    config.command(address, command::NO_PIN, 0);
    half(&config, address, control, |old| (old & !COUNT) | ENABLE);
}

const fn halves(value: u64) -> [u32; 2] {
    #[allow(clippy::cast_possible_truncation)] // the halves
    [value as u32, (value >> 32) as u32]
}

/// Writes an entry of the MSI-X table and enables it, or masks it.
fn write_msix<P: Platform>(system: &System<P>, function: &Function, entry: u16, message: Option<MsiMessage>) {
    const MASKED: u32 = 1;
    let Some(msix) = function.msix else { return };
    let Some(at) = msix.table.checked_add(u64::from(entry) * 16) else { return };
    let config = system.pci.config(&system.platform);
    // The table is there only while the function decodes memory.
    config.command(function.address, command::MEMORY, 0);
    let write = |offset: u64, value| {
        if let Some(at) = at.checked_add(offset) {
            system.platform.register_write(at, value);
        }
    };
    write(12, MASKED);
    let Some(message) = message else { return };
    let [low, high] = halves(message.address);
    write(0, low);
    write(4, high);
    write(8, message.data);
    write(12, 0);
    enable_msix(system, function, true);
}

/// Enables or disables MSI-X as a whole.
fn enable_msix<P: Platform>(system: &System<P>, function: &Function, enable: bool) {
    const ENABLE: u32 = 1 << 15;
    const MASK_ALL: u32 = 1 << 14;
    let Some(msix) = function.msix else { return };
    let config = system.pci.config(&system.platform);
    let control = msix.offset.saturating_add(2);
    if enable {
        config.command(function.address, command::NO_PIN, 0);
    }
    let on = if enable { ENABLE } else { 0 };
    half(&config, function.address, control, |old| (old & !(ENABLE | MASK_ALL)) | on);
}
