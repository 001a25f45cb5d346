//! Several queues of one disk.

use super::*;
use crate::xenbus::XenbusState;
use crate::xs::TransactionId;
use pv_abi::io::blkif::key;

fn front_with(max_queues: u32) -> FrontOptions {
    FrontOptions { max_queues, ..FrontOptions::default() }
}

/// Keeps every queue busy at once, then looks for what each wrote.
fn every_queue_works<D: BlockDevice<Memory>>(
    rig: &mut Rig<D>,
    queues: usize,
    mut step: impl FnMut(&mut Rig<D>),
) {
    assert_eq!((rig.front.ports().count(), rig.back.ports().count()), (queues, queues));
    let mut submitted = Vec::new();
    for number in 0..4 * queues {
        rig.front.choose_queue(number);
        let mut buffer = rig.front.buffer(512).unwrap();
        buffer.copy_in(0, &[u8::try_from(number).unwrap() + 1; 512]);
        submitted.push(rig.front.write(3 * number as u64, buffer).unwrap());
    }
    rig.front.kick();
    rig.run();
    step(rig);
    let mut done: Vec<_> = core::iter::from_fn(|| rig.front.next_completion()).collect();
    done.sort_by_key(|completion| completion.id);
    assert_eq!(done.iter().map(|completion| completion.id).collect::<Vec<_>>(), submitted);
    assert!(done.iter().all(|completion| completion.result.is_ok()));
    for number in 0..4 * queues {
        // By another queue than it was written.
        rig.front.choose_queue(number + 1);
        let buffer = rig.front.buffer(512).unwrap();
        let id = rig.front.read(3 * number as u64, buffer).unwrap();
        rig.front.kick();
        rig.run();
        step(rig);
        let completion = rig.front.next_completion().expect("the request is done");
        assert_eq!((completion.id, completion.result), (id, Ok(())));
        let mut bytes = [0; 512];
        completion.buffer.unwrap().copy_out(0, &mut bytes);
        assert_eq!(bytes, [u8::try_from(number).unwrap() + 1; 512]);
    }
}

#[test]
fn every_queue_reaches_the_disk() {
    for (asked, got) in [(1, 1), (3, 3), (4, 4), (9, 4)] {
        for path in [DataPath::Auto, DataPath::Map, DataPath::Copy] {
            let options = Options { data_path: path, ..Options::default() };
            every_queue_works(&mut Rig::memory(options, front_with(asked)), got, |_| {});
            let (mut rig, disk) = Rig::slow(options, front_with(asked));
            every_queue_works(&mut rig, got, |rig| {
                while disk.running() > 0 {
                    disk.release(1);
                    rig.device_event();
                }
            });
        }
    }
}

#[test]
fn a_back_end_without_queues_gets_one_ring() {
    let options = Options { max_queues: 1, ..Options::default() };
    every_queue_works(&mut Rig::memory(options, front_with(4)), 1, |_| {});
}

#[test]
fn nothing_is_ordered_between_queues() {
    let mut rig = Rig::memory(Options::default(), front_with(2));
    let buffer = rig.front.buffer(512).unwrap();
    let refused = rig.front.write_barrier(0, buffer).unwrap_err();
    assert_eq!(refused.error, Some(BlockError::NotSupported));
}

#[test]
fn a_number_of_queues_that_was_not_offered_is_refused() {
    for count in ["0", "5", "18446744073709551615", "many"] {
        let machine = Machine::new();
        let (guest, dom0) = (machine.domain(1), machine.domain(0));
        let (mut guest_store, mut dom0_store) = stores();
        add_disk(&mut dom0_store, "w");
        let disk = MemoryDisk::new(&dom0, MIB, false).unwrap();
        let mut back = open_back(&dom0, &mut dom0_store, disk, Options::default());
        let dir = frontend_dir(GUEST, "vbd", 51712);
        let path = std::format!("{dir}/{}", key::MULTI_QUEUE_NUM_QUEUES);
        guest_store.write(TransactionId::NONE, &path, count.as_bytes()).unwrap();
        let ends = Frontend::open(&mut guest_store, &dir).unwrap();
        ends.set_state(&mut guest_store, XenbusState::Initialised).unwrap();
        back.on_store(&mut dom0_store);
        assert!(!back.is_connected() && back.failure().is_some(), "{count}");
        drop((back, guest));
    }
}
