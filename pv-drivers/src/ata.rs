//! An emulated ATA disk, register by register (ATA/ATAPI-6, sections 7 and 8): what paravirtual disks are measured
//! against.
//!
//! It has what a driver without DMA uses: IDENTIFY DEVICE, READ SECTORS and WRITE SECTORS with 28-bit addresses, FLUSH
//! CACHE, one sector in each block of data, no interrupt. Every access to a register ends at once.
//!
//! # Invariant
//!
//! The guest is hostile: whatever it does to the registers, in whatever order, only sectors that the disk has are
//! touched, and an access answers.

/// Bytes of a sector.
pub const SECTOR: usize = 512;
/// Most sectors of a command (a count of 0).
const MOST: u32 = 256;
/// Sectors that 28 bits can name.
const MOST_SECTORS: u64 = 1 << 28;

/// The first of the eight command ports, and the control port.
pub const PORTS: u16 = 0x1f0;
/// The control port; reading it gives the status.
pub const CONTROL_PORT: u16 = 0x3f6;

/// Registers, counted from the first command port.
pub mod register {
    /// Data, in both directions.
    pub const DATA: u16 = 0;
    /// What went wrong (read).
    pub const ERROR: u16 = 1;
    /// Sectors of the command.
    pub const COUNT: u16 = 2;
    /// Bits 0 to 7 of the address.
    pub const LBA_LOW: u16 = 3;
    /// Bits 8 to 15.
    pub const LBA_MID: u16 = 4;
    /// Bits 16 to 23.
    pub const LBA_HIGH: u16 = 5;
    /// Bits 24 to 27, the drive, and whether it is an address.
    pub const DEVICE: u16 = 6;
    /// The status (read).
    pub const STATUS: u16 = 7;
    /// The command (written).
    pub const COMMAND: u16 = 7;
}

/// Bits of the status.
pub mod status {
    /// The command failed.
    pub const ERROR: u8 = 1 << 0;
    /// Data are to be moved.
    pub const REQUEST: u8 = 1 << 3;
    /// The heads are in place: always.
    pub const SEEK_DONE: u8 = 1 << 4;
    /// The drive itself is broken: never here.
    pub const FAULT: u8 = 1 << 5;
    /// It is ready: always.
    pub const READY: u8 = 1 << 6;
    /// It does not answer yet: never here.
    pub const BUSY: u8 = 1 << 7;
}

/// Commands.
pub mod command {
    /// READ SECTORS.
    pub const READ: u8 = 0x20;
    /// WRITE SECTORS.
    pub const WRITE: u8 = 0x30;
    /// FLUSH CACHE.
    pub const FLUSH: u8 = 0xe7;
    /// IDENTIFY DEVICE.
    pub const IDENTIFY: u8 = 0xec;
}

/// Bits of the device register.
mod device {
    pub const SECOND: u8 = 1 << 4;
    pub const ADDRESS: u8 = 1 << 6;
}

/// Bits of the error register.
mod error {
    pub const ABORTED: u8 = 1 << 2;
    pub const NOT_FOUND: u8 = 1 << 4;
}

/// Software reset, a bit of the control register.
const RESET: u8 = 1 << 2;

/// Where the disk's bytes are.
pub trait Sectors {
    /// How many there are.
    fn count(&self) -> u64;
    /// Reads one; whether that went well.
    fn read(&mut self, sector: u64, into: &mut [u8; SECTOR]) -> bool;
    /// Writes one; whether that went well.
    fn write(&mut self, sector: u64, from: &[u8; SECTOR]) -> bool;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Idle,
    /// The guest takes the block; so many sectors come after it, from this one on.
    ToGuest {
        next: u64,
        left: u32,
    },
    /// The guest gives the block, which is this sector; so many come after it.
    FromGuest {
        sector: u64,
        left: u32,
    },
}

/// One drive, the first of its channel.
#[derive(Debug)]
pub struct Drive<S> {
    sectors: S,
    count: u8,
    address: [u8; 3],
    device: u8,
    status: u8,
    error: u8,
    phase: Phase,
    block: [u8; SECTOR],
    at: usize,
}

