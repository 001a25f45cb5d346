//! TCP connections.

use alloc::sync::Arc;
use core::fmt;
use core::future::poll_fn;
use core::task::Poll;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{self, CongestionControl, State};
use smoltcp::time::Duration;
use smoltcp::wire::{IpEndpoint, IpListenEndpoint};

use super::stack::Stack;

/// Bytes of a connection's buffer in each direction.
const BUFFER: usize = 256 << 10;
/// A peer that says nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a connection failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// Nobody answered, or somebody refused.
    Refused,
    /// The connection is gone.
    Reset,
    /// There is no way to that address, or none from here.
    Unreachable,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "nobody accepted the connection",
            Self::Reset => "the connection was lost",
            Self::Unreachable => "no way to that address",
        })
    }
}

/// A connection; dropping it closes it in good order.
pub struct Stream {
    stack: Arc<Stack>,
    handle: SocketHandle,
}

fn socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(alloc::vec![0; BUFFER]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    socket.set_timeout(Some(PATIENCE));
    socket.set_keep_alive(Some(Duration::from_secs(20)));
    socket.set_congestion_control(CongestionControl::None);
    // Shorter than usual: the round trips here are.
    socket.set_ack_delay(Some(Duration::from_millis(1)));
    socket
}

impl Stream {
    /// Connects.
    ///
    /// # Errors
    /// Nobody is there, or there is no way.
    pub async fn connect(stack: &Arc<Stack>, remote: IpEndpoint) -> Result<Self, Error> {
        let handle = stack.with(|inner| {
            let port = inner.port();
            let handle = inner.sockets.add(socket());
            let context = inner.interface.context();
            let connecting = inner.sockets.get_mut::<tcp::Socket<'_>>(handle).connect(context, remote, port);
            if connecting.is_err() {
                inner.sockets.remove(handle);
                return Err(Error::Unreachable);
            }
            Ok(handle)
        })?;
        let stream = Self { stack: stack.clone(), handle };
        let state = poll_fn(|cx| {
            stream.stack.look(|inner| {
                let socket = inner.socket::<tcp::Socket<'_>>(handle);
                match socket.state() {
                    State::SynSent | State::SynReceived => {
                        socket.register_send_waker(cx.waker());
                        Poll::Pending
                    }
                    state => Poll::Ready(state),
                }
            })
        })
        .await;
        if state == State::Closed { Err(Error::Refused) } else { Ok(stream) }
    }

