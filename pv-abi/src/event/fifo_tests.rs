use super::*;
use std::boxed::Box;
use std::vec::Vec;

/// The hypervisor's side, for one vCPU: keeps the tails and links ports as the header describes.
#[derive(Default)]
struct Producer {
    tail: [u32; QUEUES],
}

impl Producer {
    fn send(&mut self, port: u32, queue: usize, control: &LiveControlBlock, array: &EventArray) {
        let word = array.word(port).unwrap();
        let old = word.fetch_or(PENDING, Ordering::SeqCst);
        if old & (MASKED | LINKED) == 0 {
            self.link(port, queue, control, array);
        }
    }

    fn unmask(&mut self, port: u32, queue: usize, control: &LiveControlBlock, array: &EventArray) {
        let old = array.word(port).unwrap().fetch_and(!MASKED, Ordering::SeqCst);
        if old & (PENDING | LINKED) == PENDING {
            self.link(port, queue, control, array);
        }
    }

    fn link(&mut self, port: u32, queue: usize, control: &LiveControlBlock, array: &EventArray) {
        array.word(port).unwrap().fetch_or(LINKED, Ordering::SeqCst);
        let tail = self.tail[queue];
        let mut linked = false;
        if tail != 0 && tail != port {
            let word = array.word(tail).unwrap();
            let old = word.load(Ordering::SeqCst);
            if old & LINKED != 0 {
                word.store((old & !LINK_MASK) | port, Ordering::SeqCst);
                linked = true;
            }
        }
        if !linked {
            control.head[queue].store(port, Ordering::SeqCst);
        }
        self.tail[queue] = port;
        control.ready.fetch_or(1 << queue, Ordering::SeqCst);
    }
}

fn machine() -> (LiveControlBlock, EventArray) {
    let array = EventArray::new();
    array.push(Box::leak(Box::new(EventPage::new()))).unwrap();
    (LiveControlBlock::default(), array)
}

fn drain(consumer: &mut Consumer, control: &LiveControlBlock, array: &EventArray) -> Vec<u32> {
    core::iter::from_fn(|| consumer.next(control, array)).map(Port::raw).collect()
}

#[test]
fn events_come_in_order_of_priority_then_of_arrival() {
    let (control, array) = machine();
    let (mut producer, mut consumer) = (Producer::default(), Consumer::new());
    for (port, queue) in [(5, 7), (6, 7), (9, 3), (7, 7), (2, 15), (1, 0)] {
        producer.send(port, queue, &control, &array);
    }
    producer.send(6, 7, &control, &array); // pending already: once is enough
    assert!(control.is_ready());
    assert_eq!(drain(&mut consumer, &control, &array), [1, 9, 5, 6, 7, 2]);
    assert!(!control.is_ready());
    assert_eq!(drain(&mut consumer, &control, &array), []);
}

#[test]
fn an_urgent_event_overtakes_a_queue_that_is_being_read() {
    let (control, array) = machine();
    let (mut producer, mut consumer) = (Producer::default(), Consumer::new());
    producer.send(10, 7, &control, &array);
    producer.send(11, 7, &control, &array);
    assert_eq!(consumer.next(&control, &array), Some(Port::new(10)));
    producer.send(12, 0, &control, &array);
    producer.send(13, 7, &control, &array);
    assert_eq!(drain(&mut consumer, &control, &array), [12, 11, 13]);
}

#[test]
fn a_masked_event_waits_for_its_unmasking() {
    let (control, array) = machine();
    let (mut producer, mut consumer) = (Producer::default(), Consumer::new());
    array.mask(Port::new(4));
    assert!(array.is_masked(Port::new(4)));
    producer.send(4, 7, &control, &array);
    assert_eq!(drain(&mut consumer, &control, &array), []);
    assert_eq!(array.unmask(Port::new(4)), Unmasked::Pending);
    producer.unmask(4, 7, &control, &array);
    assert_eq!(drain(&mut consumer, &control, &array), [4]);
    array.mask(Port::new(4));
    assert_eq!(array.unmask(Port::new(4)), Unmasked::Done);
    // Masked while it is queued already: it leaves the queue undelivered and stays pending.
    producer.send(4, 7, &control, &array);
    array.mask(Port::new(4));
    assert_eq!(drain(&mut consumer, &control, &array), []);
    assert!(array.is_pending(Port::new(4)));
    producer.unmask(4, 7, &control, &array);
    assert_eq!(drain(&mut consumer, &control, &array), [4]);
}

#[test]
fn nonsense_from_the_other_side_ends_the_queue_and_nothing_else() {
    let (control, array) = machine();
    let mut consumer = Consumer::new();
    control.head[3].store(PORTS - 1, Ordering::SeqCst); // no page there
    control.head[4].store(u32::MAX, Ordering::SeqCst); // no such port
    control.ready.store(u32::MAX, Ordering::SeqCst);
    assert_eq!(drain(&mut consumer, &control, &array), []);
    // A queue that links to itself: every port is delivered at most once.
    array.word(8).unwrap().store(PENDING | LINKED | 8, Ordering::SeqCst);
    control.head[7].store(8, Ordering::SeqCst);
    control.ready.store(1 << 7, Ordering::SeqCst);
    assert_eq!(consumer.next(&control, &array), Some(Port::new(8)));
    assert_eq!(consumer.next(&control, &array), None);
}

#[test]
fn the_array_grows_to_its_full_size() {
    let array = EventArray::new();
    assert_eq!(array.capacity(), 0);
    array.mask(Port::new(1)); // without a page nothing happens
    assert!(!array.is_masked(Port::new(1)));
    let page: &'static EventPage = Box::leak(Box::new(EventPage::new()));
    for count in 1..=MAX_PAGES {
        array.push(page).unwrap();
        assert_eq!(array.capacity() as usize, count * WORDS_PER_PAGE);
    }
    assert!(array.push(page).is_err());
    assert_eq!(array.capacity(), PORTS);
}
