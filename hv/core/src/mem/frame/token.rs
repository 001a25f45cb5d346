//! Tokens for frames: whoever has one may do what it says, once.
//!
//! Tokens are neither copied nor dropped: each is consumed by a function of the [frame table](super::FrameTable).
//! Losing one would leak its frames for ever, so debug builds panic on it and release builds log it.

use crate::hw::{HostPhys, Mfn};

macro_rules! bomb {
    ($name:ident, $text:literal) => {
        impl Drop for $name {
            fn drop(&mut self) {
                #[cfg(test)]
                if std::thread::panicking() {
                    return;
                }
                log::error!(concat!($text, " lost: {}"), self.mfn());
                debug_assert!(false, concat!($text, " lost"));
            }
        }
    };
}

/// Frames taken from the free memory, with unknown contents.
#[must_use = "frames leak unless they are given on or freed"]
#[derive(Debug)]
pub struct HeldFrames {
    pub(super) first: Mfn,
    pub(super) count: u64,
}

/// Frames full of zeroes, which may be shown to a guest.
#[must_use = "frames leak unless they are given on or freed"]
#[derive(Debug)]
pub struct ZeroedFrames {
    pub(super) first: Mfn,
    pub(super) count: u64,
}

/// One frame that is a nested page table.
#[must_use = "a table leaks unless it is freed"]
#[derive(Debug)]
pub struct TablePage {
    pub(super) mfn: Mfn,
}

/// One frame of the hypervisor that a guest sees.
#[must_use = "a shared page leaks unless it is freed"]
#[derive(Debug)]
pub struct SharedPage {
    pub(super) mfn: Mfn,
}

/// A reference to a frame of a guest: as long as it exists the frame is given to nobody else.
#[must_use = "a frame is never reused unless its references are put back"]
#[derive(Debug)]
pub struct PageRef {
    pub(super) mfn: Mfn,
}

macro_rules! frames {
    ($($name:ident)*) => {$(
        impl $name {
            /// The first frame.
            pub const fn mfn(&self) -> Mfn {
                self.first
            }

            /// How many frames.
            pub const fn count(&self) -> u64 {
                self.count
            }

            pub(super) fn consume(self) -> (Mfn, u64) {
                let parts = (self.first, self.count);
                core::mem::forget(self);
                parts
            }
        }
    )*};
}

frames!(HeldFrames ZeroedFrames);

macro_rules! one_frame {
    ($($name:ident)*) => {$(
        impl $name {
            /// The frame.
            #[inline]
            pub const fn mfn(&self) -> Mfn {
                self.mfn
            }

            /// The address of the frame's first byte.
            #[inline]
            pub const fn base(&self) -> HostPhys {
                self.mfn.base()
            }

            #[inline]
            pub(super) fn consume(self) -> Mfn {
                let mfn = self.mfn;
                core::mem::forget(self);
                mfn
            }
        }
    )*};
}

one_frame!(TablePage SharedPage PageRef);

impl TablePage {
    /// The table is about to be pointed to: from here on that entry is the token.
    pub(in crate::mem) fn into_entry(self) {
        self.consume();
    }
}

bomb!(HeldFrames, "held frames");
bomb!(ZeroedFrames, "zeroed frames");
bomb!(TablePage, "a table page");
bomb!(SharedPage, "a shared page");
bomb!(PageRef, "a page reference");
