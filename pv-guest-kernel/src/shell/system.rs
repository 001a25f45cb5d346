//! Commands about the system itself.

use alloc::string::String;
use core::sync::atomic::Ordering;
use core::time::Duration;

use pv_abi::VcpuId;
use pv_abi::sched::reason;
use pv_abi::vcpu::RunstateInfo;

use super::command::{Args, Command, Failure, Outcome, human};
use crate::arch::{cpu, instr};
use crate::mm::{self, PAGE, frames, heap};
use crate::task::{self, executor};
use crate::xen::{self, clock, events, grants, hv, platform, power, stub};
use crate::{command, console, println};

/// The table.
pub const COMMANDS: &[Command] = &[
    command!(help, "help [COMMAND]", "lists the commands, or describes one"),
    command!(info, "info", "tells about this domain and its hypervisor"),
    command!(cpus, "cpu [LEAF [SUBLEAF]]", "lists the vCPUs and their counters, or shows a CPUID leaf"),
    command!(memory, "mem", "shows the memory map and what is free"),
    command!(list_events, "events", "lists the event channels in use"),
    command!(list_grants, "grants", "lists the grants in use"),
    command!(sleep, "sleep SECONDS", "waits; fractions are allowed"),
    command!(echo, "echo [WORD...]", "prints its words"),
    command!(shutdown, "shutdown [STATUS]", "ends this domain with an exit status"),
    command!(reboot, "reboot", "asks for a fresh start of this domain"),
    command!(fail, "false", "does nothing, unsuccessfully"),
    command!(
        crash,
        "crash [panic|fault|triple|stack|suspend]",
        "ends this domain the hard way, to see how that is reported"
    ),
];

/// The column in which `help` explains commands.
const USAGE: usize = 42;

async fn help(args: Args) -> Outcome {
    args.at_most(1)?;
    if let Some(name) = args.get(0) {
        let Some(c) = super::commands().into_iter().find(|c| c.name == name) else {
            return Err(Failure::because(alloc::format!("there is no command {name:?}")));
        };
        println!("usage: {}\n  {}", c.usage, c.about);
        return Ok(());
    }
    for c in super::commands() {
        // A long one has a line of its own, so that all explanations stand below each other.
        if c.usage.len() > USAGE {
            println!("{}", c.usage);
        }
        let usage = if c.usage.len() > USAGE { "" } else { c.usage };
        println!("{usage:<USAGE$} {}", c.about);
    }
    println!("\nCommands are separated by `;`, `&&` or `||`. Ctrl-C ends one. Sizes may end in K, M or G.");
    Ok(())
}

async fn info(args: Args) -> Outcome {
    args.at_most(0)?;
    let me = xen::identity();
    println!("kernel       pv-guest-kernel {}", env!("CARGO_PKG_VERSION"));
    println!(
        "hypervisor   Xen ABI {}.{}{}, CPUID leaves at {:#x}",
        me.version.0,
        me.version.1,
        me.extra(),
        me.leaf
    );
    match me.domain {
        Some(d) => println!("domain       {d}"),
        None => println!("domain       unknown"),
    }
    println!("features     {:?}", me.features);
    println!("command line {}", crate::cmdline::line());
    println!("vCPUs        {}", cpu::count());
    println!("memory       {}", human(frames::count().0 * PAGE));
    println!("began at     {} ticks of the time stamp counter", crate::boot::entered());
    println!(
        "up           {}.{:03} s of system time",
        clock::now() / 1_000_000_000,
        clock::now() / 1_000_000 % 1000
    );
    println!("wall clock   {} s since 1970", clock::wall() / 1_000_000_000);
    println!("TSC          {} kHz", clock::tsc_hz() / 1000);
    println!("tasks        {}", executor::tasks());
    Ok(())
}

