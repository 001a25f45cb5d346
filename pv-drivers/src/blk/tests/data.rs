//! Data arrives, whatever the way, and at what cost.

use std::sync::atomic::Ordering;
use std::vec;

use proptest::prelude::*;

use super::*;

fn options(data_path: DataPath) -> Options {
    Options { data_path, ..Options::default() }
}

/// Every way of reaching the front end's memory, over a disk that is memory and one that is not.
fn for_all_paths(mut test: impl FnMut(&str, &mut dyn Disk)) {
    for path in [DataPath::Auto, DataPath::Map, DataPath::Copy] {
        test(&std::format!("{path:?}, memory"), &mut Rig::memory(options(path), FrontOptions::default()));
        let (rig, disk) = Rig::slow(options(path), FrontOptions::default());
        test(&std::format!("{path:?}, slow"), &mut Hurried { rig, disk });
    }
}

trait Disk {
    fn read(&mut self, sector: u64, len: usize) -> Result<Vec<u8>, BlockError>;
    fn write(&mut self, sector: u64, bytes: &[u8]) -> Result<(), BlockError>;
    fn discard(&mut self, sector: u64, count: u64) -> Result<(), BlockError>;
    fn flush(&mut self) -> Result<(), BlockError>;
    fn copied(&self) -> u64;
    fn maps(&self) -> u64;
}

impl Disk for Rig<MemoryDisk<Memory>> {
    fn read(&mut self, sector: u64, len: usize) -> Result<Vec<u8>, BlockError> {
        Rig::read(self, sector, len)
    }
    fn write(&mut self, sector: u64, bytes: &[u8]) -> Result<(), BlockError> {
        Rig::write(self, sector, bytes)
    }
    fn discard(&mut self, sector: u64, count: u64) -> Result<(), BlockError> {
        let id = self.front.discard(sector, count, false).map_err(|error| error.error.unwrap())?;
        self.finish(id).result
    }
    fn flush(&mut self) -> Result<(), BlockError> {
        let id = self.front.flush().map_err(|error| error.error.unwrap())?;
        self.finish(id).result
    }
    fn copied(&self) -> u64 {
        self.machine.meters().bytes_copied.load(Ordering::SeqCst)
    }
    fn maps(&self) -> u64 {
        self.back.counters().maps
    }
}

/// A slow disk whose answers are let go at once.
struct Hurried {
    rig: Rig<SlowDisk>,
    disk: SlowDisk,
}

impl Hurried {
    fn finish(&mut self, id: RequestId) -> Completion<Domain> {
        self.rig.front.kick();
        self.rig.run();
        while self.disk.running() > 0 {
            self.disk.release(1);
            self.rig.device_event();
        }
        let completion = self.rig.front.next_completion().expect("the request is done");
        assert_eq!(completion.id, id);
        completion
    }
}

impl Disk for Hurried {
    fn read(&mut self, sector: u64, len: usize) -> Result<Vec<u8>, BlockError> {
        let buffer = self.rig.front.buffer(len).unwrap();
        let id = self.rig.front.read(sector, buffer).map_err(|error| error.error.unwrap())?;
        let completion = self.finish(id);
        completion.result?;
        let mut bytes = vec![0; len];
        completion.buffer.unwrap().copy_out(0, &mut bytes);
        Ok(bytes)
    }
    fn write(&mut self, sector: u64, bytes: &[u8]) -> Result<(), BlockError> {
        let mut buffer = self.rig.front.buffer(bytes.len()).unwrap();
        buffer.copy_in(0, bytes);
        let id = self.rig.front.write(sector, buffer).map_err(|error| error.error.unwrap())?;
        self.finish(id).result
    }
    fn discard(&mut self, sector: u64, count: u64) -> Result<(), BlockError> {
        let id = self.rig.front.discard(sector, count, false).map_err(|error| error.error.unwrap())?;
        self.finish(id).result
    }
    fn flush(&mut self) -> Result<(), BlockError> {
        let id = self.rig.front.flush().map_err(|error| error.error.unwrap())?;
        self.finish(id).result
    }
    fn copied(&self) -> u64 {
        // What the disk does with its own memory stands for the device's DMA.
        self.rig.back.counters().copied_bytes
    }
    fn maps(&self) -> u64 {
        self.rig.back.counters().maps
    }
}