    /// Who is at the other end.
    pub fn remote(&self) -> Option<IpEndpoint> {
        self.stack.look(|inner| inner.socket::<tcp::Socket<'_>>(self.handle).remote_endpoint())
    }

    /// Reads what is there, at least a byte; 0 at the end.
    ///
    /// # Errors
    /// [`Error::Reset`].
    pub async fn read(&mut self, into: &mut [u8]) -> Result<usize, Error> {
        let read = poll_fn(|cx| {
            self.stack.look(|inner| {
                let socket = inner.socket::<tcp::Socket<'_>>(self.handle);
                if socket.can_recv() {
                    return Poll::Ready(socket.recv_slice(into).map_err(|_| Error::Reset));
                }
                if !socket.may_recv() {
                    let over = matches!(socket.recv_slice(into), Err(tcp::RecvError::Finished));
                    return Poll::Ready(if over { Ok(0) } else { Err(Error::Reset) });
                }
                socket.register_recv_waker(cx.waker());
                Poll::Pending
            })
        })
        .await;
        // The window has opened: the peer may want to know.
        self.stack.stir();
        read
    }

    /// Takes up to `most` bytes without looking at them, at least one; 0 at the end.
    ///
    /// # Errors
    /// [`Error::Reset`].
    pub async fn skip(&mut self, most: usize) -> Result<usize, Error> {
        let skipped = poll_fn(|cx| {
            self.stack.look(|inner| {
                let socket = inner.socket::<tcp::Socket<'_>>(self.handle);
                if socket.can_recv() {
                    let mut left = most;
                    // The buffer is a ring: what is there lies in two pieces at most.
                    for _ in 0..2 {
                        let taken = socket.recv(|bytes| (bytes.len().min(left), bytes.len().min(left)));
                        left -= taken.map_err(|_| Error::Reset)?;
                        if left == 0 || !socket.can_recv() {
                            break;
                        }
                    }
                    return Poll::Ready(Ok(most - left));
                }
                if !socket.may_recv() {
                    let over = matches!(socket.recv(|_| (0, ())), Err(tcp::RecvError::Finished));
                    return Poll::Ready(if over { Ok(0) } else { Err(Error::Reset) });
                }
                socket.register_recv_waker(cx.waker());
                Poll::Pending
            })
        })
        .await;
        // The window has opened: the peer may want to know.
        self.stack.stir();
        skipped
    }

    /// Writes all bytes into the connection's buffer.
    ///
    /// # Errors
    /// [`Error::Reset`].
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let count = poll_fn(|cx| {
                self.stack.look(|inner| {
                    let socket = inner.socket::<tcp::Socket<'_>>(self.handle);
                    if socket.can_send() {
                        return Poll::Ready(socket.send_slice(bytes).map_err(|_| Error::Reset));
                    }
                    if !socket.may_send() {
                        return Poll::Ready(Err(Error::Reset));
                    }
                    socket.register_send_waker(cx.waker());
                    Poll::Pending
                })
            })
            .await?;
            bytes = &bytes[count..];
            self.stack.stir();
        }
        Ok(())
    }

    /// Says that nothing more will be written.
    pub fn finish(&mut self) {
        self.stack.with(|inner| inner.socket::<tcp::Socket<'_>>(self.handle).close());
    }

    /// Waits until everything written has been acknowledged, or the connection is gone.
    pub async fn drained(&mut self) {
        poll_fn(|cx| {
            self.stack.look(|inner| {
                let socket = inner.socket::<tcp::Socket<'_>>(self.handle);
                let open = matches!(
                    socket.state(),
                    State::Established | State::CloseWait | State::FinWait1 | State::LastAck | State::Closing
                );
                if !open
                    || (socket.send_queue() == 0
                        && !matches!(socket.state(), State::FinWait1 | State::LastAck))
                {
                    return Poll::Ready(());
                }
                socket.register_send_waker(cx.waker());
                Poll::Pending
            })
        })
        .await;
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let (stack, handle) = (self.stack.clone(), self.handle);
        stack.with(|inner| inner.socket::<tcp::Socket<'_>>(handle).close());
        // The socket stays until the end has been agreed on, or nobody answers any more.
        let stack = stack.clone();
        crate::task::spawn(async move {
            let over = poll_fn(|cx| {
                stack.look(|inner| {
                    let socket = inner.socket::<tcp::Socket<'_>>(handle);
                    if matches!(socket.state(), State::Closed | State::TimeWait) {
                        return Poll::Ready(());
                    }
                    socket.register_send_waker(cx.waker());
                    socket.register_recv_waker(cx.waker());
                    Poll::Pending
                })
            });
            let _ = crate::task::timeout(core::time::Duration::from_secs(30), over).await;
            stack.with(|inner| inner.sockets.remove(handle));
        });
    }
}

/// A port on which connections are accepted.
pub struct Listener {
    stack: Arc<Stack>,
    at: IpListenEndpoint,
    /// Sockets that wait for somebody.
    waiting: alloc::vec::Vec<SocketHandle>,
}

impl Listener {
    /// Listens; so many peers may knock at the same time.
    ///
    /// # Errors
    /// [`Error::Unreachable`] for port 0.
    pub fn new(stack: &Arc<Stack>, port: u16, backlog: usize) -> Result<Self, Error> {
        let mut listener = Self { stack: stack.clone(), at: port.into(), waiting: alloc::vec::Vec::new() };
        for _ in 0..backlog.max(1) {
            listener.add()?;
        }
        Ok(listener)
    }

    fn add(&mut self) -> Result<(), Error> {
        let at = self.at;
        let handle = self.stack.with(|inner| {
            let mut socket = socket();
            socket.listen(at).map_err(|_| Error::Unreachable)?;
            Ok(inner.sockets.add(socket))
        })?;
        self.waiting.push(handle);
        Ok(())
    }

    /// Lets at least so many peers knock at the same time from now on.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn expect(&mut self, backlog: usize) -> Result<(), Error> {
        while self.waiting.len() < backlog {
            self.add()?;
        }
        Ok(())
    }

    /// Waits for a connection.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub async fn accept(&mut self) -> Result<Stream, Error> {
        let index = poll_fn(|cx| {
            self.stack.look(|inner| {
                for (index, handle) in self.waiting.iter().enumerate() {
                    let socket = inner.socket::<tcp::Socket<'_>>(*handle);
                    match socket.state() {
                        State::Listen | State::SynReceived => socket.register_send_waker(cx.waker()),
                        _ => return Poll::Ready(index),
                    }
                }
                Poll::Pending
            })
        })
        .await;
        let handle = self.waiting.swap_remove(index);
        self.add()?;
        Ok(Stream { stack: self.stack.clone(), handle })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stack.with(|inner| {
            for handle in self.waiting.drain(..) {
                inner.sockets.remove(handle);
            }
        });
    }
}
