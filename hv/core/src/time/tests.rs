use super::*;
use crate::event::Width;
use crate::hw::{CpuId, HostPhys, Mfn, Nanos, PhysMemory, TscTicks};
use crate::sched::{RunTimes, State};
use crate::testing::VecMemory;
use core::sync::atomic::Ordering::SeqCst;
use proptest::prelude::*;
use pv_abi::shared_info::VcpuTimeInfo;
use std::sync::Arc;
use std::vec::Vec;

const fn t(ticks: u64) -> TscTicks {
    TscTicks::new(ticks)
}

proptest! {
    #[test]
    fn ticks_is_the_inverse_of_nanos(hz in 1_000_000..10_000_000_000u64, nanos in 0..u64::MAX / 1024) {
        let clock = Clock::new(hz);
        let ticks = clock.ticks(Nanos::new(nanos));
        prop_assume!(ticks.raw() < u64::MAX >> 8);
        prop_assert!(clock.nanos(ticks).raw() >= nanos, "fires too early");
        if ticks.raw() > 0 {
            prop_assert!(clock.nanos(t(ticks.raw() - 1)).raw() < nanos, "fires too late");
        }
    }

    #[test]
    fn guests_compute_what_the_hypervisor_does(
        hz in 1_000_000..10_000_000_000u64,
        at in 0..1u64 << 50,
        later in 0..1u64 << 40,
    ) {
        let clock = Clock::new(hz);
        let info = clock.info(t(at));
        let guest = info.system_time_at(at + later);
        let own = clock.nanos(t(at + later)).raw();
        prop_assert!(own.abs_diff(guest) <= 2, "{own} and {guest}");
    }
}

#[test]
fn an_hour_is_an_hour() {
    for hz in [1_000_000, 100_000_000, 999_999_999, 1_000_000_000, 2_394_123_456, 5_000_000_001] {
        let nanos = Clock::new(hz).nanos(t(hz * 3600)).raw();
        assert!(nanos.abs_diff(3_600_000_000_000) <= 3600, "{hz} Hz: {nanos}");
    }
    assert_eq!(Clock::new(1_000_000_000).scale(), (0x8000_0000, 1));
}

#[test]
fn a_deadline_at_the_end_of_time_does_not_overflow() {
    for hz in [1_000, 1_000_000_000, 100_000_000_000] {
        assert!(Clock::new(hz).ticks(Nanos::new(u64::MAX)).raw() > u64::MAX >> 32);
    }
}

#[test]
fn the_clock_is_published_under_its_sequence_count() {
    let memory = VecMemory::new(1);
    let at = HostPhys::new(0x108);
    let clock = Clock::new(1_000_000_000);
    memory.u32_at(at).store(7, SeqCst); // left behind by whoever
    publish_clock(&memory, at, &clock, t(6_000));
    let mut expected = clock.info(t(6_000));
    expected.version = 8;
    let bytes = memory.bytes(at, size_of::<VcpuTimeInfo>());
    assert_eq!(bytes, zerocopy::IntoBytes::as_bytes(&expected));
    assert_eq!(expected.system_time, 6_000);
    publish_clock(&memory, at, &clock, t(9_000));
    assert_eq!(memory.u32_at(at).load(SeqCst), 10);
}

#[test]
fn the_wall_clock_is_published_in_seconds_and_nanoseconds() {
    let memory = VecMemory::new(2);
    let shared = Mfn::new(1).base();
    let base = Nanos::new((1 << 32) * 1_000_000_000 + 5_000_000_007);
    let words = |offset, bytes| -> Vec<u32> {
        let bytes = memory.bytes(HostPhys::new(shared.raw() + offset), bytes);
        bytes.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect()
    };
    publish_wall_clock(&memory, shared, Width::Bits64, base);
    assert_eq!(words(0xc00, 16), [2, 5, 7, 1]);
    assert_eq!(words(0x800, 0x200), [0; 0x80]);
    publish_wall_clock(&memory, shared, Width::Bits32, base);
    assert_eq!(words(0x900, 12), [2, 5, 7]);
    assert_eq!(words(0x924, 4), [1]);
}

#[test]
fn a_run_state_is_in_nanoseconds() {
    let clock = Clock::new(2_000_000_000);
    let times = RunTimes { state: State::Blocked, since: t(10_000), spent: [2_000, 4_000, 6, 8] };
    let info = runstate_info(&clock, &times);
    assert_eq!((info.state, info.state_entry_time, info.time), (2, 5_000, [1_000, 2_000, 3, 4]));
}

struct Thing(TimerSlots);

impl Timed for Arc<Thing> {
    fn slots(&self) -> &TimerSlots {
        &self.0
    }

    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(self, other)
    }
}

fn thing() -> Arc<Thing> {
    Arc::new(Thing(TimerSlots::default()))
}

const A: CpuId = CpuId::new(0);
const B: CpuId = CpuId::new(1);

fn fired(queues: &TimerQueues<Arc<Thing>>, cpu: CpuId, now: u64) -> Vec<Due> {
    let mut all = Vec::new();
    queues.expire(cpu, t(now), |_, due| all.push(due));
    all
}

#[test]
fn each_timer_fires_once_and_the_next_is_watched() {
    let queues = TimerQueues::new(2);
    let one = thing();
    queues.set(A, &one, Slot::Single, Some(t(50)));
    queues.set(A, &one, Slot::Poll, Some(t(30)));
    assert_eq!(queues.next(A), Some(t(30)));
    assert!(fired(&queues, A, 29).is_empty());
    let due = fired(&queues, A, 30);
    assert!(due.len() == 1 && due[0].contains(Slot::Poll) && !due[0].is_virq());
    assert_eq!(queues.next(A), Some(t(50)));
    let due = fired(&queues, A, 1_000);
    assert!(due.len() == 1 && due[0].contains(Slot::Single) && due[0].is_virq());
    assert_eq!(queues.next(A), None);
    assert!(fired(&queues, A, 2_000).is_empty());
}

#[test]
fn the_cpu_that_sets_a_timer_watches_it() {
    let queues = TimerQueues::new(2);
    let one = thing();
    queues.set(A, &one, Slot::Single, Some(t(50)));
    queues.set(B, &one, Slot::Poll, Some(t(90)));
    assert_eq!((queues.next(A), queues.next(B)), (None, Some(t(50))), "all its timers move");
    queues.set(B, &one, Slot::Single, None);
    assert_eq!(queues.next(B), Some(t(90)));
    queues.forget(&one);
    assert_eq!(queues.next(B), None);
    assert_eq!(Arc::strong_count(&one), 1, "no queue holds it");
}

#[test]
fn a_timer_set_over_and_over_takes_one_place() {
    let queues = TimerQueues::new(1);
    let (one, other) = (thing(), thing());
    queues.set(A, &other, Slot::Apic, Some(t(5)));
    for at in 0..10_000 {
        queues.set(A, &one, Slot::Single, Some(t(10 + at)));
    }
    assert_eq!(Arc::strong_count(&one), 2);
    assert_eq!(fired(&queues, A, u64::MAX).len(), 2);
}
