//! Which calls of the table other software knows: real Xen serves them, Linux makes them.
//!
//! Of Xen 4.17 this says what a PVH guest gets from it (`xen/arch/x86/hvm/hypercall.c` and the calls' own checks); of Linux
//! 6.1, what its x86-64 kernel calls as a guest or as a driver domain (`arch/x86/xen`, `drivers/xen`, the front and back
//! ends), not what it passes through from programs. A call without an entry here does not compile.

use super::Call;
use core::fmt;

/// What a PVH guest gets from Xen 4.17.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnXen {
    /// The call works for every guest.
    Yes,
    /// Only for the first domain, or one with its privileges.
    Privileged,
    /// Not for PVH guests, but for PV guests or for HVM guests with emulated devices.
    NotPvh,
    /// There is no such call.
    No,
}

/// Whether Linux 6.1 makes the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InLinux {
    /// As a PVH guest, or in a front end.
    Yes,
    /// As the first domain, or in a back end.
    Backend,
    /// As a PV guest, or as an HVM guest with emulated devices, only.
    NotPvh,
    /// Never.
    No,
}

/// Structures that both sides share beyond a call's arguments: name, here, on Xen 4.17, used by Linux 6.1.
#[rustfmt::skip]
pub const STRUCTURES: &[(&str, &str, &str, &str)] = &[
    ("`hvm_start_info`, modules, memory map: `start_info`", "version 1", "version 1", "yes"),
    ("ELF notes `PHYS32_ENTRY`, `PHYS32_RELOC`: `elfnote`", "both", "the first", "the first"),
    ("CPUID leaves: `cpuid`", "to the HVM leaf", "yes", "yes"),
    ("shared information page, `vcpu_info`: `shared_info`", "yes", "yes", "yes"),
    ("clock and wall clock: `shared_info`", "yes", "yes", "yes"),
    ("runstate area: `vcpu`", "yes", "yes", "yes"),
    ("2-level event bitmap: `event::two_level`", "yes", "yes", "yes, where FIFO is absent"),
    ("FIFO event queues: `event::fifo`", "yes", "yes", "yes"),
    ("grant table, version 1: `grant`", "yes", "yes", "yes"),
    ("grant table, version 2", "no", "yes", "only as PV guest, for frame numbers above 32 bits"),
    ("console ring: `io::console`", "yes", "yes (xenconsoled)", "yes"),
    ("XenStore ring: `io::xs_wire`", "yes", "yes (xenstored)", "yes"),
    ("block ring, indirect and persistent: `io::blkif`", "yes", "served by Linux", "both ends"),
    ("net rings: `io::netif`", "yes", "served by Linux", "both ends"),
];

impl fmt::Display for OnXen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Yes => "yes",
            Self::Privileged => "first domain",
            Self::NotPvh => "not for PVH",
            Self::No => "no",
        })
    }
}

impl fmt::Display for InLinux {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Yes => "yes",
            Self::Backend => "driver domain",
            Self::NotPvh => "not as PVH",
            Self::No => "no",
        })
    }
}

impl Call {
    /// What a PVH guest gets for this call from Xen 4.17, and whether Linux 6.1 makes it.
    #[must_use]
    pub const fn elsewhere(self) -> (OnXen, InLinux) {
        use Call::*;
        match self {
            EvtchnSend | EvtchnUnmask | EvtchnAllocUnbound | EvtchnBindVirq | EvtchnBindIpi
            | EvtchnBindVcpu | EvtchnClose | EvtchnStatus | EvtchnInitControl | EvtchnExpandArray
            | EvtchnSetPriority => (OnXen::Yes, InLinux::Yes),
            EvtchnBindInterdomain => (OnXen::Yes, InLinux::Backend),
            EvtchnBindPirq => (OnXen::NotPvh, InLinux::NotPvh),
            EvtchnReset => (OnXen::Yes, InLinux::No),
            SchedYield | SchedShutdown | SchedPoll => (OnXen::Yes, InLinux::Yes),
            SchedBlock => (OnXen::Yes, InLinux::NotPvh),
            SchedRemoteShutdown => (OnXen::Privileged, InLinux::No),
            SchedShutdownCode => (OnXen::Yes, InLinux::No),
            SetTimer => (OnXen::Yes, InLinux::Yes),
            GrantMap | GrantUnmap | GrantCopy => (OnXen::Yes, InLinux::Backend),
            GrantSetupTable => (OnXen::Yes, InLinux::NotPvh),
            GrantQuerySize | GrantSetVersion => (OnXen::Yes, InLinux::Yes),
            GrantGetVersion => (OnXen::Yes, InLinux::No),
            MemoryIncrease | MemoryMaximumRamPage | MemoryMaximumGpfn => (OnXen::Yes, InLinux::No),
            MemoryDecrease | MemoryPopulate | MemoryAddToPhysmap | MemoryMap => (OnXen::Yes, InLinux::Yes),
            MemoryCurrentReservation => (OnXen::Yes, InLinux::No),
            MemoryMaximumReservation => (OnXen::Yes, InLinux::NotPvh),
            MemoryAddToPhysmapBatch | MemoryRemoveFromPhysmap => (OnXen::Yes, InLinux::Backend),
            VersionNumber
            | VersionExtra
            | VersionCompileInfo
            | VersionCapabilities
            | VersionChangeset
            | VersionPlatformParameters
            | VersionFeatures
            | VersionPagesize
            | VersionGuestHandle => (OnXen::Yes, InLinux::Yes),
            VersionCommandline => (OnXen::Privileged, InLinux::No),
            VersionBuildId => (OnXen::Privileged, InLinux::Yes),
            VcpuInitialise | VcpuUp | VcpuIsUp | VcpuSendNmi => (OnXen::Yes, InLinux::NotPvh),
            VcpuDown => (OnXen::Yes, InLinux::NotPvh),
            VcpuRunstateInfo => (OnXen::Yes, InLinux::No),
            VcpuRegisterRunstate | VcpuRegisterInfo => (OnXen::Yes, InLinux::Yes),
            VcpuStopPeriodicTimer | VcpuSetSingleshotTimer | VcpuStopSingleshotTimer => {
                (OnXen::Yes, InLinux::Yes)
            }
            VcpuRegisterTime => (OnXen::Yes, InLinux::Yes),
            HvmSetParam | HvmGetParam | HvmSetUpcallVector => (OnXen::Yes, InLinux::Yes),
            HvmGetTime => (OnXen::Yes, InLinux::No),
            PhysdevEoi | PhysdevIrqStatus | PhysdevMapPirq | PhysdevUnmapPirq | PhysdevGetFreePirq => {
                (OnXen::NotPvh, InLinux::NotPvh)
            }
            PhysdevSetupGsi => (OnXen::NotPvh, InLinux::NotPvh),
            PhysdevPciDeviceAdd => (OnXen::Privileged, InLinux::Backend),
            PhysdevPrepareMsix | PhysdevReleaseMsix => (OnXen::NotPvh, InLinux::Backend),
            ConsoleWrite | ConsoleRead => (OnXen::Privileged, InLinux::Backend),
            Multicall => (OnXen::Yes, InLinux::NotPvh),
            ControlVersion | ControlCreate | ControlBuild | ControlPause | ControlUnpause
            | ControlDestroy | ControlInfo | ControlVcpuInfo | ControlStatistics | ControlPower
            | ControlSchedule | ControlTrace | ControlCounters | ControlEmulate | ControlEmulated => {
                (OnXen::No, InLinux::No)
            }
        }
    }
}
