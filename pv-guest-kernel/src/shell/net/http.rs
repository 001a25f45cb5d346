//! `wget` and `httpd`: enough of HTTP/1.1 (RFC 9112) to move files.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use hadris_fs::OpenOptions;
use sha2::{Digest, Sha256};

use super::super::command::{Args, Failure, Outcome, human};
use super::{endpoint, ready_for, ready_to_serve};
use crate::net::tcp::{Listener, Stream};
use crate::task::signal::Signal;
use crate::xen::clock;
use crate::{cmdline, fs, println, task};

const CHUNK: usize = 64 << 10;
/// Bytes of a request's or an answer's head at most.
const HEAD: usize = 8 << 10;
/// Connections that may knock at the same time.
const BACKLOG: usize = 4;

/// Reads up to the empty line: the head's text, and what already came of the body.
async fn head(stream: &mut Stream) -> Result<(String, Vec<u8>), String> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = stream.read(&mut buffer).await.map_err(|error| error.to_string())?;
        bytes.extend_from_slice(&buffer[..count]);
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let body = bytes.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&bytes[..end]).into_owned(), body));
        }
        if count == 0 || bytes.len() > HEAD {
            return Err("that is no HTTP message".into());
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.trim().eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

/// Address and port of a URL's authority: `10.0.0.1`, `10.0.0.1:80`, `[fe80::1]` or `[fe80::1]:80` (RFC 3986, section 3.2.2).
fn authority(text: &str) -> (&str, &str) {
    const PORT: &str = "80";
    if let Some((address, rest)) = text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        return (address, rest.strip_prefix(':').unwrap_or(PORT));
    }
    text.rsplit_once(':').unwrap_or((text, PORT))
}

pub async fn wget(args: Args) -> Outcome {
    args.at_most(2)?;
    let url = args.need(0, "URL")?;
    let rest = url.strip_prefix("http://").ok_or_else(|| Failure::usage("the URL starts with http://"))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (address, port) = authority(host);
    let remote = endpoint(address, port)?;
    let stack = ready_for(remote.addr).await?;
    let start = clock::now();
    let mut stream = Stream::connect(&stack, remote).await.map_err(Failure::because)?;
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(Failure::because)?;
    let (head, mut body) = head(&mut stream).await.map_err(Failure::Failed)?;
    let status = head.split_whitespace().nth(1).unwrap_or("?");
    if status != "200" {
        return Err(Failure::because(format!("the server answered: {}", head.lines().next().unwrap_or(""))));
    }
    let length = header(&head, "content-length").and_then(|text| text.parse::<u64>().ok());
    let mut file = None;
    if let Some(path) = args.get(1) {
        let (volume, inner) = fs::resolve(path).map_err(Failure::Failed)?;
        let options = OpenOptions::new().write().create().truncate();
        file = Some(volume.open(&inner, options).await.map_err(Failure::because)?);
    }
    let mut hash = Sha256::new();
    let mut total = 0u64;
    let mut buffer = vec![0; CHUNK];
    loop {
        hash.update(&body);
        total += body.len() as u64;
        if let Some(file) = &mut file {
            let mut rest = &body[..];
            while !rest.is_empty() {
                let count = file.write(rest).await.map_err(Failure::because)?;
                rest = &rest[count..];
            }
        }
        if length.is_some_and(|length| total >= length) {
            break;
        }
        let count = stream.read(&mut buffer).await.map_err(Failure::because)?;
        if count == 0 {
            break;
        }
        body = buffer[..count].to_vec();
    }
    if let Some(file) = file {
        file.close().await.map_err(Failure::because)?;
    }
    if let Some(length) = length.filter(|length| *length != total) {
        return Err(Failure::because(format!("only {total} of {length} bytes came")));
    }
    let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let millis = (clock::now() - start) / 1_000_000;
    println!("{digest}  {url}");
    println!("{total} bytes in {millis} ms, {}/s", human(total * 1000 / millis.max(1)));
    Ok(())
}

