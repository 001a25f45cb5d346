//! Cases about the network: the host fetches from a guest, a guest from the host, and guests from each other.

use super::live::{self, Lane, Machine, SVM, VMX};
use super::{Case, Context, Verdict};
use crate::bench::figure::{self, Figure};
use crate::bundle::{self, DomainSet};
use crate::emulator::{Card, Forward, Network};
use crate::{run, workspace};
use anyhow::{Context as _, Result, bail, ensure};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// What is moved.
const BYTES: usize = 16 << 20;
/// How long the host tries to reach the guest.
const PATIENCE: Duration = Duration::from_secs(300);

/// Returns the cases.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new(format!("net/serve/{}", SVM.at(2)), |context| serve(context, SVM.at(2))),
        Case::new(format!("net/fetch/{}", SVM.at(2)), |context| fetch(context, SVM.at(2))),
    ];
    cases.push(Case::new(format!("net/uplink/{SVM}"), |context| uplink(context, SVM)));
    for lane in [SVM, VMX] {
        cases.push(Case::new(format!("net/e1000/{lane}"), move |context| e1000(context, lane)));
    }
    for lane in [SVM.at(2), VMX.at(2)] {
        cases.push(Case::new(format!("net/bridge/{lane}"), move |context| bridge(context, lane)));
    }
    // In virtual time, so that no other load of this computer decides whether somebody waited too long.
    cases.push(Case::new(format!("net/overload/{SVM}"), |context| overload(context, SVM)));
    cases.push(Case::new(format!("net/flood/{SVM}"), |context| flood(context, SVM)));
    for lane in [SVM, VMX] {
        cases.push(Case::new(format!("net/hostile/{lane}"), move |context| hostile(context, lane)));
    }
    cases
}

/// A port of this computer that nobody uses now, below those that the system gives to connections of its own: none of
/// these takes it before the emulator does.
pub(super) fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id() % 8192;
    for _ in 0..8192 {
        let offset = (start + u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) % 8192;
        let port = 20_000 + u16::try_from(offset)?;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port of this computer from 20000 to 28191 is free")
}

/// Fetches a file by HTTP, trying until the server answers.
fn get(port: u16, path: &str) -> Result<Vec<u8>> {
    let until = Instant::now() + PATIENCE;
    loop {
        match try_get(port, path) {
            Ok(body) => return Ok(body),
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(250)),
        }
    }
}

fn try_get(port: u16, path: &str) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").context("no HTTP answer")?;
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "the guest's server refused");
    Ok(answer.split_off(end + 4))
}

/// A guest makes a file and serves it; the host fetches it through the forwarded port.
fn serve(context: &Context, lane: Lane) -> Result<Verdict> {
    let port = free_port()?;
    let mut set = live::set("default.toml")?;
    let guest = set.guest()?;
    guest.disk = vec!["memory:40M".into()];
    guest.vif = vec!["bridge".into()];
    set.control()?.memory = "128M".into();
    run::add_commands(
        &mut set,
        "mkfs xvda && mount xvda && dd if=random of=/big.bin bs=64K count=256 seed=9 && sha256 /big.bin && httpd requests=1",
    )?;
    let network = Network { forward: vec![Forward { host: port, guest: 80 }], ..Network::default() };
    let host = std::thread::spawn(move || get(port, "/big.bin"));
    let report = Machine::new(context, "net/serve", lane).network(network).limit(600).boot(&set)?;
    let verdict = live::judge(&report, &["httpd: "]);
    if !matches!(verdict, Verdict::Passed(_)) {
        return Ok(verdict);
    }
    let body = host.join().map_err(|_| anyhow::anyhow!("the fetching thread panicked"))??;
    ensure!(body.len() == BYTES, "{} bytes came, not {BYTES}", body.len());
    let hash = workspace::sha256(&body);
    Ok(live::judge(&report, &[&hash]))
}

