//! The TCP/IP stack: `smoltcp` over one link, with a task that moves it on.
//!
//! Lock rule: the stack's lock is held for one operation on a socket or one round of the task, never across an `await`.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::task::Poll;
use core::time::Duration;

use pv_drivers::net::NetCounters;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::{AnySocket, dhcpv4};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Address};
use spin::Mutex;

use super::addresses::{self, Source};
use super::link::{Device, Link, LinkInfo};
use super::probe;
use crate::arch::instr;
use crate::task::{self, signal::Signal};
use crate::xen::clock;

/// Rounds of the stack before other tasks get their turn.
const ROUNDS: usize = 32;
/// The first of the ports that are given to connections made here (RFC 6335, section 6).
const FIRST_PORT: u16 = 49152;

/// How long timers of sockets may be late while the link has no room.
const NO_ROOM: Duration = Duration::from_millis(100);

/// How often somebody is asked who does not answer.
const PROBES: usize = 30;

/// Counts somebody who wants to know of rounds.
struct Watcher<'a>(&'a AtomicUsize);

impl<'a> Watcher<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Watcher<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the lock protects.
pub struct Inner {
    pub(super) interface: Interface,
    pub(super) sockets: SocketSet<'static>,
    device: Device,
    dhcp: Option<SocketHandle>,
    source: Source,
    next_port: u16,
}

/// The stack.
pub struct Stack {
    inner: Mutex<Inner>,
    /// Somebody did something to a socket.
    work: Signal,
    /// Addresses changed.
    addresses: Signal,
    /// Rounds were made, while somebody wants to know.
    moved: Signal,
    /// How many want to know.
    watchers: AtomicUsize,
}

fn now() -> Instant {
    Instant::from_micros((clock::now() / 1000) as i64)
}

