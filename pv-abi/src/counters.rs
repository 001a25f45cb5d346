//! Pages with the counters of Xenolith's virtual CPUs: read without leaving the guest.
//!
//! The hypervisor counts in these pages, one for each virtual CPU. A domain with the role `control` maps them, read-only,
//! by `control_counters`: they are numbered from 0 on without gaps, stay where they are for as long as the machine runs,
//! and are used again for another virtual CPU when theirs has ended, so [`CounterPage::owner`] says whose a page is now.
//!
//! Every counter is one aligned 64-bit word with one writer, the CPU that runs the virtual CPU: no reader sees a torn one,
//! and none goes backwards but for an exit that is counted anew under a better cause. Counters are not read at the same
//! moment as each other, unless nothing ran meanwhile: see [`CounterPage::entered`].

use crate::call::Call;
use crate::control::{CALL_SLOTS, EXIT_SLOTS, ExitCause, Statistics};
use crate::ids::{DomainId, VcpuId};
use core::mem::offset_of;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicU64, fence};
use static_assertions::const_assert_eq;

/// The layout of [`CounterPage`]: later versions change what is there, never only add.
pub const VERSION: u64 = 1;

/// A number that one CPU at a time counts up.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts `amount`. For the one writer: a load and a store without any bus lock.
    #[inline]
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(amount), Relaxed);
    }

    /// Replaces the number. For the one writer.
    #[inline]
    pub fn set(&self, number: u64) {
        self.0.store(number, Relaxed);
    }

    /// The number.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Room for further words.
const SPARE: usize = 512 - 8 - EXIT_SLOTS - CALL_SLOTS - 12;

/// The counters of one virtual CPU: a page, little-endian words of 64 bits. Ticks are those of the time-stamp counter.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct CounterPage {
    /// [`VERSION`] of this layout.
    pub version: Counter,
    /// Whose page it is, as [`Owner::pack`] has it; 0 while it is nobody's.
    owner: AtomicU64,
    /// When the virtual CPU came to the CPU where it is; 0 while it is on none.
    pub arrived: Counter,
    /// Its [`guest_ticks`](Self::guest_ticks) then.
    pub guest_before: Counter,
    /// When it entered the guest last. What a virtual CPU reads of its own domain and of others on the same CPU is of one
    /// moment if its own word here is the same before and after.
    pub entered: Counter,
    reserved: [u64; 3],
    /// Exits by [`ExitCause`].
    pub exits: [Counter; EXIT_SLOTS],
    /// Calls by their place in [`crate::ROWS`].
    pub hypercalls: [Counter; CALL_SLOTS],
    /// As in [`Statistics`], as all that follow.
    pub unknown_calls: Counter,
    /// Notifications sent.
    pub events_sent: Counter,
    /// Notifications that interrupted or woke a virtual CPU.
    pub events_delivered: Counter,
    /// Notifications to ports that were pending or masked already.
    pub events_suppressed: Counter,
    /// Bytes moved by grant copies.
    pub copied_bytes: Counter,
    /// Grant copies.
    pub copies: Counter,
    /// Pages mapped by grants.
    pub maps: Counter,
    /// Grant mappings ended.
    pub unmaps: Counter,
    /// Flushes of translations.
    pub flushes: Counter,
    /// Interrupts injected.
    pub injections: Counter,
    /// Ticks spent in guest mode, up to the last exit.
    pub guest_ticks: Counter,
    /// Ticks spent in the hypervisor on its behalf, up to when it last left a CPU.
    pub host_ticks: Counter,
    spare: [u64; SPARE],
}
const_assert_eq!(size_of::<CounterPage>(), crate::PAGE_SIZE);
const_assert_eq!(offset_of!(CounterPage, exits), 64);
// The counters lie as in `Statistics`.
const_assert_eq!(offset_of!(CounterPage, hypercalls) - 64, offset_of!(Statistics, hypercalls));
const_assert_eq!(offset_of!(CounterPage, unknown_calls) - 64, offset_of!(Statistics, unknown_calls));
const_assert_eq!(offset_of!(CounterPage, flushes) - 64, offset_of!(Statistics, flushes));
const_assert_eq!(offset_of!(CounterPage, host_ticks) - 64, offset_of!(Statistics, host_ticks));