#[test]
fn what_is_written_is_read_by_every_path() {
    for_all_paths(|name, disk| {
        for (seed, (sector, len)) in
            [(0, 512), (1, 4096), (7, 512 * 9), (100, 4096 * 11), (300, 4096 * 40), (2047, 512)]
                .into_iter()
                .enumerate()
        {
            let bytes = pattern(seed as u64, len);
            disk.write(sector, &bytes).unwrap();
            assert!(disk.read(sector, len).unwrap() == bytes, "{name}, sector {sector}");
        }
        disk.flush().unwrap();
        disk.discard(100, 8).unwrap();
        assert!(disk.read(100, 4096).unwrap() == vec![0; 4096], "{name}");
        assert_eq!(disk.read(2048, 512), Err(BlockError::OutOfRange));
        assert_eq!(disk.write(2047, &[0; 1024]), Err(BlockError::OutOfRange));
        assert_eq!(disk.discard(2000, 100), Err(BlockError::OutOfRange));
        assert_eq!(disk.read(0, 100), Err(BlockError::OutOfRange));
    });
}

#[test]
fn no_request_copies_its_data_more_than_once() {
    for_all_paths(|name, disk| {
        let len = 4096 * 32;
        let start = disk.copied();
        disk.write(0, &pattern(1, len)).unwrap();
        let wrote = disk.copied() - start;
        assert!(wrote <= len as u64, "{name}: {wrote} bytes copied");
        disk.read(0, len).unwrap();
        assert!(disk.copied() - start - wrote <= len as u64, "{name}");
    });
}

#[test]
fn persistent_grants_are_mapped_once() {
    let mut rig = Rig::memory(Options::default(), FrontOptions::default());
    for _ in 0..50 {
        Rig::write(&mut rig, 0, &pattern(1, 65536)).unwrap();
    }
    let maps = rig.back.counters().maps;
    assert!(maps <= 17, "{maps} pages mapped for 16 pages of data and one of descriptors");
    assert_eq!(rig.back.counters().unmaps, 0);
}

#[test]
fn pages_beyond_the_limit_are_unmapped() {
    let options = Options { max_persistent: 64, ..Options::default() };
    let mut rig = Rig::memory(options, FrontOptions::default());
    let mut held = Vec::new();
    for round in 0..32 {
        // Buffers that are kept make the pool use new pages.
        held.push(rig.front.buffer(8 * 4096).unwrap());
        Rig::write(&mut rig, 0, &pattern(round, 8 * 4096)).unwrap();
        drop(held.pop());
        held.push(rig.front.buffer(8 * 4096).unwrap());
    }
    assert!(rig.back.counters().unmaps > 0);
    assert!(rig.dom0.counts().maps <= 64 + 8 + 4, "{:?}", rig.dom0.counts());
}

/// Reads sequentially with a constant queue depth, and returns requests and events to front and back.
fn stream<D: BlockDevice<Memory>>(
    rig: &mut Rig<D>,
    depth: usize,
    total: u64,
    mut device: impl FnMut(&mut Rig<D>),
) -> (u64, u64) {
    let (front_before, back_before) = (rig.front_events, rig.back_events);
    let (mut sent, mut done) = (0, 0);
    while done < total {
        while sent < total && sent - done < depth as u64 {
            let buffer = rig.front.buffer(4096).unwrap();
            rig.front.read(sent * 8 % 2048, buffer).unwrap();
            sent += 1;
        }
        rig.front.kick();
        rig.run();
        device(rig);
        while let Some(completion) = rig.front.next_completion() {
            completion.result.unwrap();
            done += 1;
        }
    }
    (rig.front_events - front_before, rig.back_events - back_before)
}

