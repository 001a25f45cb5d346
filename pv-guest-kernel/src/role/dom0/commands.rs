//! The control domain's own commands.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use pv_abi::call::ROWS;
use pv_abi::control::{
    DomainInfo, ExitCause, POWER_OFF, POWER_REBOOT, Roles, Schedule, TraceRecord, VcpuState, state, trace,
};
use pv_abi::vcpu::runstate;
use pv_abi::{Errno, VcpuId};
use pv_drivers::net::Mac;

use super::toolstack::{Toolstack, domains};
use crate::figures::Counters;
use crate::shell::command::{Args, Command, Failure, Outcome};
use crate::xen::{hv, stub};
use crate::{command, println};

static TOOLSTACK: spin::Once<Arc<Toolstack>> = spin::Once::new();

/// Gives the commands the toolstack that they work on.
pub fn init(toolstack: Arc<Toolstack>) {
    TOOLSTACK.call_once(|| toolstack);
    crate::shell::add_commands(COMMANDS);
}

/// The commands.
static COMMANDS: &[Command] = &[
    command!(list, "list", "lists the domains: state, memory, virtual CPUs, time"),
    command!(stats, "stats DOMAIN", "shows a domain's exits by cause, hypercalls by name, events and copies"),
    command!(vcpus, "vcpus [DOMAIN]", "shows where virtual CPUs run and for how long"),
    command!(create, "create NAME", "makes and starts a guest from a section of the boot bundle"),
    command!(pause, "pause DOMAIN", "stops a domain's virtual CPUs"),
    command!(unpause, "unpause DOMAIN", "lets them run again"),
    command!(destroy, "destroy DOMAIN", "ends a domain at once"),
    command!(ask, "ask DOMAIN poweroff|reboot", "asks a guest to end itself"),
    command!(
        schedule,
        "schedule DOMAIN [weight=N] [cap=PERCENT] [cpus=MASK]",
        "sets a domain's share of the CPUs"
    ),
    command!(console, "console [DOMAIN]", "brings a console to the foreground (also Ctrl-a and a digit)"),
    command!(backends, "backends", "lists the devices that are served to guests"),
    command!(
        bridge,
        "bridge [static MAC INTERFACE|uplink | forget MAC | up INTERFACE | down INTERFACE]",
        "shows which address is where; enters one or forgets it; plugs the cable of an interface (vif1.0) in or out"
    ),
    command!(
        trace_dump,
        "trace [CPU]",
        "shows the hypervisor's last records of a CPU (boot it with `trace`)"
    ),
    command!(power, "power off|reset [STATUS]", "ends the machine"),
];

fn toolstack() -> Result<&'static Arc<Toolstack>, Failure> {
    TOOLSTACK.get().ok_or_else(|| Failure::because("the toolstack is not running"))
}

fn domain(args: &Args) -> Result<DomainInfo, Failure> {
    let text = args.need(0, "DOMAIN")?;
    toolstack()?
        .find(text)
        .ok_or_else(|| Failure::because(format!("there is no domain \"{text}\"; try `list`")))
}

fn state_text(info: &DomainInfo) -> &'static str {
    match (info.state, info.pauses) {
        (state::CREATED, _) => "created",
        (state::ALIVE, 0) => "running",
        (state::ALIVE, _) => "paused",
        (state::SHUT_DOWN, _) => "shut down",
        (state::DYING, _) => "dying",
        _ => "dead",
    }
}

async fn list(args: Args) -> Outcome {
    args.at_most(0)?;
    println!("{:<5} {:<16} {:<10} {:>8} {:>6} {:>12}  roles", "id", "name", "state", "MiB", "vcpus", "time");
    for info in domains() {
        let roles: Vec<_> =
            Roles::from_bits_retain(info.roles).iter_names().map(|(name, _)| name.to_lowercase()).collect();
        let millis = info.cpu_ns / 1_000_000;
        println!(
            "{:<5} {:<16} {:<10} {:>8} {:>6} {:>8}.{:03}  {}",
            format!("{}", info.domid),
            info.name(),
            state_text(&info),
            info.pages >> 8,
            format!("{}/{}", info.vcpus_up, info.vcpus),
            millis / 1000,
            millis % 1000,
            roles.join(" ")
        );
    }
    let sections = toolstack()?.sections();
    if !sections.is_empty() {
        println!("sections to create from: {}", sections.join(", "));
    }
    Ok(())
}

