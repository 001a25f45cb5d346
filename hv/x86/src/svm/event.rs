//! Events in the formats of EVENTINJ and EXITINTINFO: AMD64 manual volume 2, sections 15.20 and 15.7.2.

use hv_core::hw::{Event, EventKind};

const VALID: u64 = 1 << 31;
const HAS_CODE: u64 = 1 << 11;
const TYPE: u64 = 7 << 8;
const TYPE_INTERRUPT: u64 = 0;
const TYPE_NMI: u64 = 2 << 8;
const TYPE_EXCEPTION: u64 = 3 << 8;
const TYPE_SOFTWARE: u64 = 4 << 8;

/// The value for EVENTINJ.
pub fn encode(event: Event) -> u64 {
    let kind = match event.kind {
        EventKind::Interrupt => TYPE_INTERRUPT,
        EventKind::Nmi => TYPE_NMI,
        EventKind::Exception => TYPE_EXCEPTION,
    };
    let code = event.code.map_or(0, |code| HAS_CODE | u64::from(code) << 32);
    VALID | kind | code | u64::from(event.vector)
}

/// Whether a value of either field holds an event.
#[inline]
pub const fn is_valid(raw: u64) -> bool {
    raw & VALID != 0
}

/// What to put back into the guest for an event whose delivery an exit interrupted; `None` for events of the
/// guest's own instruction, which RIP still points to: they come again by themselves.
pub const fn again(exit_int_info: u64) -> Option<u64> {
    let software = exit_int_info & TYPE == TYPE_SOFTWARE;
    // #BP and #OF come from INT3 and INTO.
    let by_instruction = exit_int_info & TYPE == TYPE_EXCEPTION && matches!(exit_int_info & 0xff, 3 | 4);
    if !is_valid(exit_int_info) || software || by_instruction { None } else { Some(exit_int_info) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        assert_eq!(encode(Event::interrupt(0xf3)), 0x8000_00f3);
        assert_eq!(encode(Event::UNDEFINED), 0x8000_0306);
        assert_eq!(encode(Event::PROTECTION), 0x8000_0b0d);
        assert_eq!(encode(Event::exception_with(14, 0x15)), 0x15_8000_0b0e);
        assert_eq!(encode(Event::NMI), 0x8000_0202);
    }

    #[test]
    fn what_comes_again() {
        assert_eq!(again(0x8000_00f3), Some(0x8000_00f3));
        assert_eq!(again(0x15_8000_0b0e), Some(0x15_8000_0b0e));
        // Not valid: old fields stay in some implementations.
        assert_eq!(again(0x0000_00f3), None);
        assert_eq!(again(0x8000_0480), None);
        assert_eq!(again(0x8000_0303), None);
    }
}
