//! Grants of this domain to itself and to others: copy, map, revoke, and every wrong way.
#![no_std]
#![no_main]

use pv_abi::grant::{
    Copy, CopyFlags, CopyPtr, GetVersion, GrantStatus, MapFlags, MapGrantRef, QuerySize, UnmapGrantRef,
};
use pv_abi::{DomainId, Errno, Gfn, GrantHandle, GrantRef, GuestPhys};
use pv_drivers::platform::SharedMemory;
use pv_guest_kernel::conf::{Outcome, Test, error, skip};
use pv_guest_kernel::mm::{PAGE, special};
use pv_guest_kernel::xen::platform::Pages;
use pv_guest_kernel::xen::{grants, hv, identity, stub};

pv_guest_kernel::conformance!(run);

fn copy(source: CopyPtr, dest: CopyPtr, len: u16, flags: CopyFlags) -> GrantStatus {
    let mut op = Copy { source, dest, len, flags: flags.bits(), ..Copy::default() };
    match grants::copy(core::slice::from_mut(&mut op)) {
        Ok(()) => op.status,
        Err(_) => GrantStatus::GENERAL_ERROR,
    }
}

fn map(dom: DomainId, gref: GrantRef, at: u64, flags: MapFlags) -> MapGrantRef {
    let host_addr = GuestPhys::new(at * PAGE);
    let mut op = MapGrantRef { host_addr, flags: flags.bits(), gref, dom, ..MapGrantRef::default() };
    if grants::map(core::slice::from_mut(&mut op)).is_err() {
        op.status = GrantStatus::GENERAL_ERROR;
    }
    op
}

fn unmap(host_addr: GuestPhys, handle: GrantHandle) -> GrantStatus {
    let mut op = UnmapGrantRef { host_addr, handle, ..UnmapGrantRef::default() };
    match grants::unmap(core::slice::from_mut(&mut op)) {
        Ok(()) => op.status,
        Err(_) => GrantStatus::GENERAL_ERROR,
    }
}

