//! The server's side of iperf3's protocol, version 3.12, for TCP in one direction.
//!
//! A test has a control connection and others for the data. Each begins with the client's cookie. States are single
//! bytes on the control connection, documents are JSON behind four bytes of length, big-endian (`iperf_api.h`,
//! `iperf_api.c`, `iperf_server_api.c`).
//!
//! Nothing that a client says is believed that is not looked at: documents and the number of connections have limits,
//! and whoever says nothing for a while is left.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::pin::pin;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use futures_util::future::{Either, join_all, select};

use super::super::command::{Failure, Outcome};
use super::iperf::{CHUNK, lost, report};
use crate::net::tcp::{Listener, Stream};
use crate::xen::clock;
use crate::{println, task};

/// Letters of a cookie; a zero follows.
const COOKIE: usize = 36;
/// Bytes of a document from a client.
const DOCUMENT: u32 = 64 << 10;
/// Connections for data.
const STREAMS: u64 = 8;
/// How long a client may take to say something that is due.
const PATIENCE: Duration = Duration::from_secs(30);
/// How much longer than it announced a test may take.
const GRACE: Duration = Duration::from_secs(60);

/// A test is over when nothing has come for so long after its end was said, or after so many times that.
const LATE: Duration = Duration::from_millis(200);
const LATE_ROUNDS: usize = 50;

/// States, as on the wire.
const TEST_START: u8 = 1;
const TEST_RUNNING: u8 = 2;
const TEST_END: u8 = 4;
const PARAM_EXCHANGE: u8 = 9;
const CREATE_STREAMS: u8 = 10;
const EXCHANGE_RESULTS: u8 = 13;
const DISPLAY_RESULTS: u8 = 14;
const IPERF_DONE: u8 = 16;
const SERVER_ERROR: u8 = 0xfe;
/// "Not implemented yet".
const IEUNIMP: u32 = 13;

/// Whether the first words of a connection are a cookie: letters and digits of base 32.
pub fn is_cookie(text: &str) -> bool {
    text.len() == COOKIE && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7'))
}

/// What a client asks for.
#[derive(Debug, PartialEq, Eq)]
struct Parameters {
    streams: u64,
    /// Bytes of each stream's blocks.
    block: usize,
    /// How long the client means to send; 0 for some number of bytes.
    seconds: u64,
    reverse: bool,
}

/// What follows `"key":` in a flat document.
fn value<'a>(document: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = document.split_once(&format!("\"{key}\":"))?;
    rest.trim_start().split([',', '}']).next().map(str::trim)
}

fn parameters(document: &str) -> Result<Parameters, &'static str> {
    let number = |key: &str| value(document, key).and_then(|text| text.parse::<u64>().ok());
    let is_true = |key: &str| value(document, key) == Some("true");
    if !is_true("tcp") {
        return Err("only TCP is measured");
    }
    if is_true("bidirectional") {
        return Err("only one direction at a time is measured");
    }
    let streams = number("parallel").unwrap_or(1);
    if !(1..=STREAMS).contains(&streams) {
        return Err("too many connections");
    }
    Ok(Parameters {
        streams,
        block: number("len").map_or(CHUNK, |len| usize::try_from(len).unwrap_or(CHUNK).clamp(1, CHUNK)),
        seconds: number("time").unwrap_or(0),
        reverse: is_true("reverse"),
    })
}

async fn within<T>(what: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let late = |_| Failure::because("iperf3's client says nothing any more");
    task::timeout(PATIENCE, what).await.map_err(late)?
}

async fn exactly(stream: &mut Stream, into: &mut [u8]) -> Outcome {
    let mut done = 0;
    while done < into.len() {
        match stream.read(&mut into[done..]).await.map_err(lost)? {
            0 => return Err(Failure::because("iperf3's client has ended the connection")),
            count => done += count,
        }
    }
    Ok(())
}

async fn say(control: &mut Stream, state: u8) -> Outcome {
    control.write_all(&[state]).await.map_err(lost)
}

