//! MSRs, control registers, ports.

use super::*;
use crate::hw::{ControlAccess, Gprs, IoExit};

fn read(bench: &Bench, index: u32) -> Option<u64> {
    let resume = bench.exit(Exit::MsrRead(index));
    assert_eq!(resume, Resume::Continue);
    match bench.injected() {
        None => Some(bench.with(|context, _| context.hw.gprs().edx_eax())),
        Some(event) => {
            assert_eq!(event, Event::PROTECTION);
            None
        }
    }
}

fn write(bench: &Bench, index: u32, value: u64) -> bool {
    assert_eq!(bench.exit(Exit::MsrWrite(index, value)), Resume::Continue);
    match bench.injected() {
        None => true,
        Some(event) => {
            assert_eq!(event, Event::PROTECTION);
            false
        }
    }
}

#[test]
fn what_is_not_in_the_table_faults() {
    let bench = Bench::new();
    for index in [
        0,
        0x11,
        0x3f,
        0xc1,
        0x480,
        0x490,
        0x4000_0001,
        0x4000_00ff,
        0xc000_0104,
        0xc001_0114,
        0xc001_0117,
        u32::MAX,
    ] {
        assert_eq!(read(&bench, index), None, "{index:#x}");
        assert!(!write(&bench, index, 0), "{index:#x}");
    }
    assert_eq!(bench.rip(), 0, "an instruction that faults is not skipped");
    assert_eq!(read(&bench, 0x4000_0000), None, "the hypercall register is for writing");
}

#[test]
fn efer_keeps_its_rules() {
    let bench = Bench::new();
    assert!(write(&bench, 0xc000_0080, 0x901));
    assert_eq!(read(&bench, 0xc000_0080), Some(0x901));
    assert!(!write(&bench, 0xc000_0080, 0x1901), "SVME is not the guest's");
    bench.long_mode();
    assert!(!write(&bench, 0xc000_0080, 0x801), "LME stays while paging is on");
    assert!(write(&bench, 0xc000_0080, 0x901));
    assert_eq!(read(&bench, 0xc000_0080), Some(0xd01), "LMA is the CPU's");
}

#[test]
fn values_are_checked() {
    let bench = Bench::new();
    assert!(write(&bench, 0x277, 0x0007_0406_0007_0406));
    assert_eq!(read(&bench, 0x277), Some(0x0007_0406_0007_0406));
    assert!(!write(&bench, 0x277, 2), "no such memory type");
    assert!(!write(&bench, 0xc000_0082, 0x8000_0000_0000), "not canonical");
    assert!(write(&bench, 0xc000_0082, 0xffff_8000_0000_0000));
    assert!(!write(&bench, 0xc000_0103, 1 << 32));
    assert!(write(&bench, 0xc000_0100, 0x1234));
    assert_eq!(read(&bench, 0xc000_0100), Some(0x1234));
    assert_eq!(bench.with(|context, _| context.hw.segment(Segment::Fs).base), 0x1234);
}

#[test]
fn memory_types_are_kept_and_checked() {
    let bench = Bench::new();
    assert_eq!(read(&bench, 0xfe), Some(0x508));
    assert!(!write(&bench, 0xfe, 0));
    assert_eq!(read(&bench, 0x2ff), Some(0xc06));
    assert!(write(&bench, 0x2ff, 0x800) && !write(&bench, 0x2ff, 0x802) && !write(&bench, 0x2ff, 0x1000));
    for index in (0x200..0x210).chain([0x250, 0x258, 0x259]).chain(0x268..0x270) {
        let value = if index < 0x210 && index & 1 == 1 { 0x8_0000_0800 } else { 0x0 };
        assert!(write(&bench, index, value), "{index:#x}");
        assert_eq!(read(&bench, index), Some(value), "{index:#x}");
    }
    assert!(!write(&bench, 0x268, 2) && !write(&bench, 0x200, 7) && !write(&bench, 0x201, 1));
    assert_eq!((read(&bench, 0x251), read(&bench, 0x25a), read(&bench, 0x210)), (None, None, None));
}