impl<S: Sectors> Drive<S> {
    /// A drive that was reset.
    pub fn new(sectors: S) -> Self {
        let mut drive = Self {
            sectors,
            count: 0,
            address: [0; 3],
            device: 0,
            status: 0,
            error: 0,
            phase: Phase::Idle,
            block: [0; SECTOR],
            at: 0,
        };
        drive.reset();
        drive
    }

    /// The signature of a disk (ATA/ATAPI-6, section 9.12).
    fn reset(&mut self) {
        self.count = 1;
        self.address = [1, 0, 0];
        self.device = 0;
        self.error = 1;
        self.status = status::READY | status::SEEK_DONE;
        self.phase = Phase::Idle;
    }

    /// Does an access of 1, 2 or 4 bytes to a port: what it reads. Ports that are not the drive's read ones.
    pub fn access(&mut self, port: u16, bytes: u8, value: Option<u32>) -> u32 {
        let register = match port.checked_sub(PORTS) {
            Some(register @ 0..=7) => register,
            _ if port == CONTROL_PORT => {
                if value.is_some_and(|value| value & u32::from(RESET) != 0) {
                    self.reset();
                }
                return self.shown_status().into();
            }
            _ => return u32::MAX,
        };
        match value {
            Some(value) if register == register::DATA => {
                self.take(value, bytes);
                0
            }
            Some(value) => {
                let [value, ..] = value.to_le_bytes();
                self.set(register, value);
                0
            }
            None if register == register::DATA => self.give(bytes),
            None => self.get(register).into(),
        }
    }

    fn is_selected(&self) -> bool {
        self.device & device::SECOND == 0
    }

    /// There is no second drive: its status is zero.
    fn shown_status(&self) -> u8 {
        if self.is_selected() { self.status } else { 0 }
    }

    fn get(&self, register: u16) -> u8 {
        let [low, mid, high] = self.address;
        match register {
            register::ERROR => self.error,
            register::COUNT => self.count,
            register::LBA_LOW => low,
            register::LBA_MID => mid,
            register::LBA_HIGH => high,
            register::DEVICE => self.device,
            _ => self.shown_status(),
        }
    }

    fn set(&mut self, register: u16, value: u8) {
        let [low, mid, high] = &mut self.address;
        match register {
            register::COUNT => self.count = value,
            register::LBA_LOW => *low = value,
            register::LBA_MID => *mid = value,
            register::LBA_HIGH => *high = value,
            register::DEVICE => self.device = value,
            register::COMMAND if self.is_selected() => self.begin(value),
            _ => {}
        }
    }

    /// Begins a command; one that was under way is given up.
    fn begin(&mut self, command: u8) {
        self.phase = Phase::Idle;
        self.error = 0;
        self.status = status::READY | status::SEEK_DONE;
        match command {
            command::IDENTIFY => {
                self.identify();
                self.request(Phase::ToGuest { next: 0, left: 0 });
            }
            command::READ => {
                if let Some((first, count)) = self.range() {
                    self.load(first, count);
                }
            }
            command::WRITE => {
                if let Some((first, count)) = self.range() {
                    self.request(Phase::FromGuest { sector: first, left: count - 1 });
                }
            }
            command::FLUSH => {}
            _ => self.fail(error::ABORTED),
        }
    }

    fn fail(&mut self, error: u8) {
        self.phase = Phase::Idle;
        self.error = error;
        self.status |= status::ERROR;
        self.status &= !status::REQUEST;
    }

    fn request(&mut self, phase: Phase) {
        self.phase = phase;
        self.at = 0;
        self.status |= status::REQUEST;
    }

    /// The sectors that the registers name: the first and how many, at least one. All of them are there.
    fn range(&mut self) -> Option<(u64, u32)> {
        if self.device & device::ADDRESS == 0 {
            self.fail(error::ABORTED);
            return None;
        }
        let [low, mid, high] = self.address;
        let first = u64::from(u32::from_le_bytes([low, mid, high, self.device & 0xf]));
        let count = if self.count == 0 { MOST } else { self.count.into() };
        if first + u64::from(count) > self.sectors.count().min(MOST_SECTORS) {
            self.fail(error::NOT_FOUND);
            return None;
        }
        Some((first, count))
    }

