//! The deadlines of those that sleep on one vCPU.
//!
//! Each sleeper has a place from its first wait to its end; moving its deadline is one store. There are few sleepers at a
//! time, and most of them are gone long before their time: so the places are in no order, and are looked through only
//! when the timer fires. A place keeps the waker of who had it last, which often is who has it next.

use alloc::vec::Vec;
use core::mem;
use core::task::Waker;

/// Later than every deadline.
pub const NEVER: u64 = u64::MAX;

/// The number of a sleeper's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(usize);

/// The deadlines, in nanoseconds of system time.
pub struct Deadlines {
    /// `NEVER` where nobody sleeps, or who slept was woken.
    times: Vec<u64>,
    wakers: Vec<Waker>,
    free: Vec<Place>,
    /// What the timer is set to, or `NEVER`.
    timer: u64,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self::new()
    }
}

impl Deadlines {
    /// Nobody sleeps.
    pub const fn new() -> Self {
        Self { times: Vec::new(), wakers: Vec::new(), free: Vec::new(), timer: NEVER }
    }

    /// Gives a new sleeper its place and sets its deadline. Also returns the waker that was there, to be dropped where no
    /// lock is held.
    pub fn add(&mut self, deadline: u64, waker: &Waker) -> (Place, Option<Waker>) {
        match self.free.pop() {
            Some(place) => (place, self.set(place, deadline, waker)),
            None => {
                let place = Place(self.times.len());
                self.times.push(deadline);
                self.wakers.push(waker.clone());
                // So that giving it back allocates nothing.
                self.free.reserve(self.times.len());
                (place, None)
            }
        }
    }

    /// Sets or moves a sleeper's deadline, and who is woken. Returns as [`add`](Self::add).
    pub fn set(&mut self, place: Place, deadline: u64, waker: &Waker) -> Option<Waker> {
        if let Some(time) = self.times.get_mut(place.0) {
            *time = deadline;
        }
        self.set_waker(place, waker)
    }

    /// Sets who is woken. Returns as [`add`](Self::add).
    #[inline]
    pub fn set_waker(&mut self, place: Place, waker: &Waker) -> Option<Waker> {
        let old = self.wakers.get_mut(place.0)?;
        if old.will_wake(waker) { None } else { Some(mem::replace(old, waker.clone())) }
    }

    /// Still sleeps: has a deadline, and was not woken.
    #[inline]
    pub fn is_set(&self, place: Place) -> bool {
        self.times.get(place.0).is_some_and(|&time| time != NEVER)
    }

    /// Takes a sleeper's place back.
    pub fn remove(&mut self, place: Place) {
        if let Some(time) = self.times.get_mut(place.0) {
            *time = NEVER;
            self.free.push(place);
        }
    }

    /// Whether the timer has to be set for this deadline, which it then is taken to be.
    #[inline]
    pub fn needs_timer(&mut self, deadline: u64) -> bool {
        let is_earlier = deadline < self.timer;
        if is_earlier {
            self.timer = deadline;
        }
        is_earlier
    }

    /// The timer fired: wakes whose time has come, and says what the timer has to be set to.
    pub fn expire(&mut self, now: u64) -> Option<u64> {
        self.timer = NEVER;
        for (time, waker) in self.times.iter_mut().zip(&self.wakers) {
            if *time <= now {
                *time = NEVER;
                waker.wake_by_ref();
            } else {
                self.timer = self.timer.min(*time);
            }
        }
        (self.timer != NEVER).then_some(self.timer)
    }
}
