//! The paravirtual network interface as a link, and the task that finds it in XenStore.

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use pv_abi::Port;
use pv_drivers::net::{Gso, NetCounters, NetFront, NetOptions, NetState, Offload, PACKET_MAX, packet};
use pv_drivers::xenbus::{self, Frontend};
use spin::Mutex;

use super::link::{self, Link, LinkInfo, Received};
use crate::cmdline;
use crate::task::signal::Signal;
use crate::task::{self};
use crate::xen::platform::Xen;
use crate::xen::{events, store};

/// How long an interface may take to connect before the kernel stops waiting for it.
const PATIENCE: Duration = Duration::from_secs(20);

struct Shared {
    front: Mutex<NetFront<Xen>>,
    /// An event came, or the state in XenStore may have changed. One for each interface, which lives as long as the kernel.
    changed: &'static Signal,
}

/// A front end, as the stack uses it.
struct FrontLink {
    shared: Arc<Shared>,
    /// Where the stack writes a frame that is cut into segments here, or that nobody takes.
    scratch: Vec<u8>,
}

impl Shared {
    fn follow(&self) {
        let mut front = self.front.lock();
        let before: Vec<Port> = front.ports().collect();
        let (was_connected, was_up) = (front.state() == NetState::Connected, front.is_up());
        store::with(|store| front.on_store(store));
        if was_connected && was_up != front.is_up() {
            log::info!("eth0: the link is {}", if front.is_up() { "up" } else { "down" });
        }
        for port in front.ports().filter(|port| !before.contains(port)) {
            events::raise_on(port, "netfront", self.changed);
        }
        drop(front);
        self.changed.raise();
    }
}

impl Link for FrontLink {
    fn info(&self) -> LinkInfo {
        let front = self.shared.front.lock();
        LinkInfo {
            name: "eth0".into(),
            mac: front.mac().bytes(),
            mtu: front.mtu(),
            is_up: front.is_up(),
            // What the back end does not do is done here: see `send`.
            offloads_checksums: true,
            large: {
                let (v4, v6) = front.can_send_large();
                (v4.then_some(PACKET_MAX), v6.then_some(PACKET_MAX))
            },
            note: front.summary(),
        }
    }

    fn signal(&self) -> &'static Signal {
        self.shared.changed
    }

    fn poll(&mut self) -> bool {
        let (waits, wants_store) = {
            let mut front = self.shared.front.lock();
            (front.poll(), front.wants_store())
        };
        if wants_store {
            self.shared.follow();
        }
        waits
    }

    fn receive(&mut self) -> Option<Received> {
        let mut front = self.shared.front.lock();
        loop {
            let frame = front.receive()?;
            if frame.offload.validated || packet::is_checksum_good(&frame.bytes) {
                return Some(Received::Owned(frame.bytes));
            }
            log::debug!("eth0: a checksum is wrong");
        }
    }

    fn can_send(&self) -> bool {
        self.shared.front.lock().can_send(PACKET_MAX)
    }

    fn send(&mut self, length: usize, segment: Option<u16>, fill: &mut dyn FnMut(&mut [u8])) {
        let mut front = self.shared.front.lock();
        let leaves_checksums = front.can_leave_checksums();
        if let Some(size) = segment
            && !(leaves_checksums && front.can_send_large() == (true, true))
        {
            // Perhaps nobody helps.
            let frame = link::prepare(&mut self.scratch, length);
            fill(frame);
            return send_large(&mut front, frame, size);
        }
        let mut is_filled = false;
        let sent = front.send_with(length, &mut |frame| {
            link::clear_small(frame);
            fill(frame);
            is_filled = true;
            if leaves_checksums {
                let csum_blank = packet::fill_blank(frame);
                let gso = segment.map(|size| gso(frame, size));
                return Offload { csum_blank, validated: csum_blank, gso };
            }
            packet::fill_checksum(frame);
            Offload::default()
        });
        if !is_filled {
            fill(link::prepare(&mut self.scratch, length));
        }
        if let Err(error) = sent {
            log::debug!("eth0: {length} bytes not sent: {error:?}");
        }
    }

    fn flush(&mut self) -> bool {
        let mut front = self.shared.front.lock();
        front.kick();
        front.has_received()
    }

    fn counters(&self) -> NetCounters {
        self.shared.front.lock().counters()
    }
}

