//! The 2-level ABI: a bitmap of pending events and one of masks in the shared page, a selector word in each vCPU's
//! information.

use super::Unmasked;
use crate::ids::Port;
use crate::shared_info::{LiveSharedInfo, LiveVcpuInfo};
use core::sync::atomic::{AtomicU64, Ordering};

/// Number of ports (`EVTCHN_2L_NR_CHANNELS`).
pub const PORTS: u32 = 4096;

/// The ports whose events one vCPU is told of: the hypervisor marks the word, the guest knows whose port it is.
pub type PortSet = [AtomicU64; 64];

/// Delivers every event that is pending, not masked and in the set.
///
/// The pending bit is cleared before the call, so that an event during it is seen next time.
pub fn scan(info: &LiveVcpuInfo, shared: &LiveSharedInfo, mine: &PortSet, mut deliver: impl FnMut(Port)) {
    loop {
        info.upcall_pending.store(0, Ordering::Relaxed);
        let mut selector = info.pending_sel.swap(0, Ordering::SeqCst);
        while selector != 0 {
            let word = selector.trailing_zeros();
            selector &= selector - 1;
            scan_word(word, shared, mine, &mut deliver);
        }
        if info.upcall_pending.load(Ordering::SeqCst) == 0 {
            return;
        }
    }
}

#[inline]
fn scan_word(word: u32, shared: &LiveSharedInfo, mine: &PortSet, deliver: &mut impl FnMut(Port)) {
    let index = word as usize;
    let (Some(pending), Some(mask), Some(mine)) =
        (shared.evtchn_pending.get(index), shared.evtchn_mask.get(index), mine.get(index))
    else {
        return;
    };
    let mut events =
        pending.load(Ordering::Acquire) & !mask.load(Ordering::Acquire) & mine.load(Ordering::Relaxed);
    while events != 0 {
        let bit = events.trailing_zeros();
        events &= events - 1;
        if pending.fetch_and(!(1 << bit), Ordering::AcqRel) & (1 << bit) != 0 {
            deliver(Port::new(word * 64 + bit));
        }
    }
}

/// Word and bit of a port.
#[inline]
fn place(map: &[AtomicU64; 64], port: Port) -> Option<(&AtomicU64, u64)> {
    Some((map.get(port.raw() as usize / 64)?, 1 << (port.raw() % 64)))
}

/// Keeps a port's events from being delivered; they stay pending.
pub fn mask(shared: &LiveSharedInfo, port: Port) {
    if let Some((word, bit)) = place(&shared.evtchn_mask, port) {
        word.fetch_or(bit, Ordering::SeqCst);
    }
}

/// Allows delivery again; when the event is pending the hypervisor must be asked to deliver it.
///
/// In that case the port is masked again on return: `EVTCHNOP_unmask` only delivers what it finds masked.
pub fn unmask(shared: &LiveSharedInfo, port: Port) -> Unmasked {
    let (Some((mask, bit)), Some((pending, _))) =
        (place(&shared.evtchn_mask, port), place(&shared.evtchn_pending, port))
    else {
        return Unmasked::Done;
    };
    mask.fetch_and(!bit, Ordering::SeqCst);
    // The mask first, then the look at the event: in the other order one that comes between them would be lost.
    if pending.load(Ordering::SeqCst) & bit == 0 {
        return Unmasked::Done;
    }
    mask.fetch_or(bit, Ordering::SeqCst);
    Unmasked::Pending
}

/// Whether a port is pending.
pub fn is_pending(shared: &LiveSharedInfo, port: Port) -> bool {
    place(&shared.evtchn_pending, port).is_some_and(|(word, bit)| word.load(Ordering::Acquire) & bit != 0)
}

/// Clears a port's pending bit and tells whether it was set.
pub fn clear_pending(shared: &LiveSharedInfo, port: Port) -> bool {
    place(&shared.evtchn_pending, port)
        .is_some_and(|(word, bit)| word.fetch_and(!bit, Ordering::AcqRel) & bit != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared_info::SharedInfo;
    use std::boxed::Box;
    use std::vec::Vec;
    use zerocopy::FromZeros;

    fn page() -> Box<LiveSharedInfo> {
        // SAFETY: atomics, integers and arrays of them are valid when all their bytes are zero.
        unsafe { Box::<LiveSharedInfo>::new_zeroed().assume_init() }
    }

    fn send(shared: &LiveSharedInfo, port: u32) {
        let (word, bit) = place(&shared.evtchn_pending, Port::new(port)).unwrap();
        word.fetch_or(bit, Ordering::SeqCst);
        if shared.evtchn_mask[port as usize / 64].load(Ordering::SeqCst) & bit == 0 {
            shared.vcpu_info[0].pending_sel.fetch_or(1 << (port / 64), Ordering::SeqCst);
            shared.vcpu_info[0].upcall_pending.store(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn delivers_what_is_pending_unmasked_and_mine() {
        let shared = page();
        let mine: PortSet = [const { AtomicU64::new(!0) }; 64];
        mine[1].store(!(1 << 2), Ordering::Relaxed);
        mask(&shared, Port::new(5));
        for port in [1, 5, 66, 67, 4095] {
            send(&shared, port);
        }
        let mut seen = Vec::new();
        scan(&shared.vcpu_info[0], &shared, &mine, |port| seen.push(port.raw()));
        assert_eq!(seen, [1, 67, 4095]);
        assert!(is_pending(&shared, Port::new(5)) && is_pending(&shared, Port::new(66)));
        assert_eq!(unmask(&shared, Port::new(5)), Unmasked::Pending);
        assert!(clear_pending(&shared, Port::new(5)));
        assert!(!clear_pending(&shared, Port::new(5)));
        assert_eq!(unmask(&shared, Port::new(5)), Unmasked::Done);
        assert_eq!(unmask(&shared, Port::new(PORTS)), Unmasked::Done);
    }

    #[test]
    fn an_event_sent_by_a_handler_is_seen_too() {
        let shared = page();
        let mine: PortSet = [const { AtomicU64::new(!0) }; 64];
        send(&shared, 3);
        let mut seen = Vec::new();
        scan(&shared.vcpu_info[0], &shared, &mine, |port| {
            if seen.len() < 3 {
                send(&shared, 3);
            }
            seen.push(port.raw());
        });
        assert_eq!(seen, [3, 3, 3, 3]);
    }

    #[test]
    fn bitmaps_have_a_bit_per_port() {
        let plain = SharedInfo::new_zeroed();
        assert_eq!(size_of_val(&plain.evtchn_pending) * 8, PORTS as usize);
    }
}
