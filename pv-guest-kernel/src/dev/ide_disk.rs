//! Disks of a PCI IDE controller with bus-master DMA (ATA/ATAPI-6; Programming Interface for Bus Master IDE Controller,
//! revision 1.0).
//!
//! A controller has two channels, a channel one or two drives and one command at a time for both. Every drive is a disk
//! of its own; their requests wait in the channel's queue. Whoever polls a drive advances the channel, and finds its own
//! completions in the drive's list; the interrupt of the next command makes the driver domain poll everybody again.
//! Lock rule: a channel's lock is taken for one method of a drive; nothing is locked inside it.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use pv_drivers::ata::{self, command, register, status};
use pv_drivers::blk::{
    BlockDevice, BlockError, Geometry, Location, Operation, Request, SECTOR_SIZE, Submitted, Tag,
};
use pv_drivers::platform::SharedMemory;
use spin::Mutex;
use x86_64::instructions::port::Port;

use super::dma;
use super::pci::{BarInfo, Function};
use crate::xen::clock;
use crate::xen::platform::Pages;

/// Class code of an IDE controller, and the bit of its programming interface that says "bus master".
const CLASS: (u8, u8) = (1, 1);
const BUS_MASTER: u8 = 1 << 7;
/// The old command ports, control port and interrupt of each channel.
const CHANNELS: [(u16, u16, u32); 2] = [(ata::PORTS, ata::CONTROL_PORT, 14), (0x170, 0x376, 15)];
/// Requests of one drive that wait or run.
const DEPTH: usize = 64;
/// Pieces of a request, and the sectors that one command moves at most.
const PIECES: usize = 128;
const MOST_SECTORS: u32 = 256;
/// Nanoseconds after which a command is given up.
const PATIENCE: u64 = 30_000_000_000;

/// Bus-master registers, from the channel's base on.
mod master {
    pub const COMMAND: u16 = 0;
    pub const STATUS: u16 = 2;
    pub const TABLE: u16 = 4;
    pub const START: u8 = 1;
    pub const TO_MEMORY: u8 = 1 << 3;
    pub const ERROR: u8 = 1 << 1;
    pub const INTERRUPT: u8 = 1 << 2;
}

/// Commands by DMA, and those for addresses of 48 bits.
mod dma_command {
    pub const READ_DMA: u8 = 0xc8;
    pub const READ_DMA_EXT: u8 = 0x25;
    pub const WRITE_DMA: u8 = 0xca;
    pub const WRITE_DMA_EXT: u8 = 0x35;
    pub const FLUSH_EXT: u8 = 0xea;
}

struct Job {
    drive: usize,
    tag: Tag,
    operation: Operation,
    sector: u64,
    count: u32,
    /// Device addresses and lengths.
    places: Vec<(u32, u32)>,
}

struct Running {
    drive: usize,
    tag: Tag,
    until: u64,
}

#[derive(Default)]
struct Drive {
    sectors: u64,
    is_48_bit: bool,
    in_flight: usize,
    done: VecDeque<(Tag, Result<(), BlockError>)>,
}

/// One channel.
pub struct Channel {
    ports: u16,
    control: u16,
    master: u16,
    table: Pages,
    drives: [Drive; 2],
    queue: VecDeque<Job>,
    running: Option<Running>,
}

/// One drive, as a disk.
pub struct IdeDisk {
    channel: Arc<Mutex<Channel>>,
    drive: usize,
}

/// A channel with drives: the disks, and the global system interrupt that they share.
pub struct Found {
    /// The disks.
    pub disks: Vec<IdeDisk>,
    /// Their interrupt, edge-triggered.
    pub gsi: u32,
}

/// Whether this function is an IDE controller that can master the bus.
pub fn is_controller(function: &Function) -> bool {
    (function.info.class, function.info.subclass) == CLASS && function.info.prog_if & BUS_MASTER != 0
}

/// Starts the channels of a controller that have drives.
pub fn find(function: &Function) -> Vec<Found> {
    function.enable();
    let bars = function.bars();
    let Some(BarInfo::IO { address, .. }) = &bars[4] else { return Vec::new() };
    let mut found = Vec::new();
    for (number, (ports, control, gsi)) in CHANNELS.into_iter().enumerate() {
        let master = *address as u16 + 8 * number as u16;
        let Ok(table) = Pages::new(1) else { continue };
        let mut channel = Channel {
            ports,
            control,
            master,
            table,
            drives: Default::default(),
            queue: VecDeque::new(),
            running: None,
        };
        let there: Vec<usize> = (0..2).filter(|drive| channel.identify(*drive)).collect();
        if there.is_empty() {
            continue;
        }
        // From here on the drives interrupt.
        channel.write(control, 0);
        let channel = Arc::new(Mutex::new(channel));
        let disks = there.into_iter().map(|drive| IdeDisk { channel: channel.clone(), drive }).collect();
        found.push(Found { disks, gsi });
    }
    found
}

