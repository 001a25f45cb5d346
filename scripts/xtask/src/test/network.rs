//! Cases about what a network may be asked for: IPv6, rules for an interface, and others' tools.

use super::live::{self, Lane, Machine, SVM};
use super::net::free_port;
use super::{Case, Context, Verdict};
use crate::bundle::{self, DomainSet};
use crate::emulator::{Forward, Network};
use crate::run;
use anyhow::{Context as _, Result, ensure};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

/// How long the host tries to reach the guest.
const PATIENCE: Duration = Duration::from_secs(300);

/// Returns the cases.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new(format!("net/ipv6/{SVM}"), |context| ipv6(context, SVM)),
        Case::new(format!("net/rules/{SVM}"), |context| rules(context, SVM)),
        Case::new(format!("net/iperf3/{SVM}"), |context| iperf3(context, SVM)),
    ]
}

/// Two guests with these interfaces and without disks, whose addresses are 02:00:00:00:00:01 and 02:00:00:00:00:02.
fn two(vifs: [&str; 2], commands: [&str; 2]) -> Result<DomainSet> {
    let mut set = live::set("two-guests.toml")?;
    for (number, name) in ["one", "two"].into_iter().enumerate() {
        let domain = set.domains.get_mut(name).with_context(|| format!("the set has no domain {name}"))?;
        domain.disk = Vec::new();
        domain.vif = vec![format!("bridge,mac=02:00:00:00:00:0{},{}", number + 1, vifs[number])];
        live::command(&mut set, name, commands[number])?;
    }
    Ok(set)
}

/// Two guests without any IPv4 find each other by the addresses of their link, and by those that the router of the
/// emulator lets them make: echoes, streams in large packets, a page, and a datagram.
fn ipv6(context: &Context, lane: Lane) -> Result<Verdict> {
    const ONE: &str = "fe80::ff:fe00:1";
    let server = "mkfs xvda && mount xvda && dd if=random of=/f bs=64K count=16 seed=9 && sha256 /f; iperf server count=2; httpd requests=1; nc udp listen 7";
    // The listener may not be there yet, and the answer may be late.
    let ask = [const { "nc udp fe80::ff:fe00:1 7 hello over there" }; 30].join(" || ");
    let client = format!(
        "iperf {ONE} bytes=2M wait=120 && ping {ONE} count=3 size=1400 wait=60000 && iperf {ONE} bytes=2M reverse && wget http://[{ONE}]/f && ip && ping fec0::2 count=2 wait=60000 && ping fec0::ff:fe00:1 count=2 wait=60000; {ask} || echo no answer"
    );
    let mut set = two(["antispoof", "antispoof"], [server, &client])?;
    for name in ["one", "two"] {
        bundle::append(&mut set.domains.get_mut(name).context("no such domain")?.cmdline, "ip=none");
    }
    set.domains.get_mut("one").context("no domain one")?.disk = vec!["memory:8M".into()];
    live::until_guests(&mut set)?;
    let report = Machine::new(context, "net/ipv6", lane).network(Network::default()).limit(600).boot(&set)?;
    let hash = report.console.lines().find_map(|line| line.strip_suffix("  /f")?.rsplit(' ').next());
    let Some(hash) = hash.filter(|hash| hash.len() == 64) else {
        return Ok(live::failed(&report, "no hash of the file"));
    };
    Ok(live::judge(
        &report,
        &[
            "[one] received 2097152 bytes",
            "[two] received 2097152 bytes",
            "3 of 3 answered",
            &format!("{hash}  http://[{ONE}]/f"),
            "fec0::ff:fe00:2/64",
            "gateway fe80::2",
            "bytes from fec0::2: number 1",
            "bytes from fec0::ff:fe00:1: number 1",
            "[one] hello over there",
        ],
    ))
}

