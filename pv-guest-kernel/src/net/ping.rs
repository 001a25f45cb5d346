//! Echo requests (RFC 792, RFC 4443), and the answers to them.

use alloc::sync::Arc;
use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::Poll;
use core::time::Duration;

use smoltcp::iface::SocketHandle;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::icmp::{Endpoint, PacketBuffer, PacketMetadata, Socket};
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpAddress};
use spin::Mutex;

use super::stack::Stack;
use super::tcp::Error;
use crate::task::{self, timer::Sleep};

/// Sends echo requests to one address.
pub struct Pinger {
    stack: Arc<Stack>,
    handle: SocketHandle,
    ident: u16,
    /// Moved for each request.
    patience: Mutex<Sleep>,
}

impl Pinger {
    /// A pinger.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if its socket cannot be had.
    pub fn new(stack: &Arc<Stack>) -> Result<Self, Error> {
        let (handle, ident) = stack.with(|inner| {
            let buffer =
                || PacketBuffer::new(alloc::vec![PacketMetadata::EMPTY; 16], alloc::vec![0; 1 << 17]);
            let mut socket = Socket::new(buffer(), buffer());
            let ident = inner.port();
            socket.bind(Endpoint::Ident(ident)).map_err(|_| Error::Unreachable)?;
            Ok((inner.sockets.add(socket), ident))
        })?;
        Ok(Self { stack: stack.clone(), handle, ident, patience: Mutex::new(task::sleep_until(u64::MAX)) })
    }

    /// Sends one request of `payload` and waits for its answer: the time it took, or nothing.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if there is no way.
    pub async fn ping(
        &self,
        to: IpAddress,
        number: u16,
        payload: &[u8],
        patience: Duration,
    ) -> Result<Option<Duration>, Error> {
        let start = crate::xen::clock::now();
        self.send(to, number, payload)?;
        self.patience.lock().reset(Some(start.saturating_add(patience.as_nanos() as u64)), start);
        let answered = poll_fn(|cx| {
            let is_there = self.stack.look(|inner| {
                let socket = inner.socket::<Socket<'_>>(self.handle);
                while let Ok((bytes, from)) = socket.recv() {
                    if from == to && is_answer(bytes, to, self.ident, number, payload) {
                        return true;
                    }
                }
                socket.register_recv_waker(cx.waker());
                false
            });
            if is_there {
                return Poll::Ready(true);
            }
            Pin::new(&mut *self.patience.lock()).poll(cx).map(|()| false)
        })
        .await;
        Ok(answered.then(|| Duration::from_nanos(crate::xen::clock::now() - start)))
    }

    fn send(&self, to: IpAddress, number: u16, payload: &[u8]) -> Result<(), Error> {
        let ident = self.ident;
        self.stack.with(|inner| {
            let source = inner.interface.get_source_address(&to).ok_or(Error::Unreachable)?;
            let socket = inner.socket::<Socket<'_>>(self.handle);
            let checksums = ChecksumCapabilities::default();
            match (source, to) {
                (IpAddress::Ipv4(_), IpAddress::Ipv4(_)) => {
                    let echo = Icmpv4Repr::EchoRequest { ident, seq_no: number, data: payload };
                    let space = socket.send(echo.buffer_len(), to).map_err(|_| Error::Unreachable)?;
                    echo.emit(&mut Icmpv4Packet::new_unchecked(space), &checksums);
                }
                (IpAddress::Ipv6(source), IpAddress::Ipv6(target)) => {
                    let echo = Icmpv6Repr::EchoRequest { ident, seq_no: number, data: payload };
                    let space = socket.send(echo.buffer_len(), to).map_err(|_| Error::Unreachable)?;
                    echo.emit(&source, &target, &mut Icmpv6Packet::new_unchecked(space), &checksums);
                }
                _ => return Err(Error::Unreachable),
            }
            Ok(())
        })
    }
}

fn is_answer(bytes: &[u8], to: IpAddress, ident: u16, number: u16, payload: &[u8]) -> bool {
    match to {
        IpAddress::Ipv4(_) => Icmpv4Packet::new_checked(bytes).is_ok_and(|packet| {
            let repr = Icmpv4Repr::parse(&packet, &ChecksumCapabilities::ignored());
            repr == Ok(Icmpv4Repr::EchoReply { ident, seq_no: number, data: payload })
        }),
        IpAddress::Ipv6(_) => Icmpv6Packet::new_checked(bytes).is_ok_and(|packet| {
            packet.echo_ident() == ident && packet.echo_seq_no() == number && packet.payload() == payload
        }),
    }
}

impl Drop for Pinger {
    fn drop(&mut self) {
        self.stack.with(|inner| inner.sockets.remove(self.handle));
    }
}
