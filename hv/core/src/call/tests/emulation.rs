//! The calls by which a domain emulates another's ports.

use super::World;
use pv_abi::control::{Emulate, PortRange};
use pv_abi::event::{BindIpi, Close};
use pv_abi::{Errno, stub};

use pv_abi::ids::{DomainId, Gfn, Port, VcpuId};
use pv_abi::memory::Reservation;

#[test]
fn only_a_control_domain_emulates_and_only_others() {
    let world = World::new();
    let (dom0, a) = (world.guest("dom0"), world.guest("a"));
    let page = dom0.page();
    let mut bind = BindIpi::default();
    stub::evtchn_bind_ipi(&dom0, &mut bind).unwrap();
    let ranges = [PortRange { first: 0x1f0, last: 0x1f7 }, PortRange::NONE];
    let begin = Emulate { domid: a.domain.id, pad: 0, port: bind.port, page, ranges };
    let end = Emulate { port: Port::new(0), ..begin };
    assert_eq!(stub::control_emulate(&a, &Emulate { domid: DomainId::DOM0, ..begin }), Err(Errno::EPERM));
    assert_eq!(stub::control_emulated(&a, a.domain.id, VcpuId::new(0)), Err(Errno::EPERM));
    for own in [DomainId::SELF, DomainId::DOM0] {
        assert_eq!(stub::control_emulate(&dom0, &Emulate { domid: own, ..begin }), Err(Errno::EINVAL));
    }
    let nobody = Emulate { domid: DomainId::new(77), ..begin };
    assert_eq!(stub::control_emulate(&dom0, &nobody), Err(Errno::ESRCH));
    let nowhere = Emulate { page: Gfn::new(u64::MAX >> 12), ..begin };
    assert!(stub::control_emulate(&dom0, &nowhere).is_err());
    assert_eq!(stub::control_emulate(&dom0, &end), Err(Errno::EINVAL), "there is nothing to end");
    assert_eq!(stub::control_emulated(&dom0, a.domain.id, VcpuId::new(0)), Err(Errno::EINVAL));

    stub::control_emulate(&dom0, &begin).unwrap();
    assert_eq!(stub::control_emulate(&dom0, &begin), Err(Errno::EBUSY));
    stub::control_emulated(&dom0, a.domain.id, VcpuId::new(1)).unwrap();
    assert_eq!(stub::control_emulated(&dom0, a.domain.id, VcpuId::new(2)), Err(Errno::ENOENT));
    // The port may be closed at any time.
    stub::evtchn_close(&dom0, &Close { port: bind.port }).unwrap();
    let give_back = || {
        let extents = dom0.put(&[page.raw()]);
        let reservation =
            Reservation { extent_start: extents, nr_extents: 1, domid: DomainId::SELF, ..Default::default() };
        stub::memory_decrease(&dom0, &reservation)
    };
    stub::control_emulate(&dom0, &end).unwrap();
    assert_eq!(stub::control_emulated(&dom0, a.domain.id, VcpuId::new(0)), Err(Errno::EINVAL));
    assert_eq!(give_back(), Ok(1));
}

#[test]
fn a_page_in_use_outlives_what_is_done_to_it() {
    let world = World::new();
    let (dom0, a) = (world.guest("dom0"), world.guest("a"));
    let page = dom0.page();
    let mut bind = BindIpi::default();
    stub::evtchn_bind_ipi(&dom0, &mut bind).unwrap();
    let ranges = [PortRange { first: 0, last: u16::MAX }, PortRange::NONE];
    let begin = Emulate { domid: a.domain.id, pad: 0, port: bind.port, page, ranges };
    stub::control_emulate(&dom0, &begin).unwrap();
    let extents = dom0.put(&[page.raw()]);
    let reservation =
        Reservation { extent_start: extents, nr_extents: 1, domid: DomainId::SELF, ..Default::default() };
    let _refused_or_kept = stub::memory_decrease(&dom0, &reservation);
    // At the end of the world all frames are free again, whichever domain goes first.
    world.destroy(&a.domain);
    world.destroy(&dom0.domain);
}
