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
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::{AnySocket, dhcpv4};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, Ipv4Address};
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
    /// When the task has something to do at the latest.
    deadline: Instant,
}

/// As good as never.
const NEVER: Instant = Instant::from_micros_const(i64::MAX);

/// The stack.
pub struct Stack {
    inner: Mutex<Inner>,
    /// Somebody did something to a socket, or the link has something to do.
    work: &'static Signal,
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

/// System time in nanoseconds.
fn nanos(at: Instant) -> u64 {
    (at.total_micros() as u64).saturating_mul(1000)
}

impl Stack {
    /// A stack over this link.
    pub fn new(link: Box<dyn Link>) -> Arc<Self> {
        let work = link.signal();
        let mut device = Device::new(link);
        let mac = device.link.info().mac;
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac)));
        config.random_seed =
            instr::rdtsc() ^ u64::from_le_bytes([mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], 0, 0]);
        config.slaac = true;
        let mut interface = Interface::new(config, &mut device, now());
        let mut sockets = SocketSet::new(Vec::new());
        let (source, dhcp) = addresses::begin(&mut interface, &mut sockets, mac);
        let inner =
            Inner { interface, sockets, device, dhcp, source, next_port: FIRST_PORT, deadline: NEVER };
        Arc::new(Self {
            inner: Mutex::new(inner),
            work,
            addresses: Signal::new(),
            moved: Signal::new(),
            watchers: AtomicUsize::new(0),
        })
    }

    /// What the link is like.
    pub fn link(&self) -> LinkInfo {
        self.inner.lock().device.link.info()
    }

    /// The addresses, the gateways, and where IPv4 ones come from.
    pub fn addresses(&self) -> (Vec<IpCidr>, Vec<IpAddress>, Source) {
        let inner = self.inner.lock();
        let routes = inner.interface.routes();
        let defaults = [routes.get_default_ipv4_route(), routes.get_default_ipv6_route()];
        let gateways = defaults.into_iter().flatten().map(|route| route.via_router).collect();
        (inner.interface.ip_addrs().to_vec(), gateways, inner.source)
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

    /// Works on the stack, and sends what there is to be sent then.
    pub fn with<R>(&self, f: impl FnOnce(&mut Inner) -> R) -> R {
        let mut inner = self.inner.lock();
        let result = f(&mut inner);
        let is_for_task = inner.send();
        drop(inner);
        self.tell_watchers();
        if is_for_task {
            self.work.raise();
        }
        result
    }

    /// Lets the task go on: somebody did something to a socket.
    pub fn stir(&self) {
        self.work.raise();
    }

    fn tell_watchers(&self) {
        if self.watchers.load(Ordering::Relaxed) > 0 {
            self.moved.raise();
        }
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
            let (now, until) = self.rounds().await;
            self.tell_watchers();
            sleep.reset(until.map(nanos), nanos(now));
            poll_fn(|cx| {
                let ready = self.work.poll_changed(&mut seen, cx).is_ready()
                    || Pin::new(&mut sleep).poll(cx).is_ready();
                if ready { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
    }

    /// Polls until nothing is left to do: the time then, and until when it can rest.
    async fn rounds(&self) -> (Instant, Option<Instant>) {
        loop {
            for _ in 0..ROUNDS {
                let mut inner = self.inner.lock();
                let (now, configured, plan) = inner.round();
                if let Plan::Rest(until) = plan {
                    inner.deadline = until.unwrap_or(NEVER);
                }
                drop(inner);
                if configured {
                    self.addresses.raise();
                }
                if let Plan::Rest(until) = plan {
                    return (now, until);
                }
            }
            task::yield_now().await;
        }
    }

    /// Takes the link's frames and answers them in the task of whoever has brought them, if nobody works on the stack
    /// now. Its own task is woken only if it is needed earlier than it wakes by itself.
    pub fn turn(&self) {
        let Some(mut inner) = self.inner.try_lock() else { return self.work.raise() };
        let (_, configured, plan) = inner.round();
        let is_for_task = match plan {
            Plan::Again => true,
            Plan::Rest(until) => until.is_some_and(|until| until < inner.deadline),
        };
        drop(inner);
        if configured {
            self.addresses.raise();
        }
        self.tell_watchers();
        if is_for_task {
            self.work.raise();
        }
    }
}

/// What follows a round.
enum Plan {
    /// Another one.
    Again,
    /// Nothing, until then or until somebody has something to do.
    Rest(Option<Instant>),
}

/// Decides what follows a round. A link without room says when it has some: polling it meanwhile would only take the
/// processor from whoever makes the room.
fn plan(is_behind: bool, has_room: bool, configured: bool, now: Instant, next: Option<Instant>) -> Plan {
    if configured {
        return Plan::Again;
    }
    match next {
        next if !has_room => Plan::Rest(next.map(|next| next.max(now + NO_ROOM.into()))),
        Some(next) if next <= now => Plan::Again,
        _ if is_behind => Plan::Again,
        next => Plan::Rest(next),
    }
}

impl Inner {
    /// One round: its time, whether addresses changed in it, and what follows.
    fn round(&mut self) -> (Instant, bool, Plan) {
        let Self { interface, sockets, device, dhcp, .. } = self;
        device.link.poll();
        device.probe.own = interface.ipv4_addr();
        let now = now();
        // Takes and sends until the link has no more of either, or the sockets: `poll_at` tells if they have.
        interface.poll(now, device, sockets);
        let is_behind = device.link.flush();
        let has_room = device.link.can_send();
        let configured =
            dhcp.is_some_and(|h| addresses::follow(interface, sockets.get_mut::<dhcpv4::Socket<'_>>(h)));
        let next = interface.poll_at(now, sockets);
        (now, configured, plan(is_behind, has_room, configured, now, next))
    }

    /// Sends what the sockets have. True: the stack's task has to look.
    #[inline(never)]
    fn send(&mut self) -> bool {
        let now = now();
        while self.interface.poll_egress(now, &mut self.device, &mut self.sockets) != PollResult::None {}
        let is_behind = self.device.link.flush();
        // What the task would not see by itself in time.
        is_behind || self.interface.poll_at(now, &self.sockets).is_some_and(|next| next < self.deadline)
    }

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