impl Channel {
    fn read(&self, port: u16) -> u8 {
        // SAFETY: the ports are those of this channel, which belongs to this domain.
        unsafe { Port::new(port).read() }
    }

    fn write(&self, port: u16, value: u8) {
        // SAFETY: as for `read`; a command that moves data names only the table's memory.
        unsafe { Port::new(port).write(value) }
    }

    /// Waits for the drive to be ready; nothing if it does not become so.
    fn ready(&self) -> Option<u8> {
        let until = clock::now() + 1_000_000_000;
        loop {
            let status = self.read(self.ports + register::STATUS);
            if status & status::BUSY == 0 {
                return Some(status);
            }
            if status == 0xff || clock::now() > until {
                return None;
            }
        }
    }

    /// Asks a drive what it is; false if there is none, or it is no disk. Interrupts of the channel are off.
    fn identify(&mut self, drive: usize) -> bool {
        self.write(self.control, 2);
        self.write(self.ports + register::DEVICE, 0xa0 | (drive as u8) << 4);
        for _ in 0..4 {
            self.read(self.control);
        }
        for port in [register::COUNT, register::LBA_LOW, register::LBA_MID, register::LBA_HIGH] {
            self.write(self.ports + port, 0);
        }
        self.write(self.ports + register::COMMAND, command::IDENTIFY);
        // Zero: nothing is there (ATA/ATAPI-6, section 9.16.1).
        if matches!(self.read(self.ports + register::STATUS), 0 | 0xff) {
            return false;
        }
        let Some(answer) = self.ready() else { return false };
        // A drive of packets aborts the command and leaves its signature.
        let signature =
            [self.read(self.ports + register::LBA_MID), self.read(self.ports + register::LBA_HIGH)];
        if answer & (status::ERROR | status::REQUEST) != status::REQUEST || signature != [0, 0] {
            return false;
        }
        let mut words = [0u16; 256];
        for word in &mut words {
            // SAFETY: the drive has announced its data.
            *word = unsafe { Port::new(self.ports + register::DATA).read() };
        }
        let is_48_bit = words[83] & 1 << 10 != 0;
        let number = |at: usize, count: usize| {
            (0..count).rev().fold(0u64, |sum, word| sum << 16 | u64::from(words[at + word]))
        };
        let sectors = if is_48_bit { number(100, 4) } else { number(60, 2) };
        self.drives[drive] = Drive { sectors, is_48_bit, ..Drive::default() };
        sectors != 0
    }

    /// Gives a command to its drive.
    fn begin(&mut self, job: &Job) {
        let drive = &self.drives[job.drive];
        let is_48_bit = drive.is_48_bit;
        let read = job.operation == Operation::Read;
        let code = match (job.operation, is_48_bit) {
            (Operation::Read, true) => dma_command::READ_DMA_EXT,
            (Operation::Read, false) => dma_command::READ_DMA,
            (Operation::Write, true) => dma_command::WRITE_DMA_EXT,
            (Operation::Write, false) => dma_command::WRITE_DMA,
            (_, true) => dma_command::FLUSH_EXT,
            (_, false) => command::FLUSH,
        };
        for (index, (address, length)) in job.places.iter().enumerate() {
            let last = if index + 1 == job.places.len() { 1 << 31 } else { 0 };
            self.table.write_u32(8 * index, *address);
            self.table.write_u32(8 * index + 4, (length & 0xffff) | last);
        }
        let lba = job.sector.to_le_bytes();
        let high = if is_48_bit { 0 } else { lba[3] & 0xf };
        self.write(self.ports + register::DEVICE, 0xe0 | (job.drive as u8) << 4 | high);
        for _ in 0..4 {
            self.read(self.control);
        }
        if is_48_bit {
            // The upper halves go in first.
            for (port, value) in [
                (register::COUNT, (job.count >> 8) as u8),
                (register::LBA_LOW, lba[3]),
                (register::LBA_MID, lba[4]),
                (register::LBA_HIGH, lba[5]),
            ] {
                self.write(self.ports + port, value);
            }
        }
        for (port, value) in [
            (register::COUNT, job.count as u8),
            (register::LBA_LOW, lba[0]),
            (register::LBA_MID, lba[1]),
            (register::LBA_HIGH, lba[2]),
        ] {
            self.write(self.ports + port, value);
        }
        self.write(self.master + master::STATUS, master::INTERRUPT | master::ERROR);
        let direction = if read { master::TO_MEMORY } else { 0 };
        if !job.places.is_empty() {
            let table = dma::device_address(&self.table, 0).unwrap_or(0) as u32;
            // SAFETY: the table lies in this domain's memory, and names only the pieces of the request.
            unsafe { Port::new(self.master + master::TABLE).write(table) };
            self.write(self.master + master::COMMAND, direction);
        }
        self.write(self.ports + register::COMMAND, code);
        if !job.places.is_empty() {
            self.write(self.master + master::COMMAND, direction | master::START);
        }
        self.running = Some(Running { drive: job.drive, tag: job.tag, until: clock::now() + PATIENCE });
    }

