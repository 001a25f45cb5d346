use super::registers::*;
use super::*;
use crate::hw::{Levels, TscTicks};
use crate::time::Clock;
use std::sync::Arc;
use std::vec::Vec;

struct Bench {
    apic: LocalApic,
    clock: Clock,
    now: u64,
}

impl Bench {
    /// An APIC in xAPIC mode, enabled, as guests have it after their first steps.
    fn new(id: u32) -> Self {
        let mut bench = Self {
            apic: LocalApic::new(Arc::new(Address::new(id))),
            clock: Clock::new(1_000_000_000),
            now: 0,
        };
        assert_eq!(bench.write(SVR, 0x1ff), Effect::Enabled);
        bench
    }

    fn x2apic(id: u32) -> Self {
        let mut bench = Self::new(id);
        let base = bench.apic.base();
        assert_eq!(bench.apic.set_base(base | 1 << 10), Ok(Effect::Nothing));
        bench
    }

    fn write(&mut self, register: u8, value: u32) -> Effect {
        let moment = Moment { now: TscTicks::new(self.now), clock: &self.clock };
        self.apic.mmio_write(u16::from(register) << 4, value, moment)
    }

    fn read(&mut self, register: u8) -> u32 {
        let moment = Moment { now: TscTicks::new(self.now), clock: &self.clock };
        self.apic.mmio_read(u16::from(register) << 4, moment)
    }

    fn wrmsr(&mut self, msr: u32, value: u64) -> Result<Effect, Fault> {
        let moment = Moment { now: TscTicks::new(self.now), clock: &self.clock };
        self.apic.msr_write(msr, value, moment)
    }

    fn rdmsr(&mut self, msr: u32) -> Result<u64, Fault> {
        let moment = Moment { now: TscTicks::new(self.now), clock: &self.clock };
        self.apic.msr_read(msr, moment)
    }

    fn fire(&mut self) -> Option<TscTicks> {
        let moment = Moment { now: TscTicks::new(self.now), clock: &self.clock };
        self.apic.timer_fired(moment)
    }
}

#[test]
fn higher_classes_interrupt_lower_ones() {
    let mut bench = Bench::new(0);
    for vector in [0x31, 0x35, 0x51, 0xef] {
        bench.apic.request(vector);
    }
    assert_eq!(bench.apic.pending(), Some(0xef));
    bench.apic.accept(0xef);
    assert_eq!(bench.apic.pending(), None, "everything else is of a lower class");
    assert_eq!(bench.apic.held_by_priority(), None, "what is in service holds it back");
    assert_eq!(bench.read(PPR), 0xe0);
    assert_eq!(bench.write(EOI, 0), Effect::Priority);
    assert_eq!(bench.apic.pending(), Some(0x51));
    bench.apic.accept(0x51);
    bench.apic.request(0x5f);
    assert_eq!(bench.apic.pending(), None, "of the same class");
    bench.apic.request(0x60);
    assert_eq!(bench.apic.pending(), Some(0x60));
    assert_eq!((bench.read(IRR + 1), bench.read(ISR + 2)), (1 << 0x11 | 1 << 0x15, 1 << 0x11));
}

#[test]
fn the_task_priority_holds_back_its_class_and_below() {
    let mut bench = Bench::new(0);
    bench.apic.request(0x45);
    assert_eq!(bench.write(TPR, 0x40), Effect::Priority);
    assert_eq!(bench.apic.cr8(), 4);
    assert_eq!((bench.apic.pending(), bench.apic.held_by_priority()), (None, Some(4)));
    bench.apic.set_cr8(3);
    assert_eq!(bench.read(TPR), 0x30);
    assert_eq!(bench.apic.pending(), Some(0x45));
    let _ = bench.write(TPR, 0x3f);
    bench.apic.set_cr8(3);
    assert_eq!(bench.read(TPR), 0x3f, "the lower half is kept while CR8 is the same");
}

#[test]
fn nothing_is_taken_before_software_enables_it() {
    let mut apic = LocalApic::new(Arc::new(Address::new(1)));
    apic.request(0x40);
    assert_eq!(apic.pending(), None);
    assert_eq!(apic.base(), 0xfee0_0800, "not the bootstrap processor");
    let mut bench = Bench::new(0);
    assert_eq!(bench.apic.base(), 0xfee0_0900);
    let posted = Posted::default();
    posted.vector(0x20);
    posted.vector(0xff);
    bench.apic.collect(&posted);
    assert_eq!(bench.apic.pending(), Some(0xff));
    assert_eq!(posted.take(), [0; 4]);
}

