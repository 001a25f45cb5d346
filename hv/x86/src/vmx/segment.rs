//! Segment registers in the control structure (Intel SDM volume 3, section 25.4.1).

use hv_core::hw::{Segment, SegmentState};

use super::field::{self, Field, SegmentFields};
use super::instr;

/// All of them.
pub const ALL: [Segment; 10] = [
    Segment::Cs,
    Segment::Ds,
    Segment::Es,
    Segment::Fs,
    Segment::Gs,
    Segment::Ss,
    Segment::Tr,
    Segment::Ldtr,
    Segment::Gdtr,
    Segment::Idtr,
];

/// Bit 16 of the access rights: unusable.
const UNUSABLE: u64 = 1 << 16;

/// The access rights of these attributes (table 25-2): bits 11:8 move up by four.
pub const fn rights(attributes: u16) -> u64 {
    if attributes == 0 {
        return UNUSABLE;
    }
    (attributes as u64 & 0xff) | (attributes as u64 & 0xf00) << 4
}

/// The attributes of these access rights.
pub const fn attributes(rights: u64) -> u16 {
    if rights & UNUSABLE != 0 {
        return 0;
    }
    (rights & 0xff | rights >> 4 & 0xf00) as u16
}

const fn with_selector(selector: Field, base: Field, limit: Field, rights: Field) -> SegmentFields {
    SegmentFields { selector: Some(selector), base, limit, rights: Some(rights) }
}

const fn table(base: Field, limit: Field) -> SegmentFields {
    SegmentFields { selector: None, base, limit, rights: None }
}

#[inline(always)]
const fn fields(segment: Segment) -> SegmentFields {
    use field::*;
    match segment {
        Segment::Cs => with_selector(GUEST_CS_SELECTOR, GUEST_CS_BASE, GUEST_CS_LIMIT, GUEST_CS_RIGHTS),
        Segment::Ds => with_selector(GUEST_DS_SELECTOR, GUEST_DS_BASE, GUEST_DS_LIMIT, GUEST_DS_RIGHTS),
        Segment::Es => with_selector(GUEST_ES_SELECTOR, GUEST_ES_BASE, GUEST_ES_LIMIT, GUEST_ES_RIGHTS),
        Segment::Fs => with_selector(GUEST_FS_SELECTOR, GUEST_FS_BASE, GUEST_FS_LIMIT, GUEST_FS_RIGHTS),
        Segment::Gs => with_selector(GUEST_GS_SELECTOR, GUEST_GS_BASE, GUEST_GS_LIMIT, GUEST_GS_RIGHTS),
        Segment::Ss => with_selector(GUEST_SS_SELECTOR, GUEST_SS_BASE, GUEST_SS_LIMIT, GUEST_SS_RIGHTS),
        Segment::Tr => with_selector(GUEST_TR_SELECTOR, GUEST_TR_BASE, GUEST_TR_LIMIT, GUEST_TR_RIGHTS),
        Segment::Ldtr => {
            with_selector(GUEST_LDTR_SELECTOR, GUEST_LDTR_BASE, GUEST_LDTR_LIMIT, GUEST_LDTR_RIGHTS)
        }
        Segment::Gdtr => table(GUEST_GDTR_BASE, GUEST_GDTR_LIMIT),
        Segment::Idtr => table(GUEST_IDTR_BASE, GUEST_IDTR_LIMIT),
    }
}

/// Reads a register from the current control structure.
pub fn read(segment: Segment) -> SegmentState {
    let fields = fields(segment);
    SegmentState {
        selector: fields.selector.map_or(0, |field| instr::read(field) as u16),
        attributes: fields.rights.map_or(0, |field| attributes(instr::read(field))),
        limit: instr::read(fields.limit) as u32,
        base: instr::read(fields.base),
    }
}

/// The privilege level that the current control structure says: that of the stack segment (section 25.4.1).
pub fn privilege_level() -> u8 {
    (instr::read(field::GUEST_SS_RIGHTS) >> 5 & 3) as u8
}

/// Whether the current control structure's code segment is one of 64-bit code (table 25-2: bit 13).
pub fn is_64_bit() -> bool {
    instr::read(field::GUEST_CS_RIGHTS) & 1 << 13 != 0
}

/// Writes a register to the current control structure.
pub fn write(segment: Segment, state: SegmentState) {
    let fields = fields(segment);
    if let Some(field) = fields.selector {
        instr::write(field, state.selector.into());
    }
    if let Some(field) = fields.rights {
        // VM entry wants a TR that is busy and usable (section 27.3.1.2).
        let attributes = if matches!(segment, Segment::Tr) { state.attributes | 2 } else { state.attributes };
        instr::write(field, rights(attributes));
    }
    instr::write(fields.limit, state.limit.into());
    instr::write(fields.base, state.base);
}

/// A register after INIT (Intel SDM volume 3, table 10-1).
pub const fn at_reset(segment: Segment) -> SegmentState {
    let (selector, attributes, base) = match segment {
        Segment::Cs => (0xf000, 0x9b, 0xffff_0000),
        Segment::Tr => (0, 0x8b, 0),
        Segment::Ldtr => (0, 0x82, 0),
        Segment::Gdtr | Segment::Idtr => (0, 0, 0),
        _ => (0, 0x93, 0),
    };
    SegmentState { selector, attributes, limit: 0xffff, base }
}
