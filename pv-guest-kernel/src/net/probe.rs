//! Frames that measure a link, below TCP/IP: a receiver counts them, and tells the count when it is asked.
//!
//! Their type is 0x88B5, which IEEE 802 leaves to local experiments. Behind the Ethernet header stand the kind (a byte),
//! a byte of padding, an IPv4 address (of whom a question is for), and two numbers of 64 bits, high byte first. Every
//! stack of this kernel counts and answers; the frames never reach `smoltcp`.

use smoltcp::wire::Ipv4Address;

use super::link::{HEADER, Link};

const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
const BROADCAST: [u8; 6] = [0xff; 6];
/// The shortest frame: what Ethernet pads to, its checksum left out.
pub const SHORTEST: usize = 60;

const DATA: u8 = 0;
const QUESTION: u8 = 1;
const ANSWER: u8 = 2;

/// What a receiver says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Its hardware address.
    pub mac: [u8; 6],
    /// The number of the question.
    pub question: u64,
    /// Data frames that it has received from anybody so far.
    pub count: u64,
}

/// The counter of a link.
#[derive(Debug, Default)]
pub struct Probe {
    /// This stack's IPv4 address.
    pub own: Option<Ipv4Address>,
    count: u64,
    /// The last answer that came.
    pub answer: Option<Answer>,
}

fn number(frame: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(frame.get(at..at + 8)?.try_into().ok()?))
}

fn write(frame: &mut [u8], to: [u8; 6], from: [u8; 6], kind: u8, whom: Ipv4Address, numbers: [u64; 2]) {
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&from);
    frame[12..HEADER].copy_from_slice(&ETHERTYPE);
    frame[HEADER] = kind;
    frame[HEADER + 2..HEADER + 6].copy_from_slice(&whom.octets());
    frame[HEADER + 6..HEADER + 14].copy_from_slice(&numbers[0].to_be_bytes());
    frame[HEADER + 14..HEADER + 22].copy_from_slice(&numbers[1].to_be_bytes());
}

/// Sends a data frame of `length` bytes, at least [`SHORTEST`].
pub fn send(link: &mut dyn Link, from: [u8; 6], to: [u8; 6], length: usize, sequence: u64) {
    link.send(length.max(SHORTEST), None, &mut |frame| {
        write(frame, to, from, DATA, Ipv4Address::UNSPECIFIED, [sequence, 0]);
    });
}

/// Asks whoever has an address for its count; everybody, if its hardware address `to` is not known.
pub fn ask(link: &mut dyn Link, from: [u8; 6], to: Option<[u8; 6]>, whom: Ipv4Address, question: u64) {
    let to = to.unwrap_or(BROADCAST);
    link.send(SHORTEST, None, &mut |frame| write(frame, to, from, QUESTION, whom, [question, 0]));
}

impl Probe {
    /// Takes a frame if it is one of these.
    pub fn take(&mut self, frame: &[u8], link: &mut dyn Link) -> bool {
        if frame.get(12..HEADER) != Some(&ETHERTYPE[..]) {
            return false;
        }
        let whom = frame.get(HEADER + 2..HEADER + 6).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
        let sender = frame.get(6..12).and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
        let (Some(kind), Some(whom), Some(mac)) = (frame.get(HEADER), whom, sender) else { return true };
        match *kind {
            DATA => self.count += 1,
            QUESTION if self.own == Some(whom.into()) => {
                let question = number(frame, HEADER + 6).unwrap_or(0);
                let own = link.info().mac;
                link.send(SHORTEST, None, &mut |frame| {
                    write(frame, mac, own, ANSWER, whom.into(), [question, self.count]);
                });
            }
            ANSWER => {
                if let (Some(question), Some(count)) = (number(frame, HEADER + 6), number(frame, HEADER + 14))
                {
                    self.answer = Some(Answer { mac, question, count });
                }
            }
            _ => {}
        }
        true
    }
}
