//! The permission maps of I/O ports and MSRs: AMD64 manual volume 2, sections 15.10.1 and 15.11.

use alloc::boxed::Box;
use zerocopy::FromZeros;

use crate::cpu::features::GUEST_MSRS;

/// One bit per port, set where an access exits; the last page holds the bits past the end.
#[derive(FromZeros)]
#[repr(C, align(4096))]
pub struct PortMap([u8; 3 * 4096]);

impl PortMap {
    /// The map in which every port exits.
    pub const ALL: Self = Self([0xff; 3 * 4096]);

    /// A map of its own, or nothing if memory ran out.
    pub fn new() -> Option<Box<Self>> {
        let mut map = Self::new_box_zeroed().ok()?;
        map.0.fill(0xff);
        Some(map)
    }

    /// Lets `count` ports from `first` pass, or takes that away.
    pub fn pass(&mut self, first: u16, count: u16, pass: bool) {
        for port in
            (u32::from(first)..u32::from(first) + u32::from(count)).take_while(|port| *port < 0x1_0000)
        {
            let bit = 1 << (port % 8);
            let byte = &mut self.0[port as usize / 8];
            *byte = if pass { *byte & !bit } else { *byte | bit };
        }
    }
}

/// Two bits per MSR, for reads and for writes, set where the access exits.
#[repr(C, align(4096))]
pub struct MsrMap([u8; 2 * 4096]);

impl MsrMap {
    /// The map in which only these MSRs pass: those which VMLOAD and VMSAVE, or the CPU itself, switch
    /// between guest and host.
    pub const GUEST: Self = {
        let mut map = Self([0xff; 2 * 4096]);
        let mut at = 0;
        while at < GUEST_MSRS.len() {
            map.0[Self::byte(GUEST_MSRS[at])] &= !(3 << (2 * (GUEST_MSRS[at] % 4)));
            at += 1;
        }
        map
    };

    /// Where the bits of an MSR are.
    const fn byte(index: u32) -> usize {
        let base = match index {
            0..0x2000 => 0,
            0xc000_0000..0xc000_2000 => 0x800,
            _ => 0x1000,
        };
        base + (index as usize & 0x1fff) / 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        let mut map = PortMap::new().unwrap();
        map.pass(0x3f7, 10, true);
        assert_eq!(map.0[0x3f0 / 8], 0x7f);
        assert_eq!(map.0[0x3f8 / 8], 0x00);
        assert_eq!(map.0[0x400 / 8], 0xfe);
        map.pass(0x3f8, 1, false);
        assert_eq!(map.0[0x3f8 / 8], 0x01);
        map.pass(0xffff, 10, true);
        assert_eq!((map.0[0x1fff], map.0[0x2000]), (0x7f, 0xff));
    }

    #[test]
    fn msrs() {
        let passes = |index| MsrMap::GUEST.0[MsrMap::byte(index)] >> (2 * (index % 4)) & 3 == 0;
        for index in [0x174, 0x176, 0xc000_0081, 0xc000_0084, 0xc000_0100, 0xc000_0102] {
            assert!(passes(index), "{index:#x}");
        }
        // The TSC, the APIC's base, SYSENTER's neighbours, EFER, TSC_AUX, VM_HSAVE_PA.
        for index in [0x10, 0x1b, 0x173, 0x177, 0xc000_0080, 0xc000_0085, 0xc000_0103, 0xc001_0117] {
            assert!(!passes(index), "{index:#x}");
        }
        // The place of an MSR in the map, by the manual's table 15-8.
        assert_eq!(MsrMap::byte(0xc000_0080), 0x820);
        assert_eq!(MsrMap::byte(0xc001_0117), 0x1045);
    }
}
