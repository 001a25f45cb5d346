//! The end of this domain.

use pv_abi::sched::{Shutdown, reason};

use super::{hv, stub};
use crate::arch::instr;

/// Ends the domain for a reason (`pv_abi::sched::reason`).
pub fn shutdown(reason: u32) -> ! {
    let _ = stub::sched_shutdown(hv(), &Shutdown { reason });
    instr::halt_forever()
}

/// Ends the domain and says that it crashed.
pub fn crash() -> ! {
    shutdown(reason::CRASH)
}

/// Ends the domain with an exit status, which the toolstack reads in XenStore and, where there is
/// none, the console shows; status 0 means success.
pub async fn exit(status: i32) -> ! {
    if super::store::is_there() {
        super::store::write_exit_status(status).await;
    } else {
        crate::println!("exit status {status}");
    }
    crate::console::flush();
    shutdown(reason::POWEROFF)
}
