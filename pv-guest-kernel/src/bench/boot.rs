//! How long a start takes.

use super::report::{self, Figure};
use crate::arch::instr;
use crate::boot;
use crate::figures::{Counters, Figures};
use crate::shell::command::{Args, Outcome};
use crate::xen;

/// Tells of this domain: what came before its kernel, and what its kernel took to the shell.
pub async fn run(args: Args) -> Outcome {
    let now = instr::rdtsc();
    args.at_most(1)?;
    let counted = xen::identity().domain.and_then(Counters::of);
    let counted = counted.map(|guest| Figures { guest, ..Figures::default() });
    Figure::new("boot", "reset-to-guest", 1).total("ticks", boot::entered()).print();
    let shell = Figure::new("boot", "guest-to-shell", 1).total("ticks", now - boot::entered());
    shell.counted(counted.as_ref()).print();
    Ok(())
}

/// Tells of the domain that the hypervisor itself starts first (`figures=boot` on its command line).
pub fn first_domain() {
    if crate::cmdline::value("figures") == Some("boot") {
        report::set_raw(true);
        Figure::new("boot", "reset-to-first-domain", 1).total("ticks", boot::entered()).print();
    }
}
