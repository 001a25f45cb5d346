//! The frame allocator: a bitmap for each range of memory.
//!
//! A set bit is a free frame. The bitmap of a range lies in the range's own first frames. Single frames are taken from
//! the bottom up with a hint, runs by a first-fit scan. Frames are not zeroed.

use super::{PAGE, map, ptr};
use crate::sync::IrqMutex;

/// Physical address of a frame, page-aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frame(pub u64);

impl Frame {
    /// The frame's number.
    pub const fn gfn(self) -> u64 {
        self.0 / PAGE
    }
}

const MOST: usize = 16;

struct Zone {
    start: u64,
    frames: u64,
    free: u64,
    hint: usize,
    bits: *mut u64,
}

// SAFETY: the bitmap belongs to the zone alone, and the zone is behind the lock.
unsafe impl Send for Zone {}

struct Zones {
    zones: [Option<Zone>; MOST],
    total: u64,
}

static ZONES: IrqMutex<Zones> = IrqMutex::new(Zones { zones: [const { None }; MOST], total: 0 });

impl Zone {
    fn words(&mut self) -> &mut [u64] {
        // SAFETY: the bitmap was set up by `new`, is this long, and belongs to this zone alone.
        unsafe { core::slice::from_raw_parts_mut(self.bits, self.frames.div_ceil(64) as usize) }
    }

    fn new(start: u64, end: u64) -> Option<Zone> {
        let frames = (end - start) / PAGE;
        let own = (frames.div_ceil(64) * 8).div_ceil(PAGE);
        if frames <= own {
            return None;
        }
        let mut zone = Zone { start, frames, free: frames, hint: 0, bits: ptr(start) };
        zone.words().fill(u64::MAX);
        for i in (frames as usize)..(frames.div_ceil(64) as usize * 64) {
            zone.words()[i / 64] &= !(1 << (i % 64));
        }
        zone.reserve(start, start + own * PAGE);
        Some(zone)
    }

    fn reserve(&mut self, from: u64, to: u64) {
        let from = from.max(self.start);
        let to = to.min(self.start + self.frames * PAGE);
        let mut a = from;
        while a < to {
            let i = ((a - self.start) / PAGE) as usize;
            let word = &mut self.words()[i / 64];
            if *word >> (i % 64) & 1 == 1 {
                *word &= !(1 << (i % 64));
                self.free -= 1;
            }
            a += PAGE;
        }
    }

    fn take_one(&mut self) -> Option<Frame> {
        if self.free == 0 {
            return None;
        }
        let hint = self.hint;
        let words = self.words();
        let n = words.len();
        let i = (hint..n).chain(0..hint).find(|&i| words[i] != 0)?;
        let bit = words[i].trailing_zeros();
        words[i] &= words[i] - 1;
        self.hint = i;
        self.free -= 1;
        Some(Frame(self.start + (i as u64 * 64 + u64::from(bit)) * PAGE))
    }

    fn take_run(&mut self, count: u64, align: u64, below: u64) -> Option<Frame> {
        let first = self.start.next_multiple_of(align);
        let end = (self.start + self.frames * PAGE).min(below);
        let step = (align / PAGE).max(1);
        let mut i = (first - self.start) / PAGE;
        'outer: while self.start + (i + count) * PAGE <= end {
            for k in (0..count).rev() {
                let bit = (i + k) as usize;
                if self.words()[bit / 64] >> (bit % 64) & 1 == 0 {
                    i = (i + k + 1).next_multiple_of(step);
                    // Alignment is of addresses, not of indices.
                    i = ((self.start + i * PAGE).next_multiple_of(align) - self.start) / PAGE;
                    continue 'outer;
                }
            }
            let at = self.start + i * PAGE;
            self.reserve(at, at + count * PAGE);
            return Some(Frame(at));
        }
        None
    }
}

/// Hands over the RAM of `map` between `low` and `high`, except what is in one of the `used` ranges.
///
/// It must be in the direct map already.
pub fn init(map: &map::MemoryMap, used: &[(u64, u64)], low: u64, high: u64) {
    let mut zones = ZONES.lock();
    let mut n = zones.zones.iter().flatten().count();
    let mut add = |from: u64, to: u64| {
        if to > from + 4 * PAGE
            && n < MOST
            && let Some(zone) = Zone::new(from, to)
        {
            zones.total += zone.free;
            zones.zones[n] = Some(zone);
            n += 1;
        }
    };
    for range in map.iter().filter(|r| r.kind == map::RAM) {
        // The first MiB is left to firmware and secondary entry points.
        let mut from = range.start.max(0x10_0000).max(low).next_multiple_of(PAGE);
        let end = range.end.min(high) / PAGE * PAGE;
        // Cut out what is in use; `used` is short, so look for the next obstacle each time.
        while from < end {
            match used.iter().filter(|u| u.1 > from && u.0 < end).min_by_key(|u| u.0) {
                None => {
                    add(from, end);
                    break;
                }
                Some(&(a, b)) => {
                    add(from, a / PAGE * PAGE);
                    from = b.next_multiple_of(PAGE);
                }
            }
        }
    }
}

/// Takes one frame, contents undefined.
pub fn allocate() -> Option<Frame> {
    // From the top range down: low memory is the scarcer kind for devices.
    ZONES.lock().zones.iter_mut().rev().flatten().find_map(Zone::take_one)
}

/// Takes one frame filled with zeros.
pub fn allocate_zeroed() -> Option<Frame> {
    let frame = allocate()?;
    // SAFETY: the frame is ours and in the direct map.
    unsafe { core::ptr::write_bytes(ptr::<u8>(frame.0), 0, PAGE as usize) };
    Some(frame)
}

/// Takes `count` adjacent frames, the first aligned to `align` bytes, all below `below`.
pub fn allocate_run(count: u64, align: u64, below: u64) -> Option<Frame> {
    let align = align.max(PAGE);
    ZONES.lock().zones.iter_mut().rev().flatten().find_map(|z| z.take_run(count, align, below))
}

/// Gives back `count` frames from `first` on.
pub fn free_run(first: Frame, count: u64) {
    let mut zones = ZONES.lock();
    for k in 0..count {
        let at = first.0 + k * PAGE;
        let zone = zones
            .zones
            .iter_mut()
            .flatten()
            .find(|z| at >= z.start && at < z.start + z.frames * PAGE)
            .expect("a frame goes back to its zone");
        let i = ((at - zone.start) / PAGE) as usize;
        let word = &mut zone.words()[i / 64];
        assert!(*word >> (i % 64) & 1 == 0, "frame {at:#x} freed twice");
        *word |= 1 << (i % 64);
        zone.free += 1;
        zone.hint = zone.hint.min(i / 64);
    }
}

/// Gives back one frame.
pub fn free(frame: Frame) {
    free_run(frame, 1);
}

/// Frames in all, and free ones.
pub fn count() -> (u64, u64) {
    let zones = ZONES.lock();
    (zones.total, zones.zones.iter().flatten().map(|z| z.free).sum())
}
