//! Disks that a back end in another domain serves.