#[test]
fn registers_after_reset() {
    let mut bench = Bench { apic: LocalApic::new(Arc::new(Address::new(5))), ..Bench::new(0) };
    assert_eq!(bench.read(ID), 5 << 24);
    assert_eq!(bench.read(VERSION), 0x0005_0014);
    assert_eq!(bench.read(SVR), 0xff);
    assert_eq!(bench.read(DFR), u32::MAX);
    assert_eq!((LVT_TIMER..=LVT_ERROR).map(|r| bench.read(r)).collect::<Vec<_>>(), [LVT_MASKED; 6]);
    let _ = bench.write(LVT_TIMER, 0x31);
    assert_eq!(bench.read(LVT_TIMER), 0x1_0031, "masked as long as the APIC is disabled");
}

#[test]
fn commands_become_messages() {
    let mut bench = Bench::new(0);
    assert_eq!(bench.write(ICR_HIGH, 3 << 24), Effect::Nothing);
    let send = |kind, destination| Effect::Send(Ipi { kind, destination });
    assert_eq!(bench.write(ICR, 0x40fd), send(IpiKind::Fixed(0xfd), Destination::Physical(3)));
    assert_eq!(bench.write(ICR, 0x48fd), send(IpiKind::Fixed(0xfd), Destination::Logical(3)));
    assert_eq!(bench.write(ICR, 0x4_00f0), send(IpiKind::Fixed(0xf0), Destination::Own));
    assert_eq!(bench.write(ICR, 0xc_0400), send(IpiKind::Nmi, Destination::Others));
    assert_eq!(bench.write(ICR, 0xc500), send(IpiKind::Init, Destination::Physical(3)));
    assert_eq!(bench.write(ICR, 0x8500), Effect::Nothing, "the de-assertion of INIT");
    assert_eq!(bench.write(ICR, 0x4699), send(IpiKind::Start(0x99), Destination::Physical(3)));
    assert_eq!(bench.write(ICR, 0x4005), Effect::Nothing);
    let _ = bench.write(ESR, 0);
    assert_eq!(bench.read(ESR), ESR_SEND_ILLEGAL);
    let _ = bench.write(ESR, 0);
    assert_eq!(bench.read(ESR), 0);
}

#[test]
fn destinations() {
    let flat = Address::new(2);
    flat.set_ldr(0b100 << 24);
    assert!(flat.matches(Destination::Physical(2), 0) && !flat.matches(Destination::Physical(3), 0));
    assert!(flat.matches(Destination::Physical(0xff), 0));
    assert!(flat.matches(Destination::Logical(0b110), 0) && !flat.matches(Destination::Logical(0b011), 0));
    assert!(flat.matches(Destination::Others, 0) && !flat.matches(Destination::Others, 2));
    assert!(flat.matches(Destination::Own, 2) && !flat.matches(Destination::Own, 1));
    let cluster = Address::new(2);
    cluster.set_dfr(0x0fff_ffff);
    cluster.set_ldr(0x21 << 24);
    assert!(
        cluster.matches(Destination::Logical(0x23), 0) && !cluster.matches(Destination::Logical(0x13), 0)
    );
    let x2 = Address::new(0x25);
    x2.set_mode(true);
    assert_eq!(x2.ldr(), 0x2_0020);
    assert!(x2.matches(Destination::Logical(0x2_0030), 0) && !x2.matches(Destination::Logical(0x1_0020), 0));
    assert!(x2.matches(Destination::Physical(u32::MAX), 0) && !x2.matches(Destination::Physical(0xff), 0));
}

#[test]
fn the_modes_of_the_base_register() {
    let mut bench = Bench::new(0);
    let base = bench.apic.base();
    assert_eq!(bench.apic.set_base(base + 0x1000), Err(Fault), "the page does not move");
    assert_eq!(bench.apic.set_base(base & !(1 << 11) | 1 << 10), Err(Fault), "x2APIC mode but disabled");
    assert_eq!(bench.rdmsr(0x802), Err(Fault), "no such registers in xAPIC mode");
    assert_eq!(bench.apic.set_base(base | 1 << 10), Ok(Effect::Nothing));
    assert!(bench.apic.is_x2apic() && !bench.apic.is_memory_mapped());
    assert_eq!(bench.apic.set_base(base), Err(Fault), "not back to xAPIC mode directly");
    assert_eq!(bench.apic.set_base(base & !(1 << 11)), Ok(Effect::Timer(None)));
    assert!(!bench.apic.takes_interrupts());
    assert_eq!(bench.apic.set_base(base | 1 << 10), Err(Fault), "not from disabled to x2APIC mode");
    assert_eq!(bench.apic.set_base(base), Ok(Effect::Nothing));
}

