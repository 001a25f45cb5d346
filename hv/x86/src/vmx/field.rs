//! The fields of a virtual-machine control structure (Intel SDM volume 3, appendix B), under the names of the manual.
#![allow(missing_docs)]

/// The encoding of a field; bits 14:13 are its width, bits 11:10 its type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Field(u32);

impl Field {
    /// The number that VMREAD and VMWRITE take.
    pub const fn encoding(self) -> u64 {
        self.0 as u64
    }
}

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident = $encoding:literal;)*) => {
        $($(#[$doc])* pub const $name: Field = Field($encoding);)*

        /// The name of a field by its number, for messages.
        pub fn name_of(encoding: u64) -> &'static str {
            match encoding {
                $($encoding => stringify!($name),)*
                _ => "an unnamed field",
            }
        }

        #[cfg(test)]
        pub(super) const ALL: &[(Field, &str)] = &[$(($name, stringify!($name))),*];
    };
}

fields! {
    // 16-bit control fields (B.1.1)
    VPID = 0x0000;
    POSTED_VECTOR = 0x0002;
    // 16-bit guest-state fields (B.1.2); the interrupt status has the vector requested below and the one in service above
    GUEST_INTERRUPT_STATUS = 0x0810;
    GUEST_ES_SELECTOR = 0x0800;
    GUEST_CS_SELECTOR = 0x0802;
    GUEST_SS_SELECTOR = 0x0804;
    GUEST_DS_SELECTOR = 0x0806;
    GUEST_FS_SELECTOR = 0x0808;
    GUEST_GS_SELECTOR = 0x080a;
    GUEST_LDTR_SELECTOR = 0x080c;
    GUEST_TR_SELECTOR = 0x080e;
    // 16-bit host-state fields (B.1.3)
    HOST_ES_SELECTOR = 0x0c00;
    HOST_CS_SELECTOR = 0x0c02;
    HOST_SS_SELECTOR = 0x0c04;
    HOST_DS_SELECTOR = 0x0c06;
    HOST_FS_SELECTOR = 0x0c08;
    HOST_GS_SELECTOR = 0x0c0a;
    HOST_TR_SELECTOR = 0x0c0c;
    // 64-bit control fields (B.2.1)
    IO_BITMAP_A = 0x2000;
    IO_BITMAP_B = 0x2002;
    MSR_BITMAP = 0x2004;
    EXIT_MSR_STORE = 0x2006;
    EXIT_MSR_LOAD = 0x2008;
    ENTRY_MSR_LOAD = 0x200a;
    TSC_OFFSET = 0x2010;
    VIRTUAL_APIC = 0x2012;
    POSTED_DESCRIPTOR = 0x2016;
    EPT_POINTER = 0x201a;
    EOI_EXIT0 = 0x201c;
    EOI_EXIT1 = 0x201e;
    EOI_EXIT2 = 0x2020;
    EOI_EXIT3 = 0x2022;
    // 64-bit read-only data field (B.2.2)
    GUEST_PHYSICAL_ADDRESS = 0x2400;
    // 64-bit guest-state fields (B.2.3)
    VMCS_LINK = 0x2800;
    GUEST_DEBUGCTL = 0x2802;
    GUEST_PAT = 0x2804;
    GUEST_EFER = 0x2806;
    GUEST_PDPTE0 = 0x280a;
    GUEST_PDPTE1 = 0x280c;
    GUEST_PDPTE2 = 0x280e;
    GUEST_PDPTE3 = 0x2810;
    // 64-bit host-state fields (B.2.4)
    HOST_PAT = 0x2c00;
    HOST_EFER = 0x2c02;
    // 32-bit control fields (B.3.1)
    PIN_CONTROLS = 0x4000;
    PRIMARY_CONTROLS = 0x4002;
    EXCEPTION_BITMAP = 0x4004;
    PAGE_FAULT_MASK = 0x4006;
    PAGE_FAULT_MATCH = 0x4008;
    CR3_TARGET_COUNT = 0x400a;
    EXIT_CONTROLS = 0x400c;
    EXIT_MSR_STORE_COUNT = 0x400e;
    EXIT_MSR_LOAD_COUNT = 0x4010;
    ENTRY_CONTROLS = 0x4012;
    ENTRY_MSR_LOAD_COUNT = 0x4014;
    ENTRY_EVENT = 0x4016;
    ENTRY_EVENT_CODE = 0x4018;
    ENTRY_EVENT_LENGTH = 0x401a;
    TPR_THRESHOLD = 0x401c;
    SECONDARY_CONTROLS = 0x401e;
    PAUSE_GAP = 0x4020;
    PAUSE_WINDOW = 0x4022;
    // 32-bit read-only data fields (B.3.2)
    INSTRUCTION_ERROR = 0x4400;
    EXIT_REASON = 0x4402;
    EXIT_EVENT = 0x4404;
    EXIT_EVENT_CODE = 0x4406;
    VECTORING_EVENT = 0x4408;
    VECTORING_CODE = 0x440a;
    EXIT_INSTRUCTION_LENGTH = 0x440c;
    EXIT_INSTRUCTION_INFO = 0x440e;
    // 32-bit guest-state fields (B.3.3)
    GUEST_ES_LIMIT = 0x4800;
    GUEST_CS_LIMIT = 0x4802;
    GUEST_SS_LIMIT = 0x4804;
    GUEST_DS_LIMIT = 0x4806;
    GUEST_FS_LIMIT = 0x4808;
    GUEST_GS_LIMIT = 0x480a;
    GUEST_LDTR_LIMIT = 0x480c;
    GUEST_TR_LIMIT = 0x480e;
    GUEST_GDTR_LIMIT = 0x4810;
    GUEST_IDTR_LIMIT = 0x4812;
    GUEST_ES_RIGHTS = 0x4814;
    GUEST_CS_RIGHTS = 0x4816;
    GUEST_SS_RIGHTS = 0x4818;
    GUEST_DS_RIGHTS = 0x481a;
    GUEST_FS_RIGHTS = 0x481c;
    GUEST_GS_RIGHTS = 0x481e;
    GUEST_LDTR_RIGHTS = 0x4820;
    GUEST_TR_RIGHTS = 0x4822;
    GUEST_INTERRUPTIBILITY = 0x4824;
    GUEST_ACTIVITY = 0x4826;
    GUEST_SYSENTER_CS = 0x482a;
    PREEMPTION_TIMER = 0x482e;
    // 32-bit host-state field (B.3.4)
    HOST_SYSENTER_CS = 0x4c00;
    // natural-width control fields (B.4.1)
    CR0_MASK = 0x6000;
    CR4_MASK = 0x6002;
    CR0_SHADOW = 0x6004;
    CR4_SHADOW = 0x6006;
    // natural-width read-only data fields (B.4.2)
    EXIT_QUALIFICATION = 0x6400;
    GUEST_LINEAR_ADDRESS = 0x640a;
    // natural-width guest-state fields (B.4.3)
    GUEST_CR0 = 0x6800;
    GUEST_CR3 = 0x6802;
    GUEST_CR4 = 0x6804;
    GUEST_ES_BASE = 0x6806;
    GUEST_CS_BASE = 0x6808;
    GUEST_SS_BASE = 0x680a;
    GUEST_DS_BASE = 0x680c;
    GUEST_FS_BASE = 0x680e;
    GUEST_GS_BASE = 0x6810;
    GUEST_LDTR_BASE = 0x6812;
    GUEST_TR_BASE = 0x6814;
    GUEST_GDTR_BASE = 0x6816;
    GUEST_IDTR_BASE = 0x6818;
    GUEST_DR7 = 0x681a;
    GUEST_RSP = 0x681c;
    GUEST_RIP = 0x681e;
    GUEST_RFLAGS = 0x6820;
    GUEST_PENDING_DEBUG = 0x6822;
    GUEST_SYSENTER_ESP = 0x6824;
    GUEST_SYSENTER_EIP = 0x6826;
    // natural-width host-state fields (B.4.4)
    HOST_CR0 = 0x6c00;
    HOST_CR3 = 0x6c02;
    HOST_CR4 = 0x6c04;
    HOST_FS_BASE = 0x6c06;
    HOST_GS_BASE = 0x6c08;
    HOST_TR_BASE = 0x6c0a;
    HOST_GDTR_BASE = 0x6c0c;
    HOST_IDTR_BASE = 0x6c0e;
    HOST_SYSENTER_ESP = 0x6c10;
    HOST_SYSENTER_EIP = 0x6c12;
    HOST_RSP = 0x6c14;
    HOST_RIP = 0x6c16;
}

/// The fields of one segment register.
#[derive(Clone, Copy, Debug)]
pub struct SegmentFields {
    /// The selector, if the register has one.
    pub selector: Option<Field>,
    /// The base address.
    pub base: Field,
    /// The limit.
    pub limit: Field,
    /// The access rights, if the register has any.
    pub rights: Option<Field>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Appendix B: bit 0 selects the upper half of 64-bit fields, bit 12 and bits 31:15 are zero, the widths group.
    #[test]
    fn encodings_have_the_manual_s_form_and_are_distinct() {
        for (i, (field, name)) in ALL.iter().enumerate() {
            let raw = field.encoding();
            assert_eq!(raw & 1, 0, "{name}");
            assert_eq!(raw & !0x6ffe, 0, "{name}");
            assert!(ALL[..i].iter().all(|(other, _)| other != field), "{name}");
            let width = raw >> 13 & 3;
            let natural = name.ends_with("_BASE") || name.contains("CR0") || name.ends_with("RSP");
            assert!(!natural || width == 3, "{name}");
            assert!(!name.ends_with("SELECTOR") || width == 0, "{name}");
            assert!(!(name.ends_with("RIGHTS") || name.ends_with("LIMIT")) || width == 2, "{name}");
        }
    }
}
