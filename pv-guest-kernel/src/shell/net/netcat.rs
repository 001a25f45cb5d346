//! `nc`: a TCP connection by hand.

use alloc::string::String;
use alloc::vec;
use core::future::Future;
use core::pin::pin;
use core::task::Poll;

use super::super::command::{Args, Failure, Outcome};
use super::{endpoint, port, ready};
use crate::net::tcp::{Listener, Stream};
use crate::{console, println};

pub async fn run(args: Args) -> Outcome {
    let stack = ready().await?;
    if args.get(0) == Some("listen") {
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
