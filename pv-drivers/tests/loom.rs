//! The two ends of a ring on two processors, in every order that the memory model allows; and what the guest kernel's
//! tasks wait for and are woken by.
//!
//! What is shown: a message is never seen before its bytes are there, and an end that went to sleep is told of
//! every message that was sent after its last look. A task that waits for a signal is woken by every change it has not
//! seen, and polled after every wake. `RUSTFLAGS="--cfg loom" cargo test --release --test loom`.
#![cfg(loom)]

extern crate alloc;

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

/// What the guest kernel's files below need of it.
mod sync {
    pub struct IrqMutex<T>(loom::sync::Mutex<T>);

    impl<T> IrqMutex<T> {
        pub fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }
        pub fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }
    }
}

#[path = "../../pv-guest-kernel/src/task/signal.rs"]
#[allow(dead_code)]
mod signal;

#[path = "../../pv-guest-kernel/src/task/state.rs"]
#[allow(dead_code)]
mod state;

use signal::Signal;
use state::State;
use std::task::{Context, Wake, Waker};

/// Notes that it was woken.
#[derive(Default)]
struct Bell(std::sync::atomic::AtomicBool);

impl Bell {
    fn take(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}

impl Wake for Bell {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Raises a signal on another processor, each time after a change of what it tells of.
fn raiser(signal: &Arc<Signal>, value: &Arc<AtomicU32>, times: u32) -> thread::JoinHandle<()> {
    let (signal, value) = (signal.clone(), value.clone());
    thread::spawn(move || {
        for _ in 0..times {
            value.fetch_add(1, Ordering::Relaxed);
            signal.raise();
        }
    })
}

#[test]
fn a_task_that_waits_for_a_signal_is_woken() {
    loom::model(|| {
        let (signal, value) = (Arc::new(Signal::new()), Arc::new(AtomicU32::new(0)));
        let raiser = raiser(&signal, &value, 2);
        let bell = std::sync::Arc::new(Bell::default());
        let waker = Waker::from(bell.clone());
        let (mut seen, mut last) = (0, 0);
        while signal.poll_changed(&mut seen, &mut Context::from_waker(&waker)).is_ready() {
            last = value.load(Ordering::Relaxed);
        }
        raiser.join().unwrap();
        // It waits since it saw `last` changes: of any later one it must have been told.
        assert!(last == 2 || bell.take(), "asleep with {last} of 2 changes");
    });
}

#[test]
fn a_task_in_the_place_of_another_is_woken() {
    loom::model(|| {
        let (signal, value) = (Arc::new(Signal::new()), Arc::new(AtomicU32::new(0)));
        let other = std::sync::Arc::new(Bell::default());
        let waker = Waker::from(other.clone());
        assert!(signal.poll_changed(&mut 0, &mut Context::from_waker(&waker)).is_pending());
        signal.raise();
        assert!(other.take());
        let raiser = raiser(&signal, &value, 1);
        let bell = std::sync::Arc::new(Bell::default());
        let waker = Waker::from(bell.clone());
        let (mut seen, mut last) = (1, 0);
        while signal.poll_changed(&mut seen, &mut Context::from_waker(&waker)).is_ready() {
            last = value.load(Ordering::Relaxed);
        }
        raiser.join().unwrap();
        assert!(last == 1 || bell.take(), "asleep");
        assert!(!other.take(), "woken by a change that it did not wait for");
    });
}

/// A task's poll sees what was done before it was woken, however wakes and polls meet; and nobody else polls it.
#[test]
fn a_task_is_polled_after_each_wake() {
    loom::model(|| {
        let state = Arc::new(State::new());
        let value = Arc::new(AtomicU32::new(0));
        // How often it is in the queue.
        let queue = Arc::new(AtomicU32::new(1));
        let waker = {
            let (state, value, queue) = (state.clone(), value.clone(), queue.clone());
            thread::spawn(move || {
                for _ in 0..2 {
                    value.fetch_add(1, Ordering::Relaxed);
                    if state.wake() {
                        assert_eq!(queue.fetch_add(1, Ordering::AcqRel), 0, "twice in the queue");
                    }
                }
            })
        };
        let mut last = 0;
        let mut serve = || {
            while queue.load(Ordering::Acquire) > 0 {
                queue.fetch_sub(1, Ordering::AcqRel);
                state.begin();
                last = value.load(Ordering::Relaxed);
                if state.end() {
                    assert_eq!(queue.fetch_add(1, Ordering::AcqRel), 0, "twice in the queue");
                }
            }
            last
        };
        serve();
        waker.join().unwrap();
        assert_eq!(serve(), 2, "a wake was lost");
    });
}