async fn stats(args: Args) -> Outcome {
    args.at_most(1)?;
    let info = domain(&args)?;
    let counters = Counters::of(info.domid).ok_or_else(|| Failure::because("its counters cannot be read"))?;
    let statistics = counters.statistics();
    println!(
        "{} ({}): {}, {} ms on CPUs",
        info.domid,
        info.name(),
        state_text(&info),
        info.cpu_ns / 1_000_000
    );
    println!("exits:");
    for (cause, count) in ExitCause::ALL.iter().zip(statistics.exits).filter(|(_, count)| *count > 0) {
        println!("  {:<28} {count:>12}", cause.name());
    }
    println!("hypercalls:");
    for (row, count) in ROWS.iter().zip(statistics.hypercalls).filter(|(_, count)| *count > 0) {
        println!("  {:<28} {count:>12}", row.name);
    }
    let others = [
        ("unknown hypercalls", statistics.unknown_calls),
        ("events sent", statistics.events_sent),
        ("events delivered", statistics.events_delivered),
        ("events suppressed", statistics.events_suppressed),
        ("grant copies", statistics.copies),
        ("bytes copied", statistics.copied_bytes),
        ("pages mapped", statistics.maps),
        ("pages unmapped", statistics.unmaps),
        ("nested flushes", statistics.flushes),
        ("interrupts injected", statistics.injections),
    ];
    println!("other:");
    for (name, count) in others.iter().filter(|(_, count)| *count > 0) {
        println!("  {name:<28} {count:>12}");
    }
    Ok(())
}

async fn vcpus(args: Args) -> Outcome {
    args.at_most(1)?;
    let wanted = if args.get(0).is_some() { vec![domain(&args)?] } else { domains() };
    println!(
        "{:<8} {:<10} {:>4} {:>12} {:>12} {:>12}",
        "vcpu", "state", "cpu", "running ms", "waiting ms", "exits"
    );
    for info in wanted {
        for number in 0..info.vcpus {
            let mut vcpu = VcpuState::default();
            if stub::control_vcpu_info(hv(), info.domid, VcpuId::new(number), &mut vcpu).is_err() {
                continue;
            }
            let state = match vcpu.state {
                runstate::RUNNING => "running",
                runstate::RUNNABLE => "runnable",
                runstate::BLOCKED => "blocked",
                _ => "offline",
            };
            println!(
                "{:<8} {state:<10} {:>4} {:>12} {:>12} {:>12}",
                format!("{}v{number}", info.domid),
                vcpu.cpu,
                vcpu.time[0] / 1_000_000,
                vcpu.time[1] / 1_000_000,
                vcpu.exits
            );
        }
    }
    Ok(())
}

async fn create(args: Args) -> Outcome {
    args.at_most(1)?;
    let name = args.need(0, "NAME")?;
    toolstack()?.create(name).map(|_| ()).map_err(Failure::because)
}

async fn pause(args: Args) -> Outcome {
    args.at_most(1)?;
    let info = domain(&args)?;
    if info.domid == pv_abi::DomainId::DOM0 {
        return Err(Failure::because("this domain cannot pause itself: nobody could let it run again"));
    }
    stub::control_pause(hv(), info.domid)?;
    Ok(())
}

async fn unpause(args: Args) -> Outcome {
    args.at_most(1)?;
    stub::control_unpause(hv(), domain(&args)?.domid)?;
    Ok(())
}

async fn destroy(args: Args) -> Outcome {
    args.at_most(1)?;
    let info = domain(&args)?;
    toolstack()?.destroy(info.domid).map_err(|error| match error {
        Errno::EINVAL => Failure::because("this domain cannot destroy itself; `power off` ends the machine"),
        error => Failure::because(error),
    })
}

async fn ask(args: Args) -> Outcome {
    args.at_most(2)?;
    let info = domain(&args)?;
    let what = args.need(1, "poweroff or reboot")?;
    if !matches!(what, "poweroff" | "reboot") {
        return Err(Failure::usage(format!("cannot ask for {what:?}")));
    }
    toolstack()?.ask(info.domid, what)?;
    Ok(())
}

async fn schedule(mut args: Args) -> Outcome {
    let weight = args.take_size("weight")?;
    let cap = args.take_size("cap")?;
    let cpus = args.take_size("cpus")?;
    args.at_most(1)?;
    let info = domain(&args)?;
    let number = |value: Option<u64>, now: u32| match value {
        None => Ok(now),
        Some(value) => u32::try_from(value).map_err(|_| Failure::usage(format!("{value} is too large"))),
    };
    let wanted = Schedule {
        domid: info.domid,
        weight: number(weight, info.weight)?,
        cap: number(cap, info.cap)?,
        affinity: cpus.unwrap_or(info.affinity),
        ..Schedule::default()
    };
    if weight.is_none() && cap.is_none() && cpus.is_none() {
        println!("{}: weight {}, cap {} %, CPUs {:#x}", info.domid, info.weight, info.cap, info.affinity);
        return Ok(());
    }
    stub::control_schedule(hv(), &wanted)?;
    Ok(())
}

