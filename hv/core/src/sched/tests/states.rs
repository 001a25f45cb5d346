//! Blocking, pausing, starting and stopping, one step at a time.

use super::*;

fn one() -> (Scheduler<Key>, Key) {
    (Scheduler::new(1, 1_000_000_000), thing(0, &Arc::new(Group::new(256, 0)), CpuMask::ALL))
}

fn runs(decision: &Decision<Key>, key: &Key) -> bool {
    matches!(&decision.next, Next::Run(next) if next.is(key))
}

#[test]
fn times_are_exact_to_the_tick() {
    let (scheduler, key) = one();
    assert_eq!(scheduler.set_up(&key, true, t(100)), Some(cpu(0)), "an idle CPU is to look");
    assert!(runs(&scheduler.schedule(cpu(0), None, t(130)), &key));
    assert_eq!(key.entity.running_on(), Some(cpu(0)));
    key.entity.block();
    assert!(matches!(scheduler.schedule(cpu(0), Some(&key), t(200)).next, Next::Idle));
    assert_eq!(scheduler.wake(&key, t(1_000)), Some(cpu(0)));
    assert!(runs(&scheduler.schedule(cpu(0), None, t(1_001)), &key));
    let times = key.entity.times(t(1_005));
    assert_eq!(times.spent, [70 + 4, 30 + 1, 800, 100]);
    assert_eq!((times.state, times.since), (State::Running, t(1_001)));
}

#[test]
fn a_wake_before_the_scheduler_is_called_undoes_the_block() {
    let (scheduler, key) = one();
    let _ = scheduler.set_up(&key, true, t(0));
    assert!(runs(&scheduler.schedule(cpu(0), None, t(0)), &key));
    key.entity.block();
    assert_eq!(scheduler.wake(&key, t(5)), Some(cpu(0)), "the CPU that runs it is to look");
    assert!(matches!(scheduler.schedule(cpu(0), Some(&key), t(6)).next, Next::Stay));
}

#[test]
fn pauses_are_counted() {
    let (scheduler, key) = one();
    let _ = scheduler.set_up(&key, true, t(0));
    assert!(runs(&scheduler.schedule(cpu(0), None, t(0)), &key));
    assert_eq!(scheduler.pause(&key, t(1)), Some(cpu(0)));
    assert!(key.preempted.load(SeqCst), "it is asked to leave the CPU");
    assert_eq!(scheduler.pause(&key, t(1)), Some(cpu(0)));
    assert!(matches!(scheduler.schedule(cpu(0), Some(&key), t(2)).next, Next::Idle));
    assert_eq!(key.entity.times(t(2)).state, State::Offline);
    assert_eq!(scheduler.wake(&key, t(3)), None, "a wake does not end a pause");
    assert_eq!(scheduler.unpause(&key, t(4)), None);
    assert_eq!(scheduler.unpause(&key, t(5)), Some(cpu(0)));
    assert!(runs(&scheduler.schedule(cpu(0), None, t(5)), &key));
    assert_eq!(scheduler.unpause(&key, t(6)), None, "one too many does nothing");
    assert_eq!(key.entity.pauses(), 0);
}

#[test]
fn one_that_is_paused_in_the_queue_is_passed_over_and_comes_back() {
    let (scheduler, key) = one();
    let other = thing(1, &Arc::new(Group::new(256, 0)), CpuMask::ALL);
    let _ = scheduler.set_up(&key, true, t(0));
    let _ = scheduler.set_up(&other, true, t(0));
    let _ = scheduler.pause(&key, t(0));
    assert!(runs(&scheduler.schedule(cpu(0), None, t(1)), &other));
    let _ = scheduler.unpause(&key, t(2));
    other.entity.block();
    assert!(runs(&scheduler.schedule(cpu(0), Some(&other), t(3)), &key));
}

