//! What packets to another of these kernels cost: a guest, or the driver domain. That one needs the words `ip=` and
//! `serve=iperf`.
//!
//! * `ping`: round trips of an echo request.
//! * `packets`: frames as fast as the link takes them, below TCP/IP; all of them must arrive. With `mac=` they go there, to
//!   somebody who does not count them, such as the host: they are over when a ping behind them is answered.
//! * `tcp-stream`: in packets of up to 64 KiB where both ends take them; one operation is one MiB. What is received is
//!   counted where it lies (as `iperf3 --skip-rx-copy` does).
//! * `tcp-echo`: a request by TCP and an answer of the same size, one after the other.
//! * `copy`: plain copies of as many bytes in memory, for comparison.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use pv_drivers::net::{Mac, NetCounters};
use smoltcp::wire::{IpAddress, IpEndpoint, Ipv4Address};

use super::Samples;
use super::report::Figure;
use crate::arch::instr;
use crate::figures::{Figures, Meter};
use crate::net::Stack;
use crate::net::ping::Pinger;
use crate::net::tcp::Stream;
use crate::shell::command::{Args, Failure, Outcome};
use crate::shell::net::{address, iperf, ready};
use crate::task;
use crate::xen::clock;

/// Frames with and without payload: the shortest, and the longest that no link refuses.
const FRAMES: [usize; 2] = [64, 1514];
/// Sizes of a request and its answer.
const ROUNDS: [usize; 4] = [64, 1024, 16 << 10, 64 << 10];
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many seconds the server may need to come up.
const WAIT: u64 = 60;
const MIB: u64 = 1 << 20;
/// A plain copy moves so many bytes at once.
const PIECE: usize = 64 << 10;

/// Everything that is read before and after.
struct Reading {
    figures: Option<Figures>,
    link: NetCounters,
    ticks: u64,
    clock: u64,
}

struct Bench {
    stack: Arc<Stack>,
    meter: Option<Meter>,
    to: Ipv4Address,
    /// Where streams go.
    port: u16,
}

impl Bench {
    /// A connection with the server.
    async fn connect(&self) -> Result<Stream, Failure> {
        iperf::connect(&self.stack, IpEndpoint::new(IpAddress::Ipv4(self.to), self.port), WAIT).await
    }

    async fn begin(&self) -> Reading {
        // What was printed before gets out of the way.
        task::sleep(Duration::from_millis(20)).await;
        let figures = self.meter.as_ref().and_then(Meter::read);
        Reading { figures, link: self.stack.counters(), clock: clock::now(), ticks: instr::rdtsc() }
    }

    /// A figure with what changed since.
    fn end(&self, name: &'static str, size: usize, n: u64, before: &Reading) -> Figure {
        let ticks = instr::rdtsc() - before.ticks;
        let ns = (clock::now() - before.clock).max(1);
        let figures = self.meter.as_ref().zip(before.figures.as_ref()).and_then(|(m, f)| m.since(f));
        let link = self.stack.counters();
        let mut figure = Figure::new("net", name, n)
            .with("to", self.to)
            .with("size", size)
            .with_some("queues", crate::cmdline::value("net-queues"))
            .total("ticks", ticks)
            .total("ns", ns);
        for (key, after, before) in [
            ("tx-packets", link.tx_packets, before.link.tx_packets),
            ("rx-packets", link.rx_packets, before.link.rx_packets),
            ("notifications", link.notifications, before.link.notifications),
        ] {
            if after > before {
                figure = figure.total(key, after - before);
            }
        }
        if let Some(figures) = &figures {
            figure = figure.total("busy", figures.busy_ticks());
        }
        figure.counted(figures.as_ref())
    }

