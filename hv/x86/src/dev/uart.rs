//! The first serial port, a 16550A: the hypervisor's log, and the console that dom0 is given.
//!
//! Output waits for the port; input is taken by the interrupt handler into a ring. Writers take [`PORT`]; a
//! panic writes without it.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

use spin::Mutex;

use crate::cpu::io::{in8, out8};

const BASE: u16 = 0x3f8;
/// Bytes of the transmitter's FIFO.
const FIFO: usize = 16;
/// The interrupt of the port on the ISA bus.
pub const ISA_IRQ: u8 = 4;

/// Registers, as offsets (PC16550D data sheet, table 1).
mod register {
    pub const DATA: u16 = 0;
    pub const INTERRUPT_ENABLE: u16 = 1;
    pub const FIFO_CONTROL: u16 = 2;
    pub const LINE_CONTROL: u16 = 3;
    pub const MODEM_CONTROL: u16 = 4;
    pub const LINE_STATUS: u16 = 5;
}

/// Held while a line is written, so that the lines of two CPUs do not mix.
static PORT: Mutex<()> = Mutex::new(());
static PRESENT: AtomicBool = AtomicBool::new(false);

fn read(register: u16) -> u8 {
    // SAFETY: the port is the hypervisor's own.
    unsafe { in8(BASE + register) }
}

fn write_register(register: u16, value: u8) {
    // SAFETY: the port is the hypervisor's own, and does not touch memory.
    unsafe { out8(BASE + register, value) }
}

/// Sets 115200 baud, 8 data bits, no parity, 1 stop bit (some emulators start with 5 data bits).
pub fn init() {
    use register::*;
    write_register(INTERRUPT_ENABLE, 0);
    write_register(LINE_CONTROL, 0x80);
    write_register(DATA, 1);
    write_register(INTERRUPT_ENABLE, 0);
    write_register(LINE_CONTROL, 0x03);
    write_register(FIFO_CONTROL, 0x07);
    // DTR, RTS, and OUT2, which gates the interrupt on a PC.
    write_register(MODEM_CONTROL, 0x0b);
    PRESENT.store(read(LINE_STATUS) != 0xff, Ordering::Relaxed);
}

/// Lets the port raise its interrupt when bytes arrive.
pub fn enable_input() {
    if PRESENT.load(Ordering::Relaxed) {
        write_register(register::INTERRUPT_ENABLE, 1);
        receive();
    }
}

fn send(bytes: &[u8]) {
    if !PRESENT.load(Ordering::Relaxed) {
        return;
    }
    for chunk in bytes.chunks(FIFO) {
        while read(register::LINE_STATUS) & 0x20 == 0 {
            core::hint::spin_loop();
        }
        for byte in chunk {
            write_register(register::DATA, *byte);
        }
    }
}

/// Sends bytes as they are.
pub fn write_bytes(bytes: &[u8]) {
    let _guard = PORT.lock();
    send(bytes);
}

struct Port;

impl Write for Port {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive('\n') {
            match part.strip_suffix('\n') {
                Some(line) => {
                    send(line.as_bytes());
                    send(b"\r\n");
                }
                None => send(part.as_bytes()),
            }
        }
        Ok(())
    }
}

/// Writes text; line ends become CR LF.
pub fn write(text: fmt::Arguments<'_>) {
    let _guard = PORT.lock();
    // The port never reports an error.
    let _ = Port.write_fmt(text);
}

/// Writes text when the hypervisor is wrong and another CPU may hold the port for ever.
pub fn write_unlocked(text: fmt::Arguments<'_>) {
    let _ = Port.write_fmt(text);
}

/// Waits until all is sent (or a broken port has had its time), before the machine ends.
pub fn drain() {
    for _ in 0..1_000_000 {
        if read(register::LINE_STATUS) & 0x40 != 0 {
            break;
        }
        core::hint::spin_loop();
    }
}

/// Bytes that arrived and were not yet read: the handler writes, one reader at a time (under [`READER`])
/// reads.
struct Ring {
    bytes: [AtomicU8; 256],
    head: AtomicUsize,
    tail: AtomicUsize,
}

static RING: Ring =
    Ring { bytes: [const { AtomicU8::new(0) }; 256], head: AtomicUsize::new(0), tail: AtomicUsize::new(0) };
static READER: Mutex<()> = Mutex::new(());

/// Takes what the port has received into the ring; called by the interrupt's handler. Returns whether there
/// was anything.
pub fn receive() -> bool {
    let mut any = false;
    while read(register::LINE_STATUS) & 0x01 != 0 {
        let byte = read(register::DATA);
        let head = RING.head.load(Ordering::Relaxed);
        // What nobody reads in time is lost: the port has no flow control.
        if head.wrapping_sub(RING.tail.load(Ordering::Acquire)) < RING.bytes.len() {
            RING.bytes[head % RING.bytes.len()].store(byte, Ordering::Relaxed);
            RING.head.store(head.wrapping_add(1), Ordering::Release);
        }
        any = true;
    }
    any
}

/// Takes received bytes; returns how many.
pub fn read_bytes(into: &mut [u8]) -> usize {
    let _guard = READER.lock();
    let mut count = 0;
    for slot in into {
        let tail = RING.tail.load(Ordering::Relaxed);
        if tail == RING.head.load(Ordering::Acquire) {
            break;
        }
        *slot = RING.bytes[tail % RING.bytes.len()].load(Ordering::Relaxed);
        RING.tail.store(tail.wrapping_add(1), Ordering::Release);
        count += 1;
    }
    count
}
