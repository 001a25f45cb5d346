//! The general registers of a guest, as the entry code of a back end lays them out.

/// The general registers but RSP and RIP, which a back end keeps with its other state.
///
/// The order is the hardware's numbering with the slot of RSP unused, so that entry code addresses register `n` at
/// byte `8 * n`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
#[allow(missing_docs)] // the names say it
pub struct Gprs {
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rbx: u64,
    /// The slot of RSP in the hardware's numbering; not the guest's RSP.
    pub unused: u64,
    pub rbp: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
}

impl Gprs {
    /// The register of this number in the hardware's encoding, or `None` for RSP (4) and numbers above 15.
    pub fn numbered(&self, number: u8) -> Option<u64> {
        let mut copy = *self;
        copy.numbered_mut(number).copied()
    }

    /// The place of the register of this number, or `None` for RSP (4) and numbers above 15.
    pub fn numbered_mut(&mut self, number: u8) -> Option<&mut u64> {
        Some(match number {
            0 => &mut self.rax,
            1 => &mut self.rcx,
            2 => &mut self.rdx,
            3 => &mut self.rbx,
            5 => &mut self.rbp,
            6 => &mut self.rsi,
            7 => &mut self.rdi,
            8 => &mut self.r8,
            9 => &mut self.r9,
            10 => &mut self.r10,
            11 => &mut self.r11,
            12 => &mut self.r12,
            13 => &mut self.r13,
            14 => &mut self.r14,
            15 => &mut self.r15,
            _ => return None,
        })
    }
}
