//! Machine checks that come while a guest runs (Intel SDM volume 3, chapter 16; AMD64 manual volume 2, chapter 9).

/// MCG_STATUS: the interrupted code can go on.
const RESTART_VALID: u64 = 1 << 0;
/// Status of a bank: valid; another error was lost; not corrected; the processor's own state is not sound.
const VALID: u64 = 1 << 63;
const OVERFLOW: u64 = 1 << 62;
const UNCORRECTED: u64 = 1 << 61;
const CONTEXT_CORRUPT: u64 = 1 << 57;

/// How bad it is.
#[cfg_attr(not(target_os = "none"), allow(dead_code))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Damage {
    /// The error is another CPU's, which told all.
    None,
    /// What the guest did is lost, and nothing else.
    Guest,
    /// Nobody knows what is lost.
    Machine,
}

#[cfg_attr(not(target_os = "none"), allow(dead_code))] // only tests judge there
/// Judges by MCG_STATUS and the status of all banks.
fn damage(global: u64, banks: impl Iterator<Item = u64>) -> Damage {
    let mut found = false;
    for status in banks.filter(|status| status & VALID != 0) {
        found = true;
        if status & CONTEXT_CORRUPT != 0 || status & (OVERFLOW | UNCORRECTED) == OVERFLOW | UNCORRECTED {
            return Damage::Machine;
        }
    }
    if found || global & RESTART_VALID == 0 { Damage::Guest } else { Damage::None }
}

/// Takes a machine check by which this CPU left a guest: says what it was, makes room for the next, and judges. What may
/// have spread to the hypervisor ends the machine.
#[cold]
#[cfg(target_os = "none")]
pub fn judge() -> hv_core::hw::Exit {
    use super::io::{rdmsr, wrmsr};
    use hv_core::hw::Exit;
    const MCG_CAP: u32 = 0x179;
    const MCG_STATUS: u32 = 0x17a;
    /// The status of bank 0; each bank has four registers.
    const STATUS: u32 = 0x401;
    let cpu = super::percpu::PerCpu::current().id();
    // SAFETY: a CPU that raises machine checks has these MSRs, and as many banks as the first says. Writing 0 to the
    // status of a bank, and to the bit of MCG_STATUS that a check is in progress, is how an error is done with.
    let (global, banks) = unsafe { (rdmsr(MCG_STATUS), rdmsr(MCG_CAP) as u8) };
    let statuses = (0..u32::from(banks)).map(|bank| {
        // SAFETY: as above.
        let status = unsafe { rdmsr(STATUS + 4 * bank) };
        if status & VALID != 0 {
            log::error!("{cpu}: machine check in bank {bank}: {status:#018x}");
        }
        status
    });
    let damage = damage(global, statuses);
    if damage == Damage::Machine {
        panic!("machine check on {cpu} that may have spread (MCG_STATUS {global:#x})");
    }
    // SAFETY: as above.
    unsafe {
        (0..u32::from(banks)).for_each(|bank| wrmsr(STATUS + 4 * bank, 0));
        wrmsr(MCG_STATUS, 0);
    }
    if damage == Damage::None { Exit::Interrupted } else { Exit::MachineCheck }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_did_not_spread_is_the_guest_s_alone() {
        let of = |global, banks: &[u64]| damage(global, banks.iter().copied());
        assert_eq!(of(RESTART_VALID, &[0, 0]), Damage::None);
        assert_eq!(of(0, &[]), Damage::Guest);
        assert_eq!(of(RESTART_VALID, &[0, VALID | UNCORRECTED]), Damage::Guest);
        assert_eq!(of(RESTART_VALID, &[VALID | OVERFLOW]), Damage::Guest, "a lost error that was corrected");
        assert_eq!(of(RESTART_VALID, &[VALID | CONTEXT_CORRUPT]), Damage::Machine);
        assert_eq!(of(0, &[VALID | UNCORRECTED, VALID | UNCORRECTED | OVERFLOW]), Damage::Machine);
        assert_eq!(of(RESTART_VALID, &[CONTEXT_CORRUPT]), Damage::None, "not valid");
    }
}