pub async fn httpd(mut args: Args) -> Outcome {
    let number = args.take_size("port")?.unwrap_or(80);
    let requests = args.take_size("requests")?;
    args.at_most(0)?;
    let number = u16::try_from(number)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| Failure::usage("port: 1 to 65535"))?;
    let stack = ready_to_serve().await?;
    let mut listener = Listener::new(&stack, number, BACKLOG).map_err(Failure::because)?;
    let addresses: Vec<_> = stack.addresses().0.iter().map(|cidr| cidr.address().to_string()).collect();
    println!(
        "httpd: {} on port {number}{}",
        cmdline::value("name").unwrap_or("guest"),
        match requests {
            Some(count) => format!(", for {count} requests"),
            None => ", until Ctrl-C".into(),
        }
    );
    println!("httpd: at {}", addresses.join(", "));
    let served = Arc::new((AtomicU64::new(0), Signal::new()));
    let mut accepted = 0;
    while requests.is_none_or(|most| accepted < most) {
        let stream = listener.accept().await.map_err(Failure::because)?;
        accepted += 1;
        let served = served.clone();
        task::spawn(async move {
            serve(stream).await;
            served.0.fetch_add(1, Ordering::Relaxed);
            served.1.raise();
        });
    }
    let mut seen = 0;
    while served.0.load(Ordering::Relaxed) < accepted {
        core::future::poll_fn(|cx| served.1.poll_changed(&mut seen, cx)).await;
    }
    Ok(())
}

async fn serve(mut stream: Stream) {
    let who = stream.remote().map(|remote| remote.to_string()).unwrap_or_default();
    let request = match task::timeout(Duration::from_secs(30), head(&mut stream)).await {
        Ok(Ok((head, _))) => head,
        _ => return,
    };
    let mut words = request.lines().next().unwrap_or("").split(' ');
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let path = cmdline::percent_decode(target.split('?').next().unwrap_or(""));
    let result = match method {
        "GET" | "HEAD" => answer(&mut stream, &path, method == "GET").await,
        _ => refuse(&mut stream, "405 Method Not Allowed", "Only GET and HEAD.\n").await,
    };
    match result {
        Ok((status, bytes)) => println!("httpd: {who} {method} {path}: {status}, {bytes} bytes"),
        Err(error) => println!("httpd: {who} {method} {path}: {error}"),
    }
    stream.finish();
    let _ = task::timeout(Duration::from_secs(60), stream.drained()).await;
}

async fn refuse(stream: &mut Stream, status: &str, text: &str) -> Result<(String, u64), String> {
    let message = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    );
    stream.write_all(message.as_bytes()).await.map_err(|error| error.to_string())?;
    Ok((status.into(), text.len() as u64))
}

async fn answer(stream: &mut Stream, path: &str, with_body: bool) -> Result<(String, u64), String> {
    let path = fs::clean(path);
    let Ok((volume, inner)) = fs::resolve(&path) else {
        return refuse(stream, "404 Not Found", "Nothing is mounted there.\n").await;
    };
    let Ok(meta) = volume.metadata(&inner).await else {
        return refuse(stream, "404 Not Found", "There is no such file.\n").await;
    };
    if meta.file_type().is_dir() {
        let mut page = String::new();
        let mut entries = volume.read_dir(&inner).await.map_err(|error| error.to_string())?;
        while let Some(entry) = entries.next_entry().await {
            let entry = entry.map_err(|error| error.to_string())?;
            let name = String::from_utf8_lossy(entry.name().as_bytes()).into_owned();
            if name != "." && name != ".." {
                page += &name;
                page += if entry.file_type().is_dir() { "/\n" } else { "\n" };
            }
        }
        return refuse(stream, "200 OK", &page).await;
    }
    let mut file = match volume.open(&inner, OpenOptions::new().read()).await {
        Ok(file) => file,
        Err(error) => return refuse(stream, "500 Internal Server Error", &format!("{error}\n")).await,
    };
    let length = meta.len();
    let message = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(message.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut sent = 0;
    let mut buffer = vec![0; CHUNK];
    while with_body && sent < length {
        let count = file.read(&mut buffer).await.map_err(|error| error.to_string())?;
        if count == 0 {
            return Err(format!("the file ended after {sent} of {length} bytes"));
        }
        stream.write_all(&buffer[..count]).await.map_err(|error| error.to_string())?;
        sent += count as u64;
    }
    file.close().await.map_err(|error| error.to_string())?;
    Ok(("200 OK".into(), sent))
}