#[test]
fn x2apic_registers_and_their_reserved_bits() {
    let mut bench = Bench::x2apic(0x11);
    assert_eq!(bench.rdmsr(0x802), Ok(0x11));
    assert_eq!(bench.rdmsr(0x80d), Ok(0x1_0002));
    assert_eq!(bench.wrmsr(0x802, 1), Err(Fault), "read only");
    assert_eq!(bench.rdmsr(0x80e), Err(Fault), "no DFR");
    assert_eq!(bench.rdmsr(0x831), Err(Fault), "no upper half");
    assert_eq!(bench.wrmsr(0x80b, 1), Err(Fault));
    assert_eq!(bench.wrmsr(0x80b, 0), Ok(Effect::Ended));
    assert_eq!(bench.wrmsr(0x808, 0x100), Err(Fault));
    assert_eq!(bench.wrmsr(0x808, 1 << 32), Err(Fault));
    let ipi = Ipi { kind: IpiKind::Fixed(0xf3), destination: Destination::Physical(0x1_0003) };
    assert_eq!(bench.wrmsr(0x830, 0x1_0003_0000_00f3), Ok(Effect::Send(ipi)));
    assert_eq!(bench.rdmsr(0x830), Ok(0x1_0003_0000_00f3));
    assert_eq!(bench.wrmsr(0x830, 1 << 13 | 0xf3), Err(Fault));
    let own = Ipi { kind: IpiKind::Fixed(0x44), destination: Destination::Own };
    assert_eq!(bench.wrmsr(0x83f, 0x44), Ok(Effect::Send(own)));
    assert_eq!(bench.rdmsr(0x83f), Err(Fault));
    assert_eq!(bench.wrmsr(0x832, 1 << 20), Err(Fault));
    for msr in 0x840..0x900 {
        assert_eq!((bench.rdmsr(msr), bench.wrmsr(msr, 0)), (Err(Fault), Err(Fault)), "{msr:#x}");
    }
}

#[test]
fn one_shot_and_periodic_timers() {
    let mut bench = Bench::new(0);
    let _ = bench.write(LVT_TIMER, 0xec);
    let _ = bench.write(DIVIDE, 0x3); // by 16: 160 ns a count
    bench.now = 1_000;
    assert_eq!(bench.write(INITIAL_COUNT, 100), Effect::Timer(Some(TscTicks::new(17_000))));
    bench.now = 1_000 + 1_600;
    assert_eq!(bench.read(CURRENT_COUNT), 90);
    bench.now = 17_000;
    assert_eq!(bench.fire(), None);
    assert_eq!(bench.apic.pending(), Some(0xec));
    assert_eq!((bench.read(CURRENT_COUNT), bench.read(INITIAL_COUNT)), (0, 100));
    bench.apic.accept(0xec);
    let _ = bench.write(EOI, 0);
    assert_eq!(bench.write(LVT_TIMER, 0x2_00ec), Effect::Timer(None), "it is not started anew by that");
    bench.now = 20_000;
    let _ = bench.write(DIVIDE, 0xb); // by 1
    assert_eq!(bench.write(INITIAL_COUNT, 100), Effect::Timer(Some(TscTicks::new(21_000))));
    bench.now = 21_000;
    assert_eq!(bench.fire(), Some(TscTicks::new(22_000)));
    bench.now = 24_500;
    assert_eq!(bench.fire(), Some(TscTicks::new(25_000)), "what was missed is missed");
    assert_eq!(bench.write(LVT_TIMER, 0x3_00ec), Effect::Timer(None), "masked");
    assert_eq!(bench.write(INITIAL_COUNT, 0), Effect::Timer(None));
}

#[test]
fn the_deadline_timer() {
    let mut bench = Bench::x2apic(0);
    assert_eq!(bench.wrmsr(0x6e0, 500), Ok(Effect::Nothing), "ignored in other modes");
    assert_eq!(bench.rdmsr(0x6e0), Ok(0));
    assert!(bench.wrmsr(0x832, 0x4_00ec).is_ok());
    assert_eq!(bench.wrmsr(0x6e0, 500), Ok(Effect::Timer(Some(TscTicks::new(500)))));
    assert_eq!(bench.rdmsr(0x6e0), Ok(500));
    assert_eq!(bench.wrmsr(0x838, 100), Ok(Effect::Nothing), "no count in this mode");
    bench.now = 500;
    assert_eq!(bench.fire(), None);
    assert_eq!((bench.rdmsr(0x6e0), bench.apic.pending()), (Ok(0), Some(0xec)));
    assert_eq!(bench.wrmsr(0x6e0, 0), Ok(Effect::Timer(None)));
}