impl Default for CounterPage {
    fn default() -> Self {
        Self {
            version: Counter(AtomicU64::new(VERSION)),
            owner: AtomicU64::new(0),
            arrived: Counter::default(),
            guest_before: Counter::default(),
            entered: Counter::default(),
            reserved: [0; 3],
            exits: [const { Counter(AtomicU64::new(0)) }; EXIT_SLOTS],
            hypercalls: [const { Counter(AtomicU64::new(0)) }; CALL_SLOTS],
            unknown_calls: Counter::default(),
            events_sent: Counter::default(),
            events_delivered: Counter::default(),
            events_suppressed: Counter::default(),
            copied_bytes: Counter::default(),
            copies: Counter::default(),
            maps: Counter::default(),
            unmaps: Counter::default(),
            flushes: Counter::default(),
            injections: Counter::default(),
            guest_ticks: Counter::default(),
            host_ticks: Counter::default(),
            spare: [0; SPARE],
        }
    }
}

/// Whose a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The domain.
    pub domain: DomainId,
    /// Its virtual CPU.
    pub vcpu: VcpuId,
    /// Told apart from those before, by a number that grows and is never 0.
    pub serial: u32,
}

impl Owner {
    /// As a word: the domain in bits 0 to 15, the virtual CPU in 16 to 31, the serial number above.
    pub const fn pack(self) -> u64 {
        self.domain.raw() as u64 | ((self.vcpu.raw() & 0xffff) as u64) << 16 | (self.serial as u64) << 32
    }

    /// From a word; `None` from 0.
    #[allow(clippy::cast_possible_truncation)] // fields of the word
    pub const fn unpack(word: u64) -> Option<Self> {
        if word >> 32 == 0 {
            return None;
        }
        Some(Self {
            domain: DomainId::new(word as u16),
            vcpu: VcpuId::new((word >> 16) as u32 & 0xffff),
            serial: (word >> 32) as u32,
        })
    }
}

impl CounterPage {
    /// Whose page it is now.
    pub fn owner(&self) -> Option<Owner> {
        Owner::unpack(self.owner.load(Acquire))
    }

    /// Gives the page to a virtual CPU, or to nobody. For the hypervisor: what the page says is zeroed first.
    pub fn set_owner(&self, owner: Option<Owner>) {
        self.owner.store(owner.map_or(0, Owner::pack), Release);
    }

    /// Sets everything but the owner to zero. For the hypervisor, while the page is nobody's.
    pub fn clear(&self) {
        [&self.arrived, &self.guest_before, &self.entered].into_iter().for_each(|word| word.set(0));
        self.exits.iter().chain(&self.hypercalls).chain(self.others()).for_each(|counter| counter.set(0));
    }

    /// The counters after the calls, in their order.
    fn others(&self) -> [&Counter; 12] {
        [
            &self.unknown_calls,
            &self.events_sent,
            &self.events_delivered,
            &self.events_suppressed,
            &self.copied_bytes,
            &self.copies,
            &self.maps,
            &self.unmaps,
            &self.flushes,
            &self.injections,
            &self.guest_ticks,
            &self.host_ticks,
        ]
    }

    /// Counts an exit. For the one writer.
    #[inline]
    pub fn count_exit(&self, cause: ExitCause) {
        if let Some(counter) = self.exits.get(cause as usize) {
            counter.add(1);
        }
    }

    /// Counts a hypercall. For the one writer.
    #[inline]
    pub fn count_call(&self, call: Call) {
        if let Some(counter) = self.hypercalls.get(call as usize) {
            counter.add(1);
        }
    }

    /// How many exits of this cause there were.
    pub fn exits_of(&self, cause: ExitCause) -> u64 {
        self.exits.get(cause as usize).map_or(0, Counter::get)
    }

    /// How often this call was made.
    pub fn calls_of(&self, call: Call) -> u64 {
        self.hypercalls.get(call as usize).map_or(0, Counter::get)
    }

