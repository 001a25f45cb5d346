//! Commands about the network.

mod http;
pub mod iperf;
mod iperf3;
mod netcat;

use alloc::format;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::str::FromStr;
use core::time::Duration;

use smoltcp::wire::{IpAddress, IpEndpoint};

use super::command::{Args, Command, Failure, Outcome};
use crate::net::addresses::{self, Source};
use crate::net::ping::Pinger;
use crate::net::{self, Stack};
use crate::{command, println, task};

/// The table.
pub const COMMANDS: &[Command] = &[
    command!(
        ip,
        "ip [ADDRESS/BITS[,GATEWAY] | wait]",
        "shows the network's addresses, sets one, or waits for DHCP"
    ),
    command!(ping, "ping ADDRESS [count=4] [size=56] [interval=MS] [wait=MS]", "sends echo requests"),
    command!(
        netcat::run,
        "nc [udp] ADDRESS PORT [WORD...] | nc [udp] listen PORT",
        "sends words, or what is typed, by TCP, or words in a datagram, and shows what comes back"
    ),
    command!(
        http::wget,
        "wget URL [PATH]",
        "fetches http://ADDRESS[:PORT]/PATH into a file, or only its SHA-256 without one"
    ),
    command!(http::httpd, "httpd [port=80] [requests=N]", "serves the mounted volumes by HTTP"),
    command!(
        iperf::run,
        "iperf server [port=5201] [count=1] | iperf ADDRESS [port=5201] [bytes=64M] [wait=SECONDS] [reverse]",
        "measures TCP throughput between two of these; the server also serves iperf3's client"
    ),
];

/// How long a DHCP server may take.
const PATIENCE: Duration = Duration::from_secs(20);

fn stack() -> Result<Arc<Stack>, Failure> {
    net::stack().ok_or_else(|| Failure::because("there is no network interface"))
}

/// The stack, with an IPv4 address to speak from.
///
/// # Errors
/// There is no interface, or nobody gave it an address.
pub async fn ready() -> Result<Arc<Stack>, Failure> {
    let stack = stack()?;
    if !stack.configured(PATIENCE).await {
        return Err(Failure::because("no DHCP server has answered; set an address with `ip`"));
    }
    Ok(stack)
}

/// The stack, with an address to speak from with `peer`: IPv6 has one from the start.
async fn ready_for(peer: IpAddress) -> Result<Arc<Stack>, Failure> {
    match peer {
        IpAddress::Ipv4(_) => ready().await,
        IpAddress::Ipv6(_) => stack(),
    }
}

/// The stack, to be spoken to: after a DHCP server was waited for, over IPv6 alone if there is none.
async fn ready_to_serve() -> Result<Arc<Stack>, Failure> {
    let stack = stack()?;
    if stack.addresses().2 == Source::Dhcp {
        stack.configured(PATIENCE).await;
    }
    Ok(stack)
}

/// Reads an address.
///
/// # Errors
/// It is none.
pub fn address(text: &str) -> Result<IpAddress, Failure> {
    IpAddress::from_str(text).map_err(|_| Failure::usage(format!("{text:?} is not an IP address")))
}

fn port(text: &str) -> Result<u16, Failure> {
    text.parse()
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| Failure::usage(format!("{text:?} is not a port")))
}

fn endpoint(host: &str, number: &str) -> Result<IpEndpoint, Failure> {
    Ok(IpEndpoint::new(address(host)?, port(number)?))
}

/// What fits into the largest packet of a link: 65,521 bytes without the headers of IPv4 and ICMP.
const PING_MAX: u64 = 65_493;

async fn ip(args: Args) -> Outcome {
    args.at_most(1)?;
    let stack = net::stack().ok_or_else(|| Failure::because("there is no network interface"))?;
    match args.get(0) {
        None => {
            let link = stack.link();
            let mac: Vec<_> = link.mac.iter().map(|byte| format!("{byte:02x}")).collect();
            println!(
                "{}: {}, mtu {}, {}, {}",
                link.name,
                if link.is_up { "up" } else { "down" },
                link.mtu,
                mac.join(":"),
                link.note
            );
            let (all, gateways, source) = stack.addresses();
            for cidr in all {
                println!("  {cidr}");
            }
            for gateway in gateways {
                println!("  gateway {gateway}");
            }
            if source == Source::Dhcp {
                println!("  by DHCP");
            }
            Ok(())
        }
        Some("wait") => ready().await.map(|_| ()),
        Some(text) => {
            let (address, gateway) = addresses::parse_fixed(text)
                .ok_or_else(|| Failure::usage("an address looks like 10.0.0.2/24 or 10.0.0.2/24,10.0.0.1"))?;
            stack.set_address(address, gateway);
            Ok(())
        }
    }
}

async fn ping(mut args: Args) -> Outcome {
    let count = args.take_size("count")?.unwrap_or(4);
    let size = args.take_size("size")?.unwrap_or(56);
    let interval = Duration::from_millis(args.take_size("interval")?.unwrap_or(200));
    let patience = Duration::from_millis(args.take_size("wait")?.unwrap_or(5000));
    args.at_most(1)?;
    let to = address(args.need(0, "ADDRESS")?)?;
    if size > PING_MAX {
        return Err(Failure::usage(format!("size: {PING_MAX} bytes at most")));
    }
    let stack = ready_for(to).await?;
    let pinger = Pinger::new(&stack).map_err(Failure::because)?;
    let payload: Vec<u8> = (0..size).map(|i| i as u8).collect();
    let mut times = Vec::new();
    for number in 0..count {
        if number != 0 {
            task::sleep(interval).await;
        }
        let answer = pinger.ping(to, number as u16, &payload, patience).await.map_err(Failure::because)?;
        match answer {
            Some(time) => {
                println!("{size} bytes from {to}: number {number}, {} us", time.as_micros());
                times.push(time);
            }
            None => println!("no answer {number}"),
        }
    }
    let sum: Duration = times.iter().sum();
    if let (Some(least), Some(most)) = (times.iter().min(), times.iter().max()) {
        println!(
            "{} of {count} answered; {} / {} / {} us least, mean, most",
            times.len(),
            least.as_micros(),
            sum.as_micros() / times.len() as u128,
            most.as_micros()
        );
        return Ok(());
    }
    Err(Failure::because(format!("{to} does not answer").to_string()))
}
