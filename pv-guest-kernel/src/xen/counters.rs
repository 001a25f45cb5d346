//! The hypervisor's counters, in pages that it counts in and that we may read, with the role `control`.

use alloc::vec::Vec;

use pv_abi::Gfn;
use pv_abi::counters::{CounterPage, VERSION};

use super::{hv, stub};
use crate::mm::{self, PAGE, special};
use crate::sync::IrqMutex;

static PAGES: IrqMutex<Vec<&'static CounterPage>> = IrqMutex::new(Vec::new());

/// The pages of all virtual CPUs that there are by now, mapping those that are new; none where we may not read them.
pub fn pages() -> Vec<&'static CounterPage> {
    let mut pages = PAGES.lock();
    while let Some(page) = map(pages.len() as u32) {
        pages.push(page);
    }
    pages.clone()
}

fn map(number: u32) -> Option<&'static CounterPage> {
    let gfn = special::allocate(1)?;
    if stub::control_counters(hv(), number, Gfn::new(gfn)).is_err() {
        special::free(gfn);
        return None;
    }
    // SAFETY: the page is mapped now, and stays; all that changes in it is atomic.
    let page: &CounterPage = unsafe { &*mm::ptr(gfn * PAGE) };
    (page.version.get() == VERSION).then_some(page)
}
