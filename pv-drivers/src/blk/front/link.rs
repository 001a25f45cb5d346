//! What the two ends agree upon, and the ring they then share.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use pv_abi::ids::Port;
use pv_abi::io::blkif::{self, key};

use super::super::device::{Discard, Geometry};
use super::FrontOptions;
use crate::platform::Platform;
use crate::ring::FrontRing;
use crate::xenbus::Frontend;
use crate::xs::{Store, TransactionId, in_transaction, write_display};

/// What the back end can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Features {
    pub has_barrier: bool,
    pub has_flush: bool,
    pub has_persistent: bool,
    pub discard: Option<Discard>,
    /// The most segments of a request.
    pub max_segments: usize,
    pub is_indirect: bool,
    /// How many queues both ends like.
    pub queues: u32,
}

impl Features {
    pub fn read(store: &mut dyn Store, ends: &Frontend, options: &FrontOptions) -> Self {
        let offered = ends.peer_number(store, key::FEATURE_MAX_INDIRECT_SEGMENTS).unwrap_or(0);
        let most = blkif::MAX_INDIRECT_PAGES_PER_REQUEST * blkif::SEGMENTS_PER_INDIRECT_PAGE;
        let indirect = usize::try_from(offered).unwrap_or(most).min(most).min(options.max_indirect);
        let is_indirect = indirect > blkif::MAX_SEGMENTS_PER_REQUEST;
        let number = |value: Option<u64>, other: u32| value.and_then(|n| n.try_into().ok()).unwrap_or(other);
        let discard = ends.peer_flag(store, key::FEATURE_DISCARD).then(|| Discard {
            granularity: number(ends.peer_number(store, key::DISCARD_GRANULARITY), 512),
            alignment: number(ends.peer_number(store, key::DISCARD_ALIGNMENT), 0),
            is_secure: ends.peer_flag(store, key::DISCARD_SECURE),
        });
        Self {
            has_barrier: ends.peer_flag(store, key::FEATURE_BARRIER),
            has_flush: ends.peer_flag(store, key::FEATURE_FLUSH_CACHE),
            has_persistent: ends.peer_flag(store, key::FEATURE_PERSISTENT),
            discard,
            max_segments: if is_indirect { indirect } else { blkif::MAX_SEGMENTS_PER_REQUEST },
            is_indirect,
            queues: number(ends.peer_number(store, key::MULTI_QUEUE_MAX_QUEUES), 1)
                .min(options.max_queues)
                .clamp(1, MOST_QUEUES),
        }
    }
}

/// The most queues, whatever both ends like.
const MOST_QUEUES: u32 = 64;

/// The ring of a queue and its port.
pub(super) struct Link<P: Platform> {
    platform: P,
    /// Parts that are not in the ring yet.
    pub waiting: VecDeque<usize>,
    pub ring: FrontRing<P>,
    pub port: Port,
    pub features: Features,
}

impl<P: Platform> Link<P> {
    /// Makes rings of the largest size that both ends like, and publishes them.
    pub fn publish(
        platform: &P,
        store: &mut dyn Store,
        ends: &Frontend,
        options: &FrontOptions,
    ) -> Result<Vec<Self>, String> {
        let offered = match ends.peer_number(store, key::MAX_RING_PAGE_ORDER) {
            Some(order) => order,
            None => {
                ends.peer_number(store, key::MAX_RING_PAGES).map_or(0, |pages| pages.max(1).ilog2().into())
            }
        };
        let order = u32::try_from(offered).unwrap_or(u32::MAX).min(options.max_ring_order).min(8);
        let features = Features::read(store, ends, options);
        let links: Vec<Self> = (0..features.queues)
            .map(|_| {
                let ring = FrontRing::new(platform, ends.peer(), 1 << order, blkif::SLOT_SIZE)
                    .map_err(|error| format!("no ring: {error}"))?;
                let port = platform
                    .alloc_unbound(ends.peer())
                    .map_err(|error| format!("no event channel: {error}"))?;
                Ok(Self { platform: platform.clone(), waiting: VecDeque::new(), ring, port, features })
            })
            .collect::<Result<_, String>>()?;
        in_transaction(store, |store, transaction| {
            if order > 0 {
                write_display(store, transaction, &ends.key(key::RING_PAGE_ORDER), order)?;
                write_display(store, transaction, &ends.key(key::NUM_RING_PAGES), 1u32 << order)?;
            }
            if features.queues > 1 {
                let path = ends.key(key::MULTI_QUEUE_NUM_QUEUES);
                write_display(store, transaction, &path, features.queues)?;
            }
            for (queue, link) in links.iter().enumerate() {
                let prefix = if links.len() == 1 { String::new() } else { format!("queue-{queue}/") };
                for (number, grant) in link.ring.grants().iter().enumerate() {
                    let number = if order == 0 { String::new() } else { format!("{number}") };
                    let path = ends.key(&format!("{prefix}{}{number}", key::RING_REF));
                    write_display(store, transaction, &path, grant.raw())?;
                }
                let path = ends.key(&format!("{prefix}{}", key::EVENT_CHANNEL));
                write_display(store, transaction, &path, link.port.raw())?;
            }
            store.write(transaction, &ends.key(key::PROTOCOL), key::PROTOCOL_X86_64.as_bytes())?;
            write_display(store, transaction, &ends.key(key::FEATURE_PERSISTENT), 1)
        })
        .map_err(|error| format!("nothing can be published: {error}"))?;
        Ok(links)
    }

    /// Takes back what [`Self::publish`] wrote, before another ring is published.
    pub fn unpublish(store: &mut dyn Store, ends: &Frontend, options: &FrontOptions) {
        let single = [
            key::RING_REF,
            key::RING_PAGE_ORDER,
            key::NUM_RING_PAGES,
            key::EVENT_CHANNEL,
            key::MULTI_QUEUE_NUM_QUEUES,
        ];
        // Most of them are not there.
        for name in single {
            let _ = store.remove(TransactionId::NONE, &ends.key(name));
        }
        for queue in 0..options.max_queues.min(MOST_QUEUES) {
            let _ = store.remove(TransactionId::NONE, &ends.key(&format!("queue-{queue}")));
        }
    }
}

impl<P: Platform> Drop for Link<P> {
    fn drop(&mut self) {
        self.platform.close(self.port);
    }
}

/// What the connected back end says of its disk.
pub(super) fn read_geometry(
    store: &mut dyn Store,
    ends: &Frontend,
    features: &Features,
) -> Result<Geometry, String> {
    let sectors = ends.peer_number(store, key::SECTORS).ok_or("the back end names no size")?;
    let block_size = ends.peer_number(store, key::SECTOR_SIZE).unwrap_or(512);
    if !(512..=4096).contains(&block_size) || !block_size.is_power_of_two() {
        return Err(format!("a sector size of {block_size}"));
    }
    let info = ends.peer_number(store, key::INFO).unwrap_or(0);
    Ok(Geometry {
        sectors,
        block_size: u32::try_from(block_size).map_err(|_| "a sector size that cannot be")?,
        is_read_only: info & u64::from(blkif::VDISK_READONLY) != 0,
        can_flush: features.has_flush || features.has_barrier,
        discard: features.discard,
        max_pieces: features.max_segments,
        max_sectors: u32::MAX,
    })
}
