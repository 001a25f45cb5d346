//! The architectural state of a virtual CPU, by name.

/// A register that [`VcpuHw::get`](super::VcpuHw::get) and [`VcpuHw::set`](super::VcpuHw::set) reach.
///
/// `set` stores what the guest shall see; the back end keeps the bits that the hardware needs to itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the names are the manuals'
pub enum Reg {
    Rip,
    Rsp,
    Rflags,
    Cr0,
    Cr2,
    Cr3,
    Cr4,
    Cr8,
    Dr6,
    Dr7,
    Efer,
    Star,
    Lstar,
    Cstar,
    Sfmask,
    KernelGsBase,
    SysenterCs,
    SysenterEsp,
    SysenterEip,
    Pat,
    TscAux,
    Xcr0,
}

/// A segment or descriptor-table register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the names are the manuals'
pub enum Segment {
    Cs,
    Ds,
    Es,
    Fs,
    Gs,
    Ss,
    Tr,
    Ldtr,
    Gdtr,
    Idtr,
}

/// The visible and hidden parts of a segment register.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SegmentState {
    /// The visible selector.
    pub selector: u16,
    /// Attributes in the descriptor's own order without the limit's bits: type (0-3), S (4), DPL (5-6), P (7),
    /// AVL (8), L (9), D/B (10), G (11). Zero means unusable.
    pub attributes: u16,
    /// The limit in bytes, after scaling.
    pub limit: u32,
    /// The linear base address.
    pub base: u64,
}