/// The driver domain sends packets that nobody answers: the card interrupts for what it receives, not for what it has sent.
fn uplink(context: &Context, lane: Lane) -> Result<Verdict> {
    // The emulator's router, which knows nothing of these packets.
    const COMMANDS: &str = "bench net 10.0.2.2 load=packets mac=52:55:0a:00:02:02 n=1024; backends";
    let mut set = live::set("default.toml")?;
    set.guest()?.vif = vec!["bridge".into()];
    set.guest()?.disk = Vec::new();
    let words = format!("ip=10.0.2.77/24 {}", run::exec(COMMANDS));
    bundle::append(&mut set.control()?.cmdline, &words);
    let report = Machine::new(context, "net/uplink", lane).network(Network::default()).boot(&set)?;
    let verdict = live::judge(&report, &["packets to=10.0.2.2 size=1514", "uplink: UplinkCounters"]);
    if !matches!(verdict, Verdict::Passed(_)) {
        return Ok(verdict);
    }
    let line = report.console.lines().rfind(|line| line.contains("uplink: Uplink")).unwrap_or_default();
    let count = |name: &str| -> Result<u64> {
        let (_, rest) =
            line.split_once(&format!("{name}: ")).with_context(|| format!("no {name} counted"))?;
        Ok(rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default().parse()?)
    };
    let (sent, received, interrupts) = (count(" sent")?, count(" received")?, count("interrupts")?);
    let facts = format!("{sent} packets sent, {received} received, {interrupts} interrupts");
    // Where all its buffers are on their way, somebody waits, and the card may say so: once for that many.
    if sent < 2048 || received == 0 || interrupts > received + sent / 64 {
        return Ok(live::failed(&report, facts));
    }
    Ok(Verdict::Passed(facts))
}

