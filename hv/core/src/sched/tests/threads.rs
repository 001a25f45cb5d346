//! CPUs as threads: no wake-up is lost, and nobody runs twice.

use super::*;
use core::sync::atomic::{AtomicU64, AtomicUsize};
use std::thread;

/// Each thing is given work by others while CPUs run things until they have no work, and then block them: the same
/// protocol as the run loop's. All work is done in the end, or this never returns.
#[test]
fn all_work_is_done_whoever_wakes_whom() {
    const CPUS: u16 = 4;
    const THINGS: usize = 6;
    const PIECES: u64 = 20_000;
    let scheduler = Scheduler::new(CPUS, 1_000_000_000);
    let clock = AtomicU64::new(1);
    let now = || t(clock.fetch_add(1_000, SeqCst));
    let work: Vec<_> = (0..THINGS).map(|_| AtomicU64::new(0)).collect();
    let running: Vec<_> = (0..THINGS).map(|_| AtomicUsize::new(0)).collect();
    let done = AtomicU64::new(0);
    let keys: Vec<_> =
        (0..THINGS).map(|name| thing(name, &Arc::new(Group::new(256, 0)), CpuMask::ALL)).collect();
    for key in &keys {
        let _ = scheduler.set_up(key, true, now());
    }
    thread::scope(|scope| {
        for number in 0..CPUS {
            let (scheduler, now, work, running, done) = (&scheduler, &now, &work, &running, &done);
            scope.spawn(move || {
                let mut current: Option<Key> = None;
                while done.load(SeqCst) < PIECES {
                    let decision = scheduler.schedule(cpu(number), current.as_ref(), now());
                    let next = match decision.next {
                        Next::Stay => current.clone(),
                        Next::Run(key) => Some(key),
                        Next::Idle => None,
                    };
                    let Some(key) = next else {
                        current = None;
                        thread::yield_now();
                        continue;
                    };
                    assert_eq!(running[key.name].swap(1, SeqCst), 0, "{} runs twice", key.name);
                    // A few pieces at a time, then let the scheduler look.
                    for _ in 0..3 {
                        if work[key.name].fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok() {
                            done.fetch_add(1, SeqCst);
                        } else {
                            key.entity.block();
                            if work[key.name].load(SeqCst) > 0 {
                                key.entity.unblock();
                            }
                            break;
                        }
                    }
                    running[key.name].store(0, SeqCst);
                    current = Some(key);
                }
            });
        }
        for giver in 0..2 {
            let (scheduler, now, work, keys) = (&scheduler, &now, &work, &keys);
            scope.spawn(move || {
                for piece in 0..PIECES / 2 {
                    let name = usize::try_from(piece).unwrap() * 7 + giver;
                    work[name % THINGS].fetch_add(1, SeqCst);
                    let _ = scheduler.wake(&keys[name % THINGS], now());
                    if piece % 64 == 0 {
                        let _ = scheduler.pause(&keys[name % THINGS], now());
                        let _ = scheduler.unpause(&keys[name % THINGS], now());
                    }
                }
            });
        }
    });
    assert_eq!(done.load(SeqCst), PIECES);
}