async fn cpus(args: Args) -> Outcome {
    args.at_most(2)?;
    if let Some(leaf) = args.get(0) {
        let number = |text: &str| super::command::size(text).and_then(|n| u32::try_from(n).ok());
        let leaf = number(leaf).ok_or_else(|| Failure::usage("LEAF is not a number"))?;
        let sub =
            number(args.get(1).unwrap_or("0")).ok_or_else(|| Failure::usage("SUBLEAF is not a number"))?;
        let [a, b, c, d] = instr::cpuid(leaf, sub);
        println!("eax {a:08x}  ebx {b:08x}  ecx {c:08x}  edx {d:08x}");
        return Ok(());
    }
    let mut brand = String::new();
    if instr::cpuid(0x8000_0000, 0)[0] >= 0x8000_0004 {
        for leaf in 0x8000_0002..=0x8000_0004u32 {
            for r in instr::cpuid(leaf, 0) {
                brand.extend(r.to_le_bytes().iter().filter(|&&b| b != 0).map(|&b| char::from(b)));
            }
        }
    }
    println!("{}", brand.trim());
    println!("vcpu  state     upcalls    events     polls    blocks   running ms  runnable ms   blocked ms");
    for c in cpu::all() {
        let mut run = RunstateInfo::default();
        let _ = stub::vcpu_runstate_info(hv(), VcpuId::new(c.id), &mut run);
        let state =
            ["running", "runnable", "blocked", "offline"].get(run.state as usize).copied().unwrap_or("?");
        println!(
            "{:4}  {state:8} {:8} {:9} {:9} {:9} {:12} {:12} {:12}",
            c.id,
            c.upcalls.load(Ordering::Relaxed),
            c.events.load(Ordering::Relaxed),
            c.polls.load(Ordering::Relaxed),
            c.blocks.load(Ordering::Relaxed),
            run.time[0] / 1_000_000,
            run.time[1] / 1_000_000,
            run.time[2] / 1_000_000,
        );
    }
    Ok(())
}

async fn memory(args: Args) -> Outcome {
    args.at_most(0)?;
    for r in mm::map::get().iter() {
        let kind = match r.kind {
            1 => "RAM",
            2 => "reserved",
            3 => "ACPI",
            4 => "NVS",
            5 => "unusable",
            _ => "other",
        };
        println!("{:#014x}-{:#014x}  {kind}", r.start, r.end - 1);
    }
    let (total, free) = frames::count();
    let (used, claimed) = heap::count();
    println!("frames  {total} of 4 KiB, {free} free");
    println!("heap    {} in use of {}", human(used as u64), human(claimed as u64));
    println!("retired {} pages wait for a peer to let go", platform::retired_pages());
    Ok(())
}

async fn list_events(args: Args) -> Outcome {
    args.at_most(0)?;
    println!("{:?} event channels", events::abi());
    for e in events::list() {
        println!("{:6}  {:10}  {}{}", e.port.raw(), e.count, e.name, if e.masked { " (masked)" } else { "" });
    }
    Ok(())
}

async fn list_grants(args: Args) -> Outcome {
    args.at_most(0)?;
    let (used, now, most) = grants::list();
    for g in used.iter().take(64) {
        println!("{:6}  {}  frame {:#x}  {:?}", g.reference.raw(), g.peer, g.frame, g.flags);
    }
    if used.len() > 64 {
        println!("... and {} more", used.len() - 64);
    }
    println!("{} in use; the table has {now} entries and may have {most}", used.len());
    Ok(())
}

async fn sleep(args: Args) -> Outcome {
    args.at_most(1)?;
    let text = args.need(0, "SECONDS")?;
    let bad = || Failure::usage(alloc::format!("{text:?} is not a number of seconds"));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| bad())? };
    let mut nanos = 0u64;
    let mut unit = 100_000_000;
    for digit in fraction.chars() {
        nanos += u64::from(digit.to_digit(10).ok_or_else(bad)?) * unit;
        unit /= 10;
    }
    task::sleep(Duration::from_secs(seconds) + Duration::from_nanos(nanos)).await;
    Ok(())
}

async fn echo(args: Args) -> Outcome {
    println!("{}", args.all().join(" "));
    Ok(())
}

async fn shutdown(args: Args) -> Outcome {
    args.at_most(1)?;
    let status = match args.get(0) {
        None => 0,
        Some(text) => text.parse().map_err(|_| Failure::usage("STATUS is not a number"))?,
    };
    crate::fs::sync_all().await;
    power::exit(status).await
}

async fn reboot(args: Args) -> Outcome {
    args.at_most(0)?;
    crate::fs::sync_all().await;
    console::flush();
    power::shutdown(reason::REBOOT)
}

async fn fail(_: Args) -> Outcome {
    Err(Failure::Status(1))
}

async fn crash(args: Args) -> Outcome {
    args.at_most(1)?;
    match args.get(0).unwrap_or("panic") {
        "panic" => panic!("asked for on the console"),
        "fault" => {
            // SAFETY: nothing is mapped there; the point is the report.
            unsafe { core::ptr::read_volatile(0x1000 as *const u64) };
            Ok(())
        }
        "triple" => crate::arch::trap::triple_fault(),
        "suspend" => xen::power::shutdown(pv_abi::sched::reason::SUSPEND),
        "stack" => {
            println!("{}", dig(1));
            Ok(())
        }
        _ => Err(Failure::usage("no such way")),
    }
}

/// Uses up the stack.
#[allow(unconditional_recursion)]
fn dig(n: u64) -> u64 {
    let buffer = core::hint::black_box([n; 64]);
    core::hint::black_box(dig(n + 1)) + buffer[(n % 64) as usize]
}