fn gso(frame: &[u8], size: u16) -> Gso {
    Gso { is_v6: frame.get(12) == Some(&0x86), size }
}

/// Sends a large frame, cut into segments here if the back end does not do that for its kind.
fn send_large(front: &mut NetFront<Xen>, frame: &mut [u8], size: u16) {
    let gso = gso(frame, size);
    let (v4, v6) = front.can_send_large();
    let takes_large = if gso.is_v6 { v6 } else { v4 };
    if front.can_leave_checksums() && takes_large {
        let csum_blank = packet::fill_blank(frame);
        return send(front, frame, Offload { csum_blank, validated: csum_blank, gso: Some(gso) });
    }
    for plan in packet::segment(frame, frame.len(), gso).unwrap_or_default() {
        let mut part = plan.header;
        part.extend_from_slice(&frame[plan.start..plan.start + plan.len]);
        packet::fill_checksum(&mut part);
        send(front, &part, Offload::default());
    }
}

fn send(front: &mut NetFront<Xen>, frame: &[u8], offload: Offload) {
    if let Err(error) = front.send(frame, offload) {
        log::debug!("eth0: {} bytes not sent: {error:?}", frame.len());
    }
}

/// The queues of the interface: the command line's word `net-queues=N`, else one, which serves a stack that runs on one
/// vCPU at a time.
fn queues() -> u32 {
    cmdline::value("net-queues").and_then(|number| number.parse().ok()).unwrap_or(1)
}

/// Connects the first interface that the toolstack gave this domain, and starts the stack over it.
pub async fn connect() {
    let Some(number) =
        store::with(|store| xenbus::list_frontends(store, "vif")).unwrap_or_default().into_iter().min()
    else {
        return;
    };
    let ends = match store::with(|store| Frontend::open(store, &format!("device/vif/{number}"))) {
        Some(Ok(ends)) => ends,
        Some(Err(error)) => return log::error!("network interface {number}: {error}"),
        None => return,
    };
    let mut watch = match store::Watch::new(&format!("{}/state", ends.peer_dir())) {
        Ok(watch) => watch,
        Err(error) => return log::error!("network interface {number}: {error}"),
    };
    // Large packets come in whole.
    let front = NetFront::new(&Xen, ends, NetOptions { queues: queues(), ..NetOptions::default() });
    let shared = Arc::new(Shared { front: Mutex::new(front), changed: Box::leak(Box::default()) });
    // The link's state besides the back end's.
    if let Some(Err(error)) = store::with(|store| shared.front.lock().watch(store, watch.token())) {
        log::warn!("network interface {number}: nobody will tell of its link: {error}");
    }
    shared.follow();
    let connecting = async {
        loop {
            let state = shared.front.lock().state();
            match state {
                NetState::Connecting => watch.changed().await,
                state => return state,
            }
            shared.follow();
        }
    };
    match task::timeout(PATIENCE, connecting).await {
        Ok(NetState::Connected) => {}
        Ok(_) => {
            let reason = shared.front.lock().failure().unwrap_or("closed by its back end").into();
            let reason: alloc::string::String = reason;
            return log::error!("network interface {number}: {reason}");
        }
        Err(_) => return log::error!("network interface {number}: its back end does not answer"),
    }
    log::info!("eth0: {}", shared.front.lock().summary());
    let link = FrontLink { shared: shared.clone(), scratch: Vec::new() };
    super::start(Box::new(link));
    task::spawn(async move {
        loop {
            watch.changed().await;
            shared.follow();
        }
    });
}