impl Stack {
    /// A stack over this link.
    pub fn new(link: Box<dyn Link>) -> Arc<Self> {
        let mut device = Device::new(link);
        let mac = device.link.info().mac;
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac)));
        config.random_seed =
            instr::rdtsc() ^ u64::from_le_bytes([mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], 0, 0]);
        config.slaac = true;
        let mut interface = Interface::new(config, &mut device, now());
        let mut sockets = SocketSet::new(Vec::new());
        let (source, dhcp) = addresses::begin(&mut interface, &mut sockets, mac);
        let inner = Inner { interface, sockets, device, dhcp, source, next_port: FIRST_PORT };
        Arc::new(Self {
            inner: Mutex::new(inner),
            work: Signal::new(),
            addresses: Signal::new(),
            moved: Signal::new(),
            watchers: AtomicUsize::new(0),
        })
    }

    /// What the link is like.
    pub fn link(&self) -> LinkInfo {
        self.inner.lock().device.link.info()
    }

    /// The addresses, the IPv4 gateway, and where they come from.
    pub fn addresses(&self) -> (Vec<IpCidr>, Option<Ipv4Address>, Source) {
        let inner = self.inner.lock();
        let gateway = inner.interface.routes().get_default_ipv4_route().map(|route| match route.via_router {
            smoltcp::wire::IpAddress::Ipv4(address) => address,
            smoltcp::wire::IpAddress::Ipv6(_) => Ipv4Address::UNSPECIFIED,
        });
        (inner.interface.ip_addrs().to_vec(), gateway, inner.source)
    }

    /// Gives this machine a fixed address in place of what DHCP says.
    pub fn set_address(&self, address: IpCidr, gateway: Option<Ipv4Address>) {
        let mut inner = self.inner.lock();
        if let Some(handle) = inner.dhcp.take() {
            inner.sockets.remove(handle);
        }
        inner.source = Source::Fixed;
        if let IpCidr::Ipv4(_) = address {
            inner.interface.update_ip_addrs(|all| all.retain(|cidr| matches!(cidr, IpCidr::Ipv6(_))));
            addresses::set_gateway(&mut inner.interface, gateway);
        }
        addresses::add(&mut inner.interface, address);
        drop(inner);
        self.addresses.raise();
        self.work.raise();
    }

    /// Waits until there is an IPv4 address, for a while.
    pub async fn configured(&self, patience: Duration) -> bool {
        let mut seen = 0;
        let there = || self.addresses().0.iter().any(|cidr| matches!(cidr, IpCidr::Ipv4(_)));
        let wait = async {
            while !there() {
                poll_fn(|cx| self.addresses.poll_changed(&mut seen, cx)).await;
            }
        };
        there() || task::timeout(patience, wait).await.is_ok()
    }

    /// Works on the stack, and lets its task go on.
    pub fn with<R>(&self, f: impl FnOnce(&mut Inner) -> R) -> R {
        let result = f(&mut self.inner.lock());
        self.work.raise();
        result
    }

    /// Looks at the stack without making its task go on.
    pub fn look<R>(&self, f: impl FnOnce(&mut Inner) -> R) -> R {
        f(&mut self.inner.lock())
    }

    /// What went through the link.
    pub fn counters(&self) -> NetCounters {
        self.inner.lock().device.link.counters()
    }

    /// Asks whoever has the address `whom` how many frames of [`probe`] it has received. `None` if nobody answers. A
    /// question to the hardware address `to` stays behind what was sent there before; one to everybody may be lost.
    pub async fn probe(&self, whom: Ipv4Address, to: Option<[u8; 6]>) -> Option<probe::Answer> {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        for _ in 0..PROBES {
            let question = NEXT.fetch_add(1, Ordering::Relaxed) as u64;
            let answer =
                self.until(|inner| inner.device.probe.answer.take_if(|answer| answer.question == question));
            self.with(|inner| {
                let mac = inner.device.link.info().mac;
                probe::ask(&mut *inner.device.link, mac, to, whom, question);
            });
            if let Ok(answer) = task::timeout(Duration::from_secs(2), answer).await {
                return Some(answer);
            }
        }
        None
    }

    /// Sends `count` frames of [`probe`], each of `length` bytes, as fast as the link takes them.
    pub async fn flood(&self, to: [u8; 6], length: usize, count: u64) {
        let mac = self.link().mac;
        let mut sent = 0;
        self.until(|inner| {
            let link = &mut *inner.device.link;
            while sent < count && link.can_send() {
                probe::send(link, mac, to, length, sent);
                sent += 1;
            }
            link.poll();
            (sent == count).then_some(())
        })
        .await;
    }

    /// Tries something after each of the task's rounds until it succeeds.
    async fn until<R>(&self, mut attempt: impl FnMut(&mut Inner) -> Option<R>) -> R {
        let _watcher = Watcher::new(&self.watchers);
        let mut seen = 0;
        poll_fn(|cx| {
            // First the wish, then the look: nothing that comes in between is missed.
            while self.moved.poll_changed(&mut seen, cx).is_ready() {}
            attempt(&mut self.inner.lock()).map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Moves the stack on for ever.
    pub async fn serve(self: Arc<Self>) {
        let mut seen = 0;
        let mut sleep = task::sleep_until(u64::MAX);
        loop {
            let (now, delay) = self.rounds().await;
            if self.watchers.load(Ordering::Relaxed) > 0 {
                self.moved.raise();
            }
            let nanos = |at: Instant| at.total_micros() as u64 * 1000;
            sleep.reset(delay.map(|delay| nanos(now + delay.into())), nanos(now));
            poll_fn(|cx| {
                // Both are asked, so that a round answers both.
                let has_work = self.work.poll_changed(&mut seen, cx).is_ready();
                let has_come = self.inner.lock().device.link.poll_wait(cx).is_ready();
                let ready = has_work || has_come || Pin::new(&mut sleep).poll(cx).is_ready();
                if ready { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
    }

    /// Polls until nothing is left to do; how long it can rest then, and from when on.
    async fn rounds(&self) -> (Instant, Option<Duration>) {
        loop {
            self.inner.lock().device.link.poll();
            for _ in 0..ROUNDS {
                let mut inner = self.inner.lock();
                let Inner { interface, sockets, device, dhcp, .. } = &mut *inner;
                device.probe.own = interface.ipv4_addr();
                // Takes and sends until the link has no more of either, or the sockets: `poll_delay` tells if they have.
                let now = now();
                interface.poll(now, device, sockets);
                device.link.flush();
                // What came meanwhile is taken in another round, if its answers have room.
                let has_come = device.link.poll();
                let has_room = device.link.can_send();
                let configured = dhcp
                    .is_some_and(|h| addresses::follow(interface, sockets.get_mut::<dhcpv4::Socket<'_>>(h)));
                let delay = interface.poll_delay(now, sockets).map(Duration::from);
                drop(inner);
                if configured {
                    self.addresses.raise();
                }
                match plan(has_come, has_room, configured, delay) {
                    Plan::Again => {}
                    Plan::Rest(delay) => return (now, delay),
                }
            }
            task::yield_now().await;
        }
    }
}

/// What follows a round.
enum Plan {
    /// Another one.
    Again,
    /// Nothing, for so long or until somebody has something to do.
    Rest(Option<Duration>),
}

/// Decides what follows a round. A link without room says when it has some: polling it meanwhile would only take the
/// processor from whoever makes the room.
fn plan(has_come: bool, has_room: bool, configured: bool, delay: Option<Duration>) -> Plan {
    if configured {
        return Plan::Again;
    }
    match delay {
        delay if !has_room => Plan::Rest(delay.map(|delay| delay.max(NO_ROOM))),
        Some(Duration::ZERO) => Plan::Again,
        _ if has_come => Plan::Again,
        delay => Plan::Rest(delay),
    }
}

impl Inner {
    /// A port for a connection made here.
    pub(super) fn port(&mut self) -> u16 {
        let port = self.next_port;
        self.next_port = if port == u16::MAX { FIRST_PORT } else { port + 1 };
        port
    }

    /// A socket.
    pub(super) fn socket<T: AnySocket<'static>>(&mut self, handle: SocketHandle) -> &mut T {
        self.sockets.get_mut(handle)
    }
}
