//! Barriers and flushes.

use super::*;

fn kinds(disk: &SlowDisk) -> Vec<Operation> {
    disk.log().into_iter().map(|(operation, _, _)| operation).collect()
}

fn step(rig: &mut Rig<SlowDisk>, disk: &SlowDisk) {
    disk.release(1);
    rig.device_event();
}

#[test]
fn a_barrier_waits_and_makes_wait() {
    let (mut rig, disk) = Rig::slow(Options::default(), FrontOptions::default());
    let send = |rig: &mut Rig<SlowDisk>, sector, barrier| {
        let buffer = rig.front.buffer(512).unwrap();
        let sent =
            if barrier { rig.front.write_barrier(sector, buffer) } else { rig.front.write(sector, buffer) };
        sent.unwrap();
    };
    send(&mut rig, 0, false);
    send(&mut rig, 100, false);
    send(&mut rig, 50, true);
    send(&mut rig, 200, false);
    rig.front.kick();
    rig.run();
    use Operation::{Flush, Write};
    assert_eq!(kinds(&disk), [Write, Write]);
    step(&mut rig, &disk);
    assert_eq!(kinds(&disk), [Write, Write]);
    step(&mut rig, &disk);
    assert_eq!(kinds(&disk), [Write, Write, Flush]);
    step(&mut rig, &disk);
    assert_eq!(disk.log()[3], (Write, 50, 1));
    step(&mut rig, &disk);
    assert_eq!(kinds(&disk), [Write, Write, Flush, Write, Flush]);
    // The write after the barrier still waits.
    assert_eq!(disk.running(), 1);
    step(&mut rig, &disk);
    assert_eq!(disk.log()[5], (Write, 200, 1));
    step(&mut rig, &disk);
    assert_eq!(core::iter::from_fn(|| rig.front.next_completion()).filter(|c| c.result.is_ok()).count(), 4);
}

#[test]
fn a_barrier_whose_write_fails_is_not_flushed_and_frees_the_way() {
    let (mut rig, disk) = Rig::slow(Options::default(), FrontOptions::default());
    disk.state.lock().unwrap().bad_sector = Some(50);
    let buffer = rig.front.buffer(512).unwrap();
    let barrier = rig.front.write_barrier(50, buffer).unwrap();
    let buffer = rig.front.buffer(512).unwrap();
    let write = rig.front.write(0, buffer).unwrap();
    rig.front.kick();
    rig.run();
    while disk.running() > 0 {
        step(&mut rig, &disk);
    }
    use Operation::{Flush, Write};
    assert_eq!(kinds(&disk), [Flush, Write, Write]);
    let results: Vec<_> =
        core::iter::from_fn(|| rig.front.next_completion()).map(|c| (c.id, c.result)).collect();
    assert_eq!(results, [(barrier, Err(BlockError::Io)), (write, Ok(()))]);
}

#[test]
fn a_flush_reaches_the_device() {
    let (mut rig, disk) = Rig::slow(Options::default(), FrontOptions::default());
    let id = rig.front.flush().unwrap();
    rig.front.kick();
    rig.run();
    assert_eq!(kinds(&disk), [Operation::Flush]);
    assert!(rig.front.next_completion().is_none());
    step(&mut rig, &disk);
    assert_eq!(rig.front.next_completion().unwrap().id, id);
}

#[test]
fn barriers_need_to_fit_one_request() {
    let mut rig = Rig::memory(Options::default(), FrontOptions::default());
    let buffer = rig.front.buffer(12 * 4096).unwrap();
    let refused = rig.front.write_barrier(0, buffer).unwrap_err();
    assert_eq!(refused.error, Some(BlockError::NotSupported));
    let buffer = rig.front.buffer(11 * 4096).unwrap();
    let id = rig.front.write_barrier(0, buffer).unwrap();
    rig.finish(id).result.unwrap();
}
