//! What the hypervisor has counted for this domain, for the driver domains and for the others: for benchmarks.
//!
//! The counters are for domains with the role `control`, which a domain set for benchmarks gives to the domain that
//! measures. Reading them takes the same calls each time, so that the difference of two readings is exact but for a
//! constant: what one reading costs, which a [`Meter`] has found out and takes off.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::{Add, Sub};

use pv_abi::DomainId;
use pv_abi::call::ROWS;
use pv_abi::control::{DomainInfo, ExitCause, Roles, Statistics};

use crate::xen::{hv, stub};

/// Counters of one domain, or of several together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters(Box<Statistics>);

impl Counters {
    /// The counters of a domain, where the caller may read them.
    pub fn of(domain: DomainId) -> Option<Self> {
        let mut statistics = Box::<Statistics>::default();
        stub::control_statistics(hv(), domain, &mut statistics).ok()?;
        Some(Self(statistics))
    }

    /// Ticks in the domains' own code.
    pub fn guest_ticks(&self) -> u64 {
        self.0.guest_ticks
    }

    /// Ticks in the hypervisor for them.
    pub fn host_ticks(&self) -> u64 {
        self.0.host_ticks
    }

    /// Every counter that is not zero, but for the ticks, under a name of `exit.CAUSE`, `call.NAME`, or its own.
    pub fn each(&self, mut take: impl FnMut(&str, &str, u64)) {
        let s = &self.0;
        for (cause, count) in ExitCause::ALL.iter().zip(s.exits).filter(|(_, count)| *count > 0) {
            take("exit.", cause.name(), count);
        }
        for (row, count) in ROWS.iter().zip(s.hypercalls).filter(|(_, count)| *count > 0) {
            take("call.", row.name, count);
        }
        for (name, count) in [
            ("sent", s.events_sent),
            ("delivered", s.events_delivered),
            ("suppressed", s.events_suppressed),
            ("copies", s.copies),
            ("copied", s.copied_bytes),
            ("maps", s.maps),
            ("unmaps", s.unmaps),
            ("flushes", s.flushes),
            ("injections", s.injections),
        ] {
            if count > 0 {
                take("", name, count);
            }
        }
    }

    fn with(&self, other: &Self, f: fn(u64, u64) -> u64) -> Self {
        let (a, b) = (&self.0, &other.0);
        Self(Box::new(Statistics {
            exits: core::array::from_fn(|i| f(a.exits[i], b.exits[i])),
            hypercalls: core::array::from_fn(|i| f(a.hypercalls[i], b.hypercalls[i])),
            unknown_calls: f(a.unknown_calls, b.unknown_calls),
            events_sent: f(a.events_sent, b.events_sent),
            events_delivered: f(a.events_delivered, b.events_delivered),
            events_suppressed: f(a.events_suppressed, b.events_suppressed),
            copied_bytes: f(a.copied_bytes, b.copied_bytes),
            copies: f(a.copies, b.copies),
            maps: f(a.maps, b.maps),
            unmaps: f(a.unmaps, b.unmaps),
            flushes: f(a.flushes, b.flushes),
            injections: f(a.injections, b.injections),
            guest_ticks: f(a.guest_ticks, b.guest_ticks),
            host_ticks: f(a.host_ticks, b.host_ticks),
        }))
    }
}

impl Add for &Counters {
    type Output = Counters;
    fn add(self, other: Self) -> Counters {
        self.with(other, u64::wrapping_add)
    }
}

impl Sub for &Counters {
    type Output = Counters;
    fn sub(self, other: Self) -> Counters {
        self.with(other, u64::saturating_sub)
    }
}

/// Counters of all domains, by the part they play.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// This domain.
    pub guest: Counters,
    /// The domains that drive devices, but for this one.
    pub driver: Counters,
    /// All others.
    pub peer: Counters,
}

impl Figures {
    /// The parts by name.
    pub fn parts(&self) -> [(&'static str, &Counters); 3] {
        [("guest", &self.guest), ("driver", &self.driver), ("peer", &self.peer)]
    }

    /// Ticks in the hypervisor, for whomever.
    pub fn host_ticks(&self) -> u64 {
        self.parts().iter().map(|(_, counters)| counters.host_ticks()).sum()
    }

    /// Ticks in which anybody was busy: waiting is left out.
    pub fn busy_ticks(&self) -> u64 {
        self.host_ticks() + self.parts().iter().map(|(_, counters)| counters.guest_ticks()).sum::<u64>()
    }
}

impl Sub for &Figures {
    type Output = Figures;
    fn sub(self, other: Self) -> Figures {
        Figures {
            guest: &self.guest - &other.guest,
            driver: &self.driver - &other.driver,
            peer: &self.peer - &other.peer,
        }
    }
}

/// Reads the counters.
pub struct Meter {
    own: DomainId,
    drivers: Vec<DomainId>,
    peers: Vec<DomainId>,
    cost: Figures,
}

impl Meter {
    /// A meter for the domains that there are now; `None` where this domain may not read counters.
    pub fn new() -> Option<Meter> {
        let own = crate::xen::identity().domain?;
        let mut meter = Meter { own, drivers: Vec::new(), peers: Vec::new(), cost: Figures::default() };
        for info in domains().filter(|info| info.domid != own) {
            let drives = Roles::from_bits_retain(info.roles).contains(Roles::DRIVER);
            if drives { &mut meter.drivers } else { &mut meter.peers }.push(info.domid);
        }
        // The first reading may find what later ones do not have to make.
        meter.read()?;
        let first = meter.read()?;
        meter.cost = &meter.read()? - &first;
        Some(meter)
    }

    /// The counters now.
    pub fn read(&self) -> Option<Figures> {
        let sum = |domains: &[DomainId]| {
            // A domain that has ended counts nothing any more.
            let read = domains.iter().filter_map(|domain| Counters::of(*domain));
            read.fold(Counters::default(), |sum, counters| &sum + &counters)
        };
        let (driver, peer) = (sum(&self.drivers), sum(&self.peers));
        Some(Figures { guest: Counters::of(self.own)?, driver, peer })
    }

    /// What was counted since an earlier reading, without the cost of reading.
    pub fn since(&self, before: &Figures) -> Option<Figures> {
        Some(&(&self.read()? - before) - &self.cost)
    }
}

/// All domains, where the caller may know them.
pub fn domains() -> impl Iterator<Item = DomainInfo> {
    let mut first = 0;
    core::iter::from_fn(move || {
        let mut info = DomainInfo::default();
        stub::control_info(hv(), DomainId::new(first), &mut info).ok()?;
        first = info.domid.raw() + 1;
        Some(info)
    })
}