#[test]
fn the_hypercall_page_has_a_stub_for_each_number() {
    let bench = Bench::new();
    assert!(write(&bench, 0x4000_0000, 0x5000));
    {
        let page = bench.page.lock().unwrap();
        let (gfn, bytes) = page.as_ref().unwrap();
        assert_eq!(gfn.raw(), 5);
        assert_eq!(bytes[32 * 29..32 * 29 + 9], [0xb8, 29, 0, 0, 0, 0x0f, 0x01, 0xd9, 0xc3]);
        assert_eq!(bytes[9], 0xcc);
    }
    assert_eq!(*bench.width.lock().unwrap(), Some(Width::Bits32), "the guest starts in 32-bit code");
    assert!(!write(&bench, 0x4000_0000, 0x5001), "there is one page only");
    assert!(!write(&bench, 0x4000_0000, 0xffff_ffff_f000), "no memory there");
}

#[test]
fn apic_registers_by_msr_reach_the_apic() {
    let bench = Bench::new();
    assert_eq!(read(&bench, 0x1b), Some(0xfee0_0900));
    assert_eq!(read(&bench, 0x802), None);
    assert!(write(&bench, 0x1b, 0xfee0_0d00));
    assert_eq!(read(&bench, 0x802), Some(0));
    assert!(write(&bench, 0x80f, 0x1ff));
    assert!(write(&bench, 0x832, 0x4_0030) && write(&bench, 0x6e0, 777));
    assert_eq!(*bench.timer.lock().unwrap(), Some(Some(TscTicks::new(777))));
    assert!(write(&bench, 0x808, 0x50));
    assert_eq!(bench.with(|context, _| context.hw.get(Reg::Cr8)), 5, "CR8 follows");
    bench.with(|context, _| context.hw.set(Reg::Cr8, 6));
    assert_eq!(read(&bench, 0x808), Some(0x60), "and leads");
    assert!(write(&bench, 0x830, 1 << 32 | 0x40fd));
    assert_eq!(bench.sent.lock().unwrap().len(), 1);
}

#[test]
fn the_counter_is_the_hosts() {
    let bench = Bench::new();
    let first = read(&bench, 0x10).unwrap();
    assert!(write(&bench, 0x10, 0), "writes are taken and do nothing");
    assert!(read(&bench, 0x10).unwrap() > first);
    bench.with(|context, _| context.hw.set(Reg::TscAux, 7));
    assert_eq!(bench.exit(Exit::Rdtscp), Resume::Continue);
    bench.with(|context, _| {
        assert!(context.hw.gprs().edx_eax() > first);
        assert_eq!(context.hw.gprs().rcx, 7);
    });
}

fn control(bench: &Bench, register: u8, value: u64) -> bool {
    bench.with(|context, _| context.hw.gprs_mut().rbx = value);
    let exit = Exit::Control(ControlAccess { register, write: true, gpr: 3 });
    assert_eq!(bench.exit(exit), Resume::Continue);
    bench.injected().is_none()
}

#[test]
fn long_mode_is_entered_and_left_by_cr0() {
    let bench = Bench::new();
    bench.with(|context, _| {
        context.hw.set(Reg::Efer, 0x100);
        context.hw.set(Reg::Cr0, 0x11);
    });
    assert!(!control(&bench, 0, 0x8000_0011), "no PAE");
    assert!(control(&bench, 4, 0x20));
    assert!(control(&bench, 0, 0x8000_0011));
    assert_eq!(bench.with(|context, _| context.hw.get(Reg::Efer)), 0x500);
    assert!(!control(&bench, 4, 0), "PAE stays in long mode");
    assert!(control(&bench, 0, 0x11));
    assert_eq!(bench.with(|context, _| context.hw.get(Reg::Efer)), 0x100);
    assert!(!control(&bench, 0, 0x8000_0000), "paging without protection");
    assert!(!control(&bench, 0, 1 << 32));
    assert!(!control(&bench, 4, 1 << 13), "no VMX");
    assert!(control(&bench, 3, 1 << 63 | 0x5000));
    assert_eq!(bench.with(|context, _| context.hw.get(Reg::Cr3)), 0x5000);
    assert!(control(&bench, 8, 9) && !control(&bench, 8, 16));
    let exit = Exit::Control(ControlAccess { register: 8, write: false, gpr: 4 });
    assert_eq!(bench.exit(exit), Resume::Continue);
    assert_eq!(bench.with(|context, _| context.hw.get(Reg::Rsp)), 9);
}

