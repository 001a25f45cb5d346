//! What the hypervisor has counted for this domain and for its driver domain: for benchmarks.
//!
//! The counters are the control domain's to read. Started with `statistics=shared` it shows them to every guest: a guest
//! writes a number into `data/figures`, and the control domain answers in `figures` with that number, the guest's
//! counters and its own. An exchange costs the same each time, so that the difference of two readings is exact but
//! for a constant, which [`cost`] tells.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Sub;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use pv_abi::DomainId;
use pv_abi::control::Statistics;

use crate::task;
use crate::xen::{hv, store, stub};

/// The node into which a guest writes its request.
pub const REQUEST: &str = "data/figures";
/// The node with the answer.
pub const ANSWER: &str = "figures";

/// Counters of one domain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Exits.
    pub exits: u64,
    /// Hypercalls.
    pub hypercalls: u64,
    /// Events sent.
    pub events: u64,
    /// Grant copies, and mappings made.
    pub copies: u64,
    /// Pages mapped.
    pub maps: u64,
    /// Ticks in the domain's own code.
    pub guest_ticks: u64,
    /// Ticks in the hypervisor for it.
    pub host_ticks: u64,
}

impl Counters {
    const COUNT: usize = 7;

    /// From what the hypervisor says.
    pub fn new(s: &Statistics) -> Self {
        Self {
            exits: s.exits.iter().sum(),
            hypercalls: s.hypercalls.iter().sum(),
            events: s.events_sent,
            copies: s.copies,
            maps: s.maps,
            guest_ticks: s.guest_ticks,
            host_ticks: s.host_ticks,
        }
    }

    /// The counters of a domain, where the caller may read them.
    pub fn of(domain: DomainId) -> Option<Self> {
        let mut statistics = Statistics::default();
        stub::control_statistics(hv(), domain, &mut statistics).ok()?;
        Some(Self::new(&statistics))
    }

    fn array(&self) -> [u64; Self::COUNT] {
        [self.exits, self.hypercalls, self.events, self.copies, self.maps, self.guest_ticks, self.host_ticks]
    }

    fn from_array(a: [u64; Self::COUNT]) -> Self {
        let [exits, hypercalls, events, copies, maps, guest_ticks, host_ticks] = a;
        Self { exits, hypercalls, events, copies, maps, guest_ticks, host_ticks }
    }

    /// As text: the numbers in order.
    pub fn text(&self) -> String {
        self.array().map(|number| number.to_string()).join(" ")
    }
}

impl Sub for Counters {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        let (a, b) = (self.array(), other.array());
        Self::from_array(core::array::from_fn(|i| a[i].saturating_sub(b[i])))
    }
}

/// Counters of this domain and of the driver domain that serves it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// This domain.
    pub own: Counters,
    /// The driver domain; zero where this domain is it.
    pub driver: Counters,
}

impl Sub for Figures {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self { own: self.own - other.own, driver: self.driver - other.driver }
    }
}

static NEXT: AtomicU64 = AtomicU64::new(1);

/// The figures now, where they can be had.
pub async fn read() -> Option<Figures> {
    let own = crate::xen::identity().domain.unwrap_or(DomainId::SELF);
    if let Some(own) = Counters::of(own) {
        return Some(Figures { own, driver: Counters::default() });
    }
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut watch = store::Watch::new(ANSWER).ok()?;
    store::write(REQUEST, &number.to_string()).ok()?;
    let answer = async {
        loop {
            if let Some(figures) = store::read(ANSWER).ok().and_then(|text| parse(&text, number)) {
                return figures;
            }
            watch.changed().await;
        }
    };
    task::timeout(Duration::from_secs(2), answer).await.ok()
}

/// What one reading costs: to be taken off the difference of two.
pub async fn cost() -> Option<Figures> {
    let first = read().await?;
    let second = read().await?;
    let third = read().await?;
    let (a, b) = (second - first, third - second);
    Some(if a.own.exits <= b.own.exits { a } else { b })
}

fn parse(text: &str, number: u64) -> Option<Figures> {
    let numbers: Vec<u64> = text.split(' ').filter_map(|word| word.parse().ok()).collect();
    let (first, rest) = numbers.split_first()?;
    if *first != number {
        return None;
    }
    let (own, driver) = rest.split_first_chunk::<{ Counters::COUNT }>()?;
    let driver = driver.first_chunk::<{ Counters::COUNT }>()?;
    Some(Figures { own: Counters::from_array(*own), driver: Counters::from_array(*driver) })
}
