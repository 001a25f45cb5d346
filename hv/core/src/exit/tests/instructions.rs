//! Accesses to places without memory, by instructions decoded in software.

use super::*;
use crate::apic::{Destination, IpiKind};
use proptest::prelude::*;

const HOLE: u64 = 0xd000_0000;

fn fault(bench: &Bench, gpa: u64, write: bool) -> Resume {
    let access = Access { write, execute: false };
    bench.exit(Exit::NestedFault { gpa: GuestPhys::new(gpa), gva: None, access, present: false })
}

fn bench(code: &[u8]) -> Bench {
    let mut bench = Bench::new();
    bench.long_mode();
    bench.code = code.to_vec();
    bench.registers.lock().unwrap().insert(HOLE, 0x8877_6655_4433_2281);
    bench.with(|context, _| {
        context.hw.gprs_mut().rax = 0x1111_1111_1111_1111;
        context.hw.gprs_mut().rbx = 0x2222_2222_2222_2222;
        context.hw.gprs_mut().rcx = HOLE;
    });
    bench
}

/// Executes one instruction with the register at HOLE as its operand; RAX, RBX, the register, the flags.
fn run(code: &[u8], write: bool) -> (u64, u64, u64, u64) {
    let bench = bench(code);
    assert_eq!(fault(&bench, HOLE, write), Resume::Continue);
    assert_eq!(bench.rip(), 0x1000 + code.len() as u64);
    let register = bench.registers.lock().unwrap()[&HOLE];
    bench.with(|context, _| {
        (context.hw.gprs().rax, context.hw.gprs().rbx, register, context.hw.get(Reg::Rflags) & 0x8d5)
    })
}

const RAX: u64 = 0x1111_1111_1111_1111;
const RBX: u64 = 0x2222_2222_2222_2222;
const REGISTER: u64 = 0x8877_6655_4433_2281;

#[test]
fn loads_of_all_widths() {
    assert_eq!(run(&[0x8a, 0x01], false).0, 0x1111_1111_1111_1181); // mov al, [rcx]
    assert_eq!(run(&[0x8a, 0x21], false).0, 0x1111_1111_1111_8111); // mov ah, [rcx]
    assert_eq!(run(&[0x66, 0x8b, 0x01], false).0, 0x1111_1111_1111_2281); // mov ax, [rcx]
    assert_eq!(run(&[0x8b, 0x01], false).0, 0x4433_2281); // mov eax, [rcx]
    assert_eq!(run(&[0x48, 0x8b, 0x19], false).1, REGISTER); // mov rbx, [rcx]
    assert_eq!(run(&[0x0f, 0xb6, 0x01], false).0, 0x81); // movzx eax, byte [rcx]
    assert_eq!(run(&[0x48, 0x0f, 0xbe, 0x01], false).0, 0xffff_ffff_ffff_ff81); // movsx rax, byte [rcx]
    assert_eq!(run(&[0x48, 0x63, 0x01], false).0, 0x4433_2281); // movsxd rax, dword [rcx]
    assert_eq!(run(&[0x67, 0x8b, 0x01], false).0, 0x4433_2281); // with a prefix
}

#[test]
fn stores() {
    assert_eq!(run(&[0x48, 0x89, 0x01], true).2, RAX); // mov [rcx], rax
    assert_eq!(run(&[0xc7, 0x01, 4, 3, 2, 1], true).2, 0x0102_0304); // mov dword [rcx], imm
    assert_eq!(run(&[0x48, 0xc7, 0x01, 0xff, 0xff, 0xff, 0xff], true).2, u64::MAX); // mov qword [rcx], -1
    let (rax, _, register, _) = run(&[0x48, 0x87, 0x01], true); // xchg [rcx], rax
    assert_eq!((rax, register), (REGISTER, RAX));
}

#[test]
fn arithmetic_and_its_flags() {
    const ZF: u64 = 1 << 6;
    const SF: u64 = 1 << 7;
    const CF: u64 = 1;
    const PF: u64 = 1 << 2;
    let (.., register, _) = run(&[0x48, 0x09, 0x01], true); // or [rcx], rax
    assert_eq!(register, REGISTER | RAX);
    let (.., register, _) = run(&[0x48, 0x83, 0x21, 0xf0], true); // and qword [rcx], -16
    assert_eq!(register, REGISTER & !15);
    assert_eq!(run(&[0x48, 0x33, 0x01], false).0, REGISTER ^ RAX); // xor rax, [rcx]
    let (.., register, flags) = run(&[0x48, 0x85, 0x19], false); // test [rcx], rbx
    assert_eq!((register, flags & ZF), (REGISTER, if REGISTER & RBX == 0 { ZF } else { 0 }));
    let (.., register, flags) = run(&[0x80, 0x39, 0x81], false); // cmp byte [rcx], 0x81
    assert_eq!((register, flags), (REGISTER, ZF | PF));
    let (.., flags) = run(&[0x80, 0x39, 0x82], false); // cmp byte [rcx], 0x82
    assert_eq!(flags & (CF | SF | ZF), CF | SF);
    let (.., register, flags) = run(&[0x80, 0x01, 0x7f], true); // add byte [rcx], 0x7f
    assert_eq!((register & 0xff, flags & (CF | ZF)), (0, CF | ZF));
}

