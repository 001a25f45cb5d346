//! `iperf`: TCP throughput between two guests, or a guest and the driver domain, or a guest and a client of iperf3.
//!
//! The server speaks two protocols and tells them apart by the first bytes. The one of iperf3 is in [`super::iperf3`].
//! The client speaks this kernel's own, in which the figures of `bench net` count nothing but the stream: it sends
//! one line, `xenolith-iperf 1 BYTES send` or `... receive`; then so many bytes go in that direction; then the receiver
//! of them says `done BYTES` in a line. It counts them where they lie, as `iperf3 --skip-rx-copy` does. After `... echo` so
//! many bytes come back as they are sent, and nothing else is said.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;

use super::super::command::{Args, Failure, Outcome, human};
use super::{address, iperf3, ready_for, ready_to_serve};
use crate::net::Stack;
use crate::net::tcp::{Listener, Stream};
use crate::xen::clock;
use crate::{println, task};
use smoltcp::wire::IpEndpoint;

/// Where the server waits, if nothing else is said.
pub const PORT: u16 = 5201;
pub(super) const CHUNK: usize = 64 << 10;
const MAGIC: &str = "xenolith-iperf 1";

pub(super) fn lost(error: impl core::fmt::Display) -> Failure {
    Failure::because(error)
}

/// Reads one line, byte by byte: lines here are short. What ends with a zero is one, too.
async fn line(stream: &mut Stream) -> Result<String, Failure> {
    let mut text = String::new();
    let mut byte = [0];
    while stream.read(&mut byte).await.map_err(lost)? == 1 && !matches!(byte[0], b'\n' | 0) {
        text.push(char::from(byte[0]));
        if text.len() > 80 {
            return Err(Failure::because("the other end speaks another protocol"));
        }
    }
    Ok(text)
}

async fn give(stream: &mut Stream, mut bytes: u64) -> Result<(), Failure> {
    let chunk = vec![0x5a; CHUNK];
    while bytes > 0 {
        let count = bytes.min(CHUNK as u64);
        stream.write_all(&chunk[..count as usize]).await.map_err(lost)?;
        bytes -= count;
    }
    Ok(())
}

async fn take(stream: &mut Stream, bytes: u64) -> Result<(), Failure> {
    let mut left = bytes;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX);
        let count = stream.skip(most).await.map_err(lost)?;
        if count == 0 {
            return Err(Failure::because(format!("only {} of {bytes} bytes came", bytes - left)));
        }
        left -= count as u64;
    }
    stream.write_all(format!("done {bytes}\n").as_bytes()).await.map_err(lost)
}

/// Lets the last words out. The other end may be gone as soon as it has them, so their receipt is not waited for long.
async fn rest(stream: &mut Stream) {
    let _ = task::timeout(core::time::Duration::from_secs(1), stream.drained()).await;
}

pub(super) fn report(what: &str, bytes: u64, nanos: u64) {
    let per_second = u128::from(bytes) * 1_000_000_000 / u128::from(nanos.max(1));
    println!("{what} {bytes} bytes in {} ms: {}/s", nanos / 1_000_000, human(per_second as u64));
}

/// Runs the server, or a client.
pub async fn run(mut args: Args) -> Outcome {
    let number = args.take_size("port")?.unwrap_or(PORT.into());
    let number = u16::try_from(number)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| Failure::usage("port: 1 to 65535"))?;
    let bytes = args.take_size("bytes")?.unwrap_or(64 << 20);
    let count = args.take_size("count")?.unwrap_or(1);
    let wait = args.take_size("wait")?.unwrap_or(0);
    let reverse = args.flag("reverse");
    args.at_most(1)?;
    if args.need(0, "server or ADDRESS")? == "server" {
        return server(number, count).await;
    }
    let remote = IpEndpoint::new(address(args.need(0, "ADDRESS")?)?, number);
    let stack = ready_for(remote.addr).await?;
    let mut stream = connect(&stack, remote, wait).await?;
    let start = clock::now();
    transfer(&mut stream, bytes, reverse).await?;
    report(if reverse { "received" } else { "sent" }, bytes, clock::now() - start);
    rest(&mut stream).await;
    Ok(())
}

