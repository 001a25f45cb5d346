//! A front end that lies: packets from others' addresses, headers that cannot be, memory that is not there any more,
//! an end half-way, and a packet beyond its page. Its back end answers each, and in the end gives this interface up alone.
//!
//! It needs an interface with `antispoof`, and a driver domain that answers ARP at 10.0.0.254. It leaves everything as it
//! is when it ends: what the driver domain then still holds is for whoever counts there.
#![no_std]
#![no_main]

use alloc::vec::Vec;
use core::time::Duration;

use pv_abi::Port;
use pv_abi::io::netif::{self, ExtraInfo, RxRequest, RxResponse, TxRequest, TxResponse, key};
use pv_drivers::net::Mac;
use pv_drivers::platform::{Access, Platform, SharedMemory};
use pv_drivers::ring::FrontRing;
use pv_drivers::share::Shared;
use pv_drivers::xenbus::{Frontend, XenbusState};
use pv_drivers::xs::{TransactionId, read_text, write_display};
use pv_guest_kernel::conf::{Outcome, Stop, Test, error};
use pv_guest_kernel::task;
use pv_guest_kernel::xen::platform::{Xen, retired_pages};
use pv_guest_kernel::xen::{grants, store};
use zerocopy::IntoBytes;

pv_guest_kernel::conformance!(run);

/// How long the back end may take for anything.
const PATIENCE: Duration = Duration::from_secs(60);
const NONE: TransactionId = TransactionId::NONE;
const HOST: [u8; 4] = [10, 0, 0, 254];
const OWN: [u8; 4] = [10, 0, 0, 66];

/// An interface whose rings this test fills by hand.
struct Interface {
    ends: Frontend,
    mac: Mac,
    tx: FrontRing<Xen>,
    rx: FrontRing<Xen>,
    data: Shared<Xen>,
    port: Port,
}

fn with<R>(work: impl FnOnce(&mut dyn pv_drivers::xs::Store) -> R) -> Result<R, Stop> {
    store::with(work).ok_or_else(|| error("store", "there is none"))
}

impl Interface {
    /// Connects, as an honest front end does.
    async fn connect() -> Result<Self, Stop> {
        let ends = with(|store| Frontend::open(store, "device/vif/0"))?.map_err(|e| error("no vif", e))?;
        let mac = with(|store| read_text(store, NONE, &ends.key(key::MAC)))?;
        let mac = mac.and_then(|text| text.parse().ok()).ok_or_else(|| error("no address", ()))?;
        let peer = ends.peer();
        let ring = |slot| FrontRing::new(&Xen, peer, 1, slot).map_err(|e| error("a ring", e));
        let (tx, rx) = (ring(netif::TX_SLOT_SIZE)?, ring(netif::RX_SLOT_SIZE)?);
        let data = Shared::new(&Xen, peer, 4, Access::ReadWrite).map_err(|e| error("memory", e))?;
        let port = Xen.alloc_unbound(peer).map_err(|e| error("a port", e))?;
        let new = Self { ends, mac, tx, rx, data, port };
        new.wait_for(XenbusState::InitWait).await?;
        with(|store| {
            for (key, value) in [
                (key::TX_RING_REF, new.tx.grants()[0].raw()),
                (key::RX_RING_REF, new.rx.grants()[0].raw()),
                (key::EVENT_CHANNEL, port.raw()),
                (key::REQUEST_RX_COPY, 1),
                (key::FEATURE_SG, 1),
                (key::FEATURE_GSO_TCPV4, 1),
            ] {
                write_display(store, NONE, &new.ends.key(key), value)?;
            }
            new.ends.set_state(store, XenbusState::Connected)
        })?
        .map_err(|e| error("keys", e))?;
        new.wait_for(XenbusState::Connected).await?;
        Ok(new)
    }

    async fn wait_for(&self, state: XenbusState) -> Result<(), Stop> {
        let there = async {
            while with(|store| self.ends.peer_state(store))? != state {
                task::sleep(Duration::from_millis(1)).await;
            }
            Ok(())
        };
        task::timeout(PATIENCE, there).await.map_err(|_| error("the back end never comes to", state))?
    }

    fn say(&self, state: XenbusState) -> Result<(), Stop> {
        with(|store| self.ends.set_state(store, state))?.map_err(|e| error("state", e))
    }

