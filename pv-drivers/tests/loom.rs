//! The two ends of a ring on two processors, in every order that the memory model allows.
//!
//! What is shown: a message is never seen before its bytes are there, and an end that went to sleep is told of
//! every message that was sent after its last look. `RUSTFLAGS="--cfg loom" cargo test --release --test loom`.
#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use loom::thread;
use pv_abi::errno::Errno;
use pv_abi::ids::{DomainId, Gfn, GrantRef, Port};
use pv_drivers::platform::{Access, BusAddress, GrantCopy, Nanos, Platform, SharedMemory};
use pv_drivers::ring::{BackRing, FrontRing};

/// Slots so large that few fit: the model stays small.
const SLOT: usize = 1400;
/// The words of a page that are used at all.
const INDICES: usize = 4;
const SLOTS: usize = 2;

/// The four indices, and one word for each slot.
#[derive(Clone)]
struct Page {
    words: Arc<Vec<AtomicU32>>,
}

impl Page {
    fn new() -> Self {
        Self { words: Arc::new((0..INDICES + SLOTS).map(|_| AtomicU32::new(0)).collect()) }
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        if offset < 16 { &self.words[offset / 4] } else { &self.words[INDICES + (offset - 64) / SLOT] }
    }
}

impl SharedMemory for Page {
    fn pages(&self) -> usize {
        1
    }
    fn read_u8(&self, _: usize) -> u8 {
        unreachable!()
    }
    fn read_u16(&self, _: usize) -> u16 {
        unreachable!()
    }
    fn read_u32(&self, offset: usize) -> u32 {
        self.word(offset).load(Ordering::Acquire)
    }
    fn read_u64(&self, _: usize) -> u64 {
        unreachable!()
    }
    fn write_u8(&self, _: usize, _: u8) {
        unreachable!()
    }
    fn write_u16(&self, _: usize, _: u16) {
        unreachable!()
    }
    fn write_u32(&self, offset: usize, value: u32) {
        self.word(offset).store(value, Ordering::Release);
    }
    fn write_u64(&self, _: usize, _: u64) {
        unreachable!()
    }
    fn copy_out(&self, offset: usize, to: &mut [u8]) {
        to.copy_from_slice(&self.word(offset).load(Ordering::Relaxed).to_le_bytes());
    }
    fn copy_in(&self, offset: usize, from: &[u8]) {
        self.word(offset).store(u32::from_le_bytes(from.try_into().unwrap()), Ordering::Relaxed);
    }
    fn copy_to(&self, _: usize, _: &Self, _: usize, _: usize) {
        unreachable!()
    }
    fn zero(&self, _: usize, _: usize) {
        unreachable!()
    }
    fn gfn(&self, _: usize) -> Gfn {
        unreachable!()
    }
    fn bus_address(&self, _: usize) -> Option<BusAddress> {
        None
    }
}

/// A platform that has one page.
#[derive(Clone)]
struct OnePage(Page);

impl Platform for OnePage {
    type Memory = Page;
    fn allocate(&self, _: usize) -> Result<Page, Errno> {
        Ok(self.0.clone())
    }
    fn retire(&self, _: Page, _: Vec<GrantRef>) {}
    fn grant(&self, _: DomainId, _: &Page, _: usize, _: Access) -> Result<GrantRef, Errno> {
        Ok(GrantRef::new(8))
    }
    fn ungrant(&self, _: GrantRef) -> Result<(), Errno> {
        Ok(())
    }
    fn map(&self, _: DomainId, _: &[GrantRef], _: Access) -> Result<Page, Errno> {
        Ok(self.0.clone())
    }
    fn map_each(&self, _: DomainId, _: &[GrantRef], _: Access) -> Vec<Result<Page, Errno>> {
        unreachable!()
    }
    fn unmap(&self, _: Vec<Page>) {}
    fn grant_copy(&self, _: &mut [GrantCopy]) {
        unreachable!()
    }
    fn alloc_unbound(&self, _: DomainId) -> Result<Port, Errno> {
        unreachable!()
    }
    fn bind_interdomain(&self, _: DomainId, _: Port) -> Result<Port, Errno> {
        unreachable!()
    }
    fn notify(&self, _: Port) {}
    fn unmask(&self, _: Port) {}
    fn close(&self, _: Port) {}
    fn now(&self) -> Nanos {
        Nanos::new(0)
    }
}

fn ends() -> (FrontRing<OnePage>, BackRing<Page>) {
    let page = Page::new();
    let front = FrontRing::new(&OnePage(page.clone()), DomainId::DOM0, 1, SLOT).unwrap();
    (front, BackRing::new(page, SLOT).unwrap())
}

/// Takes what is there until the ring is armed and empty.
fn serve(back: &mut BackRing<Page>) -> Vec<u32> {
    let mut taken = Vec::new();
    loop {
        while let Some(request) = back.pop::<u32>().unwrap() {
            taken.push(request);
        }
        if !back.arm(1).unwrap() {
            return taken;
        }
    }
}

#[test]
fn a_back_end_that_sleeps_is_told_of_every_request() {
    loom::model(|| {
        let (mut front, mut back) = ends();
        let event = Arc::new(AtomicBool::new(false));
        let bell = event.clone();
        let sender = thread::spawn(move || {
            for value in [11u32, 22] {
                front.push(&value).unwrap();
                if front.publish() {
                    bell.store(true, Ordering::SeqCst);
                }
            }
        });
        let mut taken = serve(&mut back);
        sender.join().unwrap();
        // Asleep now: what is missing must have rung the bell.
        if taken.len() < 2 {
            assert!(event.load(Ordering::SeqCst), "asleep with {} of 2 requests", taken.len());
            taken.extend(serve(&mut back));
        }
        assert_eq!(taken, [11, 22]);
    });
}

/// A front end with two requests in its ring; a back end on another processor answers them, each with the next number.
/// Also returns whether the back end has sent an event.
fn asked() -> (FrontRing<OnePage>, Arc<AtomicBool>, thread::JoinHandle<()>) {
    let (mut front, mut back) = ends();
    for value in [11u32, 22] {
        front.push(&value).unwrap();
    }
    let _ = front.publish();
    let event = Arc::new(AtomicBool::new(false));
    let bell = event.clone();
    let server = thread::spawn(move || {
        while let Some(request) = back.pop::<u32>().unwrap() {
            back.push(&(request + 1)).unwrap();
            if back.publish() {
                bell.store(true, Ordering::SeqCst);
            }
        }
    });
    (front, event, server)
}

#[test]
fn a_front_end_that_sleeps_is_told_of_every_response() {
    loom::model(|| {
        let (mut front, event, server) = asked();
        let mut taken = Vec::new();
        let mut serve = || {
            loop {
                while let Some((_, response)) = front.pop::<u32>().unwrap() {
                    taken.push(response);
                }
                if !front.arm(1).unwrap() {
                    return taken.len();
                }
            }
        };
        let count = serve();
        server.join().unwrap();
        if count < 2 {
            assert!(event.load(Ordering::SeqCst), "asleep with {count} of 2 responses");
            serve();
        }
        assert_eq!(taken, [12, 23]);
    });
}

/// An event that was asked for after two responses comes, whatever the order of the look and the answers.
#[test]
fn an_event_for_two_responses_comes() {
    loom::model(|| {
        let (mut front, event, server) = asked();
        let is_complete = front.arm(2).unwrap();
        server.join().unwrap();
        assert!(is_complete || event.load(Ordering::SeqCst), "asleep with two responses");
        assert_eq!(front.pending(), Ok(2));
    });
}
