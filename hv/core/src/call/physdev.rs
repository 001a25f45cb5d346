//! `physdev_op`: the interrupts of a driver domain's devices (`xen/physdev.h`).
//!
//! All rows need the role `driver`; which devices and lines a domain may name is checked by [`crate::pci`].

use super::Reply;
use super::cx::Cx;
use crate::hw::{Platform, Polarity, Trigger};
use crate::pci::{PciAddress, interrupt};
use pv_abi::Errno;
use pv_abi::errno::Result;
use pv_abi::ids::{DomainId, Pirq};
use pv_abi::physdev::{
    Eoi, GetFreePirq, IrqStatusQuery, MapPirq, PciDevice, PciDeviceAdd, SetupGsi, UnmapPirq,
};

/// Interrupts are mapped for the caller only.
fn check_own<P: Platform>(cx: &Cx<'_, P>, domid: DomainId) -> Result<()> {
    if domid == DomainId::SELF || domid == cx.domain.id { Ok(()) } else { Err(Errno::EPERM) }
}

pub(super) fn physdev_eoi<P: Platform>(cx: &mut Cx<'_, P>, eoi: &Eoi) -> Reply {
    interrupt::end(cx.system, cx.domain, Pirq::new(eoi.irq))?;
    Ok(0)
}

pub(super) fn physdev_irq_status<P: Platform>(cx: &mut Cx<'_, P>, query: &mut IrqStatusQuery) -> Reply {
    query.flags = interrupt::status(cx.domain, Pirq::new(query.irq))?.bits();
    Ok(0)
}

pub(super) fn physdev_map_pirq<P: Platform>(cx: &mut Cx<'_, P>, map: &mut MapPirq) -> Reply {
    check_own(cx, map.domid)?;
    let pirq = interrupt::map(cx.system, cx.domain, map, cx.system.platform.current_cpu())?;
    map.pirq = i32::try_from(pirq.raw()).map_err(|_| Errno::EINVAL)?;
    Ok(0)
}

pub(super) fn physdev_unmap_pirq<P: Platform>(cx: &mut Cx<'_, P>, unmap: &UnmapPirq) -> Reply {
    check_own(cx, unmap.domid)?;
    let pirq = u32::try_from(unmap.pirq).map_err(|_| Errno::EINVAL)?;
    interrupt::unmap(cx.system, cx.domain, Pirq::new(pirq))?;
    Ok(0)
}

pub(super) fn physdev_get_free_pirq<P: Platform>(cx: &mut Cx<'_, P>, get: &mut GetFreePirq) -> Reply {
    get.pirq = interrupt::free_pirq(cx.domain)?.raw();
    Ok(0)
}

pub(super) fn physdev_setup_gsi<P: Platform>(cx: &mut Cx<'_, P>, setup: &SetupGsi) -> Reply {
    let gsi = u32::try_from(setup.gsi).map_err(|_| Errno::EINVAL)?;
    let trigger = match setup.triggering {
        0 => Trigger::Edge,
        1 => Trigger::Level,
        _ => return Err(Errno::EINVAL.into()),
    };
    let polarity = match setup.polarity {
        0 => Polarity::High,
        1 => Polarity::Low,
        _ => return Err(Errno::EINVAL.into()),
    };
    interrupt::setup_gsi(cx.domain, gsi, trigger, polarity)?;
    Ok(0)
}

/// Succeeds for a function of the caller's, of which everything is known already.
fn check_function<P: Platform>(cx: &Cx<'_, P>, segment: u16, bus: u8, devfn: u8) -> Reply {
    let address = PciAddress { segment, bus, device: devfn >> 3, function: devfn & 7 };
    let function = cx.system.pci.function(address).ok_or(Errno::ENODEV)?;
    if function.owner() == Some(cx.domain.id) { Ok(0) } else { Err(Errno::ENODEV.into()) }
}

pub(super) fn physdev_pci_device_add<P: Platform>(cx: &mut Cx<'_, P>, add: &PciDeviceAdd) -> Reply {
    check_function(cx, add.seg, add.bus, add.devfn)
}

pub(super) fn physdev_prepare_msix<P: Platform>(cx: &mut Cx<'_, P>, device: &PciDevice) -> Reply {
    check_function(cx, device.seg, device.bus, device.devfn)
}

pub(super) fn physdev_release_msix<P: Platform>(cx: &mut Cx<'_, P>, device: &PciDevice) -> Reply {
    check_function(cx, device.seg, device.bus, device.devfn)
}
