//! From the boot loader to `machine`: who started us, what memory there is, where the boot bundle lies.

#[cfg(target_os = "none")]
mod entry;
pub mod fail;
pub mod memmap;
#[cfg(target_os = "none")]
mod multiboot;
#[cfg(target_os = "none")]
mod pvh;

use memmap::{MemoryMap, Range};

/// Longest command line kept.
const CMDLINE_MAX: usize = 512;

/// Where the ACPI tables begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcpiRoot {
    /// The physical address of the root system description pointer.
    Rsdp(u64),
    /// The physical address of the RSDT (revision 0) or of the XSDT.
    Table {
        /// ACPI revision, as in the RSDP.
        revision: u8,
        /// Physical address.
        address: u64,
    },
    /// The boot loader did not say: a BIOS keeps it in its ROM area.
    Search,
}

/// What the boot loader handed over, copied out of its memory.
pub struct BootInfo {
    /// The machine's memory.
    pub memory: MemoryMap,
    /// The boot bundle, if the boot loader gave a module.
    pub bundle: Option<Range>,
    /// The root of the ACPI tables.
    pub acpi: AcpiRoot,
    /// The name of the boot protocol.
    pub protocol: &'static str,
    cmdline: [u8; CMDLINE_MAX],
    cmdline_len: usize,
}

impl BootInfo {
    /// Nothing known yet.
    #[cfg(target_os = "none")]
    const fn new(protocol: &'static str) -> Self {
        Self {
            memory: MemoryMap::new(),
            bundle: None,
            acpi: AcpiRoot::Search,
            protocol,
            cmdline: [0; CMDLINE_MAX],
            cmdline_len: 0,
        }
    }

    /// The command line; what is not UTF-8 in it is left out, with all that follows.
    pub fn cmdline(&self) -> &str {
        let bytes = self.cmdline.get(..self.cmdline_len).unwrap_or(&[]);
        match core::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                bytes.get(..error.valid_up_to()).and_then(|b| core::str::from_utf8(b).ok()).unwrap_or("")
            }
        }
    }

    /// Keeps a copy of the command line.
    #[cfg(target_os = "none")]
    fn set_cmdline(&mut self, bytes: impl Iterator<Item = u8>) {
        self.cmdline_len = 0;
        for (slot, byte) in self.cmdline.iter_mut().zip(bytes) {
            *slot = byte;
            self.cmdline_len += 1;
        }
    }
}

/// The first Rust code: sorts out the boot protocol and goes on to bring the machine up.
#[cfg(target_os = "none")]
extern "C" fn start(magic: u32, info: u32) -> ! {
    crate::dev::uart::init();
    crate::dev::pic::mask();
    // SAFETY: the entry code passes on what the boot loader left in its registers: for each protocol's magic
    // number `info` is the physical address of its structures below 4 GiB, which the boot page tables map.
    let boot = unsafe {
        match magic {
            entry::PVH_MAGIC => pvh::read(info.into()),
            entry::MULTIBOOT2_MAGIC => multiboot::read(info.into()),
            _ => Err("the boot loader spoke neither PVH nor multiboot2"),
        }
    };
    match boot {
        Ok(boot) => crate::machine::begin(boot),
        Err(reason) => fail::cannot_start(format_args!("{reason}")),
    }
}
