//! Hypercall numbers and sub-operations: the known ones answer, all others say ENOSYS, and nothing stops the hypervisor.
#![no_std]
#![no_main]

use pv_abi::call::ROWS;
use pv_abi::call::elsewhere::OnXen;
use pv_abi::{DomainId, Errno, version};
use pv_guest_kernel::conf::{Outcome, Test, raw};
use pv_guest_kernel::xen::{hv, identity, stub};

pv_guest_kernel::conformance!(run);

async fn run(t: &mut Test) -> Outcome {
    let number = stub::version_number(hv());
    t.equal("interface version", number, Ok(u64::from(identity().version.0 << 16 | identity().version.1)));
    t.check("version is 4.x", identity().version.0 == 4);
    t.equal("page size", stub::version_pagesize(hv()), Ok(4096));

    // Numbers that no row has.
    for number in (0..64u64).chain([64, 100, 1000, u64::from(u32::MAX), 1 << 32, 1 << 63, u64::MAX]) {
        if ROWS.iter().any(|row| row.number == number)
            || number == 48
            || !identity().is_xenolith() && number < 64
        {
            continue;
        }
        t.equal("unknown number", raw(number, [0; 5]), Err(Errno::ENOSYS));
    }
    // Known numbers with sub-operations that no row has.
    for row in ROWS.iter().filter(|row| row.sub.is_some()) {
        for sub in [62, 63, 64, 1 << 20, 1 << 32, u64::MAX] {
            if ROWS.iter().any(|r| r.number == row.number && r.sub == Some(sub)) {
                continue;
            }
            let result = raw(row.number, [sub, 0, 0, 0, 0]);
            if identity().is_xenolith() {
                t.equal(row.name, result, Err(Errno::ENOSYS));
            } else {
                // Xen looks at 32 bits, and keeps the progress of long operations in some of them.
                t.check(row.name, sub > 63 || result.is_err());
            }
        }
    }
    // Every call with arguments that point nowhere: an error or harmless, never the end.
    for row in ROWS {
        let harmful = [
            "sched_shutdown",
            "sched_block",
            "sched_poll",
            "vcpu_down",
            "control_power",
            "evtchn_reset",
            "vcpu_send_nmi",
        ];
        if harmful.contains(&row.name) || row.sub.is_none() || row.args.is_empty() {
            continue;
        }
        for pointer in [0, 0x1000, u64::MAX - 3, 0x8000_0000_0000_0000] {
            let result = raw(row.number, [row.sub.unwrap_or(0), pointer, pointer, pointer, pointer]);
            if identity().domain == Some(DomainId::DOM0) && !identity().is_xenolith() {
                // What `pv-abi` says of Xen is what Xen does.
                let as_said = match row.call.elsewhere().0 {
                    OnXen::Yes | OnXen::Privileged => result != Err(Errno::ENOSYS),
                    // An event channel's sub-operation is known, but there is no interrupt to bind.
                    OnXen::NotPvh => result.is_err(),
                    OnXen::No => result == Err(Errno::ENOSYS),
                };
                t.equal(row.name, (as_said, result), (true, result));
            }
        }
    }
    let mut info = version::FeatureInfo { submap_idx: 1000, submap: 0 };
    t.equal("feature word out of range", stub::version_features(hv(), &mut info), Err(Errno::EINVAL));
    t.equal("still alive", stub::version_number(hv()), number);
    Ok(())
}
