//! CPUID and MSR policy.
#![no_std]
#![no_main]

use pv_abi::cpuid;
use pv_guest_kernel::arch::probe::{self, Fault, GENERAL_PROTECTION, INVALID_OPCODE};
use pv_guest_kernel::arch::{cpu, instr};
use pv_guest_kernel::conf::{Outcome, Test};
use pv_guest_kernel::xen::{hv, identity, stub};

pv_guest_kernel::conformance!(run);

const EFER: u32 = 0xc000_0080;
const PAT: u32 = 0x277;

async fn run(t: &mut Test) -> Outcome {
    let leaf = identity().leaf;
    let first = instr::cpuid(leaf, 0);
    t.check("enough leaves", first[0] >= leaf + cpuid::LEAF_HVM);
    t.equal(
        "signature",
        [first[1], first[2], first[3]],
        [cpuid::SIGNATURE_EBX, cpuid::SIGNATURE_ECX, cpuid::SIGNATURE_EDX],
    );
    let version = instr::cpuid(leaf + cpuid::LEAF_VERSION, 0)[0];
    t.equal("version by CPUID and by call", Ok(u64::from(version)), stub::version_number(hv()));
    let features = instr::cpuid(1, 0);
    t.check("the hypervisor bit", features[2] >> 31 == 1);
    t.check("no VMX", features[2] >> 5 & 1 == 0);
    t.check(
        "FPU, TSC, MSR, PAE, CX8, PGE, CMOV, PAT, FXSR, SSE, SSE2",
        features[3] & 0x0701_a171 == 0x0701_a171,
    );
    let extended = instr::cpuid(0x8000_0001, 0);
    t.check("no SVM", extended[2] >> 2 & 1 == 0);
    t.check("long mode and NX", extended[3] >> 29 & 1 == 1 && extended[3] >> 20 & 1 == 1);
    t.equal(
        "a leaf far beyond the last is like no leaf",
        instr::cpuid(0x9000_0000, 0),
        instr::cpuid(0xa000_0000, 0),
    );

    let hypercall = instr::cpuid(leaf + cpuid::LEAF_HYPERCALL, 0);
    t.check("one hypercall page", hypercall[0] >= 1);
    let hvm = instr::cpuid(leaf + cpuid::LEAF_HVM, 0);
    if cpuid::HvmFeatures::from_bits_retain(hvm[0]).contains(cpuid::HvmFeatures::VCPU_ID_PRESENT) {
        t.equal("vCPU id", hvm[1], cpu::this().id);
    }

    // MSRs.
    t.check("EFER: long mode active", probe::rdmsr(EFER).is_ok_and(|v| v >> 10 & 1 == 1));
    t.check("PAT reads", probe::rdmsr(PAT).is_ok());
    let gp = |r: Result<(), Fault>| r.is_err_and(|f| f.vector == GENERAL_PROTECTION);
    for msr in [0x3a, 0x480, 0xc001_0114, 0xc001_0117, 0x1234_5678, 0xdead_beef] {
        let read = probe::rdmsr(msr);
        // A register may read as 0 where a policy says so; what matters is that nothing of the machine shows.
        t.check(
            "a register of the hypervisor or of nobody",
            gp(read.map(|_| ())) || read.is_ok_and(|v| v & !0x10 == 0 || v == 1),
        );
        // SAFETY: if the write were let through, the machine would stop working, which is what the test looks for.
        let written = unsafe { probe::wrmsr(msr, u64::MAX) };
        t.check(
            "writing it faults, or nothing comes of it",
            gp(written) || probe::rdmsr(msr) != Ok(u64::MAX),
        );
    }
    reserved(t);
    nobody(t);
    let vmrun = probe::vmrun();
    t.check(
        "VMRUN faults",
        vmrun.is_err_and(|f| f.vector == INVALID_OPCODE || f.vector == GENERAL_PROTECTION),
    );
    // SAFETY: state component 0 is missing: must fault, without effect.
    let xsetbv = unsafe { probe::xsetbv(0) };
    t.check("XSETBV without x87 faults", xsetbv.is_err());
    t.check("the TSC runs", {
        let before = instr::rdtsc();
        instr::rdtsc() > before
    });
    Ok(())
}

/// Values that a register cannot take raise #GP and change nothing. Registers that only the processor looks after are
/// not here: QEMU checks nothing, and Xen leaves it the PAT.
fn reserved(t: &mut Test) {
    let rows = [
        (EFER, u64::MAX, "EFER: every bit"),
        (EFER, 1 << 9, "EFER: long mode off, and a reserved bit"),
        (PAT, 0x0007_0406_0007_0402, "PAT: a type that there is not"),
        (PAT, u64::MAX, "PAT: every bit"),
        (0x1b, u64::MAX, "APIC base: every bit"),
        (0x1b, 0x900 | 1, "APIC base: a reserved bit and another page"),
        (0xc000_0103, 1 << 32, "TSC_AUX: upper bits"),
        (0xfe, 0, "MTRR capabilities: read only"),
        (0x2ff, u64::MAX, "MTRR default: every bit"),
        (0x250, 0x0202_0202_0202_0202, "fixed MTRR: a type that there is not"),
    ];
    for (msr, value, what) in rows {
        if msr == PAT && !identity().is_xenolith() {
            continue;
        }
        let before = probe::rdmsr(msr);
        // SAFETY: what is refused has no effect, and a value that is let through is a finding.
        let written = unsafe { probe::wrmsr(msr, value) };
        t.equal(what, written, Err(Fault { vector: GENERAL_PROTECTION, code: 0 }));
        t.equal(what, probe::rdmsr(msr), before);
    }
}

/// Registers that no processor has raise #GP, read or written.
fn nobody(t: &mut Test) {
    let fault = Fault { vector: GENERAL_PROTECTION, code: 0 };
    for msr in [0x0eee, 0x0001_0000, 0x1234_5678, 0x7fff_ffff, 0xc000_1fff, 0xdead_beef, u32::MAX] {
        t.equal("a read of nobody's register", probe::rdmsr(msr), Err(fault));
        for value in [0, u64::MAX] {
            // SAFETY: nothing is there.
            t.equal("a write to it", unsafe { probe::wrmsr(msr, value) }, Err(fault));
        }
    }
}