/// Some bytes that are no pattern of a disk's or a page's length.
fn noise(bytes: usize) -> Vec<u8> {
    (0..bytes as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// Answers one request by HTTP with these bytes, at the port that this returns.
fn serve_once(body: Vec<u8>) -> Result<u16> {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = server.local_addr()?.port();
    std::thread::spawn(move || -> Result<()> {
        let (mut stream, _) = server.accept()?;
        let mut request = [0; 4096];
        let _ = stream.read(&mut request)?;
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
        stream.write_all(&body)?;
        Ok(())
    });
    Ok(port)
}

/// The host serves a file; a guest fetches it and tells its hash.
fn fetch(context: &Context, lane: Lane) -> Result<Verdict> {
    let body = noise(BYTES);
    let hash = workspace::sha256(&body);
    let port = serve_once(body)?;
    let mut set = live::set("default.toml")?;
    let guest = set.guest()?;
    guest.disk = Vec::new();
    guest.vif = vec!["bridge".into()];
    run::add_commands(&mut set, &format!("ip wait; ip; wget http://10.0.2.2:{port}/file"))?;
    let network = Network::default();
    let report = Machine::new(context, "net/fetch", lane).network(network).limit(600).boot(&set)?;
    Ok(live::judge(&report, &[&hash]))
}

/// Over the card that both emulators have: a guest gets an address, pings the router, fetches a file from the host, and
/// serves it to the host.
fn e1000(context: &Context, lane: Lane) -> Result<Verdict> {
    let body = noise(BYTES / 16);
    let hash = workspace::sha256(&body);
    let (from, back) = (serve_once(body.clone())?, free_port()?);
    let mut set = live::set("default.toml")?;
    let guest = set.guest()?;
    guest.disk = vec!["memory:4M".into()];
    guest.vif = vec!["bridge".into()];
    run::add_commands(
        &mut set,
        &format!(
            "mkfs xvda && mount xvda && ip wait && ping 10.0.2.2 count=3 && wget http://10.0.2.2:{from}/file /file && httpd requests=1"
        ),
    )?;
    let network = Network { forward: vec![Forward { host: back, guest: 80 }], card: Card::E1000 };
    let host = std::thread::spawn(move || get(back, "/file"));
    let report = Machine::new(context, "net/e1000", lane).network(network).limit(600).boot(&set)?;
    let verdict =
        live::judge(&report, &["uplink: e1000", "from a DHCP server", "3 of 3 answered", &hash, "httpd: "]);
    if matches!(verdict, Verdict::Passed(_)) {
        let came = host.join().map_err(|_| anyhow::anyhow!("the fetching thread panicked"))??;
        ensure!(came == body, "{} bytes came that are not those {}", came.len(), body.len());
    }
    Ok(verdict)
}

/// Two guests and the driver domain on the bridge: one guest pings the other and the driver domain, and sends each of
/// them some MiB by TCP, and takes as many from them.
fn bridge(context: &Context, lane: Lane) -> Result<Verdict> {
    let mut set = live::set("two-guests.toml")?;
    for name in ["one", "two"] {
        let domain = set.domains.get_mut(name).with_context(|| format!("the set has no domain {name}"))?;
        domain.disk = Vec::new();
        domain.vif = vec![format!("bridge,antispoof,mtu={}", if name == "one" { 1500 } else { 9000 })];
        domain.memory = "96M".into();
    }
    let bytes = if lane == SVM.at(2) { "16M" } else { "4M" };
    live::command(&mut set, "one", "ip 10.0.0.1/24; iperf server count=2")?;
    let commands = format!(
        "ip 10.0.0.2/24; iperf 10.0.0.1 bytes={bytes} wait=120 && ping 10.0.0.1 count=3 && iperf 10.0.0.1 bytes={bytes} reverse && ping 10.0.0.254 count=2 && iperf 10.0.0.254 bytes={bytes} && iperf 10.0.0.254 bytes={bytes} reverse && ip && echo all done"
    );
    bundle::append(&mut set.control()?.cmdline, "ip=10.0.0.254/24 serve=iperf");
    live::command(&mut set, "two", &commands)?;
    bundle::append(&mut set.domains.get_mut("two").context("no domain two")?.cmdline, "net-queues=4");
    live::until_guests(&mut set)?;
    let report = Machine::new(context, "net/bridge", lane).limit(900).boot(&set)?;
    Ok(live::judge(
        &report,
        &[
            "3 of 3 answered",
            "2 of 2 answered",
            "[one] received",
            "[one] sent",
            "4 queues, hashing",
            "[two] all done",
        ],
    ))
}

/// The domain set for figures, with commands for the guest that measures.
fn measuring(commands: &str) -> Result<DomainSet> {
    let mut set = live::set("network.toml")?;
    run::add_commands(&mut set, commands)?;
    Ok(set)
}

/// A guest sends packets as fast as it can, to another one and to the driver domain: all of them arrive, and so do streams.
/// No domain sends more than one event for ten packets meanwhile, and data is copied once at most for each hop.
fn overload(context: &Context, lane: Lane) -> Result<Verdict> {
    let set =
        measuring("bench net 10.0.0.1 n=3000 bytes=4M raw && bench net 10.0.0.254 n=3000 bytes=4M raw")?;
    let report = Machine::new(context, "net/overload", lane).counted().boot(&set)?;
    let verdict = live::judge(&report, &[]);
    if !matches!(verdict, Verdict::Passed(_)) {
        return Ok(verdict);
    }
    let figures = Figure::all(&report.console, figure::Lane::Counted, figure::OWN)?;
    let mut facts = Vec::new();
    for (name, count) in [("packets", 4), ("tcp-stream", 4)] {
        let found: Vec<_> = figures.iter().filter(|figure| figure.name == name).collect();
        if found.len() != count {
            return Ok(live::failed(&report, format!("{} figures of {name}, not {count}", found.len())));
        }
        for figure in found.into_iter().filter(|_| name == "packets") {
            for part in ["guest", "driver", "peer"] {
                let (sent, copied) =
                    (figure.per(&format!("{part}.sent")), figure.per(&format!("{part}.copied")));
                // The looked-at start of a packet is copied twice.
                let most = figure.word("size").unwrap_or(0) as f64 + 128.5;
                if sent > 0.1 || copied > most {
                    let why =
                        format!("{}: {part} sends {sent} events and copies {copied} bytes", figure.what());
                    return Ok(live::failed(&report, why));
                }
                if sent > 0.0 {
                    facts.push(format!("{sent:.3}"));
                }
            }
        }
    }
    Ok(Verdict::Passed(format!("events per packet: {}", facts.join(" "))))
}

/// A guest floods another one with packets while a third one pings that: all pings are answered.
fn flood(context: &Context, lane: Lane) -> Result<Verdict> {
    let mut set = measuring("bench net 10.0.0.1 load=packets n=40000")?;
    let mut third = set.domains.get("peer").context("the set has no domain peer")?.clone();
    third.cmdline = "role=guest name=third ip=10.0.0.3/24".into();
    third.start = "auto".into();
    set.domains.insert("third".into(), third);
    live::command(&mut set, "third", "ping 10.0.0.1 count=100 interval=1 wait=60000")?;
    let report = Machine::new(context, "net/flood", lane).counted().boot(&set)?;
    Ok(live::judge(&report, &["100 of 100 answered", "arrived"]))
}

/// A guest whose front end lies, three times over: its interface alone is given up each time, another guest still answers,
/// and from the second time to the third the driver domain has lost no memory, no mapping and no port.
fn hostile(context: &Context, lane: Lane) -> Result<Verdict> {
    const ROUNDS: usize = 3;
    let mut set = live::set("network.toml")?;
    let liar = set.guest()?;
    liar.kernel = "hostile-net".into();
    liar.start = "manual".into();
    // Time is counted in instructions: what a guest does in these seconds does not depend on this computer.
    let round = "create guest; sleep 10; mem; events; stats dom0";
    let commands = format!("{}; backends; ping 10.0.0.1 count=3", [round; ROUNDS].join("; "));
    bundle::append(&mut set.control()?.cmdline, &run::exec(&commands));
    let report = Machine::new(context, "net/hostile", lane).counted().boot(&set)?;
    let verdict = live::judge(&report, &["3 of 3 answered"]);
    if !matches!(verdict, Verdict::Passed(_)) {
        return Ok(verdict);
    }
    for sign in ["SUCCESS: hostile-net", "disabled: its transmit ring"] {
        if report.console.matches(sign).count() != ROUNDS {
            return Ok(live::failed(&report, format!("not {ROUNDS} times {sign:?}")));
        }
    }
    let [.., before, after] = &held(&report.console)[..] else { bail!("the driver domain does not count") };
    if before != after {
        return Ok(live::failed(&report, format!("the driver domain held {before:?}, then {after:?}")));
    }
    Ok(Verdict::Passed(format!("{after:?}")))
}

/// What the driver domain holds.
#[derive(PartialEq, Debug, Default, Clone)]
struct Held {
    frames_free: u64,
    pages_mapped: u64,
    ports: usize,
}

/// What it said that it holds, each time it was asked for memory, ports and counters.
fn held(console: &str) -> Vec<Held> {
    let (mut all, mut now) = (Vec::new(), Held::default());
    for line in console.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        match words[..] {
            ["frames", .., "free"] => now = Held { frames_free: number(words.len() - 2), ..Held::default() },
            [port, ..] if now.pages_mapped == 0 && port.parse::<u32>().is_ok() => now.ports += 1,
            ["pages", "mapped", _] => now.pages_mapped = number(2),
            ["pages", "unmapped", _] => {
                now.pages_mapped -= number(2).min(now.pages_mapped);
                all.push(now.clone());
            }
            _ => {}
        }
    }
    all
}
