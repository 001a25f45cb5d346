//! A trace of what happens, for whoever asks: a ring of records per CPU.
//!
//! Off, it costs a load and a branch that is never taken. On, the CPU that records takes the lock of its own ring,
//! which only a reader of the trace contends for.

use crate::hw::CpuId;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use pv_abi::control::TraceRecord;
use spin::Mutex;

/// How many records a CPU keeps: the latest.
pub const RECORDS: usize = 4096;

/// The traces of all CPUs.
pub struct Trace {
    on: AtomicBool,
    rings: Vec<Mutex<VecDeque<TraceRecord>>>,
}

impl Trace {
    /// Traces of `cpus` CPUs, off.
    pub fn new(cpus: u16) -> Self {
        Self { on: AtomicBool::new(false), rings: (0..cpus).map(|_| Mutex::new(VecDeque::new())).collect() }
    }

    /// Switches tracing on or off. Its memory is taken when it is first switched on; whether there was enough.
    pub fn set(&self, on: bool) -> bool {
        if on {
            for ring in &self.rings {
                let mut ring = ring.lock();
                let missing = RECORDS.saturating_sub(ring.len());
                if ring.try_reserve_exact(missing).is_err() {
                    return false;
                }
            }
        }
        self.on.store(on, Relaxed);
        true
    }

    /// Whether it is on.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.on.load(Relaxed)
    }

    /// Records what `make` returns, if tracing is on.
    #[inline]
    pub fn record(&self, cpu: CpuId, make: impl FnOnce() -> TraceRecord) {
        if self.is_on() {
            self.push(cpu, make());
        }
    }

    #[cold]
    fn push(&self, cpu: CpuId, record: TraceRecord) {
        if let Some(ring) = self.rings.get(cpu.index()) {
            let mut ring = ring.lock();
            if ring.len() >= RECORDS {
                ring.pop_front();
            }
            ring.push_back(record);
        }
    }

    /// Takes the oldest records of a CPU; how many there were.
    pub fn take(&self, cpu: CpuId, into: &mut [TraceRecord]) -> usize {
        let Some(ring) = self.rings.get(cpu.index()) else { return 0 };
        let mut ring = ring.lock();
        let count = into.len().min(ring.len());
        for (to, from) in into.iter_mut().zip(ring.drain(..count)) {
            *to = from;
        }
        count
    }

    /// The last records of a CPU, oldest first, which stay in the ring.
    pub fn last(&self, cpu: CpuId, count: usize) -> Vec<TraceRecord> {
        let Some(ring) = self.rings.get(cpu.index()) else { return Vec::new() };
        let ring = ring.lock();
        ring.iter().skip(ring.len().saturating_sub(count)).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(tsc: u64) -> TraceRecord {
        TraceRecord { tsc, ..TraceRecord::default() }
    }

    #[test]
    fn nothing_is_made_while_it_is_off() {
        let trace = Trace::new(1);
        trace.record(CpuId::new(0), || panic!("made a record"));
        assert!(trace.last(CpuId::new(0), 1).is_empty());
    }

    #[test]
    fn the_latest_records_are_kept_per_cpu() {
        let trace = Trace::new(2);
        assert!(trace.set(true));
        for tsc in 0..RECORDS as u64 + 10 {
            trace.record(CpuId::new(1), || record(tsc));
        }
        let mut two = [TraceRecord::default(); 2];
        assert_eq!(trace.take(CpuId::new(0), &mut two), 0);
        assert_eq!(trace.take(CpuId::new(1), &mut two), 2);
        assert_eq!(two.map(|r| r.tsc), [10, 11]);
        let last = trace.last(CpuId::new(1), 3);
        assert_eq!(last.iter().map(|r| r.tsc).collect::<Vec<_>>(), [4103, 4104, 4105]);
        trace.set(false);
        trace.record(CpuId::new(1), || panic!("made a record"));
        assert_eq!(trace.take(CpuId::new(7), &mut two), 0);
    }
}
