//! Why a virtual CPU stopped running guest code, in words that belong to no vendor.

use super::gprs::Gprs;
use pv_abi::ids::{GuestPhys, GuestVirt};

/// What an access wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Access {
    /// The access was a write.
    pub write: bool,
    /// The access was an instruction fetch.
    pub execute: bool,
}

/// One access to an I/O port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoExit {
    /// The port.
    pub port: u16,
    /// The width in bytes: 1, 2 or 4.
    pub bytes: u8,
    /// The guest writes (OUT).
    pub write: bool,
    /// A string instruction (INS, OUTS), repeated or not.
    pub string: bool,
}

/// A move to or from a control register that the back end does not finish by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ControlAccess {
    /// The control register: 0, 3, 4 or 8.
    pub register: u8,
    /// The guest writes the control register.
    pub write: bool,
    /// The number of the general register that takes part (4 is RSP).
    pub gpr: u8,
}

/// A vendor's own code and qualification of an exit, for messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RawExit {
    /// The exit code or reason.
    pub code: u64,
    /// The first word of information or qualification.
    pub info: [u64; 2],
}

/// The hardware refused the state that it was told to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryFailure {
    /// Which check failed, in words.
    pub reason: &'static str,
    /// The hardware's own number for it.
    pub raw: RawExit,
}

/// Why a virtual CPU stopped running guest code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// The vendor's hypercall instruction; number and arguments are in [`Gprs`].
    Hypercall,
    /// CPUID; leaf and sub-leaf are in [`Gprs`].
    Cpuid,
    /// RDMSR of this index.
    MsrRead(u32),
    /// WRMSR of this index and value.
    MsrWrite(u32, u64),
    /// An I/O instruction on a port that is not passed through.
    Io(IoExit),
    /// An access that the nested page tables do not allow.
    NestedFault {
        /// The guest-physical address.
        gpa: GuestPhys,
        /// The linear address, where the hardware tells it and the access was of the final page.
        gva: Option<GuestVirt>,
        /// What the access wanted.
        access: Access,
        /// There is an entry, but it does not allow this access.
        present: bool,
    },
    /// A move to or from a control register that policy must decide.
    Control(ControlAccess),
    /// XSETBV.
    Xsetbv,
    /// HLT.
    Halt,
    /// PAUSE executed often enough that the CPU should do something else.
    Pause,
    /// RDTSC that the policy intercepts.
    Rdtsc,
    /// RDTSCP that the policy intercepts.
    Rdtscp,
    /// RDPMC.
    Rdpmc,
    /// WBINVD, INVD or WBNOINVD.
    CacheFlush,
    /// An instruction that guests do not have (of virtualization, of power states, of system management): #UD.
    Undefined,
    /// An exception that the policy intercepts.
    Exception {
        /// The vector, 0 to 31.
        vector: u8,
        /// The error code, if this vector has one.
        code: Option<u32>,
    },
    /// The guest can take an interrupt, which [`VcpuHw::request_window`](super::VcpuHw::request_window) asked to know.
    WindowOpen,
    /// The guest lowered its task priority, which [`VcpuHw::watch_priority`](super::VcpuHw::watch_priority) asked to
    /// know. The instruction has been executed.
    Priority,
    /// The guest wrote the register at this offset of its local APIC's page, and the hardware put the value there. The
    /// instruction has been executed.
    ApicWritten(u16),
    /// The time has come that [`VcpuHw::set_deadline`](super::VcpuHw::set_deadline) named, or nearly.
    Deadline,
    /// The processor found a fault of the machine while the guest ran, which did not spread: already recorded.
    MachineCheck,
    /// Three nested faults: the virtual CPU is shut down.
    TripleFault,
    /// Something happened on the host: an interrupt or NMI, already taken and recorded by the platform.
    Interrupted,
    /// A task switch by hardware, which no 64-bit guest makes.
    TaskSwitch,
    /// The hardware refused the guest's state.
    EntryFailed(EntryFailure),
    /// An exit that nothing asked for.
    Unknown(RawExit),
}

/// The classes under which exits are counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
#[repr(u8)]
#[allow(missing_docs)] // named like the exits
pub enum ExitClass {
    Hypercall,
    Cpuid,
    Msr,
    Io,
    NestedFault,
    Control,
    Halt,
    Pause,
    Exception,
    Window,
    Interrupted,
    Other,
}

impl ExitClass {
    /// All classes in order.
    pub const ALL: [Self; 12] = [
        Self::Hypercall,
        Self::Cpuid,
        Self::Msr,
        Self::Io,
        Self::NestedFault,
        Self::Control,
        Self::Halt,
        Self::Pause,
        Self::Exception,
        Self::Window,
        Self::Interrupted,
        Self::Other,
    ];

    /// The name under which this class is shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hypercall => "hypercall",
            Self::Cpuid => "cpuid",
            Self::Msr => "msr",
            Self::Io => "io",
            Self::NestedFault => "nested-fault",
            Self::Control => "control",
            Self::Halt => "halt",
            Self::Pause => "pause",
            Self::Exception => "exception",
            Self::Window => "window",
            Self::Interrupted => "interrupted",
            Self::Other => "other",
        }
    }
}

impl Exit {
    /// The class under which this exit is counted.
    pub const fn class(&self) -> ExitClass {
        match self {
            Self::Hypercall => ExitClass::Hypercall,
            Self::Cpuid => ExitClass::Cpuid,
            Self::MsrRead(_) | Self::MsrWrite(..) => ExitClass::Msr,
            Self::Io(_) => ExitClass::Io,
            Self::NestedFault { .. } => ExitClass::NestedFault,
            Self::Control(_) | Self::Xsetbv => ExitClass::Control,
            Self::Halt => ExitClass::Halt,
            Self::Pause => ExitClass::Pause,
            Self::Exception { .. } => ExitClass::Exception,
            Self::WindowOpen => ExitClass::Window,
            Self::Interrupted | Self::Deadline => ExitClass::Interrupted,
            _ => ExitClass::Other,
        }
    }
}

/// EDX:EAX as the instructions that use the pair see it.
impl Gprs {
    /// The 64-bit number in EDX:EAX.
    pub const fn edx_eax(&self) -> u64 {
        (self.rdx << 32) | (self.rax & 0xffff_ffff)
    }

    /// Puts a 64-bit number into EDX:EAX, as 64-bit code sees it: the upper halves become zero.
    pub const fn set_edx_eax(&mut self, value: u64) {
        self.rax = value & 0xffff_ffff;
        self.rdx = value >> 32;
    }
}