    /// Ticks in the hypervisor up to `now`, for a virtual CPU that has not been in the guest since its last exit; up to
    /// when it last entered the guest if `now` is [`entered`](Self::entered).
    pub fn host_ticks_until(&self, now: u64) -> u64 {
        let stay = match self.arrived.get() {
            0 => 0,
            arrived => {
                let in_guest = self.guest_ticks.get().wrapping_sub(self.guest_before.get());
                now.saturating_sub(arrived).saturating_sub(in_guest)
            }
        };
        self.host_ticks.get().wrapping_add(stay)
    }

    /// Adds the counters to `sum`, with the hypervisor's ticks up to `now`, as in
    /// [`host_ticks_until`](Self::host_ticks_until).
    pub fn add_to(&self, sum: &mut Statistics, now: u64) {
        for (to, from) in sum.exits.iter_mut().zip(&self.exits) {
            *to = to.wrapping_add(from.get());
        }
        for (to, from) in sum.hypercalls.iter_mut().zip(&self.hypercalls) {
            *to = to.wrapping_add(from.get());
        }
        let [others @ .., _] = self.others();
        for (to, from) in [
            &mut sum.unknown_calls,
            &mut sum.events_sent,
            &mut sum.events_delivered,
            &mut sum.events_suppressed,
            &mut sum.copied_bytes,
            &mut sum.copies,
            &mut sum.maps,
            &mut sum.unmaps,
            &mut sum.flushes,
            &mut sum.injections,
            &mut sum.guest_ticks,
        ]
        .into_iter()
        .zip(others)
        {
            *to = to.wrapping_add(from.get());
        }
        sum.host_ticks = sum.host_ticks.wrapping_add(self.host_ticks_until(now));
    }

    /// As [`add_to`](Self::add_to) up to the last entry into the guest, if the page is `owner`'s all the while. False: it
    /// is another's by now, and what was added is of no use.
    pub fn add_of(&self, owner: Owner, sum: &mut Statistics) -> bool {
        if self.owner() != Some(owner) {
            return false;
        }
        self.add_to(sum, self.entered.get());
        fence(Acquire);
        self.owner() == Some(owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner = Owner { domain: DomainId::new(3), vcpu: VcpuId::new(2), serial: 7 };

    #[test]
    fn an_owner_survives_its_word() {
        assert_eq!(Owner::unpack(OWNER.pack()), Some(OWNER));
        assert_eq!(OWNER.pack(), 7 << 32 | 2 << 16 | 3);
        assert_eq!(Owner::unpack(0), None);
    }

    #[test]
    fn every_counter_is_added_where_it_belongs() {
        let page = CounterPage::default();
        page.exits.iter().chain(&page.hypercalls).chain(page.others()).zip(1..).for_each(|(c, n)| c.set(n));
        let mut sum = Statistics::default();
        page.add_to(&mut sum, 0);
        let words: [u64; size_of::<Statistics>() / 8] = zerocopy::transmute!(sum);
        assert!(words.iter().copied().eq(1..=words.len() as u64));
        page.clear();
        let mut sum = Statistics::default();
        page.add_to(&mut sum, 0);
        assert_eq!(sum, Statistics::default());
        assert_eq!(page.version.get(), VERSION);
    }

    #[test]
    fn ticks_of_a_stay_are_those_outside_of_the_guest() {
        let page = CounterPage::default();
        page.host_ticks.set(50);
        page.guest_ticks.set(165);
        page.guest_before.set(100);
        assert_eq!(page.host_ticks_until(9999), 50);
        page.arrived.set(1000);
        assert_eq!(page.host_ticks_until(1100), 50 + 100 - 65);
        assert_eq!(page.host_ticks_until(900), 50, "it has not entered since it came");
    }

    #[test]
    fn a_page_that_changed_hands_is_not_read_for_another() {
        let page = CounterPage::default();
        let mut sum = Statistics::default();
        assert!(!page.add_of(OWNER, &mut sum));
        page.set_owner(Some(OWNER));
        assert!(page.add_of(OWNER, &mut sum));
        assert!(!page.add_of(Owner { serial: 8, ..OWNER }, &mut sum));
    }
}