async fn console(args: Args) -> Outcome {
    args.at_most(1)?;
    match args.get(0) {
        None => toolstack()?.consoles().help(),
        Some(_) => toolstack()?.consoles().bring(domain(&args)?.domid),
    }
    Ok(())
}

async fn backends(args: Args) -> Outcome {
    args.at_most(0)?;
    for line in toolstack()?.devices().list().into_iter().chain(toolstack()?.network().list()) {
        println!("{line}");
    }
    Ok(())
}

async fn bridge(args: Args) -> Outcome {
    let network = toolstack()?.network();
    let mac = || -> Result<Mac, Failure> {
        let text = args.need(1, "MAC")?;
        text.parse().map_err(|_| Failure::usage(format!("{text:?} is not an Ethernet address")))
    };
    match args.get(0) {
        None => {
            for line in network.addresses() {
                println!("{line}");
            }
            return Ok(());
        }
        Some("static") => {
            args.at_most(3)?;
            network.add_static(mac()?, args.need(2, "INTERFACE")?)
        }
        Some("forget") => {
            args.at_most(2)?;
            network.forget(mac()?)
        }
        Some(word @ ("up" | "down")) => {
            args.at_most(2)?;
            network.set_link(args.need(1, "INTERFACE")?, word == "up")
        }
        Some(word) => return Err(Failure::usage(format!("do not know what to do with {word:?}"))),
    }
    .map_err(|error| {
        let why = match error {
            Errno::ENOENT => "there is no such thing; try `bridge` and `backends`",
            Errno::EEXIST => "another interface has that address for itself",
            Errno::EBUSY => "that is an interface's own address",
            Errno::EINVAL => "that address stands for a group",
            Errno::ENOSPC => "there are too many",
            error => return error.into(),
        };
        Failure::because(why)
    })
}

fn trace_text(record: &TraceRecord) -> String {
    let (a, b) = (record.a, record.b);
    let call = |index: u64| usize::try_from(index).ok().and_then(|i| ROWS.get(i)).map_or("?", |row| row.name);
    let cause = |index: u64| {
        usize::try_from(index).ok().and_then(|i| ExitCause::ALL.get(i)).map_or("?", |c| c.name())
    };
    match record.kind {
        trace::EXIT => format!("exit    {} at {b:#x}", cause(a)),
        trace::CALL => format!("call    {} = {}", call(a), b.cast_signed()),
        trace::EVENT => format!("event   port {a} of d{b}"),
        trace::SWITCH => format!("switch  from d{a}v{b}"),
        trace::INJECT => format!("inject  vector {a:#x}"),
        other => format!("kind {other}: {a:#x} {b:#x}"),
    }
}

async fn trace_dump(args: Args) -> Outcome {
    args.at_most(1)?;
    let cpu = match args.get(0) {
        None => 0,
        Some(text) => text.parse().map_err(|_| Failure::usage(format!("{text:?} is not a number")))?,
    };
    let mut records = vec![TraceRecord::default(); 64];
    let mut before = None;
    loop {
        let count = stub::control_trace(hv(), cpu, &mut records).map_err(|error| match error {
            Errno::ENOENT => {
                Failure::because("there is no such CPU, or the hypervisor was started without `trace`")
            }
            error => Failure::because(error),
        })?;
        let count = usize::try_from(count).unwrap_or(0).min(records.len());
        for record in &records[..count] {
            let since = record.tsc.wrapping_sub(before.unwrap_or(record.tsc));
            println!(
                "{:>16} +{since:<10} {}v{}  {}",
                record.tsc,
                record.domid,
                record.vcpu,
                trace_text(record)
            );
            before = Some(record.tsc);
        }
        if count < records.len() {
            return Ok(());
        }
        crate::task::yield_now().await;
    }
}

async fn power(args: Args) -> Outcome {
    args.at_most(2)?;
    let action = match args.need(0, "off or reset")? {
        "off" => POWER_OFF,
        "reset" => POWER_REBOOT,
        other => return Err(Failure::usage(format!("{other:?} is neither off nor reset"))),
    };
    let status = match args.get(1) {
        None => 0,
        Some(text) => text.parse().map_err(|_| Failure::usage(format!("{text:?} is not a number")))?,
    };
    crate::console::flush();
    stub::control_power(hv(), action, status)?;
    Ok(())
}
