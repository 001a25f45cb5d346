//! The life of a domain: which state it is in and who keeps it from running.
//!
//! Lock rule: the lock is held only for a change, and nothing is locked under it; what other CPUs ask on hot paths is
//! one atomic.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use pv_abi::errno::{Errno, Result};
use spin::Mutex;

/// Why a domain shut itself down (`SHUTDOWN_*` of `sched.h`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the names are the ABI's
pub enum ShutdownReason {
    PowerOff,
    Reboot,
    Suspend,
    Crash,
    Watchdog,
    SoftReset,
}

impl ShutdownReason {
    /// Reads the ABI's number.
    pub const fn from_raw(raw: u32) -> Option<Self> {
        Some(match raw {
            0 => Self::PowerOff,
            1 => Self::Reboot,
            2 => Self::Suspend,
            3 => Self::Crash,
            4 => Self::Watchdog,
            5 => Self::SoftReset,
            _ => return None,
        })
    }

    /// The ABI's number.
    pub const fn raw(self) -> u32 {
        match self {
            Self::PowerOff => 0,
            Self::Reboot => 1,
            Self::Suspend => 2,
            Self::Crash => 3,
            Self::Watchdog => 4,
            Self::SoftReset => 5,
        }
    }
}

impl fmt::Display for ShutdownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PowerOff => "power off",
            Self::Reboot => "reboot",
            Self::Suspend => "suspend",
            Self::Crash => "crash",
            Self::Watchdog => "watchdog",
            Self::SoftReset => "soft reset",
        })
    }
}

/// The states of a domain, in the order in which they may follow each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Made but never run: its kernel may still be replaced.
    Created,
    /// It runs, unless it is paused.
    Alive,
    /// It has shut down and runs no more; its memory is still there to be looked at.
    ShutDown(ShutdownReason),
    /// It is being taken apart, step by step.
    Dying,
    /// Everything it had is given back, except what others still hold.
    Dead,
}

#[derive(Debug)]
struct Inner {
    phase: Phase,
    pauses: u32,
    announced: Option<ShutdownReason>,
}

/// A domain's phase and pause count.
#[derive(Debug)]
pub struct Life {
    inner: Mutex<Inner>,
    dying: AtomicBool,
}

/// What a change of the life means for the domain's vCPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Change {
    /// Nothing.
    None,
    /// They may run now.
    Start,
    /// They may not run any more.
    Stop,
}

impl Default for Life {
    fn default() -> Self {
        Self::new()
    }
}

impl Life {
    /// The life of a domain that was just made: paused once.
    pub const fn new() -> Self {
        Self {
            inner: Mutex::new(Inner { phase: Phase::Created, pauses: 1, announced: None }),
            dying: AtomicBool::new(false),
        }
    }

    /// The phase.
    pub fn phase(&self) -> Phase {
        self.inner.lock().phase
    }

    /// Phase and pause count at one moment.
    pub fn snapshot(&self) -> (Phase, u32) {
        let inner = self.inner.lock();
        (inner.phase, inner.pauses)
    }

    /// Whether the domain is being destroyed or is dead: nothing new may be given to it. Cheap.
    pub fn is_dying(&self) -> bool {
        self.dying.load(Ordering::Acquire)
    }

    /// Pauses once more.
    pub fn pause(&self) -> Result<Change> {
        self.change(|inner| {
            inner.check_not_dying()?;
            inner.pauses = inner.pauses.checked_add(1).ok_or(Errno::EOVERFLOW)?;
            Ok(())
        })
    }

    /// Takes one pause back. A domain that never ran becomes alive when the last is gone.
    pub fn unpause(&self) -> Result<Change> {
        self.change(|inner| {
            inner.check_not_dying()?;
            inner.pauses = inner.pauses.checked_sub(1).ok_or(Errno::EINVAL)?;
            if inner.pauses == 0 && inner.phase == Phase::Created {
                inner.phase = Phase::Alive;
            }
            Ok(())
        })
    }

    /// The domain gives the reason of its shutdown ahead of it (`SCHEDOP_shutdown_code`). The first one stays.
    pub fn announce(&self, reason: ShutdownReason) {
        self.inner.lock().announced.get_or_insert(reason);
    }

