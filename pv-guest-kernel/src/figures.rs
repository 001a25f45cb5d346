//! What the hypervisor has counted for this domain, for the driver domains and for the others: for benchmarks.
//!
//! The counters are for domains with the role `control`, which a domain set for benchmarks gives to the domain that
//! measures. They are read where the hypervisor counts ([`crate::xen::counters`]), without a call, at one moment for all
//! that is on our CPU. Reading takes the same time each time, so that the difference of two readings is exact but for a
//! constant: what one reading costs, which a [`Meter`] has found out and takes off.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Sub;
use core::sync::atomic::{Ordering, fence};

use pv_abi::DomainId;
use pv_abi::call::ROWS;
use pv_abi::control::{DomainInfo, ExitCause, Roles, Statistics};
use pv_abi::counters::{CounterPage, Owner};

use crate::arch::{cpu, instr};
use crate::xen::{counters, hv, stub};

/// Counters of one domain, or of several together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters(Box<Statistics>);

impl Counters {
    /// The counters of one domain, of virtual CPUs in the guest up to when they entered it; `None` where we may not read
    /// them.
    pub fn of(domain: DomainId) -> Option<Self> {
        let mut sum = Self::default();
        let places = counters::pages().into_iter().filter_map(Place::of);
        let found = places.filter(|place| place.owner.domain == domain && place.add_to(&mut sum.0)).count();
        (found > 0).then_some(sum)
    }

    /// All of them.
    pub fn statistics(&self) -> &Statistics {
        &self.0
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

/// Where the counters of one virtual CPU are.
#[derive(Clone, Copy)]
struct Place {
    page: &'static CounterPage,
    owner: Owner,
}

impl Place {
    fn of(page: &'static CounterPage) -> Option<Self> {
        Some(Self { page, owner: page.owner()? })
    }

    /// Adds its counters; false if it has ended, and counts nothing any more.
    fn add_to(&self, sum: &mut Statistics) -> bool {
        self.page.add_of(self.owner, sum)
    }
}

/// Reads the counters.
pub struct Meter {
    own: Vec<Place>,
    drivers: Vec<Place>,
    peers: Vec<Place>,
    cost: Figures,
}

impl Meter {
    /// A meter for the domains that there are now; `None` where this domain may not read counters.
    pub fn new() -> Option<Meter> {
        let own = crate::xen::identity().domain?;
        let drivers: Vec<_> = domains()
            .filter(|info| Roles::from_bits_retain(info.roles).contains(Roles::DRIVER))
            .map(|info| info.domid)
            .collect();
        let mut meter =
            Meter { own: Vec::new(), drivers: Vec::new(), peers: Vec::new(), cost: Figures::default() };
        for place in counters::pages().into_iter().filter_map(Place::of) {
            let part = match place.owner.domain {
                domain if domain == own => &mut meter.own,
                domain if drivers.contains(&domain) => &mut meter.drivers,
                _ => &mut meter.peers,
            };
            part.push(place);
        }
        // The first reading may find what later ones do not have to make.
        meter.read()?;
        let first = meter.read()?;
        meter.cost = &meter.read()? - &first;
        Some(meter)
    }

    /// The counters now.
    pub fn read(&self) -> Option<Figures> {
        let here = self.own.iter().find(|place| place.owner.vcpu.raw() == cpu::this().id)?.page;
        let mut figures = Figures::default();
        loop {
            let entered = here.entered.get();
            fence(Ordering::Acquire);
            let Figures { guest, driver, peer } = &mut figures;
            for (part, places) in [(guest, &self.own), (driver, &self.drivers), (peer, &self.peers)] {
                *part.0 = Statistics::default();
                for place in places {
                    place.add_to(&mut part.0);
                }
            }
            fence(Ordering::Acquire);
            let now = instr::rdtsc();
            // Nothing else ran here meanwhile: all that was read is of now, and so is how long we have been in the guest.
            if here.entered.get() == entered {
                figures.guest.0.guest_ticks += now.wrapping_sub(entered);
                return Some(figures);
            }
        }
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
