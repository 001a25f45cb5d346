//! A disk whose every register is emulated by another domain: ATA by programmed I/O, an exit for each access.
//!
//! Kept to measure paravirtual disks against (the word `ata` on the command line). A request is done when `submit`
//! returns: the processor moves each four bytes itself.

use alloc::sync::Arc;

use pv_drivers::ata::{CONTROL_PORT, PORTS, command, register, status};
use pv_drivers::platform::SharedMemory;
use x86_64::instructions::port::Port;

use super::{BlockDevice, Buffer, Error, Info, Op, Promise, Request, SECTOR};
use crate::sync::IrqMutex;

/// The device register: an address, of the first drive.
const FIRST: u8 = 0xe0;
/// Most sectors of a command.
const MOST: u64 = 256;
/// Reads of the status until a drive is given up: an emulated one is ready at once.
const PATIENCE: u32 = 1000;

struct Trapped {
    sectors: u64,
    /// One command at a time.
    channel: IrqMutex<()>,
}

fn read(register: u16) -> u8 {
    // SAFETY: the ports of an ATA disk, which has no DMA: nothing but the answer changes.
    unsafe { Port::new(PORTS + register).read() }
}

fn write(register: u16, value: u8) {
    // SAFETY: as for `read`.
    unsafe { Port::new(PORTS + register).write(value) }
}

fn data() -> Port<u32> {
    Port::new(PORTS + register::DATA)
}

/// Waits until data are asked for, or the end of a command if they are not.
fn wait(data: bool) -> Result<(), Error> {
    for _ in 0..PATIENCE {
        let now = read(register::STATUS);
        if now & status::BUSY != 0 {
            continue;
        }
        let asks = now & status::REQUEST != 0;
        return if now & status::ERROR == 0 && asks == data { Ok(()) } else { Err(Error::Io) };
    }
    Err(Error::Io)
}

fn begin(code: u8, sector: u64, count: u64) {
    let [low, mid, high, top, ..] = sector.to_le_bytes();
    let values = [count as u8, low, mid, high, FIRST | top & 0xf, code];
    for (register, value) in (register::COUNT..).zip(values) {
        write(register, value);
    }
}

/// Finds the disk and lists it as `hda`.
pub fn find() {
    // SAFETY: as for `read`: no interrupts from it.
    unsafe { Port::new(CONTROL_PORT).write(2_u8) };
    begin(command::IDENTIFY, 0, 0);
    if matches!(read(register::STATUS), 0 | 0xff) || wait(true).is_err() {
        return log::error!("there is no ATA disk");
    }
    let mut words = [0_u32; 128];
    for word in &mut words {
        // SAFETY: as for `read`; the drive has announced its data.
        *word = unsafe { data().read() };
    }
    let sectors = words[30].into();
    super::register(Arc::new(Trapped { sectors, channel: IrqMutex::new(()) }));
}

impl Trapped {
    fn go(&self, request: &Request) -> Result<(), Error> {
        let (code, to_disk) = match request.op {
            Op::Read => (command::READ, false),
            Op::Write => (command::WRITE, true),
            Op::Flush => (command::FLUSH, false),
            Op::Discard => return Err(Error::Unsupported),
        };
        let pages = request.buffer.as_ref().and_then(Buffer::pages);
        let _channel = self.channel.lock();
        begin(code, request.sector, request.count);
        let Some(pages) = pages.filter(|_| request.op != Op::Flush) else { return wait(false) };
        let mut port = data();
        for sector in 0..request.count {
            wait(true)?;
            for at in ((sector * SECTOR) as usize..((sector + 1) * SECTOR) as usize).step_by(4) {
                // SAFETY: as for `read`; the drive asked for data.
                unsafe {
                    if to_disk {
                        port.write(pages.read_u32(at));
                    } else {
                        pages.write_u32(at, port.read());
                    }
                }
            }
        }
        wait(false)
    }
}

impl BlockDevice for Trapped {
    fn info(&self) -> Info {
        Info {
            name: "hda".into(),
            kind: "emulated ATA".into(),
            sectors: self.sectors,
            block: SECTOR as u32,
            most: (MOST * SECTOR) as usize,
            depth: 1,
            read_only: false,
            flush: true,
            discard: false,
        }
    }

    fn submit(&self, request: Request, promise: Promise) {
        let result = self.go(&request);
        promise.fulfil(result, request.buffer);
    }
}