    /// Writes a packet into a page of the data and makes a request of it.
    fn request(&self, page: usize, packet: &[u8]) -> TxRequest {
        self.data.memory().copy_in(page * 4096, packet);
        let gref = self.data.grants()[page].raw();
        TxRequest { gref, offset: 0, flags: 0, id: page as u16, size: packet.len() as u16 }
    }

    /// Shows requests without waiting for anything.
    fn show(&mut self, slots: &[[u8; netif::TX_SLOT_SIZE]]) {
        for slot in slots {
            let _ = self.tx.push(slot);
        }
        if self.tx.publish() {
            Xen.notify(self.port);
        }
    }

    /// The statuses of the next answers.
    async fn answers(&mut self, count: usize) -> Result<Vec<i16>, Stop> {
        let mut statuses = Vec::new();
        let all = async {
            while statuses.len() < count {
                match self.tx.pop::<TxResponse>().map_err(|e| error("the transmit ring", e))? {
                    Some((_, response)) => statuses.push(response.status),
                    None => task::sleep(Duration::from_millis(1)).await,
                }
            }
            Ok(())
        };
        task::timeout(PATIENCE, all).await.map_err(|_| error("answers that never come", count))??;
        Ok(statuses)
    }

    async fn send(&mut self, slots: &[[u8; netif::TX_SLOT_SIZE]]) -> Result<Vec<i16>, Stop> {
        self.show(slots);
        self.answers(slots.len()).await
    }

    /// Asks who has the driver domain's address.
    fn question(&self) -> Vec<u8> {
        let mut packet = ethernet(Mac::BROADCAST, self.mac, 0x0806);
        packet.extend([0, 1, 8, 0, 6, 4, 0, 1]);
        packet.extend(self.mac.bytes());
        packet.extend(OWN);
        packet.extend([0; 6]);
        packet.extend(HOST);
        packet
    }

    /// Gives one receive buffer, and waits for the status of what comes into it.
    async fn receive(&mut self, gref: u32) -> Result<i16, Stop> {
        let _ = self.rx.push(&RxRequest { id: 7, pad: 0, gref });
        if self.rx.publish() {
            Xen.notify(self.port);
        }
        let question = slot(&self.request(0, &self.question()));
        let sent = self.send(&[question]).await?;
        if sent != [netif::RSP_OKAY] {
            return Err(error("a question", sent));
        }
        let answer = async {
            loop {
                match self.rx.pop::<RxResponse>().map_err(|e| error("the receive ring", e))? {
                    Some((_, response)) => return Ok(response.status),
                    None => task::sleep(Duration::from_millis(1)).await,
                }
            }
        };
        task::timeout(PATIENCE, answer).await.map_err(|_| error("nothing received", ()))?
    }
}

fn ethernet(to: Mac, from: Mac, kind: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(to.bytes());
    packet.extend(from.bytes());
    packet.extend(kind.to_be_bytes());
    packet
}

fn slot(bytes: &impl IntoBytesOf) -> [u8; netif::TX_SLOT_SIZE] {
    let mut slot = [0; netif::TX_SLOT_SIZE];
    let from = bytes.bytes();
    slot[..from.len()].copy_from_slice(from);
    slot
}

trait IntoBytesOf {
    fn bytes(&self) -> &[u8];
}

