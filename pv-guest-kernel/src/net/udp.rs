//! UDP sockets.

use alloc::sync::Arc;
use core::future::poll_fn;
use core::task::Poll;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::udp;
use smoltcp::wire::IpEndpoint;

use super::stack::Stack;
use super::tcp::Error;

const PACKETS: usize = 64;
const BYTES: usize = 128 << 10;

/// A UDP socket.
pub struct Socket {
    stack: Arc<Stack>,
    handle: SocketHandle,
}

impl Socket {
    /// A socket on this port; 0 for any.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if the port cannot be had.
    pub fn new(stack: &Arc<Stack>, port: u16) -> Result<Self, Error> {
        let handle = stack.with(|inner| {
            let buffer = || {
                udp::PacketBuffer::new(
                    alloc::vec![udp::PacketMetadata::EMPTY; PACKETS],
                    alloc::vec![0; BYTES],
                )
            };
            let mut socket = udp::Socket::new(buffer(), buffer());
            let port = if port == 0 { inner.port() } else { port };
            socket.bind(port).map_err(|_| Error::Unreachable)?;
            Ok(inner.sockets.add(socket))
        })?;
        Ok(Self { stack: stack.clone(), handle })
    }

    /// Sends a datagram.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if it is too large, or there is no way.
    pub async fn send_to(&self, bytes: &[u8], to: IpEndpoint) -> Result<(), Error> {
        let sent = poll_fn(|cx| {
            self.stack.look(|inner| {
                let socket = inner.socket::<udp::Socket<'_>>(self.handle);
                if !socket.can_send() {
                    socket.register_send_waker(cx.waker());
                    return Poll::Pending;
                }
                match socket.send_slice(bytes, to) {
                    Ok(()) => Poll::Ready(Ok(())),
                    Err(udp::SendError::BufferFull) if bytes.len() < BYTES => {
                        socket.register_send_waker(cx.waker());
                        Poll::Pending
                    }
                    Err(_) => Poll::Ready(Err(Error::Unreachable)),
                }
            })
        })
        .await;
        self.stack.stir();
        sent
    }

    /// Waits until all that was given has gone.
    pub async fn drained(&self) {
        poll_fn(|cx| {
            self.stack.look(|inner| {
                let socket = inner.socket::<udp::Socket<'_>>(self.handle);
                if socket.send_queue() == 0 {
                    return Poll::Ready(());
                }
                socket.register_send_waker(cx.waker());
                Poll::Pending
            })
        })
        .await;
    }

    /// Waits for a datagram; what does not fit is lost.
    pub async fn receive(&self, into: &mut [u8]) -> (usize, IpEndpoint) {
        poll_fn(|cx| {
            self.stack.look(|inner| {
                let socket = inner.socket::<udp::Socket<'_>>(self.handle);
                if let Ok((bytes, from)) = socket.recv() {
                    let count = bytes.len().min(into.len());
                    into[..count].copy_from_slice(&bytes[..count]);
                    return Poll::Ready((count, from.endpoint));
                }
                socket.register_recv_waker(cx.waker());
                Poll::Pending
            })
        })
        .await
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.stack.with(|inner| inner.sockets.remove(self.handle));
    }
}
