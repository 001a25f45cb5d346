//! The other domain of the figures that need two: it answers events, grants pages, and yields when it is told to.
//!
//! `bench partner DOMAIN` serves one domain until that says goodbye. It tells the way to itself in `data/partner`: a port
//! whose events it sends back, a port for commands, and the references of its pages. The first word of the first page
//! is the command.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::time::Duration;

use pv_abi::{DomainId, GrantRef, Port};
use pv_drivers::platform::{Access, Platform, SharedMemory};
use pv_drivers::xs::{Permission, Rights, TransactionId};

use crate::mm::PAGE;
use crate::shell::command::{Args, Failure, Outcome};
use crate::task;
use crate::xen::platform::{Pages, Xen};
use crate::xen::{self, events, grants, sched, store};

/// Where a partner tells the way to itself.
const NODE: &str = "data/partner";
/// Pages that it grants.
pub const PAGES: usize = 32;
/// The name by which a domain that may list the others finds its partner.
const NAME: &str = "partner";
/// How long it is looked for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Commands in the first word of the first page.
const REST: u32 = 0;
const YIELD: u32 = 1;
const END: u32 = 2;

/// The port whose events are sent back.
static ECHO: AtomicU32 = AtomicU32::new(0);

/// Serves one domain.
pub async fn run(args: Args) -> Outcome {
    args.at_most(2)?;
    let number = args.need(1, "DOMAIN")?.trim_start_matches('d');
    let peer = DomainId::new(number.parse().map_err(|_| Failure::usage("DOMAIN is not a number"))?);
    let pages = Pages::new(PAGES)?;
    let mut refs = Vec::new();
    for index in 0..PAGES as u64 {
        refs.push(grants::grant(peer, pages.phys() / PAGE + index, true)?);
    }
    let echo = events::alloc_unbound(peer)?;
    let command = events::alloc_unbound(peer)?;
    ECHO.store(echo.raw(), Ordering::Relaxed);
    events::on(echo, "echo", |_| events::notify(Port::new(ECHO.load(Ordering::Relaxed))), 0);
    events::listen(command, "command");
    let refs_text: Vec<String> = refs.iter().map(|reference| reference.raw().to_string()).collect();
    tell(&format!("{} {} {}", echo.raw(), command.raw(), refs_text.join(" ")))?;
    loop {
        events::wait(command).await;
        match pages.read_u32(0) {
            YIELD => {
                while pages.read_u32(0) == YIELD {
                    sched::yield_now();
                }
            }
            END => break,
            _ => {}
        }
    }
    events::close(command);
    events::close(echo);
    for reference in refs {
        // The domain has unmapped them before it said goodbye.
        grants::ungrant(reference)?;
    }
    Ok(())
}

/// Writes the node, for every domain to read.
fn tell(text: &str) -> Outcome {
    let own = xen::identity().domain.unwrap_or(DomainId::SELF);
    let done = store::with(|store| {
        store.write(TransactionId::NONE, NODE, text.as_bytes())?;
        store.set_permissions(TransactionId::NONE, NODE, &[Permission::new(own, Rights::READ)])
    });
    done.ok_or_else(|| Failure::because("there is no XenStore"))?.map_err(Failure::from)
}

/// A partner, seen by the domain that measures.
pub struct Partner {
    /// Its domain.
    pub domain: DomainId,
    /// The references of its pages.
    pub refs: Vec<GrantRef>,
    /// Our end of the port whose events come back.
    pub echo: Port,
    command: Port,
    word: Pages,
}

/// When the echo came.
static CAME: AtomicU64 = AtomicU64::new(0);

impl Partner {
    /// Finds the partner: the domain of this number, or the one named `partner`. `None` if there is none.
    pub async fn find(number: Option<u64>) -> Option<Partner> {
        let number = number.and_then(|number| u16::try_from(number).ok()).map(DomainId::new);
        let named = || crate::figures::domains().find(|info| info.name() == NAME).map(|info| info.domid);
        let domain = number.or_else(named)?;
        let node = format!("/local/domain/{}/{NODE}", domain.raw());
        let told = async {
            loop {
                if let Ok(text) = store::read(&node) {
                    return text;
                }
                task::sleep(Duration::from_millis(1)).await;
            }
        };
        let text = task::timeout(PATIENCE, told).await.ok()?;
        let numbers: Vec<u32> = text.split(' ').filter_map(|word| word.parse().ok()).collect();
        let (ports, refs) = numbers.split_first_chunk::<2>()?;
        let refs: Vec<_> = refs.iter().map(|raw| GrantRef::new(*raw)).collect();
        let word = Xen.map(domain, refs.get(..1)?, Access::ReadWrite).ok()?;
        let echo = events::bind_interdomain(domain, Port::new(ports[0])).ok()?;
        let command = events::bind_interdomain(domain, Port::new(ports[1])).ok()?;
        events::on(echo, "echo", |_| CAME.store(crate::arch::instr::rdtsc(), Ordering::Relaxed), 0);
        Some(Partner { domain, refs, echo, command, word })
    }

    /// Sends an event and blocks until it comes back.
    pub fn ping(&self) {
        CAME.store(0, Ordering::Relaxed);
        events::notify(self.echo);
        loop {
            crate::arch::instr::cli();
            if CAME.load(Ordering::Relaxed) != 0 {
                break;
            }
            crate::arch::trap::idle_wait();
        }
        crate::arch::instr::sti();
    }

    fn order(&self, what: u32) {
        self.word.write_u32(0, what);
        events::notify(self.command);
    }

    /// Lets the partner yield all the time while `work` runs: each yield of ours is two switches then.
    pub fn yielding<R>(&self, work: impl FnOnce() -> R) -> R {
        self.order(YIELD);
        // It has begun when it has yielded back to us a few times.
        (0..16).for_each(|_| sched::yield_now());
        let result = work();
        self.word.write_u32(0, REST);
        sched::yield_now();
        result
    }

    /// Says goodbye.
    pub fn end(self) {
        let Partner { echo, command, word, .. } = self;
        events::close(echo);
        word.write_u32(0, END);
        drop(word);
        events::notify(command);
        events::close(command);
    }
}