#[test]
fn xsetbv_takes_what_the_policy_offers() {
    let bench = Bench::new();
    let set = |index, value: u64| {
        bench.with(|context, _| {
            *context.hw.gprs_mut() = Gprs { rcx: index, ..Gprs::default() };
            context.hw.gprs_mut().set_edx_eax(value);
        });
        assert_eq!(bench.exit(Exit::Xsetbv), Resume::Continue);
        bench.injected().is_none()
    };
    assert!(set(0, 7) && set(0, 3) && set(0, 1));
    assert!(!set(0, 0) && !set(0, 5) && !set(0, 0xe7) && !set(1, 7) && !set(0, 1 << 63 | 7));
    assert_eq!(bench.with(|context, _| context.hw.get(Reg::Xcr0)), 1);
    bench.with(|context, _| {
        context.hw.set_segment(Segment::Ss, SegmentState { attributes: 0xcf3, ..SegmentState::default() });
    });
    assert!(!set(0, 7), "not for user code");
}

#[test]
fn ports_without_a_device() {
    let mut bench = Bench::new();
    bench.ports.insert(0xcfc, 0x1234_5678);
    let io = |bench: &Bench, port, bytes, write| {
        bench.with(|context, _| context.hw.gprs_mut().rax = 0x1111_2222_3333_4444);
        assert_eq!(bench.exit(Exit::Io(IoExit { port, bytes, write, string: false })), Resume::Continue);
        bench.with(|context, _| context.hw.gprs().rax)
    };
    assert_eq!(io(&bench, 0x60, 1, false), 0x1111_2222_3333_44ff);
    assert_eq!(io(&bench, 0x60, 2, false), 0x1111_2222_3333_ffff);
    assert_eq!(io(&bench, 0x60, 4, false), 0xffff_ffff);
    assert_eq!(io(&bench, 0x60, 4, true), 0x1111_2222_3333_4444);
    assert_eq!(io(&bench, 0xcfc, 2, false), 0x1111_2222_3333_5678);
    assert_eq!(
        bench.exit(Exit::Io(IoExit { port: 0x60, bytes: 1, write: false, string: true })),
        Resume::Continue
    );
    assert_eq!(bench.injected(), Some(Event::PROTECTION));
}

#[test]
fn instructions_that_guests_do_not_have() {
    let bench = Bench::new();
    assert_eq!(bench.exit(Exit::Undefined), Resume::Continue);
    assert_eq!(bench.injected(), Some(Event::UNDEFINED));
    assert_eq!(bench.exit(Exit::Rdpmc), Resume::Continue);
    assert_eq!(bench.injected(), Some(Event::PROTECTION));
    assert_eq!(bench.exit(Exit::CacheFlush), Resume::Continue);
    assert_eq!((bench.injected(), bench.rip()), (None, 3));
    assert_eq!(bench.exit(Exit::Exception { vector: 17, code: Some(0) }), Resume::Continue);
    assert_eq!(bench.injected(), Some(Event::exception_with(17, 0)));
    assert_eq!(bench.exit(Exit::TripleFault), Resume::Crash(GuestFault::TripleFault));
    assert_eq!(bench.exit(Exit::TaskSwitch), Resume::Crash(GuestFault::TaskSwitch));
    let raw = RawExit { code: 99, info: [1, 2] };
    assert_eq!(bench.exit(Exit::Unknown(raw)), Resume::Crash(GuestFault::Unknown(raw)));
    assert_eq!(bench.exit(Exit::Pause), Resume::Yield);
}

#[test]
fn a_dump_names_the_cause_and_the_place() {
    let mut bench = Bench::new();
    bench.code = std::vec![0x0f, 0x0b];
    bench.long_mode();
    let mut text = std::string::String::new();
    bench.with(|context, bench| {
        let trace = pv_abi::control::TraceRecord { tsc: 5, kind: 2, a: 7, ..Default::default() };
        dump(&mut text, context, bench, &GuestFault::Fetch(GuestPhys::new(0xdead_0000)), &[trace]).unwrap();
    });
    for part in [
        "d1v0: instruction fetch from gpa:0xdead0000",
        "rip 0000000000001000",
        "code 0f 0b\n",
        "trace 5 d0v0 kind 2 0x7",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}
