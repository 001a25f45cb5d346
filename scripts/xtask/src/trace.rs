//! The hypervisor's trace, as a file that Perfetto and `chrome://tracing` open.
//!
//! `dom0` prints the records behind the console's last words (`pv-guest-kernel/src/role/dom0/trace.rs`). The file is in
//! the Trace Event Format ("Trace Event Format", Chromium project): each CPU is a process with a thread for each virtual
//! CPU, on which a slice says that it runs and an instant what happened.

use anyhow::{Context, Result, bail, ensure};
use pv_abi::call::ROWS;
use pv_abi::control::{ExitCause, trace};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// How a line of the trace begins.
pub const PREFIX: &str = "(trace) ";
/// What makes `dom0` print it.
pub const DOM0_WORD: &str = "trace=dump";
/// What makes the hypervisor keep it.
pub const HV_WORD: &str = "trace";

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    cpu: u64,
    tsc: u64,
    kind: u16,
    domain: u64,
    vcpu: u64,
    a: u64,
    b: u64,
}

impl Record {
    fn parse(text: &str) -> Result<Record> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [cpu, tsc, kind, domain, vcpu, a, b] = words[..] else { bail!("`{text}` is no record") };
        let hex = |text| u64::from_str_radix(text, 16);
        Ok(Record {
            cpu: cpu.parse()?,
            tsc: tsc.parse()?,
            kind: kind.parse()?,
            domain: domain.parse()?,
            vcpu: vcpu.parse()?,
            a: hex(a)?,
            b: hex(b)?,
        })
    }

    /// The virtual CPU's number among the threads of a process.
    fn thread(domain: u64, vcpu: u64) -> u64 {
        (domain << 8 | vcpu) + 1
    }

    /// Its name and what else there is to say.
    fn text(&self) -> (String, Value) {
        let cause = |index: u64| {
            usize::try_from(index).ok().and_then(|index| ExitCause::ALL.get(index)).map_or("?", |c| c.name())
        };
        let call = |index: u64| {
            usize::try_from(index).ok().and_then(|index| ROWS.get(index)).map_or("?", |row| row.name)
        };
        match self.kind {
            trace::EXIT => (format!("exit {}", cause(self.a)), json!({ "rip": format!("{:#x}", self.b) })),
            trace::CALL => (format!("call {}", call(self.a)), json!({ "result": self.b.cast_signed() })),
            trace::EVENT => (format!("event to d{}", self.b), json!({ "port": self.a })),
            trace::SWITCH => (format!("switch from d{}v{}", self.a, self.b), json!({})),
            trace::INJECT => (format!("inject {:#x}", self.a), json!({})),
            kind => (format!("kind {kind}"), json!({ "a": self.a, "b": self.b })),
        }
    }
}

/// Takes the trace out of a console and writes it to a file; returns how many records there were.
pub fn write(console: &str, file: &Path) -> Result<usize> {
    let (hz, records) = read(console)?;
    let count = records.len();
    ensure!(count > 0, "the console shows no record of the trace");
    let text = serde_json::to_string(&events(hz, &records))?;
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(count)
}

/// Reads the ticks in a second, and the records.
fn read(console: &str) -> Result<(u64, Vec<Record>)> {
    let mut hz = None;
    let mut records = Vec::new();
    for text in console.lines().filter_map(|line| line.trim_end().strip_prefix(PREFIX)) {
        match text.strip_prefix("hz ") {
            Some(number) => hz = Some(number.parse().with_context(|| format!("`{text}`"))?),
            None => records.push(Record::parse(text)?),
        }
    }
    let hz = hz.filter(|hz| *hz > 0).context("the console shows no trace")?;
    records.sort_by_key(|record| record.tsc);
    Ok((hz, records))
}

#[allow(clippy::cast_precision_loss)] // microseconds for a viewer
fn events(hz: u64, records: &[Record]) -> Value {
    let first = records.first().map_or(0, |record| record.tsc);
    let micros = |tsc: u64| (tsc - first) as f64 * 1e6 / hz as f64;
    let mut events = Vec::new();
    let mut names = BTreeMap::new();
    // Which virtual CPU each CPU runs, and since when.
    let mut running: BTreeMap<u64, (u64, u64, u64)> = BTreeMap::new();
    let slice = |cpu: u64, (domain, vcpu, since): (u64, u64, u64), until: u64| {
        json!({
            "name": format!("d{domain}v{vcpu}"), "cat": "run", "ph": "X", "pid": cpu,
            "tid": Record::thread(domain, vcpu), "ts": micros(since), "dur": micros(until) - micros(since),
        })
    };
    for record in records {
        let Record { cpu, tsc, domain, vcpu, .. } = *record;
        names.insert((cpu, domain, vcpu), ());
        match running.get(&cpu) {
            Some(now) if (now.0, now.1) == (domain, vcpu) => {}
            before => {
                events.extend(before.map(|before| slice(cpu, *before, tsc)));
                running.insert(cpu, (domain, vcpu, tsc));
            }
        }
        let (name, more) = record.text();
        events.push(json!({
            "name": name, "cat": "hv", "ph": "i", "s": "t", "pid": cpu,
            "tid": Record::thread(domain, vcpu), "ts": micros(tsc), "args": more,
        }));
    }
    if let Some(last) = records.last() {
        events.extend(running.into_iter().map(|(cpu, now)| slice(cpu, now, last.tsc)));
    }
    for (cpu, domain, vcpu) in names.into_keys() {
        let thread = Record::thread(domain, vcpu);
        events.push(json!({ "name": "process_name", "ph": "M", "pid": cpu, "args": { "name": format!("CPU {cpu}") } }));
        events.push(json!({
            "name": "thread_name", "ph": "M", "pid": cpu, "tid": thread,
            "args": { "name": format!("d{domain}v{vcpu}") },
        }));
    }
    json!({ "traceEvents": events, "displayTimeUnit": "ns" })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = "hello\r\n(trace) hz 1000000000\r\n(trace) 0 3000 1 1 0 1 ffff800000001000\r\n\
        (trace) 0 1000 2 0 0 0 ffffffffffffffea\r\n(trace) 1 2000 5 2 1 f3 0\r\n(hv) power off, status 0\r\n";

    #[test]
    fn records_become_slices_and_instants() {
        let (hz, records) = read(CONSOLE).unwrap();
        assert_eq!((hz, records.len(), records[0].tsc), (1_000_000_000, 3, 1000));
        let value = events(hz, &records);
        let of = |kind: &str| {
            let all = value["traceEvents"].as_array().unwrap();
            all.iter().filter(|event| event["ph"] == kind).cloned().collect::<Vec<_>>()
        };
        let instants = of("i");
        assert_eq!(instants[0]["args"]["result"], -22);
        assert_eq!(instants[1]["name"], "inject 0xf3");
        assert_eq!((&instants[2]["name"], &instants[2]["ts"]), (&json!("exit cpuid"), &json!(2.0)));
        let slices = of("X");
        assert_eq!((&slices[0]["name"], &slices[0]["dur"]), (&json!("d0v0"), &json!(2.0)));
        assert_eq!(slices.len(), 3);
        assert!(of("M").iter().any(|event| event["args"]["name"] == "d2v1"));
    }

    #[test]
    fn what_is_no_trace_is_refused() {
        assert!(read("nothing").is_err());
        assert!(read("(trace) hz 0\n").is_err());
        assert!(read("(trace) hz 1\n(trace) 1 2 3\n").is_err());
        assert!(read("(trace) hz 1\n(trace) 0 many 1 1 0 1 0\n").is_err());
    }
}