#[test]
fn events_are_few_at_depth() {
    let total = 1024;
    let mut rig = Rig::memory(Options::default(), FrontOptions::default());
    let (front, back) = stream(&mut rig, 32, total, |_| {});
    assert!(front * 4 <= total && back * 4 <= total, "memory: {front} and {back} events");
    // A device that ends one request at a time, each with an interrupt, and adjacent requests merged or not.
    for max_pieces in [1, 1000] {
        let (mut rig, disk) = {
            let mut made = None;
            let rig = Rig::new(
                |dom0| {
                    let disk = SlowDisk { max_pieces, ..SlowDisk::new(dom0, MIB) };
                    made = Some(disk.clone());
                    disk
                },
                Options::default(),
                FrontOptions::default(),
            );
            (rig, made.unwrap())
        };
        let (front, back) = stream(&mut rig, 32, total, |rig| {
            disk.release(1);
            rig.device_event();
        });
        assert!(front * 4 <= total && back * 4 <= total, "{max_pieces}: {front} and {back} events");
        let counters = rig.back.counters();
        assert_eq!(counters.requests, total);
        assert_eq!(counters.notifications, front, "every event sent arrived");
    }
}

#[test]
fn a_single_request_is_never_left_waiting() {
    let (mut rig, disk) = Rig::slow(Options::default(), FrontOptions::default());
    let total = 64;
    let (front, back) = stream(&mut rig, 1, total, |rig| {
        disk.release(1);
        rig.device_event();
    });
    assert_eq!((front, back), (total, total));
}

#[test]
fn adjacent_requests_are_merged() {
    let (mut rig, disk) = Rig::slow(Options::default(), FrontOptions::default());
    for n in 0..16 {
        let buffer = rig.front.buffer(4096).unwrap();
        rig.front.read(n * 8, buffer).unwrap();
    }
    rig.front.kick();
    rig.run();
    assert_eq!(disk.log(), [(Operation::Read, 0, 128)]);
    disk.release(1);
    rig.device_event();
    assert_eq!(rig.front.outstanding(), 0);
    assert_eq!(rig.back.counters().merged, 15);
}

#[test]
fn a_bad_sector_harms_only_its_own_request() {
    let (mut rig, disk) = Rig::slow(Options::default(), FrontOptions::default());
    disk.state.lock().unwrap().bad_sector = Some(20);
    for n in 0..4 {
        let buffer = rig.front.buffer(4096).unwrap();
        rig.front.read(n * 8, buffer).unwrap();
    }
    rig.front.kick();
    rig.run();
    while disk.running() > 0 {
        disk.release(10);
        rig.device_event();
    }
    let mut results: Vec<_> =
        core::iter::from_fn(|| rig.front.next_completion()).map(|c| (c.id, c.result)).collect();
    results.sort_by_key(|(id, _)| *id);
    let results: Vec<_> = results.into_iter().map(|(_, result)| result).collect();
    assert_eq!(results, [Ok(()), Ok(()), Err(BlockError::Io), Ok(())]);
}

#[test]
fn large_requests_are_cut_for_device_and_ring() {
    let make = |dom0: &Domain| SlowDisk { max_pieces: 3, room: 2, ..SlowDisk::new(dom0, MIB) };
    let no_indirect = FrontOptions { max_indirect: 0, ..FrontOptions::default() };
    for front_options in [FrontOptions::default(), no_indirect] {
        let mut disk = None;
        let rig = Rig::new(
            |dom0| {
                let made = make(dom0);
                disk = Some(made.clone());
                made
            },
            Options::default(),
            front_options,
        );
        let mut disk = Hurried { rig, disk: disk.unwrap() };
        let bytes = pattern(3, 200 * 4096);
        disk.write(8, &bytes).unwrap();
        assert!(disk.read(8, bytes.len()).unwrap() == bytes);
        assert!(disk.maps() > 0);
    }
}

