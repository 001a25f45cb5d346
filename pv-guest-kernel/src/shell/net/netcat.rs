//! `nc`: a TCP connection by hand, or a datagram.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use core::future::Future;
use core::pin::pin;
use core::task::Poll;
use core::time::Duration;

use super::super::command::{Args, Failure, Outcome};
use super::{endpoint, port, ready_for, ready_to_serve};
use crate::net::tcp::{Listener, Stream};
use crate::net::udp::Socket;
use crate::{console, println, task};

/// How long an answer to a datagram may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// The longest datagram over IPv4.
const DATAGRAM: usize = 65_507;

/// Sends words in a datagram, and shows the answer if there is one; or shows what comes to a port, and says so to whom
/// it comes from.
async fn datagrams(args: &Args) -> Outcome {
    let mut buffer = vec![0; DATAGRAM];
    if args.get(1) == Some("listen") {
        args.at_most(3)?;
        let number = port(args.need(2, "PORT")?)?;
        let socket = Socket::new(&ready_to_serve().await?, number).map_err(Failure::because)?;
        let (count, from) = socket.receive(&mut buffer).await;
        println!("from {from}");
        console::write(&buffer[..count]);
        let receipt = format!("{count} bytes received\n");
        socket.send_to(receipt.as_bytes(), from).await.map_err(Failure::because)?;
        let _ = task::timeout(PATIENCE, socket.drained()).await;
        return Ok(());
    }
    let remote = endpoint(args.need(1, "ADDRESS")?, args.need(2, "PORT")?)?;
    args.need(3, "WORD")?;
    let socket = Socket::new(&ready_for(remote.addr).await?, 0).map_err(Failure::because)?;
    let words = args.all()[3..].join(" ") + "\n";
    socket.send_to(words.as_bytes(), remote).await.map_err(Failure::because)?;
    let answer = async {
        socket.drained().await;
        socket.receive(&mut buffer).await
    };
    let (count, _) = task::timeout(PATIENCE, answer).await.map_err(|_| Failure::because("no answer"))?;
    console::write(&buffer[..count]);
    Ok(())
}

pub async fn run(args: Args) -> Outcome {
    if args.get(0) == Some("udp") {
        return datagrams(&args).await;
    }
    if args.get(0) == Some("listen") {
        let stack = ready_to_serve().await?;
        args.at_most(2)?;
        let number = port(args.need(1, "PORT")?)?;
        let mut listener = Listener::new(&stack, number, 1).map_err(Failure::because)?;
        let mut stream = listener.accept().await.map_err(Failure::because)?;
        drop(listener);
        if let Some(remote) = stream.remote() {
            println!("from {remote}");
        }
        return show(&mut stream).await;
    }
    let remote = endpoint(args.need(0, "ADDRESS")?, args.need(1, "PORT")?)?;
    let stack = ready_for(remote.addr).await?;
    let words = args.all()[2..].join(" ");
    let mut stream = Stream::connect(&stack, remote).await.map_err(Failure::because)?;
    if words.is_empty() {
        talk(&mut stream).await
    } else {
        stream.write_all(words.as_bytes()).await.map_err(Failure::because)?;
        stream.write_all(b"\n").await.map_err(Failure::because)?;
        stream.finish();
        show(&mut stream).await
    }
}

/// Shows what comes until the peer ends.
async fn show(stream: &mut Stream) -> Outcome {
    let mut buffer = vec![0; 4096];
    loop {
        match stream.read(&mut buffer).await.map_err(Failure::because)? {
            0 => return Ok(()),
            count => console::write(&buffer[..count]),
        }
    }
}

/// Sends typed lines and shows what comes, until either side ends; Ctrl-D ends ours.
async fn talk(stream: &mut Stream) -> Outcome {
    let mut line = String::new();
    let mut buffer = vec![0; 4096];
    loop {
        let typed = {
            let mut key = pin!(console::read_byte());
            let mut read = pin!(stream.read(&mut buffer));
            core::future::poll_fn(|cx| {
                if let Poll::Ready(byte) = key.as_mut().poll(cx) {
                    return Poll::Ready(Ok(byte));
                }
                read.as_mut().poll(cx).map(Err)
            })
            .await
        };
        match typed {
            Ok(4) => {
                stream.finish();
                return show(stream).await;
            }
            Ok(byte) => {
                let byte = if byte == b'\r' { b'\n' } else { byte };
                console::write(&[byte]);
                line.push(char::from(byte));
                if byte == b'\n' {
                    stream.write_all(line.as_bytes()).await.map_err(Failure::because)?;
                    line.clear();
                }
            }
            Err(count) => match count.map_err(Failure::because)? {
                0 => return Ok(()),
                count => console::write(&buffer[..count]),
            },
        }
    }
}
