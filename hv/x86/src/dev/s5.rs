//! Finds the values that power the machine off: the package `\_S5` in the bytes of the DSDT.
//!
//! Its encoding is fixed enough to be read without an interpreter (ACPI 6.5, sections 7.4.2 and 20.2): the
//! name `_S5_`, a package, and in it the values for SLP_TYP of the two power-management control registers,
//! each a byte constant, zero or one.

/// The values of SLP_TYPa and SLP_TYPb for the state S5.
pub fn sleep_types(aml: &[u8]) -> Option<(u8, u8)> {
    const PACKAGE: u8 = 0x12;
    for at in aml.windows(4).enumerate().filter(|(_, window)| window == b"_S5_").map(|(at, _)| at) {
        let Some((&PACKAGE, rest)) = aml.get(at + 4..).and_then(|rest| rest.split_first()) else {
            continue;
        };
        // The upper two bits of the first byte of a package's length count the bytes that follow it.
        let length_bytes = usize::from(*rest.first()? >> 6) + 1;
        let (count, elements) = rest.get(length_bytes..)?.split_first()?;
        if *count < 1 {
            continue;
        }
        let (first, elements) = integer(elements)?;
        let second = integer(elements).map_or(first, |(second, _)| second);
        return Some((first & 7, second & 7));
    }
    None
}

/// Reads an integer constant: ZeroOp, OneOp, or BytePrefix and a byte (section 20.2.3).
fn integer(bytes: &[u8]) -> Option<(u8, &[u8])> {
    match bytes {
        [value @ (0 | 1), rest @ ..] => Some((*value, rest)),
        [0x0a, value, rest @ ..] => Some((*value, rest)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::sleep_types;

    #[test]
    fn reads_the_two_usual_encodings() {
        // QEMU's: Name (_S5_, Package (4) { Zero, Zero, Zero, Zero }).
        assert_eq!(sleep_types(b"\x08_S5_\x12\x06\x04\x00\x00\x00\x00"), Some((0, 0)));
        // With byte constants: Package (4) { 0x05, 0x05, Zero, Zero }.
        assert_eq!(sleep_types(b"junk\x08_S5_\x12\x08\x04\x0a\x05\x0a\x05\x00\x00"), Some((5, 5)));
    }

    #[test]
    fn skips_other_uses_of_the_name_and_does_not_run_over_the_end() {
        assert_eq!(sleep_types(b"_S5_\x08_S5_\x12\x08\x04\x0a\x07\x01\x00\x00"), Some((7, 1)));
        assert_eq!(sleep_types(b"\x08_S5_\x12"), None);
        assert_eq!(sleep_types(b"\x08_S5_\x12\xc0"), None);
        assert_eq!(sleep_types(b"\x08_S5_\x12\x06\x04\x0a"), None);
        assert_eq!(sleep_types(b""), None);
    }
}
