use super::*;
use crate::transport::{Transport, Words};
use core::cell::Cell;

#[test]
fn every_row_is_found_by_its_number() {
    for (index, row) in ROWS.iter().enumerate() {
        assert_eq!(row.call as usize, index, "{}", row.name);
        assert_eq!(Call::from_index(index), Some(row.call));
        match row.sub {
            Some(sub) => assert_eq!(Call::decode(row.number, sub), Some(row.call), "{}", row.name),
            None => {
                for first in [0, 1, 63, 64, u64::MAX] {
                    assert_eq!(Call::decode(row.number, first), Some(row.call), "{}", row.name);
                }
            }
        }
    }
}

#[test]
fn what_is_not_in_the_table_is_not_found() {
    let mut found = 0;
    for number in 0..256 {
        for sub in 0..256 {
            found += usize::from(Call::decode(number, sub).is_some_and(|call| call.row().sub.is_some()));
        }
    }
    assert_eq!(found, ROWS.iter().filter(|row| row.sub.is_some()).count());
    for wild in [64, 1 << 32, (1 << 32) | number::EVENT_CHANNEL_OP, u64::MAX] {
        assert_eq!(Call::decode(wild, 4), None);
        assert_eq!(Call::decode(number::EVENT_CHANNEL_OP, wild), None);
    }
}

#[test]
fn names_are_unique_and_rows_documented() {
    for row in ROWS {
        assert_eq!(ROWS.iter().filter(|other| other.name == row.name).count(), 1, "{}", row.name);
        assert!(row.doc.iter().any(|line| line.trim_end().ends_with('.')), "{}", row.name);
    }
}

/// Remembers a call and answers with a number.
struct Recorder {
    answer: i64,
    seen: Cell<(u64, Words)>,
}

impl Transport for Recorder {
    fn call(&self, number: u64, args: &Words) -> i64 {
        self.seen.set((number, *args));
        self.answer
    }
}

#[test]
fn stubs_fill_the_registers_that_the_table_says() {
    let recorder = Recorder { answer: 3, seen: Cell::default() };
    let send = crate::event::Send { port: crate::Port::new(9) };
    assert_eq!(stub::evtchn_send(&recorder, &send), Ok(3));
    let address = core::ptr::from_ref(&send).addr() as u64;
    assert_eq!(recorder.seen.get(), (32, [4, address, 0, 0, 0]));

    let mut copies = [crate::grant::Copy::default(); 7];
    stub::grant_copy(&recorder, &mut copies).unwrap();
    assert_eq!(recorder.seen.get(), (20, [5, copies.as_ptr().addr() as u64, 7, 0, 0]));

    stub::console_write(&recorder, b"hello").unwrap();
    let (number, words) = recorder.seen.get();
    assert_eq!((number, words[0], words[1]), (18, 0, 5));

    stub::set_timer(&recorder, 77).unwrap();
    assert_eq!(recorder.seen.get(), (15, [77, 0, 0, 0, 0]));

    let mut info = crate::control::VcpuState::default();
    stub::control_vcpu_info(&recorder, crate::DomainId::new(3), crate::VcpuId::new(1), &mut info).unwrap();
    assert_eq!(recorder.seen.get().1[..3], [7, 3, 1]);
}

#[test]
fn stubs_turn_negative_results_into_errors() {
    let recorder = Recorder { answer: -22, seen: Cell::default() };
    assert_eq!(stub::sched_yield(&recorder), Err(Errno::EINVAL));
    assert_eq!(Errno::from_return(-4095).unwrap_err().code(), 4095);
    assert_eq!(Errno::from_return(-4096), Ok(-4096i64 as u64));
    assert_eq!(Errno::from_return(i64::MIN), Ok(i64::MIN as u64));
    assert_eq!(Errno::from_return(-38).unwrap_err().name(), Some("ENOSYS"));
}
