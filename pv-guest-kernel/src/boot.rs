//! Start of day, in the order in which things come to depend on each other.

use alloc::boxed::Box;
use core::arch::asm;
use core::future::Future;
use core::pin::Pin;

use pv_abi::start_info::{HvmModlistEntry, HvmStartInfo};

use crate::arch::{cpu, entry, instr, stack};
use crate::mm::{self, PAGE, frames, map::MemoryMap, paging, special};
use crate::task::executor;
use crate::xen::{self, events};
use crate::{cmdline, console, logger};

/// The task of a binary; its result is the exit status.
pub type MainTask = Pin<Box<dyn Future<Output = i32> + Send>>;

/// How a binary wants to be started.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Flavour of event channels.
    pub events: events::Abi,
    /// Start all vCPUs before the task.
    pub all_vcpus: bool,
}

impl Options {
    /// FIFO events, all vCPUs.
    pub const DEFAULT: Options = Options { events: events::Abi::Fifo, all_vcpus: true };
}

unsafe extern "Rust" {
    safe fn kernel_options() -> Options;
    safe fn kernel_main() -> MainTask;
}

/// A module that the loader put into memory, such as the driver domain's manifest.
#[derive(Debug, Clone, Copy)]
pub struct Module {
    /// Its bytes.
    pub bytes: &'static [u8],
}

static ENTERED: spin::Once<u64> = spin::Once::new();
static START_INFO: spin::Once<HvmStartInfo> = spin::Once::new();

/// The time stamp counter when this kernel began: under `--icount`, instructions since the machine's reset.
pub fn entered() -> u64 {
    ENTERED.get().copied().unwrap_or(0)
}

/// What the loader said.
pub fn start_info() -> &'static HvmStartInfo {
    START_INFO.get().expect("the start info is read first")
}

fn module_entries(info: &HvmStartInfo) -> impl Iterator<Item = HvmModlistEntry> + use<> {
    let base: *const HvmModlistEntry = mm::ptr(info.modlist_paddr);
    let count = if info.modlist_paddr == 0 { 0 } else { info.nr_modules };
    // SAFETY: the loader promises an array of this length, which is kept out of the frame allocator.
    (0..count as usize).map(move |i| unsafe { base.add(i).read() })
}

/// The modules that the loader put into memory; their frames are never reused.
pub fn modules() -> impl Iterator<Item = Module> {
    module_entries(start_info()).map(|e| {
        // SAFETY: the frames of modules stay out of the allocator, and the direct map covers them.
        let bytes = unsafe { core::slice::from_raw_parts(mm::ptr(e.paddr), e.size as usize) };
        Module { bytes }
    })
}

/// First Rust code: on the boot stack, low half mapped one to one, upcalls masked.
#[unsafe(no_mangle)]
extern "C" fn boot_rust(start_info: u64, offset: u64) -> ! {
    let entered = instr::rdtsc();
    paging::set_image_offset(offset);
    if !xen::init() {
        // Nowhere to say so but a PC's serial port, if there is one.
        for byte in b"pv-guest-kernel: this kernel needs a hypervisor that speaks the Xen ABI\r\n" {
            // SAFETY: without a hypervisor this machine is ours.
            unsafe { instr::outb(0x3f8, *byte) };
        }
        instr::halt_forever();
    }
    ENTERED.call_once(|| entered);
    console::init();
    logger::init(None);
    // SAFETY: the loader passed this address; the structure lies below 4 GiB.
    let info = START_INFO.call_once(|| unsafe { mm::ptr::<HvmStartInfo>(start_info).read() });
    let map = MemoryMap::read(info);

    let image_start = mm::phys(&raw const entry::__image_start as u64);
    let image_end = mm::phys(&raw const entry::__image_end as u64);
    let mut used = [(0u64, 0u64); 24];
    let mut n = 0;
    let mut reserve = |start: u64, length: u64| {
        if length != 0 {
            assert!(n < used.len(), "too many modules");
            used[n] = (start, start + length);
            n += 1;
        }
    };
    reserve(image_start, image_end - image_start);
    reserve(start_info, size_of::<HvmStartInfo>() as u64);
    reserve(info.modlist_paddr, u64::from(info.nr_modules) * size_of::<HvmModlistEntry>() as u64);
    reserve(info.cmdline_paddr, if info.cmdline_paddr == 0 { 0 } else { PAGE });
    for module in module_entries(info) {
        reserve(module.paddr, module.size);
        reserve(module.cmdline_paddr, if module.cmdline_paddr == 0 { 0 } else { PAGE });
    }
    let used = &used[..n];
    frames::init(&map, used, 0, 1 << 32);
    paging::init(&map);
    frames::init(&map, used, 1 << 32, u64::MAX);
    cmdline::init(info);
    logger::init(cmdline::value("log"));
    special::init(&map);

    let top = stack::allocate();
    // SAFETY: `top` is the end of a mapped stack nobody uses; nothing on the old one is needed any more.
    unsafe {
        asm!(
            "mov rsp, {top}",
            "xor ebp, ebp",
            "push 0",
            "jmp {next}",
            top = in(reg) top,
            next = sym on_own_stack,
            options(noreturn),
        )
    }
}

extern "C" fn on_own_stack() -> ! {
    let options = kernel_options();
    let cpu = cpu::PerCpu::create(0);
    cpu.install();
    xen::shared::init();
    xen::shared::register_vcpu_info(cpu);
    events::init_cpu(cpu, options.events);
    xen::grants::init();
    events::init_cpu_ports(cpu);
    cpu.online.store(true, core::sync::atomic::Ordering::Release);
    instr::sti();
    console::init_input();
    xen::store::init();

    let me = xen::identity();
    let (total, free) = frames::count();
    log::info!(
        "pv-guest-kernel {} on {}.{}{}, {}, {} MiB of memory ({} free), {:?} events",
        env!("CARGO_PKG_VERSION"),
        me.version.0,
        me.version.1,
        me.extra(),
        match me.domain {
            Some(d) => alloc::format!("{d}"),
            None => "domain unknown".into(),
        },
        (total * PAGE) >> 20,
        (free * PAGE) >> 20,
        events::abi(),
    );
    log::debug!("command line: {}", cmdline::line());
    executor::spawn(async move {
        if options.all_vcpus {
            xen::smp::start_all().await;
        }
        let status = kernel_main().await;
        xen::power::exit(status).await
    });
    executor::run_forever()
}