#[test]
fn any_access_to_the_page_is_survived() {
    let mut bench = Bench::new(0);
    for offset in 0..4096u16 {
        let clock = bench.clock;
        let moment = Moment { now: TscTicks::new(5), clock: &clock };
        for value in [0, 1, 0x10, 0xff, 0xffff, u32::MAX] {
            let _ = bench.apic.mmio_write(offset, value, moment);
            bench.apic.mmio_read(offset, moment);
        }
    }
    let mut bench = Bench::x2apic(0);
    for msr in 0x800..0x900 {
        for value in [0, 1, 0xff, u64::MAX] {
            let _ = bench.wrmsr(msr, value);
            let _ = bench.rdmsr(msr);
        }
    }
}

#[test]
fn messages_act_in_order() {
    let posted = Posted::default();
    posted.start(7);
    posted.init();
    assert_eq!(posted.messages().collect::<Vec<_>>(), [Message::Init], "INIT forgets the start-up before it");
    posted.init();
    posted.start(9);
    assert_eq!(posted.messages().collect::<Vec<_>>(), [Message::Init, Message::Start(9)]);
    assert_eq!(posted.messages().count(), 0);
    posted.timer();
    assert!(posted.take_timer() && !posted.take_timer());
}

#[test]
fn sets_of_vectors() {
    let page = crate::hw::RegisterPage::default();
    let set = Vectors::new(&page, IRR);
    assert_eq!(set.highest(), None);
    for vector in 0..=255 {
        set.insert(vector);
        assert_eq!(set.highest(), Some(vector));
        assert_eq!(set.register(vector / 32) >> (vector % 32) & 1, 1);
    }
    for vector in (0..=255).rev() {
        set.remove(vector);
        assert_eq!(set.highest(), vector.checked_sub(1));
    }
}

#[test]
fn the_page_has_what_reads_tell() {
    for mut bench in [Bench::new(3), Bench::x2apic(0x23)] {
        let page = Arc::clone(bench.apic.page());
        let same = |bench: &mut Bench| {
            for register in COPIED.into_iter().chain(ISR..ESR).chain([TPR]) {
                let hidden = bench.apic.is_x2apic() && [DFR, ICR_HIGH].contains(&register);
                let read = bench.read(register);
                assert!(hidden || page.get(register) == read, "{register:#x}: {read:#x}");
            }
        };
        same(&mut bench);
        for (register, value) in
            [(TPR, 0x35), (LVT_TIMER, u32::MAX), (DIVIDE, 0xff), (ICR_HIGH, 3 << 24), (LDR, !0)]
        {
            let _ = bench.write(register, value);
            same(&mut bench);
        }
        bench.apic.request(0x99);
        bench.apic.accept(0x99);
        bench.apic.request(0xa5);
        assert_eq!((page.get(ISR + 4), page.get(IRR + 5)), (1 << 25, 1 << 5));
        assert_eq!(bench.apic.levels(), Levels { requested: 0xa5, in_service: 0x99, enabled: true });
        let _ = bench.write(SVR, 0xff);
        assert_eq!(bench.apic.levels(), Levels { requested: 0, in_service: 0x99, enabled: false });
        assert_eq!(page.get(LVT_TIMER) & LVT_MASKED, LVT_MASKED, "and with it the timer");
        same(&mut bench);
        bench.apic.reset();
        same(&mut bench);
        assert_eq!((page.get(TPR), bench.apic.levels()), (0, Levels::default()));
    }
}

#[test]
fn what_the_hardware_put_into_the_page_is_only_a_request() {
    let mut bench = Bench::new(2);
    let page = Arc::clone(bench.apic.page());
    let clock = bench.clock;
    let moment = Moment { now: TscTicks::new(5), clock: &clock };
    // A write of the identifier, which cannot be written.
    page.set(ID, u32::MAX);
    assert_eq!(bench.apic.written(0x20, moment), Effect::Nothing);
    assert_eq!(page.get(ID), 2 << 24);
    page.set(LVT_TIMER, u32::MAX);
    let _ = bench.apic.written(0x320, moment);
    assert_eq!(page.get(LVT_TIMER), LVT_WRITABLE[0]);
    page.set(ICR, 0x4_00f0);
    let own = Ipi { kind: IpiKind::Fixed(0xf0), destination: Destination::Own };
    assert_eq!(bench.apic.written(0x300, moment), Effect::Send(own));
    // Whatever is there, whatever offset is told.
    for offset in (0..=u16::MAX).step_by(7) {
        for value in [0, 1, 0x10, 0xff, u32::MAX] {
            page.set((offset >> 4) as u8, value);
            let _ = bench.apic.written(offset, moment);
            let _ = (bench.apic.pending(), bench.apic.held_by_priority(), bench.apic.levels());
        }
    }
    let mut bench = Bench::x2apic(0);
    let _ = bench.apic.written(0x3f0, moment);
    let _ = bench.wrmsr(0x828, 0);
    assert_eq!(bench.rdmsr(0x828), Ok(u64::from(ESR_SEND_ILLEGAL)));
}
