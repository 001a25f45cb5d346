//! Brings the machine up, from what the boot loader left to a [`Machine`] on which the system can be built.

use alloc::boxed::Box;
use alloc::vec::Vec;

use hv_core::hw::{Backend, CpuId};
use spin::Mutex;

use crate::boot::BootInfo;
use crate::boot::fail::cannot_start;
use crate::boot::memmap::Range;
use crate::cpu::percpu::PerCpu;
use crate::cpu::{features, io, smp, traps};
use crate::dev::acpi::Tables;
use crate::dev::{acpi, clock, ioapic, lapic, log, power, rtc, uart};
use crate::{heap, paging};

/// The least memory with which anything useful can run.
const LEAST_BYTES: u64 = 32 << 20;

/// What a vendor's extension lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missing {
    /// The CPU does not have the extension.
    Extension,
    /// The firmware has disabled it.
    Firmware(&'static str),
    /// It has the extension, but not all that is needed.
    Feature(&'static str),
}

/// What a back end does beyond [`Backend`], for this crate.
pub trait Engine: Backend + Sized {
    /// Whether the CPU that executes this can run it.
    fn probe() -> Result<Self, Missing>;
    /// Enables it on the CPU that executes this.
    fn enable(&self) -> Result<(), &'static str>;
    /// Gives this CPU the hypervisor's own state back, if the guest's is still in it, and lets interrupts
    /// come where they are unmasked.
    fn settle(&self);
}

/// The machine, up and running on one CPU.
pub struct Machine {
    /// What the boot loader handed over.
    pub boot: Box<BootInfo>,
    /// Free memory, in whole pages, without the image, the heap, the bundle.
    pub free: Vec<Range>,
    /// Ticks of the time-stamp counter per second.
    pub tsc_hz: u64,
    /// The wall clock when the time-stamp counter was zero, in nanoseconds since 1970-01-01.
    pub wall_clock_base: u64,
    tables: Tables,
}

unsafe extern "Rust" {
    /// The image's main function, in package `hv`.
    fn xenolith_main(machine: Machine) -> !;
}

/// What [`begin`] leaves for [`go_on`], on another stack.
static BOOT: Mutex<Option<(Box<BootInfo>, Range)>> = Mutex::new(None);

/// Sets up memory and this CPU's own stack. On the boot stack, with the boot page tables.
pub(crate) fn begin(boot: BootInfo) -> ! {
    let heap = find_heap(&boot);
    // SAFETY: the range is free and below 4 GiB, which the boot page tables map; the later ones map all RAM
    // at the same place.
    unsafe { heap::claim(paging::direct_map_ptr(heap.start), heap.len() as usize) };
    paging::init(&boot.memory);
    // SAFETY: the boot stack is part of the image.
    unsafe { paging::activate() };
    smp::keep_root();
    let cpu = PerCpu::create(CpuId::new(0), lapic::initial_id());
    *BOOT.lock() = Some((Box::new(boot), heap));
    smp::leave_boot_stack(cpu, go_on)
}

/// The heap: 4 MiB, and what grows with the memory (objects of domains; the frame table is elsewhere).
fn find_heap(boot: &BootInfo) -> Range {
    let memory = boot.memory.usable_bytes();
    if memory < LEAST_BYTES {
        cannot_start(format_args!(
            "{} MiB of memory are too little, {} MiB are needed",
            memory >> 20,
            LEAST_BYTES >> 20
        ));
    }
    let wanted = ((memory / 64) + (4 << 20)).next_multiple_of(2 << 20);
    let taken = taken(boot, Range::default());
    let mut found = None;
    boot.memory.free_ranges(&taken, |range| {
        let range = Range { start: range.start, end: range.end.min(1 << 32) };
        if found.is_none() && range.start < range.end && range.len() >= wanted {
            found = Some(Range::sized(range.start, wanted));
        }
    });
    found.unwrap_or_else(|| {
        cannot_start(format_args!("no {} MiB of free memory in one piece below 4 GiB", wanted >> 20))
    })
}

/// What is not free: memory below 1 MiB (the firmware's, and where CPUs start), the image, the bundle, the
/// heap.
fn taken(boot: &BootInfo, heap: Range) -> [Range; 4] {
    [Range { start: 0, end: 1 << 20 }, paging::image(), boot.bundle.unwrap_or_default(), heap]
}

/// The rest of the start, on the boot processor's own stack.
extern "C" fn go_on() -> ! {
    let (boot, heap) = BOOT.lock().take().expect("begin() left it");
    log::init();
    traps::init();
    lapic::init();
    let tables = acpi::read(boot.acpi).unwrap_or_else(|reason| cannot_start(format_args!("{reason}")));
    power::init(tables.soft_off, tables.reset);
    if let Some(reason) = smp::missing() {
        cannot_start(format_args!("{reason}"));
    }
    smp::set_up(PerCpu::current());
    for apic in &tables.io_apics {
        ioapic::add(apic.address, apic.first);
    }
    let timer = lapic::begin_calibration();
    let measured = clock::measure(&tables);
    if let Some(timer) = timer {
        timer.end();
    }
    route_console(&tables);

    let mut free = Vec::new();
    boot.memory.free_ranges(&taken(&boot, heap), |range| free.push(range));
    let ticks = io::rdtsc();
    let since_zero = (u128::from(ticks) * 1_000_000_000 / u128::from(measured.hz)) as u64;
    let machine = Machine {
        free,
        tsc_hz: measured.hz,
        wall_clock_base: (rtc::seconds() * 1_000_000_000).wrapping_sub(since_zero),
        tables,
        boot,
    };
    machine.describe(measured.against);
    // SAFETY: `hv` defines this symbol with this very signature.
    unsafe { xenolith_main(machine) }
}

/// Directs the serial port's interrupt to this CPU.
fn route_console(tables: &Tables) {
    let (gsi, trigger, polarity) = tables.isa(uart::ISA_IRQ);
    ioapic::route(gsi, traps::CONSOLE, PerCpu::current().apic(), trigger, polarity);
    ioapic::mask(gsi, false);
    uart::enable_input();
}

impl Machine {
    fn describe(&self, clock: &str) {
        let mut brand = [0; 48];
        ::log::info!(
            "{}, {} MHz by the {clock}{}",
            features::brand(&mut brand),
            self.tsc_hz / 1_000_000,
            if features::invariant_tsc() { "" } else { ", not invariant" }
        );
        let free: u64 = self.free.iter().map(Range::len).sum();
        ::log::info!(
            "{} MiB of memory, {} MiB free, booted by {}",
            self.boot.memory.usable_bytes() >> 20,
            free >> 20,
            self.boot.protocol
        );
    }

    /// The boot bundle.
    pub fn bundle(&self) -> Option<&'static [u8]> {
        let range = self.boot.bundle?;
        let readable =
            paging::is_ram(range.start) && range.end > range.start && paging::is_ram(range.end - 1);
        // SAFETY: the range is RAM, which the direct map maps; it was kept out of all free memory, so that
        // nobody ever writes to it.
        readable.then(|| unsafe {
            core::slice::from_raw_parts(paging::direct_map_ptr(range.start), range.len() as usize)
        })
    }

    /// The highest free page below 640 KiB, but for page 0, which holds the BIOS's vectors.
    fn trampoline(&self) -> Option<u64> {
        let mut found = None;
        self.boot.memory.free_ranges(&[Range::sized(0, 0x1000)], |range| {
            let end = range.end.min(0xa0000) & !0xfff;
            if end > range.start {
                found = found.max(Some(end - 0x1000));
            }
        });
        found
    }

    /// Starts the other CPUs, up to `limit` in all.
    pub fn start_cpus(&self, limit: Option<u16>) {
        match self.trampoline() {
            Some(page) => smp::start_others(&self.tables.apics, page, self.tsc_hz, limit.unwrap_or(u16::MAX)),
            None => ::log::warn!("no free memory below 640 KiB: other CPUs cannot start"),
        }
        ::log::info!("{} of {} CPUs are up", smp::count(), self.tables.apics.len());
    }
}
