//! The console: output from anywhere, input for one reader.
//!
//! Output goes to the paravirtual console ring that the toolstack set up, or, where there is none (the first domain), to
//! the hypervisor's own console. It is synchronous: when the ring is full the writer yields to the back end. Input
//! arrives by event and is queued here; Ctrl-C is also counted, so that a running command can be interrupted.

use alloc::collections::VecDeque;
use core::fmt::{self, Write};
use core::future::poll_fn;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::task::Poll;

use futures_util::task::AtomicWaker;
use pv_abi::{Port, Virq, hvm};

use crate::sync::IrqMutex;
use crate::xen::console_ring::Ring;
use crate::xen::{console_io, events, params, sched};

enum Sink {
    None,
    Hypervisor,
    Ring(Ring),
}

static SINK: IrqMutex<Sink> = IrqMutex::new(Sink::None);
static INPUT: IrqMutex<VecDeque<u8>> = IrqMutex::new(VecDeque::new());
static INPUT_WAKER: AtomicWaker = AtomicWaker::new();
static INTERRUPTS: AtomicU64 = AtomicU64::new(0);
static INTERRUPT_WAKER: AtomicWaker = AtomicWaker::new();
/// Output passes through here first when set (the first domain's console switch).
static OUTPUT_HOOK: spin::Once<fn(&[u8]) -> bool> = spin::Once::new();
/// Input passes through here first when set.
static INPUT_HOOK: spin::Once<fn(u8) -> bool> = spin::Once::new();
static AT_LINE_START: AtomicBool = AtomicBool::new(true);
const MOST_INPUT: usize = 4096;
const CTRL_C: u8 = 3;

/// Finds the console. The first thing after the transport; output works from here on.
pub fn init() {
    let ring = params::get(hvm::param::CONSOLE_PFN).ok().filter(|&gfn| gfn != 0).map(Ring::new);
    *SINK.lock() = match ring {
        Some(ring) => Sink::Ring(ring),
        None => Sink::Hypervisor,
    };
}

/// Starts taking input, once events work.
pub fn init_input() {
    let is_ring = matches!(*SINK.lock(), Sink::Ring(_));
    let port = if is_ring {
        match params::get(hvm::param::CONSOLE_EVTCHN).map(|p| events::adopt(Port::new(p as u32))) {
            Ok(Ok(port)) => {
                if let Sink::Ring(ring) = &mut *SINK.lock() {
                    ring.port = Some(port);
                }
                port
            }
            _ => return log::error!("the console has no event channel: no input"),
        }
    } else {
        match events::bind_virq(Virq::CONSOLE, 0) {
            Ok(port) => port,
            Err(e) => return log::debug!("no console input: {e}"),
        }
    };
    events::on(port, "console", |_| on_event(), 0);
    on_event();
}

fn on_event() {
    let mut buffer = [0u8; 64];
    loop {
        let n = match &mut *SINK.lock() {
            Sink::Ring(ring) => ring.read(&mut buffer),
            Sink::Hypervisor => console_io::read(&mut buffer),
            Sink::None => 0,
        };
        if n == 0 {
            return;
        }
        for &byte in &buffer[..n] {
            if INPUT_HOOK.get().is_some_and(|hook| hook(byte)) {
                continue;
            }
            input(byte);
        }
    }
}

/// Queues a byte as if it had been typed.
pub fn input(byte: u8) {
    if byte == CTRL_C {
        INTERRUPTS.fetch_add(1, Ordering::Release);
        INTERRUPT_WAKER.wake();
    }
    let mut queue = INPUT.lock();
    if queue.len() < MOST_INPUT {
        queue.push_back(byte);
    }
    drop(queue);
    INPUT_WAKER.wake();
}

/// Passes output and input through a console switch: each hook returns true if it has taken care of the bytes.
pub fn set_hooks(output: fn(&[u8]) -> bool, input: fn(u8) -> bool) {
    OUTPUT_HOOK.call_once(|| output);
    INPUT_HOOK.call_once(|| input);
}