/// Connects with a server, which may need so many seconds to come up.
pub async fn connect(stack: &Arc<Stack>, remote: IpEndpoint, wait: u64) -> Result<Stream, Failure> {
    let until = clock::now() + wait * 1_000_000_000;
    loop {
        match Stream::connect(stack, remote).await {
            Ok(stream) => return Ok(stream),
            Err(error) if clock::now() >= until => return Err(lost(error)),
            Err(_) => task::sleep(core::time::Duration::from_millis(200)).await,
        }
    }
}

/// Moves bytes to the server, or from it if `reverse`; returns when the receiver has them all.
pub async fn transfer(stream: &mut Stream, bytes: u64, reverse: bool) -> Outcome {
    let direction = if reverse { "receive" } else { "send" };
    stream.write_all(format!("{MAGIC} {bytes} {direction}\n").as_bytes()).await.map_err(lost)?;
    if reverse {
        return take(stream, bytes).await;
    }
    give(stream, bytes).await?;
    if line(stream).await? != format!("done {bytes}") {
        return Err(Failure::because("the server did not take everything"));
    }
    Ok(())
}

/// Asks the server to send the next `bytes` bytes back.
pub async fn ask_echo(stream: &mut Stream, bytes: u64) -> Outcome {
    stream.write_all(format!("{MAGIC} {bytes} echo\n").as_bytes()).await.map_err(lost)
}

/// Sends bytes and waits until as many have come back.
pub async fn round(stream: &mut Stream, bytes: &[u8], space: &mut [u8]) -> Outcome {
    stream.write_all(bytes).await.map_err(lost)?;
    let mut left = bytes.len();
    while left > 0 {
        let most = left.min(space.len());
        let count = stream.read(&mut space[..most]).await.map_err(lost)?;
        if count == 0 {
            return Err(Failure::because(format!("{left} bytes did not come back")));
        }
        left -= count;
    }
    Ok(())
}

/// Sends back what comes.
async fn echo(stream: &mut Stream, bytes: u64) -> Outcome {
    let mut space = vec![0; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let count = stream.read(&mut space).await.map_err(lost)?;
        if count == 0 {
            return Err(Failure::because(format!("only {} of {bytes} bytes came", bytes - left)));
        }
        stream.write_all(&space[..count]).await.map_err(lost)?;
        left = left.saturating_sub(count as u64);
    }
    Ok(())
}

/// Serves for ever, whatever clients do.
pub async fn serve() {
    loop {
        if let Err(Failure::Failed(why) | Failure::Usage(why)) = server(PORT, u64::MAX).await {
            log::warn!("iperf: {why}");
        }
        task::sleep(core::time::Duration::from_secs(1)).await;
    }
}

async fn server(number: u16, count: u64) -> Outcome {
    let stack = ready_to_serve().await?;
    let mut listener = Listener::new(&stack, number, 2).map_err(lost)?;
    println!("iperf: waiting on port {number}");
    for _ in 0..count {
        let mut stream = listener.accept().await.map_err(lost)?;
        let request = line(&mut stream).await?;
        if iperf3::is_cookie(&request) {
            if let Err(Failure::Failed(why) | Failure::Usage(why)) =
                iperf3::serve(&mut listener, stream, &request).await
            {
                println!("iperf: {why}");
            }
            continue;
        }
        let mut words = request.strip_prefix(MAGIC).unwrap_or("").split_whitespace();
        let bytes = words.next().and_then(|text| text.parse::<u64>().ok());
        let start = clock::now();
        match (bytes, words.next()) {
            (Some(bytes), Some("send")) => {
                take(&mut stream, bytes).await?;
                report("received", bytes, clock::now() - start);
            }
            (Some(bytes), Some("receive")) => {
                give(&mut stream, bytes).await?;
                line(&mut stream).await?;
                report("sent", bytes, clock::now() - start);
            }
            (Some(bytes), Some("echo")) => echo(&mut stream, bytes).await?,
            _ => println!("iperf: {request:?} is not this protocol"),
        }
        rest(&mut stream).await;
    }
    Ok(())
}
