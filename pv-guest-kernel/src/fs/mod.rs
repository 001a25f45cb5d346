//! File systems: FAT volumes (`hadris-fat`) mounted at paths.
//!
//! Paths begin at `/`; the longest mount point that fits decides. Data reach the disk at once; names and sizes are
//! made durable by [`sync_all`].

mod device;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use hadris_fat::async_::FatFs;
use hadris_fs::async_::Volume;
use hadris_fs::{Clock, MountOptions};

use crate::block::Disk;
use crate::xen::clock;
pub use device::FatDevice;

/// A mounted volume.
pub type Fat = Volume<FatFs<FatDevice>>;

/// A volume at its place.
#[derive(Clone)]
pub struct Mount {
    /// Where: `/` or `/name`.
    pub point: String,
    /// The disk's name.
    pub disk: String,
    /// The volume.
    pub volume: Arc<Fat>,
}

static MOUNTS: spin::RwLock<Vec<Mount>> = spin::RwLock::new(Vec::new());

/// The time for new and changed files.
struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> hadris_fs::DateTime {
        let nanos = clock::wall();
        hadris_fs::DateTime::new((nanos / 1_000_000_000) as i64, (nanos % 1_000_000_000) as u32)
            .unwrap_or(hadris_fs::NoClock::TIME)
    }
}

/// Blocks of names and allocation tables kept in memory, and places in a file's chain.
const CACHE_BLOCKS: usize = 64;
const CACHE_POSITIONS: usize = 64;

/// Mounts a disk's FAT volume.
pub async fn mount(disk: &Disk, point: &str, read_only: bool) -> Result<(), String> {
    let point = clean(point);
    if MOUNTS.read().iter().any(|m| m.point == point) {
        return Err(format!("something is mounted at {point} already"));
    }
    let name = disk.info().name;
    if MOUNTS.read().iter().any(|m| m.disk == name) {
        return Err(format!("{name} is mounted already"));
    }
    let mut options = MountOptions::new().with_clock(&WallClock);
    if read_only {
        options = options.read_only();
    }
    let device = FatDevice::new(disk.clone(), read_only);
    let fat = FatFs::mount(device, options).await.map_err(|e| format!("{name}: {}", e.into_error()))?;
    let cache =
        hadris_fat::CacheOptions::new().with_chain_positions(CACHE_POSITIONS).with_blocks(CACHE_BLOCKS);
    let volume = Arc::new(Volume::new(fat.with_cache(cache)));
    let mut mounts = MOUNTS.write();
    mounts.push(Mount { point, disk: name, volume });
    // The longest mount point first: that is the order of looking.
    mounts.sort_by_key(|m| core::cmp::Reverse(m.point.len()));
    Ok(())
}

/// Unmounts what is at `point`.
pub async fn unmount(point: &str) -> Result<(), String> {
    let point = clean(point);
    let found = MOUNTS.read().iter().find(|m| m.point == point).cloned();
    let Some(mount) = found else { return Err(format!("nothing is mounted at {point}")) };
    sync(&mount).await?;
    MOUNTS.write().retain(|m| m.point != point);
    Ok(())
}

/// What is mounted.
pub fn mounts() -> Vec<Mount> {
    MOUNTS.read().clone()
}

/// Makes everything on a volume durable.
pub async fn sync(mount: &Mount) -> Result<(), String> {
    let mut volume = mount.volume.lock().await.map_err(|e| e.to_string())?;
    volume.sync().await.map_err(|e| e.to_string())
}

/// Makes everything on all volumes durable; failures are logged.
pub async fn sync_all() -> bool {
    let mut good = true;
    for mount in mounts() {
        if let Err(e) = sync(&mount).await {
            log::error!("{}: {e}", mount.point);
            good = false;
        }
    }
    good
}

/// A path without `.`, `..`, doubled or trailing slashes.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The volume that a path is on, and the path there.
pub fn resolve(path: &str) -> Result<(Arc<Fat>, String), String> {
    let path = clean(path);
    for mount in MOUNTS.read().iter() {
        let rest =
            if mount.point == "/" { Some(path.as_str()) } else { path.strip_prefix(mount.point.as_str()) };
        if let Some(rest) = rest.filter(|r| r.is_empty() || r.starts_with('/')) {
            return Ok((mount.volume.clone(), if rest.is_empty() { "/".into() } else { rest.into() }));
        }
    }
    Err(format!("{path}: nothing is mounted there; try `mount`"))
}