    /// Puts a sector into the block for the guest; it is the first of `count`.
    fn load(&mut self, sector: u64, count: u32) {
        if self.sectors.read(sector, &mut self.block) {
            self.request(Phase::ToGuest { next: sector + 1, left: count - 1 });
        } else {
            self.fail(error::ABORTED);
        }
    }

    fn give(&mut self, bytes: u8) -> u32 {
        let Phase::ToGuest { next, left } = self.phase else { return u32::MAX };
        let mut value = [0; 4];
        let end = self.at + usize::from(bytes.min(4));
        if let Some(from) = self.block.get(self.at..end.min(SECTOR)) {
            value.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        }
        self.at = end;
        if end >= SECTOR {
            self.status &= !status::REQUEST;
            self.phase = Phase::Idle;
            if left > 0 {
                self.load(next, left);
            }
        }
        u32::from_le_bytes(value)
    }

    fn take(&mut self, value: u32, bytes: u8) {
        let Phase::FromGuest { sector, left } = self.phase else { return };
        let end = self.at + usize::from(bytes.min(4));
        if let Some(to) = self.block.get_mut(self.at..end.min(SECTOR)) {
            to.iter_mut().zip(value.to_le_bytes()).for_each(|(to, from)| *to = from);
        }
        self.at = end;
        if end >= SECTOR {
            self.status &= !status::REQUEST;
            self.phase = Phase::Idle;
            if !self.sectors.write(sector, &self.block) {
                self.fail(error::ABORTED);
            } else if left > 0 {
                self.request(Phase::FromGuest { sector: sector + 1, left: left - 1 });
            }
        }
    }

    /// What IDENTIFY DEVICE tells (ATA/ATAPI-6, section 8.15).
    fn identify(&mut self) {
        self.block = [0; SECTOR];
        let sectors = u32::try_from(self.sectors.count().min(MOST_SECTORS - 1)).unwrap_or(0);
        let [low, high] = [sectors & 0xffff, sectors >> 16];
        // An ATA device; with addresses of sectors; how many; versions up to 6.
        for (word, value) in [(0, 0x40), (49, 1 << 9), (60, low), (61, high), (80, 0x7e)] {
            let [first, second, ..] = value.to_le_bytes();
            self.put(2 * word, first);
            self.put(2 * word + 1, second);
        }
        // Text has its bytes in pairs, the first in the upper half of the word.
        let model = b"Xenolith emulated disk";
        for (index, byte) in (0..40).zip(model.iter().copied().chain(core::iter::repeat(b' '))) {
            self.put(54 + (index ^ 1), byte);
        }
    }