#[test]
fn where_nothing_answers_ones_are_read_and_writes_are_lost() {
    let bench = bench(&[0x8b, 0x01]);
    assert_eq!(fault(&bench, 0xe000_0000, false), Resume::Continue);
    assert_eq!(bench.with(|context, _| context.hw.gprs().rax), 0xffff_ffff);
    let bench = super::instructions::bench(&[0x89, 0x01]);
    assert_eq!(fault(&bench, 0xe000_0000, true), Resume::Continue);
    assert_eq!(bench.rip(), 0x1002);
}

#[test]
fn what_is_not_emulated_crashes_the_domain() {
    // movntdqa, lock xadd, rep movsd, an illegal one, nothing at all
    for code in [
        &[0x66, 0x0f, 0x38, 0x2a, 0x01][..],
        &[0xf0, 0x0f, 0xc1, 0x01],
        &[0xf3, 0xa5],
        &[0x0f, 0x04],
        &[],
        &[0x8b],
    ] {
        let bench = bench(code);
        let access = Access { write: false, execute: false };
        let expected = GuestFault::NotEmulated { gpa: GuestPhys::new(HOLE), access };
        assert_eq!(fault(&bench, HOLE, false), Resume::Crash(expected), "{code:x?}");
        assert_eq!(bench.rip(), 0x1000);
    }
    let bench = bench(&[0x90]);
    let access = Access { write: false, execute: true };
    let gpa = GuestPhys::new(HOLE);
    let exit = Exit::NestedFault { gpa, gva: None, access, present: false };
    assert_eq!(bench.exit(exit), Resume::Crash(GuestFault::Fetch(gpa)));
}

#[test]
fn a_fault_on_what_is_mapped_by_now_is_tried_again() {
    let mut bench = bench(&[0x8b, 0x01]);
    bench.mapped.insert(HOLE, false);
    assert_eq!(fault(&bench, HOLE, false), Resume::Continue);
    assert_eq!(bench.rip(), 0x1000);
    let access = Access { write: true, execute: false };
    let exit = Exit::NestedFault { gpa: GuestPhys::new(HOLE), gva: None, access, present: true };
    assert_eq!(bench.exit(exit), Resume::Continue);
    assert_eq!(bench.injected(), Some(Event::PROTECTION), "a write to what is for reading only");
}

#[test]
fn the_page_of_the_apic() {
    let bench = bench(&[0x89, 0x01]); // mov [rcx], eax
    bench.with(|context, _| context.hw.gprs_mut().rax = 0x1ff);
    assert_eq!(fault(&bench, 0xfee0_00f0, true), Resume::Continue);
    bench.with(|context, _| context.hw.gprs_mut().rax = 0xc_00fd);
    assert_eq!(fault(&bench, 0xfee0_0300, true), Resume::Continue);
    let ipi = Ipi { kind: IpiKind::Fixed(0xfd), destination: Destination::Others };
    assert_eq!(*bench.sent.lock().unwrap(), [ipi]);
    let stats = &bench.vcpu.stats;
    assert_eq!(stats.exits_of(pv_abi::control::ExitCause::Apic), 2);
    let mut reader = super::instructions::bench(&[0x8b, 0x01]);
    assert_eq!(fault(&reader, 0xfee0_0030, false), Resume::Continue);
    assert_eq!(reader.with(|context, _| context.hw.gprs().rax), 0x5_0014);
    reader.code = std::vec![0x8a, 0x01]; // a byte of a register
    assert_eq!(fault(&reader, 0xfee0_0032, false), Resume::Continue);
    assert_eq!(reader.with(|context, _| context.hw.gprs().rax), 0x5_0005);
    // In x2APIC mode nothing is there.
    reader.code = std::vec![0x8b, 0x01];
    reader.with(|context, _| {
        let base = context.apic.base();
        let _ = context.apic.set_base(base | 1 << 10).unwrap();
    });
    assert_eq!(fault(&reader, 0xfee0_0030, false), Resume::Continue);
    assert_eq!(reader.with(|context, _| context.hw.gprs().rax), 0xffff_ffff);
}

proptest! {
    #[test]
    fn no_bytes_break_the_decoder(code in prop::collection::vec(any::<u8>(), 0..16), gpa in 0xfedf_fff0..0xfee0_1010u64, write: bool) {
        let bench = bench(&code);
        match fault(&bench, gpa, write) {
            Resume::Continue | Resume::Crash(GuestFault::NotEmulated { .. }) => {}
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn no_msr_breaks_the_table(index in prop_oneof![any::<u32>(), 0..0x1000u32, 0xc000_0000..0xc000_1000u32], value: u64) {
        let bench = bench(&[]);
        prop_assert_eq!(bench.exit(Exit::MsrWrite(index, value)), Resume::Continue);
        bench.injected();
        prop_assert_eq!(bench.exit(Exit::MsrRead(index)), Resume::Continue);
    }
}