    async fn ping(&self, n: u64) -> Outcome {
        let pinger = Pinger::new(&self.stack).map_err(Failure::because)?;
        let payload: Vec<u8> = (0..56).collect();
        let to = IpAddress::Ipv4(self.to);
        let round = async |number: u64| match pinger.ping(to, number as u16, &payload, PATIENCE).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(Failure::because("no answer to a ping")),
            Err(error) => Err(Failure::because(error)),
        };
        // The first one finds the neighbour.
        round(0).await?;
        let mut samples = Vec::with_capacity(n as usize);
        let before = self.begin().await;
        for number in 1..=n {
            let begun = instr::rdtsc();
            round(number).await?;
            samples.push(instr::rdtsc() - begun);
        }
        self.end("ping", payload.len(), n, &before).samples(&Samples::from(samples)).print();
        Ok(())
    }

    async fn packets(&self, length: usize, n: u64) -> Outcome {
        let silent = || Failure::because("nobody counts packets there");
        let first = self.stack.probe(self.to, None).await.ok_or_else(silent)?;
        let before = self.begin().await;
        self.stack.flood(first.mac, length, n).await;
        // Behind all of them.
        let last = self.stack.probe(self.to, Some(first.mac)).await.ok_or_else(silent)?;
        let figure = self.end("packets", length, n, &before).total("bytes", n * length as u64);
        let arrived = last.count - first.count;
        figure.total("arrived", arrived).print();
        if arrived != n {
            return Err(Failure::because(alloc::format!("{arrived} of {n} packets arrived")));
        }
        Ok(())
    }

    async fn frames(&self, mac: Mac, length: usize, n: u64) -> Outcome {
        let pinger = Pinger::new(&self.stack).map_err(Failure::because)?;
        let ping = async || match pinger.ping(IpAddress::Ipv4(self.to), 0, &[0; 56], PATIENCE).await {
            Ok(Some(_)) => Ok(()),
            _ => Err(Failure::because("no answer to a ping")),
        };
        // The first one finds the neighbour.
        ping().await?;
        let before = self.begin().await;
        self.stack.flood(mac.bytes(), length, n).await;
        // Behind all of them.
        ping().await?;
        self.end("packets", length, n, &before).total("bytes", n * length as u64).print();
        Ok(())
    }

    /// Sends requests of a size by TCP, each when the answer to the one before has come.
    async fn echo(&self, size: usize, n: u64) -> Outcome {
        let mut stream = self.connect().await?;
        let (request, mut space) = (vec![0x5a_u8; size], vec![0_u8; size]);
        iperf::ask_echo(&mut stream, (n + 1) * size as u64).await?;
        // The first one opens the windows.
        iperf::round(&mut stream, &request, &mut space).await?;
        let mut samples = Vec::with_capacity(n as usize);
        let before = self.begin().await;
        for _ in 0..n {
            let begun = instr::rdtsc();
            iperf::round(&mut stream, &request, &mut space).await?;
            samples.push(instr::rdtsc() - begun);
        }
        let figure = self.end("tcp-echo", size, n, &before).total("bytes", 2 * n * size as u64);
        figure.samples(&Samples::from(samples)).print();
        Ok(())
    }

    /// Moves a TCP stream, when `copy` nanoseconds are what a plain copy of it took.
    async fn stream(&self, bytes: u64, reverse: bool, copy: u64) -> Outcome {
        let mut stream = self.connect().await?;
        let before = self.begin().await;
        iperf::transfer(&mut stream, bytes, reverse).await?;
        let ns = (clock::now() - before.clock).max(1);
        self.end("tcp-stream", 65536, bytes / MIB, &before)
            .with("direction", if reverse { "receive" } else { "send" })
            .total("bytes", bytes)
            // How many times longer than a plain copy it took, in hundredths.
            .one("copies-hundredths", ns * 100 / copy.max(1))
            .print();
        Ok(())
    }

    /// Copies bytes in memory; returns the time that took in nanoseconds.
    async fn copy(&self, bytes: u64) -> u64 {
        let (from, mut to) = (vec![0x5a_u8; PIECE], vec![0_u8; PIECE]);
        let before = self.begin().await;
        for _ in 0..bytes / PIECE as u64 {
            to.copy_from_slice(core::hint::black_box(&from));
            core::hint::black_box(&to);
        }
        let ns = (clock::now() - before.clock).max(1);
        self.end("copy", PIECE, bytes / MIB, &before).total("bytes", bytes).print();
        ns
    }
}

/// Runs all of them.
pub async fn run(mut args: Args) -> Outcome {
    let n = args.take_size("n")?.unwrap_or(4096).max(1);
    let loads = args.take("load");
    let wanted = |load: &str| match &loads {
        Some(names) => names.split(',').any(|name| name == load),
        None => true,
    };
    let mac = args.take("mac").map(|text| text.parse::<Mac>());
    let mac = mac.transpose().map_err(|_| Failure::usage("mac: six bytes with colons between"))?;
    let bytes = args.take_size("bytes")?.unwrap_or(64 * MIB).next_multiple_of(MIB);
    let port = args.take_size("port")?.unwrap_or(iperf::PORT.into());
    let port = u16::try_from(port).map_err(|_| Failure::usage("port: up to 65535"))?;
    args.at_most(2)?;
    let IpAddress::Ipv4(to) = address(args.need(1, "ADDRESS")?)? else {
        return Err(Failure::usage("only IPv4 is measured"));
    };
    let bench = Bench { stack: ready().await?, meter: Meter::new(), to, port };
    if wanted("ping") {
        bench.ping((n / 16).clamp(1, 256)).await?;
    }
    for length in FRAMES.into_iter().filter(|_| wanted("packets")) {
        match mac {
            Some(mac) => bench.frames(mac, length, n).await?,
            None => bench.packets(length, n).await?,
        }
    }
    for size in ROUNDS.into_iter().filter(|_| wanted("echo")) {
        bench.echo(size, (n / 32).clamp(1, 64)).await?;
    }
    if wanted("stream") {
        let copy = bench.copy(bytes).await;
        bench.stream(bytes, false, copy).await?;
        bench.stream(bytes, true, copy).await?;
    }
    Ok(())
}