#[test]
fn rings_of_every_size_work() {
    for max_ring_order in 0..=4 {
        for back_order in [0, 4] {
            let options = Options { max_ring_order: back_order, ..Options::default() };
            let front = FrontOptions { max_ring_order, ..FrontOptions::default() };
            let mut rig = Rig::memory(options, front);
            for n in 0..200 {
                let bytes = pattern(n, 4096);
                Rig::write(&mut rig, n * 8, &bytes).unwrap();
                assert!(Rig::read(&mut rig, n * 8, 4096).unwrap() == bytes);
            }
        }
    }
}

#[test]
fn a_full_queue_says_so_and_returns_the_buffer() {
    let front = FrontOptions { max_ring_order: 0, ..FrontOptions::default() };
    let (mut rig, disk) = Rig::slow(Options::default(), front);
    let mut taken = 0;
    loop {
        let buffer = rig.front.buffer(512).unwrap();
        match rig.front.read(0, buffer) {
            Ok(_) => taken += 1,
            Err(refused) => {
                assert_eq!(refused.error, None);
                assert_eq!(refused.buffer.unwrap().len(), 512);
                break;
            }
        }
    }
    assert_eq!(taken, 64);
    rig.front.kick();
    rig.run();
    while disk.running() > 0 {
        disk.release(5);
        rig.device_event();
    }
    assert_eq!(core::iter::from_fn(|| rig.front.next_completion()).count(), 64);
}

#[test]
fn slices_do_not_reach_each_other() {
    let machine = Machine::new();
    let dom0 = machine.domain(0);
    let disk = SharedDisk::new(SlowDisk::new(&dom0, MIB));
    assert_eq!(disk.slice(2000, 49, false).err(), Some(BlockError::OutOfRange));
    let mut first = disk.slice(0, 8, false).unwrap();
    let mut second = disk.slice(8, 8, true).unwrap();
    let memory = dom0.allocate(1).unwrap();
    memory.copy_in_for_test(&[7; 512]);
    let piece = [Piece { memory: &memory, offset: 0, len: 512 }];
    let mut request = Request { operation: Operation::Write, sector: 7, count: 1, pieces: &piece };
    assert_eq!(second.submit(Tag(1), &request), Err(BlockError::ReadOnly));
    assert_eq!(first.submit(Tag(1), &request), Ok(Submitted::Running));
    request.sector = 8;
    assert_eq!(first.submit(Tag(2), &request), Err(BlockError::OutOfRange));
    request = Request { operation: Operation::Read, sector: 0, ..request };
    assert_eq!(second.submit(Tag(1), &request), Ok(Submitted::Running));
    disk.with(|disk| disk.release(2));
    // Each hears of its own, whoever asked the disk.
    let mut heard = Vec::new();
    second.poll(&mut |tag, result| heard.push((2, tag, result)));
    first.poll(&mut |tag, result| heard.push((1, tag, result)));
    assert_eq!(heard, [(2, Tag(1), Ok(())), (1, Tag(1), Ok(()))]);
    assert_eq!(disk.with(|disk| disk.log()), [(Operation::Write, 7, 1), (Operation::Read, 8, 1)]);
}

