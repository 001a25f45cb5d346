use std::collections::VecDeque;
use std::vec::Vec;

use proptest::prelude::*;
use pv_abi::io::ring::{REQ_PROD, RSP_PROD};

use super::*;
use crate::mock::{Domain, Machine, Memory};
use crate::platform::{Access, Platform, SharedMemory};

type Slot = [u8; 12];

fn pair(pages: usize, slot: usize) -> (FrontRing<Domain>, BackRing<Memory>, Domain) {
    let machine = Machine::new();
    let (front, back) = (machine.domain(1), machine.domain(0));
    let ring = FrontRing::new(&front, back.id, pages, slot).unwrap();
    let pages = back.map(front.id, ring.grants(), Access::ReadWrite).unwrap();
    (ring, BackRing::new(pages, slot).unwrap(), back)
}

fn slot(number: u64) -> Slot {
    let mut slot = [0; 12];
    slot[..8].copy_from_slice(&number.to_le_bytes());
    slot
}

#[test]
fn an_event_is_sent_for_the_first_request_and_not_again_until_armed() {
    let (mut front, mut back, _) = pair(1, 12);
    front.push(&slot(1)).unwrap();
    assert!(front.publish());
    front.push(&slot(2)).unwrap();
    assert!(!front.publish());
    assert!(!front.publish());
    assert_eq!(back.pop::<Slot>().unwrap(), Some(slot(1)));
    assert!(back.arm(1).unwrap());
    assert_eq!(back.pop::<Slot>().unwrap(), Some(slot(2)));
    assert!(!back.arm(1).unwrap());
    front.push(&slot(3)).unwrap();
    assert!(front.publish());
}

#[test]
fn an_event_for_several_responses_comes_with_the_last_of_them() {
    let (mut front, mut back, _) = pair(1, 12);
    for n in 0..4 {
        front.push(&slot(n)).unwrap();
    }
    let _ = front.publish();
    assert!(!front.arm(3).unwrap());
    let mut events = Vec::new();
    while let Some(request) = back.pop::<Slot>().unwrap() {
        back.push(&request).unwrap();
        events.push(back.publish());
    }
    assert_eq!(events, [false, false, true, false]);
    // More than is owed is cut down to what is owed.
    while front.pop::<Slot>().unwrap().is_some() {}
    front.push(&slot(9)).unwrap();
    let _ = front.publish();
    assert!(!front.arm(100).unwrap());
    let request = back.pop::<Slot>().unwrap().unwrap();
    back.push(&request).unwrap();
    assert!(back.publish());
}

#[test]
fn a_full_ring_refuses() {
    let (mut front, mut back, _) = pair(1, 12);
    for n in 0..256 {
        front.push(&slot(n)).unwrap();
    }
    assert_eq!(front.push(&slot(256)), Err(RingFull));
    assert_eq!(back.push(&slot(0)), Err(RingFull));
    let _ = front.publish();
    assert_eq!(back.pending(), Ok(256));
}

