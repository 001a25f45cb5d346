//! Pages that stay mapped: what the front end asks for, of back ends that take all, some, or nothing.

use pv_abi::ids::GrantRef;
use pv_abi::io::netif::{self, CtrlGref, CtrlRequest, CtrlResponse};
use zerocopy::FromBytes;

use super::*;
use crate::net::front::Control;
use crate::platform::Access;
use crate::ring::BackRing;
use crate::share::Shared;

const OK: u32 = netif::CTRL_STATUS_SUCCESS;
const SIZE: u16 = netif::CTRL_TYPE_GET_GREF_MAPPING_SIZE;
const ADD: u16 = netif::CTRL_TYPE_ADD_GREF_MAPPING;

/// A front end's control ring, and a back end that is this test.
struct Talk {
    guest: Domain,
    dom0: Domain,
    control: Control<Domain>,
    back: BackRing<Memory>,
}

impl Talk {
    fn new(queues: u32) -> Self {
        let machine = Machine::new();
        let (guest, dom0) = (machine.domain(1), machine.domain(0));
        let control = Control::new(&guest, DomainId::DOM0, queues).unwrap();
        let pages = dom0.map(guest.id, &[control.grant()], Access::ReadWrite).unwrap();
        let back = BackRing::new(pages, netif::CTRL_SLOT_SIZE).unwrap();
        Self { guest, dom0, control, back }
    }

    /// Answers requests until none comes any more, and returns what they asked for.
    fn run(&mut self, mut answer: impl FnMut(&CtrlRequest) -> (u32, u32)) -> Vec<(u16, [u32; 3])> {
        let mut asked = Vec::new();
        loop {
            self.control.poll().unwrap();
            let Some(request) = self.back.pop::<CtrlRequest>().unwrap() else { return asked };
            let (status, data) = answer(&request);
            self.back.push(&CtrlResponse { id: request.id, kind: request.kind, status, data }).unwrap();
            let _ = self.back.publish();
            asked.push((request.kind, request.data));
        }
    }

    /// The list of a request to add pages.
    fn list(dom0: &Domain, guest: &Domain, request: &CtrlRequest) -> Vec<CtrlGref> {
        let [_, list, count] = request.data;
        let page = dom0.map(guest.id, &[GrantRef::new(list)], Access::ReadWrite).unwrap();
        let entry = |number: u32| {
            let mut bytes = [0; 8];
            page.copy_out(number as usize * 8, &mut bytes);
            CtrlGref::read_from_bytes(&bytes).unwrap()
        };
        (0..count).map(entry).collect()
    }

    fn end(self) {
        let Self { guest, dom0, control, back } = self;
        drop((control, back));
        guest.retry_retired();
        assert_eq!(guest.counts(), crate::mock::Counts::default());
        assert_eq!(dom0.counts(), crate::mock::Counts::default());
    }
}

fn refs(from: u32, count: u32) -> impl Iterator<Item = GrantRef> {
    (from..from + count).map(GrantRef::new)
}

#[test]
fn pages_are_added_in_lists_and_those_that_come_later_too() {
    let mut talk = Talk::new(1);
    talk.control.offer(0, refs(1000, 600), Access::ReadWrite);
    talk.control.offer(0, refs(2000, 16), Access::ReadOnly);
    let (dom0, guest) = (talk.dom0.clone(), talk.guest.clone());
    let mut lists = Vec::new();
    let mut answer = |request: &CtrlRequest| {
        if request.kind == ADD {
            lists.push(Talk::list(&dom0, &guest, request));
        }
        (OK, if request.kind == SIZE { 1000 } else { 0 })
    };
    let asked = talk.run(&mut answer);
    assert_eq!(
        asked.iter().map(|(kind, data)| (*kind, data[0], data[2])).collect::<Vec<_>>(),
        [(SIZE, 0, 0), (ADD, 0, 512), (ADD, 0, 104)]
    );
    assert_eq!(talk.control.mapped(), 616);
    talk.control.offer(0, refs(3000, 16), Access::ReadOnly);
    assert_eq!(talk.run(&mut answer).len(), 1);
    assert_eq!(talk.control.mapped(), 632);
    let entries: Vec<_> = lists.concat().iter().map(|entry| (entry.gref, entry.flags)).collect();
    let wanted = (1000..1600).map(|gref| (gref, 0));
    let wanted = wanted.chain((2000..2016).chain(3000..3016).map(|gref| (gref, netif::CTRLF_GREF_READONLY)));
    assert_eq!(entries, wanted.collect::<Vec<_>>());
    talk.end();
}

#[test]
fn no_more_is_asked_than_there_is_room_for() {
    for room in [0, 1, 15, 20] {
        let mut talk = Talk::new(1);
        talk.control.offer(0, refs(1000, 16), Access::ReadWrite);
        let mut answer = |request: &CtrlRequest| (OK, if request.kind == SIZE { room } else { 0 });
        talk.run(&mut answer);
        assert_eq!(talk.control.mapped(), room.min(16));
        talk.control.offer(0, refs(2000, 16), Access::ReadWrite);
        talk.run(&mut answer);
        assert_eq!(talk.control.mapped(), room);
        // It is full.
        talk.control.offer(0, refs(3000, 16), Access::ReadWrite);
        assert_eq!(talk.run(&mut answer), []);
        talk.end();
    }
}

#[test]
fn a_back_end_that_refuses_is_asked_once_for_each_queue() {
    for refused in [SIZE, ADD] {
        let mut talk = Talk::new(3);
        let mut about = Vec::new();
        for round in 0..2 {
            for queue in 0..3 {
                talk.control.offer(queue, refs(1000 * (round + 1), 16), Access::ReadWrite);
            }
            // The second queue's pages are taken.
            about.extend(talk.run(|request| match request.kind {
                SIZE | ADD if request.data[0] == 1 => (OK, 512),
                kind if kind == refused => (netif::CTRL_STATUS_NOT_SUPPORTED, 0),
                SIZE => (OK, 512),
                _ => (netif::CTRL_STATUS_INVALID_PARAMETER, 0),
            }));
        }
        let of = |queue, kind| about.iter().filter(|(k, data)| *k == kind && data[0] == queue).count();
        for queue in [0, 2] {
            assert_eq!((of(queue, SIZE), of(queue, ADD)), (1, usize::from(refused == ADD)));
        }
        assert_eq!((of(1, SIZE), of(1, ADD)), (1, 2));
        assert_eq!(talk.control.mapped(), 32);
        talk.end();
    }
}

#[test]
fn pages_that_a_back_end_keeps_are_retired() {
    let mut talk = Talk::new(1);
    let pages = Shared::new(&talk.guest, DomainId::DOM0, 4, Access::ReadOnly).unwrap();
    talk.control.offer(0, pages.grants().iter().copied(), Access::ReadOnly);
    let (dom0, guest) = (talk.dom0.clone(), talk.guest.clone());
    let mut kept = Vec::new();
    talk.run(|request| {
        if request.kind == ADD {
            let list = Talk::list(&dom0, &guest, request);
            let grants: Vec<_> = list.iter().map(|entry| GrantRef::new(entry.gref)).collect();
            kept.push(dom0.map(guest.id, &grants, Access::ReadOnly).unwrap());
        }
        (OK, 512)
    });
    drop(pages);
    guest.retry_retired();
    assert_eq!(guest.counts().retired, 4);
    drop(kept);
    guest.retry_retired();
    assert_eq!(guest.counts().retired, 0);
    talk.end();
}
