//! The bitmaps of I/O ports and MSRs (Intel SDM volume 3, sections 25.6.4 and 25.6.9).

use alloc::boxed::Box;
use zerocopy::FromZeros;

use super::capability::Capability;
use crate::cpu::features::GUEST_MSRS;

/// The x2APIC registers whose copies in the page of registers the guest may read: identifier, version, logical
/// destination, spurious vector, in service, trigger mode, requests, errors, local vectors, initial count, divider. Not
/// the command (its upper half is elsewhere in the page) nor the current count (nobody keeps it).
const X2APIC_COPIES: [core::ops::RangeInclusive<u32>; 6] =
    [0x802..=0x803, 0x80d..=0x80d, 0x80f..=0x828, 0x832..=0x837, 0x838..=0x838, 0x83e..=0x83e];
/// All x2APIC registers.
const X2APIC: core::ops::RangeInclusive<u32> = 0x800..=0x8ff;
/// Task priority; processor priority; end of interrupt; interrupt to itself.
const X2APIC_TPR: u32 = 0x808;
const X2APIC_PPR: u32 = 0x80a;
const X2APIC_EOI: u32 = 0x80b;
const X2APIC_SELF: u32 = 0x83f;

/// One bit for each port, and two for each MSR of the two ranges, set where an access exits.
#[derive(FromZeros)]
#[repr(C, align(4096))]
pub struct Bitmaps {
    ports: [[u8; 4096]; 2],
    msrs: [u8; 4096],
}

impl Bitmaps {
    /// Bitmaps in which everything exits but the MSRs that are the guest's own; nothing if memory ran out.
    pub fn new() -> Option<Box<Self>> {
        let mut bitmaps = Self::new_box_zeroed().ok()?;
        bitmaps.ports = [[0xff; 4096]; 2];
        bitmaps.msrs.fill(0xff);
        for index in GUEST_MSRS {
            bitmaps.pass_msr(index, true, true);
        }
        Some(bitmaps)
    }

    /// Lets those x2APIC registers pass that the processor serves from the page of registers, or none. All others would
    /// be the machine's own: writes of any but three, and reads where the page has no copy, always exit.
    pub fn pass_x2apic(&mut self, capability: &Capability, pass: bool) {
        X2APIC.for_each(|index| self.pass_msr(index, false, false));
        if !pass {
            return;
        }
        if capability.apic_registers() {
            X2APIC_COPIES.into_iter().flatten().for_each(|index| self.pass_msr(index, true, false));
        }
        self.pass_msr(X2APIC_TPR, true, true);
        if capability.delivers() {
            self.pass_msr(X2APIC_PPR, capability.apic_registers(), false);
            self.pass_msr(X2APIC_EOI, false, true);
            self.pass_msr(X2APIC_SELF, false, true);
        }
    }

    /// Lets reads and writes of an MSR pass, or not.
    fn pass_msr(&mut self, index: u32, read: bool, write: bool) {
        // Reads of low MSRs, reads of high ones, writes of low ones, writes of high ones: 1 KiB each.
        let base = match index {
            0..0x2000 => 0,
            0xc000_0000..0xc000_2000 => 1024,
            _ => return,
        };
        let number = (index & 0x1fff) as usize;
        for (half, pass) in [(0, read), (2048, write)] {
            let byte = &mut self.msrs[base + half + number / 8];
            let bit = 1 << (number % 8);
            *byte = if pass { *byte & !bit } else { *byte | bit };
        }
    }

    /// Lets `count` ports from `first` pass, or takes that away.
    pub fn pass_ports(&mut self, first: u16, count: u16, pass: bool) {
        let first = usize::from(first);
        for port in (first..first + usize::from(count)).take_while(|port| *port < 0x1_0000) {
            let byte = &mut self.ports[port / 0x8000][port % 0x8000 / 8];
            let bit = 1 << (port % 8);
            *byte = if pass { *byte & !bit } else { *byte | bit };
        }
    }