/// Waits for the next byte typed. One task at a time.
pub async fn read_byte() -> u8 {
    poll_fn(|cx| {
        INPUT_WAKER.register(cx.waker());
        match INPUT.lock().pop_front() {
            Some(byte) => Poll::Ready(byte),
            None => Poll::Pending,
        }
    })
    .await
}

/// Forgets what was typed and not read.
pub fn discard_input() {
    INPUT.lock().clear();
}

/// Completes when Ctrl-C is typed after the call.
pub async fn interrupted() {
    let before = INTERRUPTS.load(Ordering::Acquire);
    poll_fn(|cx| {
        INTERRUPT_WAKER.register(cx.waker());
        if INTERRUPTS.load(Ordering::Acquire) == before { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
}

/// Writes bytes as they are, past any console switch.
pub fn write_raw(mut bytes: &[u8]) {
    let mut tries = 0u32;
    while !bytes.is_empty() {
        let n = match &mut *SINK.lock() {
            Sink::None => return,
            Sink::Hypervisor => {
                console_io::write(bytes);
                bytes.len()
            }
            Sink::Ring(ring) => ring.write(bytes),
        };
        bytes = &bytes[n..];
        if n == 0 {
            // The back end does not keep up, or is gone: after a while output is dropped rather than everything stopped.
            tries += 1;
            if tries > 200_000 {
                return;
            }
            sched::yield_now();
        } else {
            tries = 0;
        }
    }
}

/// Writes text bytes: line feeds become carriage return and line feed.
pub fn write(bytes: &[u8]) {
    if let Some(&last) = bytes.last() {
        AT_LINE_START.store(last == b'\n', Ordering::Relaxed);
    }
    if OUTPUT_HOOK.get().is_some_and(|hook| hook(bytes)) {
        return;
    }
    let mut out = [0u8; 256];
    let mut n = 0;
    for &byte in bytes {
        if n + 2 > out.len() {
            write_raw(&out[..n]);
            n = 0;
        }
        if byte == b'\n' {
            out[n] = b'\r';
            n += 1;
        }
        out[n] = byte;
        n += 1;
    }
    write_raw(&out[..n]);
}

/// Is the cursor at the start of a line, as far as our own output tells?
pub fn at_line_start() -> bool {
    AT_LINE_START.load(Ordering::Relaxed)
}

/// Waits until the back end has taken all output.
pub fn flush() {
    for _ in 0..200_000 {
        let empty = match &*SINK.lock() {
            Sink::Ring(ring) => ring.is_empty(),
            _ => true,
        };
        if empty {
            return;
        }
        sched::yield_now();
    }
}

/// Frees the locks for the last words of a dying kernel: whoever held them will not run again.
pub fn enter_panic() {
    crate::arch::instr::cli();
    // SAFETY: from here on only the report is written, with upcalls masked, and then the domain ends.
    unsafe {
        SINK.force_unlock();
        LINE.force_unlock();
    }
}

struct Out {
    buffer: [u8; 256],
    length: usize,
}

impl Out {
    fn flush(&mut self) {
        if self.length != 0 {
            write(&self.buffer[..self.length]);
            self.length = 0;
        }
    }
}

impl Write for Out {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let n = rest.len().min(self.buffer.len() - self.length);
            self.buffer[self.length..self.length + n].copy_from_slice(&rest[..n]);
            self.length += n;
            rest = &rest[n..];
            if self.length == self.buffer.len() {
                self.flush();
            }
        }
        Ok(())
    }
}

/// Keeps the lines of different vCPUs apart.
static LINE: IrqMutex<()> = IrqMutex::new(());

/// Writes formatted text; the macros' work.
pub fn print(args: fmt::Arguments<'_>) {
    let mut out = Out { buffer: [0; 256], length: 0 };
    let _line = LINE.lock();
    let _ = out.write_fmt(args);
    out.flush();
}

/// Prints to the console.
#[macro_export]
macro_rules! print {
    ($($arg:tt)*) => { $crate::console::print(format_args!($($arg)*)) };
}

/// Prints a line to the console.
#[macro_export]
macro_rules! println {
    () => { $crate::console::print(format_args!("\n")) };
    ($($arg:tt)*) => { $crate::console::print(format_args!("{}\n", format_args!($($arg)*))) };
}
