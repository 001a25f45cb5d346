//! Networking: links (network interfaces), and the TCP/IP stack over one of them.
//!
//! [`Link`] is what a driver offers; [`stack::Stack`] runs `smoltcp` over it. The sockets in [`tcp`], [`udp`] and
//! [`ping`] wait without blocking the vCPU.

pub mod addresses;
pub mod front;
pub mod link;
pub mod local;
pub mod ping;
pub mod probe;
pub mod stack;
pub mod tcp;
pub mod udp;

use alloc::sync::Arc;

pub use link::{Link, LinkInfo};
pub use stack::Stack;

static STACK: spin::Once<Arc<Stack>> = spin::Once::new();

/// Brings the stack up over a link. The first link is the one that is used.
pub fn start(link: alloc::boxed::Box<dyn Link>) {
    let mut first = false;
    let stack = STACK.call_once(|| {
        first = true;
        Stack::new(link)
    });
    if first {
        crate::task::spawn(stack.clone().serve());
    }
}

/// The stack, if there is a link.
pub fn stack() -> Option<Arc<Stack>> {
    STACK.get().cloned()
}

/// Lets the stack take what has come by its link; see [`Stack::turn`].
pub fn turn() {
    if let Some(stack) = STACK.get() {
        stack.turn();
    }
}
