//! Interrupts that others post to a virtual CPU's local APIC.

use crate::hw::Requests;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

/// Interrupts, INITs and start-up messages on their way to a virtual CPU: set by any CPU, taken by the one that runs
/// it. Who posts then raises the virtual CPU's attention.
#[derive(Debug, Default)]
pub struct Posted {
    requests: Arc<Requests>,
    /// `INIT`, or `START | vector`.
    message: AtomicU32,
    /// The APIC's timer fired.
    timer: AtomicBool,
}

const INIT: u32 = 1 << 16;
const START: u32 = 1 << 17;

/// What the inter-processor interrupts that control a CPU ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message {
    /// Reset and wait for a start-up message.
    Init,
    /// Start in real mode at this page, if reset and waiting.
    Start(u8),
}

impl Posted {
    /// Posts an interrupt.
    pub fn vector(&self, vector: u8) {
        self.requests.insert(vector);
    }

    /// Takes all posted interrupts.
    pub fn take(&self) -> [u64; 4] {
        self.requests.take()
    }

    /// The interrupts, for the hardware.
    pub const fn requests(&self) -> &Arc<Requests> {
        &self.requests
    }

    /// Says that the APIC's timer fired.
    pub fn timer(&self) {
        self.timer.store(true, SeqCst);
    }

    /// Takes the news that the timer fired.
    pub fn take_timer(&self) -> bool {
        self.timer.load(SeqCst) && self.timer.swap(false, SeqCst)
    }

    /// Posts INIT: an earlier start-up message no longer counts.
    pub fn init(&self) {
        self.message.store(INIT, SeqCst);
    }

    /// Posts a start-up message; INIT that was not seen yet still counts.
    pub fn start(&self, page: u8) {
        let _ = self.message.fetch_update(SeqCst, SeqCst, |old| Some((old & INIT) | START | u32::from(page)));
    }

    /// Takes the messages, in the order in which they act.
    pub fn messages(&self) -> impl Iterator<Item = Message> + use<> {
        let message = self.message.swap(0, SeqCst);
        let [page, ..] = message.to_le_bytes();
        let init = (message & INIT != 0).then_some(Message::Init);
        let start = (message & START != 0).then_some(Message::Start(page));
        init.into_iter().chain(start)
    }
}