    /// The domain shuts down; `None` if it has already, or is dying: nothing changes.
    pub fn shut_down(&self, reason: ShutdownReason) -> Option<Change> {
        let change = self.change(|inner| match inner.phase {
            Phase::Created | Phase::Alive => {
                inner.phase = Phase::ShutDown(inner.announced.unwrap_or(reason));
                Ok(())
            }
            Phase::ShutDown(_) | Phase::Dying | Phase::Dead => Err(Errno::EINVAL),
        });
        change.ok()
    }

    /// Begins to destroy; from here on nothing stops it. A second time changes nothing.
    pub fn begin_destroy(&self) -> Change {
        let change = self.change(|inner| {
            if inner.phase != Phase::Dead {
                inner.phase = Phase::Dying;
                self.dying.store(true, Ordering::Release);
            }
            Ok(())
        });
        change.unwrap_or(Change::None)
    }

    /// Everything has been given back.
    pub fn end_destroy(&self) {
        let mut inner = self.inner.lock();
        assert!(inner.phase == Phase::Dying, "a domain dies once, and by being destroyed");
        inner.phase = Phase::Dead;
    }

    fn change(&self, act: impl FnOnce(&mut Inner) -> Result<()>) -> Result<Change> {
        let mut inner = self.inner.lock();
        let before = inner.may_run();
        act(&mut inner)?;
        Ok(match (before, inner.may_run()) {
            (true, false) => Change::Stop,
            (false, true) => Change::Start,
            _ => Change::None,
        })
    }
}

impl Inner {
    fn may_run(&self) -> bool {
        self.phase == Phase::Alive && self.pauses == 0
    }

    fn check_not_dying(&self) -> Result<()> {
        match self.phase {
            Phase::Dying | Phase::Dead => Err(Errno::ESRCH),
            Phase::Created | Phase::Alive | Phase::ShutDown(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_domain_starts_with_its_last_unpause() {
        let life = Life::new();
        assert_eq!(life.pause(), Ok(Change::None));
        assert_eq!(life.unpause(), Ok(Change::None));
        assert_eq!(life.phase(), Phase::Created);
        assert_eq!(life.unpause(), Ok(Change::Start));
        assert_eq!(life.phase(), Phase::Alive);
        assert_eq!(life.unpause(), Err(Errno::EINVAL));
        assert_eq!(life.pause(), Ok(Change::Stop));
        assert_eq!(life.pause(), Ok(Change::None));
        assert_eq!(life.snapshot(), (Phase::Alive, 2));
    }

    #[test]
    fn the_first_reason_to_shut_down_stays() {
        let life = Life::new();
        assert_eq!(life.unpause(), Ok(Change::Start));
        assert_eq!(life.shut_down(ShutdownReason::Crash), Some(Change::Stop));
        assert_eq!(life.shut_down(ShutdownReason::PowerOff), None);
        assert_eq!(life.phase(), Phase::ShutDown(ShutdownReason::Crash));
        assert_eq!(life.pause(), Ok(Change::None));
        assert_eq!(life.unpause(), Ok(Change::None));
        let paused = Life::new();
        assert_eq!(paused.shut_down(ShutdownReason::Crash), Some(Change::None));
    }

    #[test]
    fn a_reason_announced_counts() {
        let life = Life::new();
        life.announce(ShutdownReason::Crash);
        life.announce(ShutdownReason::Reboot);
        assert_eq!(life.shut_down(ShutdownReason::PowerOff), Some(Change::None));
        assert_eq!(life.phase(), Phase::ShutDown(ShutdownReason::Crash));
    }

    #[test]
    fn a_dying_domain_takes_no_orders() {
        let life = Life::new();
        assert_eq!(life.unpause(), Ok(Change::Start));
        assert!(!life.is_dying());
        assert_eq!(life.begin_destroy(), Change::Stop);
        assert!(life.is_dying());
        assert_eq!(life.begin_destroy(), Change::None);
        assert_eq!(life.pause(), Err(Errno::ESRCH));
        assert_eq!(life.unpause(), Err(Errno::ESRCH));
        assert_eq!(life.shut_down(ShutdownReason::Reboot), None);
        life.end_destroy();
        assert_eq!(life.phase(), Phase::Dead);
        assert_eq!(life.begin_destroy(), Change::None);
        assert_eq!(life.phase(), Phase::Dead);
    }
}
