//! The guests' consoles, and the switch between them and our own.
//!
//! Lock rule: the switch's lock is taken for the time of one piece of output or one typed byte, also in an upcall; the
//! list of back ends only by the service's task and by the toolstack.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::task::Poll;

use pv_abi::{DomainId, Errno, GrantRef, Port};
use pv_drivers::console::{ConsoleBack, Limit, Progress};
use pv_drivers::platform::{Access, Platform};
use spin::Mutex;

use super::switch::{Switch, Typed};
use crate::console;
use crate::sync::IrqMutex;
use crate::task;
use crate::task::signal::Signal;
use crate::xen::events;
use crate::xen::platform::Xen;

/// The reference by which a domain's creator reaches its ring (GNTTAB_RESERVED_CONSOLE, grant_table.h).
const RESERVED_CONSOLE: GrantRef = GrantRef::new(0);

static SWITCH: spin::Once<IrqMutex<Switch>> = spin::Once::new();
static TYPED: IrqMutex<VecDeque<(DomainId, u8)>> = IrqMutex::new(VecDeque::new());
static WORK: Signal = Signal::new();
/// Bytes typed for guests and not yet passed on; more are lost.
const MOST_TYPED: usize = 4096;

fn show(bytes: &[u8]) {
    console::write_raw(bytes);
}

fn own_output(bytes: &[u8]) -> bool {
    // While the lock is taken on this vCPU (a panic inside the switch), output goes straight out.
    let Some(mut switch) = SWITCH.get().and_then(IrqMutex::try_lock) else { return false };
    switch.output(DomainId::DOM0, bytes, &mut show);
    true
}

fn typed(byte: u8) -> bool {
    let Some(switch) = SWITCH.get() else { return false };
    match switch.lock().typed(byte, &mut show) {
        Typed::Own(_) => false,
        Typed::Nothing => true,
        Typed::Guest(domain, byte) => {
            let mut queue = TYPED.lock();
            if queue.len() < MOST_TYPED {
                queue.push_back((domain, byte));
            }
            drop(queue);
            WORK.raise();
            true
        }
    }
}

/// The console service.
pub struct Consoles {
    backs: Mutex<Vec<ConsoleBack<Xen>>>,
}

impl Consoles {
    /// Takes the terminal over.
    pub fn new() -> Arc<Self> {
        SWITCH.call_once(|| IrqMutex::new(Switch::new(DomainId::DOM0)));
        console::set_hooks(own_output, typed);
        Arc::new(Self { backs: Mutex::new(Vec::new()) })
    }

    /// Connects a guest by its ring and its unbound port.
    ///
    /// # Errors
    /// What the hypervisor says of the ring or the port.
    pub fn attach(&self, domain: DomainId, name: &str, port: Port) -> Result<(), Errno> {
        let page = Xen.map(domain, &[RESERVED_CONSOLE], Access::ReadWrite)?;
        let port = events::bind_interdomain(domain, port)?;
        events::listen(port, "console-back");
        if let Some(switch) = SWITCH.get() {
            switch.lock().add(domain, name);
        }
        self.backs.lock().push(ConsoleBack::new(&Xen, domain, page, port, Limit::default()));
        WORK.raise();
        Ok(())
    }

    /// Shows what a guest left in its ring, and disconnects it.
    pub fn detach(&self, domain: DomainId) {
        let gone = {
            let mut backs = self.backs.lock();
            let index = backs.iter().position(|back| back.domain() == domain);
            index.map(|index| backs.swap_remove(index))
        };
        if let Some(mut back) = gone {
            Self::pump(&mut back);
        }
        if let Some(switch) = SWITCH.get() {
            switch.lock().remove(domain, &mut show);
        }
    }

    /// Brings a console to the foreground.
    pub fn bring(&self, domain: DomainId) {
        if let Some(switch) = SWITCH.get() {
            switch.lock().bring(domain, &mut show);
        }
    }

    /// Lists consoles and keys on the terminal.
    pub fn help(&self) {
        if let Some(switch) = SWITCH.get() {
            switch.lock().help(&mut show);
        }
    }

    fn pump(back: &mut ConsoleBack<Xen>) -> Progress {
        let domain = back.domain();
        back.poll(&mut |bytes| {
            if let Some(switch) = SWITCH.get() {
                switch.lock().output(domain, bytes, &mut show);
            }
        })
    }

    /// Serves for ever.
    pub async fn serve(self: Arc<Self>) {
        let mut seen = 0;
        loop {
            poll_fn(|cx| {
                let mut ready = WORK.poll_changed(&mut seen, cx).is_ready();
                for back in self.backs.lock().iter() {
                    ready |= events::poll_wait(back.port(), cx).is_ready();
                }
                if ready { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            let typed: Vec<_> = TYPED.lock().drain(..).collect();
            let mut later = None;
            for back in self.backs.lock().iter_mut() {
                let bytes: Vec<u8> = typed
                    .iter()
                    .filter(|(domain, _)| *domain == back.domain())
                    .map(|(_, byte)| *byte)
                    .collect();
                back.send(&bytes);
                if let Progress::Throttled(at) = Self::pump(back) {
                    later = Some(later.map_or(at.raw(), |soonest: u64| soonest.min(at.raw())));
                }
            }
            if let Some(at) = later {
                task::spawn(async move {
                    task::sleep_until(at).await;
                    WORK.raise();
                });
            }
        }
    }
}
