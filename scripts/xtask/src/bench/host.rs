//! This computer's end of a guest's TCP streams: a server on the loopback interface, which the emulator's network leads to.
//!
//! It speaks the protocol of `pv-guest-kernel/src/shell/net/iperf.rs`.

use anyhow::{Context, Result};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A piece of a stream.
const CHUNK: usize = 64 << 10;

/// The server; it ends with this.
pub struct Server {
    port: u16,
    is_over: Arc<AtomicBool>,
}

impl Server {
    /// Starts it on a free port.
    pub fn start() -> Result<Server> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port for the guest's streams")?;
        let port = listener.local_addr()?.port();
        let is_over = Arc::new(AtomicBool::new(false));
        let stop = is_over.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                // A client that breaks off sees to that itself: it prints no figure.
                std::thread::spawn(move || stream.map(|stream| serve(&stream)));
            }
        });
        Ok(Server { port, is_over })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        // It waits for a connection.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

/// Serves one connection.
fn serve(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = (BufReader::with_capacity(CHUNK, stream), stream);
    let mut line = String::new();
    reader.by_ref().take(80).read_line(&mut line)?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["xenolith-iperf", "1", bytes, direction] = words[..] else { return Ok(()) };
    let Ok(bytes) = bytes.parse::<u64>() else { return Ok(()) };
    match direction {
        "send" => {
            std::io::copy(&mut reader.take(bytes), &mut std::io::sink())?;
            writer.write_all(format!("done {bytes}\n").as_bytes())
        }
        "receive" => {
            let chunk = vec![0x5a; CHUNK];
            let mut left = bytes;
            while left > 0 {
                let count = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
                writer.write_all(&chunk[..count])?;
                left -= count as u64;
            }
            reader.read_line(&mut line).map(drop)
        }
        "echo" => std::io::copy(&mut reader.take(bytes), &mut writer).map(drop),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(server: &Server, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port())).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    #[test]
    fn bytes_go_in_every_direction() {
        let server = Server::start().unwrap();
        let mut text = String::new();
        ask(&server, "xenolith-iperf 1 4 send\nabcd").read_to_string(&mut text).unwrap();
        assert_eq!(text, "done 4\n");
        let mut bytes = [0; 100_000];
        let mut stream = ask(&server, "xenolith-iperf 1 100000 receive\n");
        stream.read_exact(&mut bytes).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0x5a));
        stream.write_all(b"done 100000\n").unwrap();
        text.clear();
        ask(&server, "xenolith-iperf 1 4 echo\nwxyz").read_to_string(&mut text).unwrap();
        assert_eq!(text, "wxyz");
    }

    #[test]
    fn who_speaks_otherwise_gets_nothing() {
        let server = Server::start().unwrap();
        let mut text = String::new();
        ask(&server, "GET / HTTP/1.1\n\n").read_to_string(&mut text).unwrap_or_default();
        assert_eq!(text, "");
    }
}
