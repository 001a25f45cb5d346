//! Disks that a back end in another domain serves.

/// What a front end has done.
#[derive(Debug, Clone, Copy, Default)]
pub struct Statistics {
    /// Events sent to the back end.
    pub notifications: u64,
    /// Bytes copied between requests' buffers and shared pages.
    pub copied: u64,
}

/// The counters of a disk, if a front end serves it.
pub fn statistics(name: &str) -> Option<Statistics> {
    let _ = name;
    None
}

/// Connects the disks that the toolstack gave this domain.
pub async fn connect_all() {}
