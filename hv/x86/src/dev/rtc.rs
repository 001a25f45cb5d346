//! The real-time clock (MC146818): the date at boot.

/// Days from 1970-01-01 to a date of the Gregorian calendar (H. Hinnant, "chrono-compatible low-level date
/// algorithms").
const fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year - era * 400;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The clock's registers for the time and date: seconds, minutes, hours, day, month, year (of the century),
/// status B.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Registers {
    /// Seconds, minutes, hours, day of the month, month, year.
    pub fields: [u8; 6],
    /// Status register B: bit 1 is 24-hour mode, bit 2 binary mode.
    pub status_b: u8,
}

impl Registers {
    /// Seconds since 1970-01-01 00:00, if the clock's date makes sense. Years are 2000 to 2099.
    pub fn seconds(&self) -> Option<u64> {
        let binary = self.status_b & 4 != 0;
        let number = |raw: u8| i64::from(if binary { raw } else { (raw >> 4) * 10 + (raw & 0xf) });
        let [second, minute, hour, day, month, year] = self.fields;
        let afternoon = hour & 0x80 != 0;
        let mut hours = number(hour & 0x7f);
        if self.status_b & 2 == 0 {
            hours = hours % 12 + if afternoon { 12 } else { 0 };
        }
        let (month, day) = (number(month), number(day));
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hours > 23 {
            return None;
        }
        let days = days_from_civil(2000 + number(year), month, day);
        u64::try_from(((days * 24 + hours) * 60 + number(minute)) * 60 + number(second)).ok()
    }
}

/// Seconds since 1970-01-01 00:00 UTC as the clock tells; 0 if it makes no sense.
#[cfg(target_os = "none")]
pub fn seconds() -> u64 {
    use crate::cpu::io::{in8, out8};

    let read = |register: u8| {
        // SAFETY: nobody else drives the clock; bit 7 keeps NMIs enabled.
        unsafe {
            out8(0x70, register);
            in8(0x71)
        }
    };
    let sample = || Registers { fields: [0, 2, 4, 7, 8, 9].map(read), status_b: read(0xb) };
    // A reading is good if no update was in progress (status A, bit 7) and the next one is the same.
    for _ in 0..100_000 {
        if read(0xa) & 0x80 == 0 {
            let first = sample();
            if first == sample() {
                return first.seconds().unwrap_or(0);
            }
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_number_formats_and_both_clocks() {
        // `date -u -d '2026-11-21 15:04:05' +%s`.
        let expected = Some(1_795_273_445);
        let bcd = Registers { fields: [0x05, 0x04, 0x15, 0x21, 0x11, 0x26], status_b: 2 };
        assert_eq!(bcd.seconds(), expected);
        let binary = Registers { fields: [5, 4, 15, 21, 11, 26], status_b: 6 };
        assert_eq!(binary.seconds(), expected);
        let afternoon = Registers { fields: [0x05, 0x04, 0x83, 0x21, 0x11, 0x26], status_b: 0 };
        assert_eq!(afternoon.seconds(), expected);
    }

    #[test]
    fn midnight_and_noon_of_a_12_hour_clock() {
        let at = |hour| Registers { fields: [0, 0, hour, 1, 1, 0], status_b: 0 }.seconds();
        assert_eq!(at(0x12), Some(946_684_800));
        assert_eq!(at(0x92), Some(946_684_800 + 12 * 3600));
    }

    #[test]
    fn a_date_without_sense_is_refused() {
        assert_eq!(Registers { fields: [0, 0, 0, 0, 0, 0], status_b: 2 }.seconds(), None);
        assert_eq!(Registers { fields: [0xff; 6], status_b: 2 }.seconds(), None);
    }
}