    fn put(&mut self, at: usize, byte: u8) {
        if let Some(place) = self.block.get_mut(at) {
            *place = byte;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// Sectors in memory; the last one is broken.
    struct Memory(Vec<[u8; SECTOR]>);

    impl Sectors for Memory {
        fn count(&self) -> u64 {
            self.0.len() as u64
        }

        fn read(&mut self, sector: u64, into: &mut [u8; SECTOR]) -> bool {
            *into = self.0[sector as usize];
            sector + 1 < self.count()
        }

        fn write(&mut self, sector: u64, from: &[u8; SECTOR]) -> bool {
            self.0[sector as usize] = *from;
            sector + 1 < self.count()
        }
    }

    const SECTORS: usize = 300;

    fn drive() -> Drive<Memory> {
        Drive::new(Memory((0..SECTORS).map(|number| [number as u8; SECTOR]).collect()))
    }

    fn command(drive: &mut Drive<Memory>, command: u8, first: u32, count: u8) -> u8 {
        let [low, mid, high, top] = first.to_le_bytes();
        let values = [count, low, mid, high, 0xe0 | top, command];
        for (register, value) in (register::COUNT..).zip(values) {
            drive.access(PORTS + register, 1, Some(value.into()));
        }
        drive.access(PORTS + register::STATUS, 1, None) as u8
    }

    fn block(drive: &mut Drive<Memory>, bytes: u8) -> Vec<u8> {
        let mut all = Vec::new();
        for _ in 0..SECTOR / usize::from(bytes) {
            let value = drive.access(PORTS, bytes, None);
            all.extend(&value.to_le_bytes()[..bytes.into()]);
        }
        all
    }

    const RIGHT: u8 = status::READY | status::SEEK_DONE;

    #[test]
    fn it_says_what_it_is() {
        let mut drive = drive();
        assert_eq!(command(&mut drive, command::IDENTIFY, 0, 0), RIGHT | status::REQUEST);
        let words: Vec<u16> =
            block(&mut drive, 2).chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
        assert_eq!((words[49], words[60], words[61]), (1 << 9, SECTORS as u16, 0));
        assert_eq!(words[27].to_be_bytes(), *b"Xe");
        assert_eq!(drive.access(CONTROL_PORT, 1, None), RIGHT.into());
        // There is no second one.
        drive.access(PORTS + register::DEVICE, 1, Some(0xf0));
        drive.access(PORTS + register::COMMAND, 1, Some(command::IDENTIFY.into()));
        assert_eq!(drive.access(PORTS + register::STATUS, 1, None), 0);
    }

    #[test]
    fn sectors_are_read_and_written() {
        for bytes in [1, 2, 4] {
            let mut drive = drive();
            assert_eq!(command(&mut drive, command::READ, 7, 2), RIGHT | status::REQUEST);
            assert_eq!(block(&mut drive, bytes), [7; SECTOR]);
            assert_eq!(block(&mut drive, bytes), [8; SECTOR]);
            assert_eq!(drive.access(PORTS + register::STATUS, 1, None), RIGHT.into());
            assert_eq!(drive.access(PORTS, bytes, None), u32::MAX);

            assert_eq!(command(&mut drive, command::WRITE, 9, 1), RIGHT | status::REQUEST);
            for _ in 0..SECTOR / usize::from(bytes) {
                drive.access(PORTS, bytes, Some(0xabab_abab));
            }
            assert_eq!(drive.sectors.0[9], [0xab; SECTOR]);
            assert_eq!(drive.sectors.0[10], [10; SECTOR]);
            assert_eq!(command(&mut drive, command::FLUSH, 0, 0), RIGHT);
        }
        // A count of zero is 256.
        let mut drive = drive();
        command(&mut drive, command::READ, 3, 0);
        for number in 3..259 {
            assert_eq!(block(&mut drive, 4), [number as u8; SECTOR]);
        }
        assert_eq!(drive.access(PORTS + register::STATUS, 1, None), RIGHT.into());
    }

    #[test]
    fn what_is_not_there_is_refused() {
        let mut drive = drive();
        let wrong = [(command::READ, 299, 2), (command::READ, 300, 1), (command::WRITE, 0xfff_ffff, 0)];
        for (code, first, count) in wrong {
            assert_eq!(command(&mut drive, code, first, count), RIGHT | status::ERROR);
            assert_eq!(drive.access(PORTS + register::ERROR, 1, None), error::NOT_FOUND.into());
        }
        // The broken sector; a command that it does not have; an address of the old kind.
        assert_eq!(command(&mut drive, command::READ, 299, 1), RIGHT | status::ERROR);
        assert_eq!(command(&mut drive, 0xc8, 0, 1), RIGHT | status::ERROR);
        drive.access(PORTS + register::DEVICE, 1, Some(0xa0));
        drive.access(PORTS + register::COMMAND, 1, Some(command::READ.into()));
        assert_eq!(drive.access(PORTS + register::STATUS, 1, None), (RIGHT | status::ERROR).into());
        drive.access(CONTROL_PORT, 1, Some(RESET.into()));
        assert_eq!(drive.access(PORTS + register::STATUS, 1, None), RIGHT.into());
        assert_eq!(drive.access(0x1ef, 1, None), u32::MAX);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_accesses_in_any_order_are_answered(
            accesses in prop::collection::vec((0..12_u16, 0..5_usize, 0..9_usize), 1..2000),
        ) {
            let mut drive = drive();
            for (port, bytes, value) in accesses {
                let port = match port {
                    8 => CONTROL_PORT,
                    9.. => PORTS,
                    register => PORTS + register,
                };
                let commands = [command::READ, command::WRITE, command::IDENTIFY, 0xe0, 0xff, 4];
                let value = commands.get(value).map(|value| u32::from(*value) << 8 | u32::from(*value));
                drive.access(port, [1, 2, 4, 3, 8][bytes], value);
                prop_assert!(drive.at < 2 * SECTOR);
            }
        }
    }
}