#[derive(Clone, Debug)]
enum Step {
    Read(u64, usize),
    Write(u64, usize, u64),
    Discard(u64, u64),
    Flush,
    Release(usize),
    Collect,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..2048u64, 1..200usize).prop_map(|(sector, count)| Step::Read(sector, count)),
        3 => (0..2048u64, 1..200usize, any::<u64>()).prop_map(|(s, c, seed)| Step::Write(s, c, seed)),
        1 => (0..2048u64, 1..100u64).prop_map(|(sector, count)| Step::Discard(sector, count)),
        1 => Just(Step::Flush),
        2 => (1..20usize).prop_map(Step::Release),
        2 => Just(Step::Collect),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    /// Requests in any number at a time, over any path, leave the disk as a plain array would be, and read what it
    /// held; nothing is left granted or mapped at the end.
    #[test]
    fn a_disk_behaves_like_an_array(
        steps in steps(),
        path in prop_oneof![Just(DataPath::Auto), Just(DataPath::Map), Just(DataPath::Copy)],
        room in 1..20usize,
    ) {
        let mut made = None;
        let mut rig = Rig::new(
            |dom0| {
                let disk = SlowDisk { room, max_pieces: 16, ..SlowDisk::new(dom0, MIB) };
                made = Some(disk.clone());
                disk
            },
            options(path),
            FrontOptions { max_ring_order: 0, ..FrontOptions::default() },
        );
        let disk = made.unwrap();
        let mut model = vec![0u8; MIB as usize];
        // Requests that overlap may be done in any order, so that each waits for those before it that do.
        let mut busy: Vec<(RequestId, core::ops::Range<u64>, Option<Vec<u8>>)> = Vec::new();
        for step in steps {
            let range = match step {
                Step::Read(sector, count) | Step::Write(sector, count, _) => sector..sector + count as u64,
                Step::Discard(sector, count) => sector..sector + count,
                _ => 0..0,
            };
            if range.end > 2048 {
                continue;
            }
            while busy.iter().any(|(_, other, _)| other.start < range.end && range.start < other.end) {
                settle(&mut rig, &disk, &mut busy);
            }
            let bytes = range.start as usize * 512..range.end as usize * 512;
            let sent = match step {
                Step::Read(sector, count) => {
                    let buffer = rig.front.buffer(count * 512).unwrap();
                    rig.front.read(sector, buffer).ok().map(|id| (id, Some(model[bytes].to_vec())))
                }
                Step::Write(sector, count, seed) => {
                    let data = pattern(seed, count * 512);
                    let mut buffer = rig.front.buffer(count * 512).unwrap();
                    buffer.copy_in(0, &data);
                    rig.front.write(sector, buffer).ok().map(|id| {
                        model[bytes].copy_from_slice(&data);
                        (id, None)
                    })
                }
                Step::Discard(sector, count) => rig.front.discard(sector, count, false).ok().map(|id| {
                    model[bytes].fill(0);
                    (id, None)
                }),
                Step::Flush => rig.front.flush().ok().map(|id| (id, None)),
                Step::Release(count) => {
                    rig.front.kick();
                    rig.run();
                    disk.release(count);
                    rig.device_event();
                    None
                }
                Step::Collect => {
                    take(&mut rig, &mut busy);
                    None
                }
            };
            if let Some((id, expected)) = sent {
                busy.push((id, range, expected));
            }
        }
        while !busy.is_empty() {
            settle(&mut rig, &disk, &mut busy);
        }
        let mut whole = Hurried { rig, disk };
        prop_assert!(whole.read(0, MIB as usize).unwrap() == model);
        let Hurried { mut rig, disk } = whole;
        rig.front.close(&mut rig.guest_store);
        rig.talk();
        let (guest, dom0) = (rig.guest.clone(), rig.dom0.clone());
        drop((rig, disk));
        for counts in [guest.counts(), dom0.counts()] {
            prop_assert_eq!(counts, crate::mock::Counts::default());
        }
    }
}

type Busy = Vec<(RequestId, core::ops::Range<u64>, Option<Vec<u8>>)>;

fn settle(rig: &mut Rig<SlowDisk>, disk: &SlowDisk, busy: &mut Busy) {
    rig.front.kick();
    rig.run();
    disk.release(1);
    rig.device_event();
    take(rig, busy);
}

fn take(rig: &mut Rig<SlowDisk>, busy: &mut Busy) {
    while let Some(completion) = rig.front.next_completion() {
        completion.result.unwrap();
        let at = busy.iter().position(|(id, _, _)| *id == completion.id).expect("done once");
        let (_, _, expected) = busy.remove(at);
        if let Some(expected) = expected {
            let mut bytes = vec![0; expected.len()];
            completion.buffer.unwrap().copy_out(0, &mut bytes);
            assert!(bytes == expected, "a read returned other bytes");
        }
    }
}