#[test]
fn runaway_indices_are_faults() {
    let (mut front, mut back, dom0) = pair(1, 12);
    let page = dom0.map(pv_abi::ids::DomainId::new(1), front.grants(), Access::ReadWrite).unwrap();
    page.write_u32(REQ_PROD, 257);
    assert_eq!(back.pop::<Slot>(), Err(RingFault::ProducerRunaway { claimed: 257, possible: 256 }));
    page.write_u32(REQ_PROD, u32::MAX);
    assert!(back.pop::<Slot>().is_err());
    // A response to a request that was never made.
    page.write_u32(RSP_PROD, 1);
    assert_eq!(front.pop::<Slot>(), Err(RingFault::ProducerRunaway { claimed: 1, possible: 0 }));
    // Requests may not be put over those without an answer.
    page.write_u32(REQ_PROD, 256);
    for _ in 0..256 {
        back.pop::<Slot>().unwrap().unwrap();
    }
    page.write_u32(REQ_PROD, 257);
    assert_eq!(back.pop::<Slot>(), Err(RingFault::ProducerRunaway { claimed: 1, possible: 0 }));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Any order of operations on both halves moves every message once and in order, and an armed half always hears
    /// of new messages.
    #[test]
    fn halves_agree_with_queues(operations in prop::collection::vec(0..6u8, 1..400)) {
        let (mut front, mut back, _) = pair(1, 1000);
        let (mut requests, mut answers) = (VecDeque::new(), VecDeque::new());
        let (mut next, mut back_asleep, mut front_asleep) = (0u64, true, true);
        let mut unanswered = VecDeque::new();
        let mut unpublished = 0;
        for operation in operations {
            match operation {
                0 => {
                    if front.push(&slot(next)).is_ok() {
                        requests.push_back(next);
                        unpublished += 1;
                        next += 1;
                    } else {
                        prop_assert_eq!(front.free(), 0);
                    }
                }
                1 => {
                    let event = front.publish();
                    if back_asleep && unpublished > 0 {
                        prop_assert!(event);
                        back_asleep = false;
                    }
                    unpublished = 0;
                }
                2 => {
                    let visible = requests.len() - unpublished;
                    let got = back.pop::<Slot>().unwrap();
                    prop_assert_eq!(got.is_some(), visible > 0);
                    if let Some(got) = got {
                        prop_assert_eq!(got, slot(requests.pop_front().unwrap()));
                        unanswered.push_back(got);
                    }
                }
                3 => {
                    if let Some(request) = unanswered.pop_front() {
                        back.push(&request).unwrap();
                        answers.push_back(request);
                        let event = back.publish();
                        if front_asleep {
                            prop_assert!(event);
                            front_asleep = false;
                        }
                    }
                }
                4 => {
                    let got = front.pop::<Slot>().unwrap().map(|(_, response)| response);
                    prop_assert_eq!(got, answers.pop_front());
                }
                _ => {
                    back_asleep = !back.arm(1).unwrap();
                    front_asleep = !front.arm(1).unwrap();
                }
            }
        }
    }

    /// A byte stream delivers what was written, in order, whatever the sizes.
    #[test]
    fn streams_deliver_in_order(sizes in prop::collection::vec((0..1500usize, 0..1500usize), 1..60)) {
        let machine = Machine::new();
        let dom0 = machine.domain(0);
        let page = dom0.allocate(1).unwrap();
        let mut writer = StreamWriter::attach(StreamLayout::STORE_REQ, &page);
        let mut reader = StreamReader::attach(StreamLayout::STORE_REQ, &page);
        let (mut next, mut expected) = (0u8, VecDeque::new());
        for (write, read) in sizes {
            let bytes: Vec<u8> = (0..write).map(|i| next.wrapping_add(i as u8)).collect();
            let count = writer.write(&page, &bytes).unwrap();
            prop_assert_eq!(count, write.min(1024 - expected.len()));
            next = next.wrapping_add(count as u8);
            expected.extend(&bytes[..count]);
            let mut got = std::vec![0; read];
            let count = reader.read(&page, &mut got).unwrap();
            let wanted: Vec<u8> = expected.drain(..count).collect();
            prop_assert_eq!(&got[..count], &wanted[..]);
        }
    }
}

#[test]
fn runaway_streams_are_faults() {
    let machine = Machine::new();
    let page = machine.domain(0).allocate(1).unwrap();
    let mut writer = StreamWriter::attach(StreamLayout::CONSOLE_OUT, &page);
    let mut reader = StreamReader::attach(StreamLayout::CONSOLE_IN, &page);
    page.write_u32(pv_abi::io::console::OUT_CONS, 1);
    assert!(writer.write(&page, b"x").is_err());
    page.write_u32(pv_abi::io::console::IN_PROD, 1025);
    assert!(reader.read(&page, &mut [0; 8]).is_err());
    page.write_u32(pv_abi::io::console::IN_PROD, 1024);
    assert_eq!(reader.read(&page, &mut [0; 8]), Ok(8));
}
