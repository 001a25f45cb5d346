//! The control ring (`io/netif.h`, "Control messages"): asks the back end to hash packets if there are several queues, and
//! to keep pages mapped.
//!
//! One request is in the ring at a time. A back end that refuses one does as it likes, which is no error.

use alloc::format;
use alloc::string::String;

use pv_abi::errno::Errno;
use pv_abi::ids::{DomainId, GrantRef, Port};
use pv_abi::io::netif::{self, CtrlRequest, CtrlResponse};

use super::hash::Hash;
use super::staging::Staging;
use crate::platform::{Access, Platform};
use crate::ring::{FrontRing, RingFault};

/// A request's type, and what belongs to it.
pub(super) type Question = (u16, [u32; 3]);

/// What the request in the ring is about.
#[derive(Clone, Copy)]
enum Topic {
    Hash,
    Staging,
}

pub(in super::super) struct Control<P: Platform> {
    platform: P,
    ring: FrontRing<P>,
    port: Port,
    /// With several queues.
    hash: Option<Hash<P>>,
    staging: Staging<P>,
    /// The request that is in the ring.
    asked: Option<(CtrlRequest, Topic)>,
    next_id: u16,
}

impl<P: Platform> Control<P> {
    pub fn new(platform: &P, peer: DomainId, queues: u32) -> Result<Self, Errno> {
        let ring = FrontRing::new(platform, peer, 1, netif::CTRL_SLOT_SIZE)?;
        let hash = if queues > 1 { Some(Hash::new(platform, peer, queues)?) } else { None };
        let staging = Staging::new(platform, peer, queues)?;
        let port = platform.alloc_unbound(peer)?;
        Ok(Self { platform: platform.clone(), ring, port, hash, staging, asked: None, next_id: 0 })
    }

    pub fn grant(&self) -> GrantRef {
        self.ring.grants().first().copied().unwrap_or_default()
    }

    pub fn port(&self) -> Port {
        self.port
    }

    pub fn is_hashing(&self) -> bool {
        self.hash.as_ref().is_some_and(Hash::is_done)
    }

    /// Pages that the back end keeps mapped.
    pub fn mapped(&self) -> u32 {
        self.staging.mapped
    }

    /// Notes pages of a queue that the back end may keep mapped: it is asked with the next [`Self::poll`].
    pub fn offer(&mut self, queue: usize, grants: impl Iterator<Item = GrantRef>, access: Access) {
        self.staging.offer(queue, grants, access);
    }

    /// Takes answers and asks on.
    pub fn poll(&mut self) -> Result<(), String> {
        let broken = |fault: RingFault| format!("control ring: {fault}");
        loop {
            if self.asked.is_none() && !self.ask() {
                return Ok(());
            }
            match self.ring.pop::<CtrlResponse>().map_err(broken)? {
                Some((_, response)) => self.on_response(&response)?,
                None if self.ring.arm(1).map_err(broken)? => {}
                None => return Ok(()),
            }
        }
    }

    fn on_response(&mut self, response: &CtrlResponse) -> Result<(), String> {
        let (asked, topic) = self.asked.take().ok_or("control ring: an answer to no request")?;
        if (response.id, response.kind) != (asked.id, asked.kind) {
            return Err("control ring: an answer to another request".into());
        }
        match (topic, &mut self.hash) {
            (Topic::Hash, Some(hash)) => hash.answer(response),
            _ => self.staging.answer(response),
        }
        Ok(())
    }

    /// Asks what is to be asked next. `false`: nothing.
    fn ask(&mut self) -> bool {
        let about_hash = self.hash.as_ref().and_then(Hash::question).map(|question| (question, Topic::Hash));
        let about = about_hash.or_else(|| Some((self.staging.question()?, Topic::Staging)));
        let Some(((kind, data), topic)) = about else { return false };
        let request = CtrlRequest { id: self.next_id, kind, data };
        self.next_id = self.next_id.wrapping_add(1);
        self.asked = Some((request, topic));
        let _ = self.ring.push(&request);
        if self.ring.publish() {
            self.platform.notify(self.port);
        }
        true
    }
}

impl<P: Platform> Drop for Control<P> {
    fn drop(&mut self) {
        self.platform.close(self.port);
    }
}