    /// Takes the end of the running command, and begins the next.
    fn advance(&mut self) {
        loop {
            if let Some(running) = &self.running {
                let state = self.read(self.master + master::STATUS);
                let late = clock::now() > running.until;
                if state & master::INTERRUPT == 0 && !late {
                    return;
                }
                if self.read(self.control) & status::BUSY != 0 && !late {
                    return;
                }
                // Reading the status tells the drive that its interrupt was seen.
                let answer = self.read(self.ports + register::STATUS);
                self.write(self.master + master::COMMAND, 0);
                self.write(self.master + master::STATUS, master::INTERRUPT | master::ERROR);
                let failed = late
                    || state & master::ERROR != 0
                    || answer & (status::ERROR | status::FAULT | status::REQUEST | status::BUSY) != 0;
                if late {
                    log::error!("IDE {:#x}: drive {} does not answer", self.ports, running.drive);
                }
                let result = if failed { Err(BlockError::Io) } else { Ok(()) };
                let (drive, tag) = (running.drive, running.tag);
                self.running = None;
                self.drives[drive].done.push_back((tag, result));
            }
            let Some(job) = self.queue.pop_front() else { return };
            self.begin(&job);
        }
    }
}

impl BlockDevice<Pages> for IdeDisk {
    fn geometry(&self) -> Geometry {
        Geometry {
            sectors: self.channel.lock().drives[self.drive].sectors,
            block_size: SECTOR_SIZE as u32,
            is_read_only: false,
            can_flush: true,
            discard: None,
            max_pieces: PIECES,
            max_sectors: MOST_SECTORS,
        }
    }

    fn room(&self) -> usize {
        DEPTH - self.channel.lock().drives[self.drive].in_flight.min(DEPTH)
    }

    fn submit(&mut self, tag: Tag, request: &Request<'_, Pages>) -> Result<Submitted, BlockError> {
        if matches!(request.operation, Operation::Discard { .. }) {
            return Err(BlockError::NotSupported);
        }
        let count = u32::try_from(request.count).map_err(|_| BlockError::OutOfRange)?;
        if count > MOST_SECTORS || request.pieces.len() > PIECES {
            return Err(BlockError::OutOfRange);
        }
        let mut places: Vec<(u32, u32)> = Vec::with_capacity(request.pieces.len());
        for piece in request.pieces {
            let address = dma::device_address(piece.memory, piece.offset);
            // The table has 32 bits for an address; a piece lies in one page, so it crosses no 64 KiB.
            let address = address.and_then(|address| u32::try_from(address).ok()).ok_or(BlockError::Io)?;
            places.push((address, u32::try_from(piece.len).map_err(|_| BlockError::OutOfRange)?));
        }
        let mut channel = self.channel.lock();
        channel.drives[self.drive].in_flight += 1;
        channel.queue.push_back(Job {
            drive: self.drive,
            tag,
            operation: request.operation,
            sector: request.sector,
            count,
            places,
        });
        Ok(Submitted::Running)
    }

    fn start(&mut self) {
        self.channel.lock().advance();
    }

    fn poll(&mut self, done: &mut dyn FnMut(Tag, Result<(), BlockError>)) {
        let mut channel = self.channel.lock();
        channel.advance();
        let drive = &mut channel.drives[self.drive];
        let over = core::mem::take(&mut drive.done);
        drive.in_flight -= over.len().min(drive.in_flight);
        drop(channel);
        for (tag, result) in over {
            done(tag, result);
        }
    }

    fn location(&self, _sector: u64, _count: u64) -> Option<Location> {
        None
    }
}