    /// Whether a write of this port exits.
    #[cfg(test)]
    fn port_exits(&self, port: u16) -> bool {
        let port = usize::from(port);
        self.ports[port / 0x8000][port % 0x8000 / 8] & 1 << (port % 8) != 0
    }

    /// Where the three parts are, given a way from pointers to machine addresses: ports below 8000h, the others, MSRs.
    pub fn addresses(&self, address: impl Fn(*const u8) -> u64) -> (u64, u64, u64) {
        let [low, high] = &self.ports;
        (address(low.as_ptr()), address(high.as_ptr()), address(self.msrs.as_ptr()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::controls::Secondary;
    use super::*;

    #[test]
    fn ports_pass_only_where_told() {
        let mut bitmaps = Bitmaps::new().unwrap();
        bitmaps.pass_ports(0x7ffe, 4, true);
        for port in [0, 0x7ffd, 0x8002, 0xffff] {
            assert!(bitmaps.port_exits(port), "{port:#x}");
        }
        for port in [0x7ffe, 0x7fff, 0x8000, 0x8001] {
            assert!(!bitmaps.port_exits(port), "{port:#x}");
        }
        bitmaps.pass_ports(0x7ffe, 4, false);
        assert!(bitmaps.port_exits(0x8000));
        // Past the end nothing happens.
        bitmaps.pass_ports(0xffff, 9, true);
        assert!(!bitmaps.port_exits(0xffff) && bitmaps.port_exits(0));
    }

    #[test]
    fn x2apic_registers_pass_only_where_the_page_serves_them() {
        let capability = |secondary| Capability {
            secondary,
            ..super::super::capability::choose(super::super::capability::tests::haswell).unwrap()
        };
        let passing = |secondary, pass| {
            let mut bitmaps = Bitmaps::new().unwrap();
            bitmaps.pass_x2apic(&capability(secondary), true);
            bitmaps.pass_x2apic(&capability(secondary), pass);
            let clear = |half: usize| {
                (0x800..0x900u32)
                    .filter(|index| bitmaps.msrs[half + *index as usize / 8] & 1 << (index % 8) == 0)
                    .collect::<alloc::vec::Vec<_>>()
            };
            (clear(0), clear(2048))
        };
        let all = Secondary::APIC_REGISTERS | Secondary::INTERRUPT_DELIVERY;
        let (reads, writes) = passing(all.bits(), true);
        assert_eq!(writes, [0x808, 0x80b, 0x83f]);
        for index in [0x800, 0x80b, 0x80e, 0x829, 0x830, 0x839, 0x83f, 0x840] {
            assert!(!reads.contains(&index), "{index:#x}");
        }
        assert_eq!(reads.len(), 2 + 1 + 26 + 6 + 1 + 1 + 2);
        assert_eq!(passing(Secondary::APIC_REGISTERS.bits(), true).1, [0x808]);
        assert!(!passing(Secondary::APIC_REGISTERS.bits(), true).0.contains(&0x80a), "nobody keeps it");
        assert_eq!(passing(0, true), (alloc::vec![0x808], alloc::vec![0x808]));
        assert_eq!(passing(all.bits(), false), (alloc::vec![], alloc::vec![]));
    }

    #[test]
    fn only_the_guest_s_own_msrs_pass() {
        let bitmaps = Bitmaps::new().unwrap();
        let clear: u32 = bitmaps.msrs.iter().map(|byte| byte.count_zeros()).sum();
        assert_eq!(clear as usize, 2 * GUEST_MSRS.len());
        // LSTAR, C000_0082h: bit 82h of the second and of the last KiB.
        assert_eq!(bitmaps.msrs[1024 + 0x82 / 8] & 1 << 2, 0);
        assert_eq!(bitmaps.msrs[3072 + 0x82 / 8] & 1 << 2, 0);
        // EFER exits.
        assert_ne!(bitmaps.msrs[1024 + 0x80 / 8] & 1, 0);
    }
}