async fn document(control: &mut Stream) -> Result<String, Failure> {
    let mut length = [0; 4];
    exactly(control, &mut length).await?;
    let length = u32::from_be_bytes(length);
    if length > DOCUMENT {
        return Err(Failure::because("iperf3's client sends too much"));
    }
    let mut bytes = vec![0; length as usize];
    exactly(control, &mut bytes).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The number of a stream in results: those of iperf3 leave out 2.
fn number_of(stream: usize) -> usize {
    if stream == 0 { 1 } else { stream + 2 }
}

/// What the server has counted.
fn results(bytes: &[u64], nanos: u64) -> String {
    let streams: Vec<String> = (0..)
        .zip(bytes)
        .map(|(stream, bytes)| {
            let id = number_of(stream);
            let millis = nanos / 1_000_000;
            let seconds = format!("{}.{:03}", millis / 1000, millis % 1000);
            format!(
                "{{\"id\":{id},\"bytes\":{bytes},\"retransmits\":-1,\"jitter\":0,\"errors\":0,\"packets\":0,\"start_time\":0,\"end_time\":{seconds}}}"
            )
        })
        .collect();
    format!(
        "{{\"cpu_util_total\":0,\"cpu_util_user\":0,\"cpu_util_system\":0,\"sender_has_retransmits\":0,\"streams\":[{}]}}",
        streams.join(",")
    )
}

/// Gives and takes as a client wants, until it says that the test is over: the bytes of each stream, and when the last came.
async fn measure(
    control: &mut Stream,
    data: &mut [Stream],
    wanted: &Parameters,
) -> Result<(Vec<u64>, u64), Failure> {
    let mut end;
    let counts: Vec<AtomicU64> = data.iter().map(|_| AtomicU64::new(0)).collect();
    {
        let chunk = vec![0x5a; wanted.block];
        let moving = data.iter_mut().zip(&counts).map(async |(stream, count)| {
            loop {
                let moved = if wanted.reverse {
                    stream.write_all(&chunk).await.map(|()| chunk.len())
                } else {
                    stream.skip(usize::MAX).await
                };
                match moved {
                    Ok(moved) if moved > 0 => count.fetch_add(moved as u64, Ordering::Relaxed),
                    _ => return,
                };
            }
        });
        let moving = async {
            join_all(moving).await;
            // Only the client says that it is over.
            core::future::pending::<()>().await;
        };
        let mut moving = pin!(moving);
        let said = async {
            let mut state = [0];
            exactly(control, &mut state).await.map(|()| state[0])
        };
        let both = async {
            match select(pin!(said), moving.as_mut()).await {
                Either::Left((said, _)) => said,
                Either::Right(_) => Ok(0),
            }
        };
        let longest = Duration::from_secs(wanted.seconds.min(86_400)) + GRACE;
        let late = |_| Failure::because("iperf3's client never ends the test");
        if task::timeout(longest, both).await.map_err(late)?? != TEST_END {
            return Err(Failure::because("iperf3's client ended the test"));
        }
        end = clock::now();
        // What was on its way when the client said so.
        let sum = || counts.iter().map(|count| count.load(Ordering::Relaxed)).sum::<u64>();
        for _ in 0..if wanted.reverse { 0 } else { LATE_ROUNDS } {
            let before = sum();
            let _ = task::timeout(LATE, moving.as_mut()).await;
            if sum() == before {
                break;
            }
            end = clock::now();
        }
    }
    Ok((counts.iter().map(|count| count.load(Ordering::Relaxed)).collect(), end))
}

/// Serves the test of the client at the other end of `control`, which has sent its cookie.
pub async fn serve(listener: &mut Listener, mut control: Stream, cookie: &str) -> Outcome {
    say(&mut control, PARAM_EXCHANGE).await?;
    let wanted = match parameters(&within(document(&mut control)).await?) {
        Ok(wanted) => wanted,
        Err(why) => {
            println!("iperf: a client of iperf3 is refused: {why}");
            say(&mut control, SERVER_ERROR).await?;
            for code in [IEUNIMP, 0] {
                control.write_all(&code.to_be_bytes()).await.map_err(lost)?;
            }
            control.finish();
            let _ = task::timeout(Duration::from_secs(1), control.drained()).await;
            return Ok(());
        }
    };
    // All may knock at once, and one more who is not of this test.
    listener.expect(wanted.streams as usize + 1).map_err(lost)?;
    say(&mut control, CREATE_STREAMS).await?;
    let mut data = Vec::new();
    while (data.len() as u64) < wanted.streams {
        let mut stream = within(async { listener.accept().await.map_err(lost) }).await?;
        let mut bytes = [0; COOKIE + 1];
        within(exactly(&mut stream, &mut bytes)).await?;
        // Whoever has another cookie goes away: there is one test at a time.
        if bytes.strip_suffix(&[0]) == Some(cookie.as_bytes()) {
            data.push(stream);
        }
    }
    say(&mut control, TEST_START).await?;
    say(&mut control, TEST_RUNNING).await?;
    let start = clock::now();
    let (counts, end) = measure(&mut control, &mut data, &wanted).await?;
    let nanos = end.saturating_sub(start);
    let bytes: u64 = counts.iter().sum();
    say(&mut control, EXCHANGE_RESULTS).await?;
    within(document(&mut control)).await?;
    let results = results(&counts, nanos);
    control.write_all(&(results.len() as u32).to_be_bytes()).await.map_err(lost)?;
    control.write_all(results.as_bytes()).await.map_err(lost)?;
    say(&mut control, DISPLAY_RESULTS).await?;
    let mut state = [0];
    within(exactly(&mut control, &mut state)).await?;
    if state[0] != IPERF_DONE {
        return Err(Failure::because("iperf3's client does not like the results"));
    }
    report(if wanted.reverse { "sent to iperf3" } else { "received from iperf3" }, bytes, nanos);
    Ok(())
}