async fn run(t: &mut Test) -> Outcome {
    let me = identity().domain.ok_or_else(|| skip("the hypervisor does not tell our number"))?;
    let other = DomainId::new(if me.raw() == 0 { 1 } else { 0 });
    let (a, b) = (Pages::new(1), Pages::new(1));
    let (a, b) = (a.map_err(|e| error("memory", e))?, b.map_err(|e| error("memory", e))?);
    let (a_gfn, b_gfn) = (a.gfn(0), b.gfn(0));

    let mut query = QuerySize { dom: DomainId::SELF, ..QuerySize::default() };
    let result = stub::grant_query_size(hv(), core::slice::from_mut(&mut query));
    t.check("query size", result.is_ok() && query.status.is_okay() && query.nr_frames <= query.max_nr_frames);
    let mut version = GetVersion { dom: DomainId::SELF, ..GetVersion::default() };
    t.check("get version", stub::grant_get_version(hv(), core::slice::from_mut(&mut version)).is_ok());
    t.equal("version", version.version, 1);

    // Copies.
    let good = grants::grant(me, a_gfn.raw(), true).map_err(|e| error("grant", e))?;
    let read_only = grants::grant(me, a_gfn.raw(), false).map_err(|e| error("grant", e))?;
    let foreign = grants::grant(other, a_gfn.raw(), true).map_err(|e| error("grant", e))?;
    a.copy_in(0, b"from a granted page");
    let from = |gref, offset| CopyPtr::granted(me, gref, offset);
    let own = |gfn, offset| CopyPtr::own(gfn, offset);
    let (src, dst) = (CopyFlags::SOURCE_GREF, CopyFlags::DEST_GREF);
    t.equal("copy from a grant", copy(from(good, 0), own(b_gfn, 100), 19, src), GrantStatus::OKAY);
    let mut text = [0; 19];
    b.copy_out(100, &mut text);
    t.equal("the bytes", &text, b"from a granted page");
    t.equal(
        "copy from a read-only grant",
        copy(from(read_only, 0), own(b_gfn, 0), 4096, src),
        GrantStatus::OKAY,
    );
    b.copy_in(0, b"TO");
    t.equal("copy to a grant", copy(own(b_gfn, 0), from(good, 5), 2, dst), GrantStatus::OKAY);
    let mut text = [0; 19];
    a.copy_out(0, &mut text);
    t.equal("the bytes there", &text, b"from TOgranted page");
    t.equal("copy between grants", copy(from(good, 0), from(good, 2048), 16, src | dst), GrantStatus::OKAY);
    t.check("copy to a read-only grant", !copy(own(b_gfn, 0), from(read_only, 0), 2, dst).is_okay());
    t.check("another domain's grant", !copy(from(foreign, 0), own(b_gfn, 0), 2, src).is_okay());
    t.check("a reference never granted", !copy(from(GrantRef::new(100), 0), own(b_gfn, 0), 2, src).is_okay());
    t.equal(
        "beyond the table",
        copy(from(GrantRef::new(1 << 30), 0), own(b_gfn, 0), 2, src),
        GrantStatus::BAD_GNTREF,
    );
    t.equal(
        "across the end of the source",
        copy(from(good, 4090), own(b_gfn, 0), 7, src),
        GrantStatus::BAD_COPY_ARG,
    );
    t.equal(
        "across the end of the target",
        copy(from(good, 0), own(b_gfn, 4090), 7, src),
        GrantStatus::BAD_COPY_ARG,
    );
    t.equal("up to the end", copy(from(good, 4090), own(b_gfn, 4090), 6, src), GrantStatus::OKAY);
    t.check("to no frame", !copy(from(good, 0), own(Gfn::new(1 << 40), 0), 7, src).is_okay());
    let nobody = CopyPtr::granted(DomainId::new(999), good, 0);
    t.equal("of no domain", copy(nobody, own(b_gfn, 0), 7, src), GrantStatus::BAD_DOMAIN);

    // A list with one bad element: the others are done.
    let mut ops = [0u16, 4095, 8].map(|offset| Copy {
        source: from(good, offset),
        dest: own(b_gfn, 0),
        len: 2,
        flags: src.bits(),
        ..Copy::default()
    });
    t.check("a list", grants::copy(&mut ops).is_ok());
    t.equal("its elements", ops.map(|op| op.status.is_okay()), [true, false, true]);

    // Revoked.
    t.equal("revoke", grants::ungrant(read_only), Ok(()));
    t.check("copy from a revoked grant", !copy(from(read_only, 0), own(b_gfn, 0), 2, src).is_okay());
    t.equal("revoke another's", grants::ungrant(foreign), Ok(()));

    // Mappings.
    let place = special::allocate(3).ok_or_else(|| error("special", "none"))?;
    t.check(
        "map what is not granted",
        !map(me, GrantRef::new(100), place, MapFlags::HOST_MAP).status.is_okay(),
    );
    t.equal(
        "map beyond the table",
        map(me, GrantRef::new(1 << 30), place, MapFlags::HOST_MAP).status,
        GrantStatus::BAD_GNTREF,
    );
    t.equal(
        "map of no domain",
        map(DomainId::new(999), good, place, MapFlags::HOST_MAP).status,
        GrantStatus::BAD_DOMAIN,
    );
    let mapped = map(me, good, place, MapFlags::HOST_MAP);
    if mapped.status == GrantStatus::BAD_PAGE {
        // Xen does not map a translated domain's own pages again.
        t.equal("revoke", grants::ungrant(good), Ok(()));
        return Ok(());
    }
    t.equal("map", mapped.status, GrantStatus::OKAY);
    // SAFETY: the frame number belongs to this test, and the page mapped there is `a`.
    let seen = unsafe { core::ptr::read_volatile(pv_guest_kernel::mm::ptr::<[u8; 4]>(place * PAGE)) };
    t.equal("seen through the mapping", &seen, b"from");
    t.equal("revoke while mapped", grants::ungrant(good), Err(Errno::EBUSY));
    let second = map(me, good, place + 1, MapFlags::HOST_MAP | MapFlags::READONLY);
    t.equal("map again, read-only", second.status, GrantStatus::OKAY);
    t.check("unmap with a wrong handle", !unmap(mapped.host_addr, GrantHandle::new(12345)).is_okay());
    t.check("unmap at a wrong place", !unmap(GuestPhys::new((place + 2) * PAGE), mapped.handle).is_okay());
    t.equal("unmap", unmap(mapped.host_addr, mapped.handle), GrantStatus::OKAY);
    t.check("unmap twice", !unmap(mapped.host_addr, mapped.handle).is_okay());
    t.equal("revoke while mapped once", grants::ungrant(good), Err(Errno::EBUSY));
    t.equal("unmap the other", unmap(second.host_addr, second.handle), GrantStatus::OKAY);
    t.equal("revoke at last", grants::ungrant(good), Ok(()));
    t.check("map after that", !map(me, good, place, MapFlags::HOST_MAP).status.is_okay());
    Ok(())
}