#[test]
fn a_block_that_ends_while_paused_is_remembered() {
    let (scheduler, key) = one();
    let _ = scheduler.set_up(&key, true, t(0));
    assert!(runs(&scheduler.schedule(cpu(0), None, t(0)), &key));
    key.entity.block();
    let _ = scheduler.schedule(cpu(0), Some(&key), t(1));
    assert_eq!(key.entity.times(t(1)).state, State::Blocked);
    let _ = scheduler.pause(&key, t(2));
    assert_eq!(key.entity.times(t(2)).state, State::Blocked, "blocked dominates");
    assert_eq!(scheduler.wake(&key, t(3)), None);
    assert_eq!(key.entity.times(t(3)).state, State::Offline);
    assert_eq!(scheduler.unpause(&key, t(4)), Some(cpu(0)));
    assert!(runs(&scheduler.schedule(cpu(0), None, t(4)), &key));
}

#[test]
fn one_that_goes_down_leaves_and_starts_afresh() {
    let (scheduler, key) = one();
    let _ = scheduler.set_up(&key, true, t(0));
    assert!(runs(&scheduler.schedule(cpu(0), None, t(0)), &key));
    key.entity.block();
    assert_eq!(scheduler.set_up(&key, false, t(1)), Some(cpu(0)));
    assert!(matches!(scheduler.schedule(cpu(0), Some(&key), t(1)).next, Next::Idle));
    assert!(!key.entity.is_up());
    assert_eq!(scheduler.wake(&key, t(2)), None);
    assert_eq!(scheduler.set_up(&key, true, t(3)), Some(cpu(0)), "it is not blocked any more");
}

#[test]
fn yielding_lets_another_run_once() {
    let (scheduler, a) = one();
    let b = thing(1, &Arc::new(Group::new(256, 0)), CpuMask::ALL);
    let _ = scheduler.set_up(&a, true, t(0));
    assert!(runs(&scheduler.schedule(cpu(0), None, t(0)), &a));
    a.entity.yields();
    assert!(
        matches!(scheduler.schedule(cpu(0), Some(&a), t(1)).next, Next::Stay),
        "nobody else wants to run"
    );
    let _ = scheduler.set_up(&b, true, t(2));
    a.entity.yields();
    assert!(runs(&scheduler.schedule(cpu(0), Some(&a), t(3)), &b));
    b.entity.yields();
    assert!(runs(&scheduler.schedule(cpu(0), Some(&b), t(4)), &a));
}

#[test]
fn alone_on_the_only_cpu_there_is_no_next_look() {
    let (scheduler, key) = one();
    let _ = scheduler.set_up(&key, true, t(0));
    assert_eq!(scheduler.schedule(cpu(0), None, t(0)).until, None);
    let other = thing(1, &Arc::new(Group::new(256, 0)), CpuMask::ALL);
    key.preempted.store(false, SeqCst);
    assert_eq!(scheduler.set_up(&other, true, t(5)), Some(cpu(0)));
    assert!(key.preempted.load(SeqCst), "who runs must set its timer now");
}

#[test]
fn forgetting_takes_the_handle_out_of_the_queues() {
    let (scheduler, key) = one();
    let _ = scheduler.set_up(&key, true, t(0));
    let _ = scheduler.set_up(&key, false, t(0));
    assert_eq!(Arc::strong_count(&key), 2, "a stale entry holds it");
    scheduler.forget(&key);
    assert_eq!(Arc::strong_count(&key), 1);
    assert!(matches!(scheduler.schedule(cpu(0), None, t(1)).next, Next::Idle));
    scheduler.forget(&key);
}

#[test]
fn an_affinity_without_any_cpu_of_the_machine_counts_as_all() {
    let (scheduler, key) = one();
    let _ = scheduler.set_affinity(&key, CpuMask::only(cpu(9)));
    assert_eq!(key.entity.affinity(), CpuMask::ALL);
    let _ = scheduler.set_up(&key, true, t(0));
    assert!(runs(&scheduler.schedule(cpu(0), None, t(0)), &key));
}

#[test]
fn masks() {
    let mask = CpuMask::new(0b1010);
    assert_eq!(mask.iter().map(CpuId::raw).collect::<Vec<_>>(), [1, 3]);
    assert!(!CpuMask::ALL.contains(cpu(64)) && CpuMask::ALL.contains(cpu(63)));
    assert_eq!(CpuMask::only(cpu(200)), CpuMask::NONE);
}
