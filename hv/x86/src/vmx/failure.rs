//! What the processor says when it refuses: VM-instruction errors and failed VM entries, in words.

use hv_core::hw::{EntryFailure, RawExit};

/// The VM-instruction error numbers (Intel SDM volume 3, section 31.4, table 31-1).
pub fn instruction_error(number: u32) -> &'static str {
    match number {
        1 => "VMCALL was executed in VMX root operation",
        2 => "VMCLEAR was given an address that is not a page of the machine",
        3 => "VMCLEAR was given the VMXON region",
        4 => "VMLAUNCH was executed on a control structure that is not clear",
        5 => "VMRESUME was executed on a control structure that was not launched",
        6 => "VMRESUME was executed after VMXOFF and VMXON",
        7 => "VM entry with invalid control fields",
        8 => "VM entry with invalid host-state fields",
        9 => "VMPTRLD was given an address that is not a page of the machine",
        10 => "VMPTRLD was given the VMXON region",
        11 => "VMPTRLD was given a control structure of another revision",
        12 => "VMREAD or VMWRITE named a field that this processor does not have",
        13 => "VMWRITE named a read-only field",
        15 => "VMXON was executed in VMX root operation",
        16 => "VM entry with an invalid executive control structure",
        17 => "VM entry with an executive control structure that was not launched",
        18 => "VM entry with an executive control structure that is not the VMXON region",
        19 => "VMCALL with a control structure that is not clear",
        20 => "VMCALL with invalid exit controls",
        22 => "VMCALL with an incorrect revision of the monitor of system management mode",
        23 => "VMXOFF under dual-monitor treatment",
        24 => "VMCALL with invalid features of the monitor of system management mode",
        25 => "VM entry with invalid execution controls of the executive control structure",
        26 => "VM entry with events blocked by MOV SS",
        28 => "INVEPT or INVVPID was given an invalid operand",
        _ => "an error without a name in the manual",
    }
}

/// The exit reasons of a failed VM entry (section 27.8), without bit 31.
const INVALID_GUEST_STATE: u16 = 33;
const MSR_LOADING: u16 = 34;
const MACHINE_CHECK: u16 = 41;

/// What a VM entry that failed after the control checks says: an exit with bit 31 of the reason set (section 27.8).
pub fn entry_failure(reason: u32, qualification: u64) -> EntryFailure {
    let words = match (reason as u16, qualification) {
        // The exit qualification of reason 33 (section 27.8).
        (INVALID_GUEST_STATE, 2) => {
            "invalid guest state: the page-directory-pointer entries could not be loaded"
        }
        (INVALID_GUEST_STATE, 3) => {
            "invalid guest state: a non-maskable interrupt while events are blocked by STI"
        }
        (INVALID_GUEST_STATE, 4) => "invalid guest state: the link pointer of the control structure",
        (INVALID_GUEST_STATE, _) => "invalid guest state",
        (MSR_LOADING, _) => "an entry of the list of MSRs to load was refused",
        (MACHINE_CHECK, _) => "a machine check during VM entry",
        _ => "a reason without a name in the manual",
    };
    EntryFailure { reason: words, raw: RawExit { code: u64::from(reason), info: [qualification, 0] } }
}

/// What VMLAUNCH or VMRESUME said when it failed before any guest state was looked at.
pub fn control_failure(number: u32) -> EntryFailure {
    EntryFailure { reason: instruction_error(number), raw: RawExit { code: u64::from(number), info: [0, 0] } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_error_of_the_manual_has_words() {
        // Table 31-1 leaves out 14, 21 and 27.
        for number in (1..=28).filter(|n| ![14, 21, 27].contains(n)) {
            assert!(!instruction_error(number).contains("without a name"), "{number}");
        }
        for number in [0, 14, 21, 27, 29, u32::MAX] {
            assert!(instruction_error(number).contains("without a name"), "{number}");
        }
    }

    #[test]
    fn every_failed_entry_of_the_manual_has_words() {
        for (reason, qualification, part) in [
            (0x8000_0021, 0, "guest state"),
            (0x8000_0021, 2, "page-directory"),
            (0x8000_0021, 3, "non-maskable"),
            (0x8000_0021, 4, "link pointer"),
            (0x8000_0022, 1, "MSR"),
            (0x8000_0029, 0, "machine check"),
        ] {
            assert!(
                entry_failure(reason, qualification).reason.contains(part),
                "{reason:#x} {qualification}"
            );
        }
        assert!(entry_failure(0x8000_0001, 0).reason.contains("without a name"));
    }
}