/// What an interface is held to: a rate, addresses, a cable; and the largest packets that there are.
fn rules(context: &Context, lane: Lane) -> Result<Verdict> {
    const BYTES: u64 = 3 << 20;
    let one = "ip 10.0.0.1/24; iperf server count=1; nc listen 7";
    let two_ = format!(
        "ip 10.0.0.2/24; iperf 10.0.0.1 bytes={BYTES} wait=60 && ping 10.0.0.1 count=2 size=65493 && ping 10.0.0.254 count=1; ip 10.0.0.9/24; ping 10.0.0.254 count=2 wait=3000 || echo nobody believes it; ip 10.0.0.2/24; nc 10.0.0.254 9 now you"
    );
    let mut set = two(["mtu=65521", "mtu=65521,rate=1M,antispoof,ip=10.0.0.2"], [one, &two_])?;
    // The driver domain waits for the guest, and then plays with the other one's cable.
    let script = "nc listen 9; bridge static 02:00:00:00:00:77 vif1.0; bridge static 02:00:00:00:00:02 vif1.0 || echo not that; bridge; bridge down vif1.0; backends; ping 10.0.0.1 count=2 wait=500 || echo cut off; bridge up vif1.0; ping 10.0.0.1 count=3; bridge forget 02:00:00:00:00:77; backends";
    bundle::append(&mut set.control()?.cmdline, &format!("ip=10.0.0.254/24 {}", run::exec(script)));
    let report = Machine::new(context, "net/rules", lane).counted().boot(&set)?;
    let verdict = live::judge(
        &report,
        &[
            "[one] received 3145728 bytes",
            "65493 bytes from 10.0.0.1: number 1",
            "2 of 2 answered",
            "1 of 1 answered",
            "[two] nobody believes it",
            "now you",
            "another interface has that address for itself",
            "02:00:00:00:00:77 vif1.0 static",
            "vif1.0: connected, without a link",
            "eth0: the link is down",
            "cut off",
            "eth0: the link is up",
            "3 of 3 answered",
        ],
    );
    if !matches!(verdict, Verdict::Passed(_)) {
        return Ok(verdict);
    }
    // In virtual time: at least what the rate allows, less the largest burst, and not many times that.
    let number = |line: &str, before: &str| -> Result<u64> {
        let found = report.console.lines().find_map(|text| text.split_once(line)?.1.split_once(before));
        let (_, rest) = found.with_context(|| format!("no {before:?} behind {line:?}"))?;
        Ok(rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default().parse()?)
    };
    let millis = number("[two] ", &format!("sent {BYTES} bytes in "))?;
    let spoofed = number("vif2.0: connected", " spoofed: ")?;
    let least = (BYTES - (1 << 18)) * 1000 / (1 << 20);
    let facts = format!("{BYTES} bytes in {millis} ms at 1 MiB/s, {spoofed} spoofed packets");
    if !(least..4 * least).contains(&millis) || spoofed == 0 {
        return Ok(live::failed(&report, facts));
    }
    Ok(Verdict::Passed(facts))
}

/// What a client of iperf3 (3.12) says and hears, with one connection for data: the server's results.
fn iperf3_client(port: u16, is_reverse: bool) -> Result<String> {
    const COOKIE: &[u8; 37] = b"abcdefghijklmnopqrstuvwxyz234567abcd\0";
    const BYTES: usize = 1 << 20;
    let connect = || -> Result<TcpStream> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(COOKIE)?;
        Ok(stream)
    };
    let hear = |stream: &mut TcpStream, wanted: u8| -> Result<()> {
        let mut state = [0];
        stream.read_exact(&mut state)?;
        ensure!(state[0] == wanted, "state {} where {wanted} is due", state[0]);
        Ok(())
    };
    let tell = |stream: &mut TcpStream, document: &str| -> Result<()> {
        stream.write_all(&u32::try_from(document.len())?.to_be_bytes())?;
        Ok(stream.write_all(document.as_bytes())?)
    };
    let until = Instant::now() + PATIENCE;
    let mut control = loop {
        // The emulator accepts connections before anybody waits for them in the guest.
        let tried = connect().and_then(|mut control| hear(&mut control, 9).map(|()| control));
        match tried {
            Ok(control) => break control,
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(250)),
        }
    };
    let reverse = if is_reverse { r#","reverse":true"# } else { "" };
    tell(
        &mut control,
        &format!(
            r#"{{"tcp":true,"omit":0,"time":0,"num":{BYTES},"blockcount":0,"parallel":1{reverse},"len":131072,"pacing_timer":1000,"client_version":"3.12"}}"#
        ),
    )?;
    hear(&mut control, 10)?;
    let mut data = connect()?;
    hear(&mut control, 1)?;
    hear(&mut control, 2)?;
    let mut buffer = vec![0; BYTES];
    if is_reverse {
        data.read_exact(&mut buffer)?;
    } else {
        data.write_all(&buffer)?;
    }
    control.write_all(&[4])?;
    hear(&mut control, 13)?;
    tell(
        &mut control,
        r#"{"cpu_util_total":1,"cpu_util_user":1,"cpu_util_system":0,"sender_has_retransmits":1,"streams":[]}"#,
    )?;
    let mut length = [0; 4];
    control.read_exact(&mut length)?;
    let mut results = vec![0; usize::try_from(u32::from_be_bytes(length))?.min(1 << 16)];
    control.read_exact(&mut results)?;
    hear(&mut control, 14)?;
    control.write_all(&[16])?;
    Ok(String::from_utf8(results)?)
}

/// A client of iperf3 on the host sends to a guest, and is sent to.
fn iperf3(context: &Context, lane: Lane) -> Result<Verdict> {
    let port = free_port()?;
    let mut set = live::set("default.toml")?;
    set.guest()?.disk = Vec::new();
    set.guest()?.vif = vec!["bridge".into()];
    run::add_commands(&mut set, "iperf server count=2")?;
    let network = Network { forward: vec![Forward { host: port, guest: 5201 }], ..Network::default() };
    let host = std::thread::spawn(move || -> Result<_> {
        Ok((iperf3_client(port, false)?, iperf3_client(port, true)?))
    });
    let report = Machine::new(context, "net/iperf3", lane).network(network).limit(600).boot(&set)?;
    let verdict = live::judge(&report, &["received from iperf3 ", "sent to iperf3 "]);
    if !matches!(verdict, Verdict::Passed(_)) {
        return Ok(verdict);
    }
    let (sent, received) = host.join().map_err(|_| anyhow::anyhow!("the client's thread panicked"))??;
    for results in [&sent, &received] {
        ensure!(results.starts_with('{') && results.contains(r#""streams":[{"id":1,"bytes":"#), "{results}");
    }
    Ok(Verdict::passed())
}
