//! What the CPU can do, asked once by CPUID where it is needed.

use core::arch::x86_64::{__cpuid, __cpuid_count, CpuidResult};

/// The MSRs that belong to the guest alone, which it uses without an exit: SYSENTER_CS, _ESP, _EIP; STAR,
/// LSTAR, CSTAR, SFMASK; FS_BASE, GS_BASE, KERNEL_GS_BASE. The hypervisor uses none of them, and every back
/// end switches them.
pub const GUEST_MSRS: [u32; 10] = [
    0x174,
    0x175,
    0x176,
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084,
    0xc000_0100,
    0xc000_0101,
    0xc000_0102,
];

/// A CPUID leaf; zeroes if the CPU does not have it.
pub fn leaf(number: u32) -> CpuidResult {
    let highest = __cpuid(number & 0x8000_0000).eax;
    if number > highest || (highest ^ number) & 0x8000_0000 != 0 {
        return CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 };
    }
    __cpuid(number)
}

/// A sub-leaf of a CPUID leaf; zeroes if the CPU does not have the leaf.
pub fn sub_leaf(number: u32, sub: u32) -> CpuidResult {
    let highest = __cpuid(number & 0x8000_0000).eax;
    if number > highest || (highest ^ number) & 0x8000_0000 != 0 {
        return CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 };
    }
    __cpuid_count(number, sub)
}

/// A sub-leaf of CPUID leaf 0xD; zeroes if the CPU does not have it.
pub fn xsave_leaf(sub: u32) -> CpuidResult {
    if leaf(0).eax < 0xd { leaf(0xffff_ffff) } else { __cpuid_count(0xd, sub) }
}

/// Pages of 1 GiB: leaf 8000_0001h, EDX bit 26.
pub fn gigabyte_pages() -> bool {
    leaf(0x8000_0001).edx & 1 << 26 != 0
}

/// The x2APIC: leaf 1, ECX bit 21.
pub fn x2apic() -> bool {
    leaf(1).ecx & 1 << 21 != 0
}

/// The local APIC's timer compares with the time-stamp counter: leaf 1, ECX bit 24.
pub fn tsc_deadline() -> bool {
    leaf(1).ecx & 1 << 24 != 0
}

/// The time-stamp counter runs at one rate, always: leaf 8000_0007h, EDX bit 8.
pub fn invariant_tsc() -> bool {
    leaf(0x8000_0007).edx & 1 << 8 != 0
}

/// XSAVE: leaf 1, ECX bit 26.
pub fn xsave() -> bool {
    leaf(1).ecx & 1 << 26 != 0
}

/// RDTSCP, and with it the MSR TSC_AUX: leaf 8000_0001h, EDX bit 27.
pub fn rdtscp() -> bool {
    leaf(0x8000_0001).edx & 1 << 27 != 0
}

/// The name that the CPU gives itself: leaves 8000_0002h to 8000_0004h.
pub fn brand(buffer: &mut [u8; 48]) -> &str {
    for (number, part) in (0x8000_0002..).zip(buffer.as_chunks_mut::<16>().0) {
        let words = leaf(number);
        for (word, bytes) in
            [words.eax, words.ebx, words.ecx, words.edx].iter().zip(part.as_chunks_mut::<4>().0)
        {
            *bytes = word.to_le_bytes();
        }
    }
    let len = buffer.iter().position(|byte| *byte == 0).unwrap_or(buffer.len());
    core::str::from_utf8(&buffer[..len]).unwrap_or("").trim()
}
