//! The bitmaps of I/O ports and MSRs (Intel SDM volume 3, sections 25.6.4 and 25.6.9).

use alloc::boxed::Box;
use zerocopy::FromZeros;

use crate::cpu::features::GUEST_MSRS;

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
            bitmaps.pass_msr(index);
        }
        Some(bitmaps)
    }

    /// Lets an MSR pass, both ways.
    fn pass_msr(&mut self, index: u32) {
        // Reads of low MSRs, reads of high ones, writes of low ones, writes of high ones: 1 KiB each.
        let base = match index {
            0..0x2000 => 0,
            0xc000_0000..0xc000_2000 => 1024,
            _ => return,
        };
        let number = (index & 0x1fff) as usize;
        for half in [0, 2048] {
            self.msrs[base + half + number / 8] &= !(1 << (number % 8));
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