impl IntoBytesOf for TxRequest {
    fn bytes(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl IntoBytesOf for ExtraInfo {
    fn bytes(&self) -> &[u8] {
        self.as_bytes()
    }
}

/// Packets that are not what they say they are.
async fn malformed(t: &mut Test, vif: &mut Interface) -> Result<(), Stop> {
    let other = Mac::new([0x02, 0x16, 0x3e, 9, 9, 9]);
    let spoofed = vif.request(0, &ethernet(Mac::BROADCAST, other, 0x88b5));
    t.equal("another's address", vif.send(&[slot(&spoofed)]).await?, [netif::RSP_DROPPED]);
    let mut question = vif.question();
    question[22..28].copy_from_slice(&other.bytes());
    let spoofed = vif.request(0, &question);
    t.equal("another's address in ARP", vif.send(&[slot(&spoofed)]).await?, [netif::RSP_DROPPED]);
    for len in [0, 1, 13] {
        let short = TxRequest { size: len, ..vif.request(0, &[0; 14]) };
        t.equal("no header", vif.send(&[slot(&short)]).await?, [netif::RSP_ERROR]);
    }
    // IP and TCP whose lengths lie beyond the packet, with checksums left to others: nobody looks there.
    for (place, value) in [(14, 0x4f), (14, 0x40), (16, 0xff), (23, 6), (46, 0xf0), (46, 0x00)] {
        let mut packet = ethernet(Mac::BROADCAST, vif.mac, 0x0800);
        packet.extend([0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]);
        packet.extend(OWN);
        packet.extend(HOST);
        packet.extend([0, 7, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0]);
        packet[place] = value;
        for len in [20, 34, 40, packet.len()] {
            let blank = TxRequest { flags: netif::TX_CSUM_BLANK, ..vif.request(0, &packet[..len]) };
            t.equal("a blank checksum", vif.send(&[slot(&blank)]).await?.len(), 1);
            let large = TxRequest { flags: blank.flags | netif::TX_EXTRA_INFO, ..blank };
            let extra = ExtraInfo::gso(netif::GSO_TYPE_TCPV6, 1400);
            let answers = vif.send(&[slot(&large), slot(&extra)]).await?;
            t.equal("a large packet that is none", answers, [netif::RSP_ERROR, netif::RSP_NULL]);
        }
    }
    Ok(())
}

/// Memory that is not there, or not any more.
async fn revoked(t: &mut Test, vif: &mut Interface) -> Result<(), Stop> {
    let question = vif.question();
    for gref in [500, 9999, u32::MAX] {
        let absent = TxRequest { gref, ..vif.request(0, &question) };
        t.equal("no such grant", vif.send(&[slot(&absent)]).await?, [netif::RSP_ERROR]);
        t.equal("a buffer that is not there", vif.receive(gref).await?, netif::RSP_ERROR);
    }
    let good = vif.data.grants()[0].raw();
    t.check("a buffer that is", vif.receive(good).await? >= 42);
    // Half of a packet is taken away while the back end may be at it: whoever comes first, it ends well.
    for round in 0..32 {
        let mut packet = ethernet(Mac::BROADCAST, vif.mac, 0x88b5);
        packet.resize(1000, round);
        let page = Xen.allocate(1).map_err(|e| error("memory", e))?;
        let grant = Xen.grant(vif.ends.peer(), &page, 0, Access::ReadOnly).map_err(|e| error("grant", e))?;
        let first = TxRequest { flags: netif::TX_MORE_DATA, size: 2000, ..vif.request(0, &packet) };
        let second = TxRequest { gref: grant.raw(), size: 1000, flags: 0, ..first };
        vif.show(&[slot(&first), slot(&second)]);
        let mut ended = grants::ungrant(grant);
        let answers = vif.answers(2).await?;
        if ended.is_err() {
            ended = grants::ungrant(grant);
        }
        t.equal("the grant is over", ended, Ok(()));
        t.check("both halves alike", answers[0] == answers[1]);
        t.check("sent or refused", matches!(answers[0], netif::RSP_OKAY | netif::RSP_ERROR));
    }
    Ok(())
}

impl Drop for Interface {
    fn drop(&mut self) {
        Xen.close(self.port);
    }
}

/// Goes while a packet is on its way, first saying so and then not, and comes back.
async fn leave(t: &mut Test) -> Result<Interface, Stop> {
    for is_polite in [true, false, true, false] {
        let mut vif = Interface::connect().await?;
        let question = slot(&vif.request(0, &vif.question()));
        vif.show(&[question; 8]);
        if is_polite {
            vif.say(XenbusState::Closing)?;
            vif.wait_for(XenbusState::Closing).await?;
        }
        vif.say(XenbusState::Closed)?;
        vif.wait_for(XenbusState::Closed).await?;
        vif.say(XenbusState::Initialising)?;
        drop(vif);
        t.equal("pages that the back end keeps", retired_pages(), 0);
    }
    Interface::connect().await
}

async fn run(t: &mut Test) -> Outcome {
    let mut vif = Interface::connect().await?;
    malformed(t, &mut vif).await?;
    revoked(t, &mut vif).await?;
    vif.say(XenbusState::Closed)?;
    vif.wait_for(XenbusState::Closed).await?;
    vif.say(XenbusState::Initialising)?;
    drop(vif);
    let mut vif = leave(t).await?;
    let good = vif.data.grants()[0].raw();
    t.check("it works to the end", vif.receive(good).await? >= 42);
    // Beyond its page: from this on nothing is believed.
    let crossing = TxRequest { offset: 4000, ..vif.request(0, &[0; 200]) };
    vif.show(&[slot(&crossing)]);
    vif.wait_for(XenbusState::Closing).await?;
    // Everything stays as it is: granted, bound, and in the rings.
    core::mem::forget(vif);
    Ok(())
}
