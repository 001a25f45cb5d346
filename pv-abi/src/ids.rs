//! The numbers by which domains, virtual CPUs, ports, grants and guest pages are named: a type for each.

use core::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($raw:ty), $format:literal) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout,
        )]
        #[repr(transparent)]
        pub struct $name($raw);

        impl $name {
            /// Makes one from its number.
            pub const fn new(raw: $raw) -> Self {
                Self(raw)
            }

            /// Its number.
            pub const fn raw(self) -> $raw {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

id!(
    /// The number of a domain (`domid_t`, xen.h).
    DomainId(u16), "d{}"
);
id!(
    /// The number of a virtual CPU in its domain.
    VcpuId(u32), "v{}"
);
id!(
    /// An event-channel port (`evtchn_port_t`, event_channel.h).
    Port(u32), "port:{}"
);
id!(
    /// A virtual interrupt (VIRQ_*, xen.h).
    Virq(u32), "virq:{}"
);
id!(
    /// A physical interrupt as a guest names it (physdev.h).
    Pirq(u32), "pirq:{}"
);
id!(
    /// A grant reference: a slot in the granting domain's table (`grant_ref_t`, grant_table.h).
    GrantRef(u32), "gref:{}"
);
id!(
    /// A grant handle: a slot among the mapping domain's mappings (`grant_handle_t`, grant_table.h).
    GrantHandle(u32), "handle:{}"
);
id!(
    /// A guest-physical address, in bytes.
    GuestPhys(u64), "gpa:{:#x}"
);
id!(
    /// A guest-linear address, in bytes.
    GuestVirt(u64), "gva:{:#x}"
);
id!(
    /// A guest frame number: one page of guest-physical memory.
    Gfn(u64), "gfn:{:#x}"
);

impl DomainId {
    /// The domain in which device drivers live by convention.
    pub const DOM0: Self = Self(0);
    /// The calling domain (DOMID_SELF, xen.h).
    pub const SELF: Self = Self(0x7ff0);
    /// Pages that belong to I/O devices (DOMID_IO, xen.h).
    pub const IO: Self = Self(0x7ff1);
    /// Pages that belong to the hypervisor (DOMID_XEN, xen.h).
    pub const XEN: Self = Self(0x7ff2);
    /// No domain (DOMID_INVALID, xen.h).
    pub const INVALID: Self = Self(0x7ff4);
}

impl GuestPhys {
    /// The frame that holds this address.
    pub const fn gfn(self) -> Gfn {
        Gfn(self.0 >> 12)
    }

    /// The distance from the start of the frame, in bytes.
    pub const fn offset(self) -> u64 {
        self.0 & 0xfff
    }

    /// This address moved up by `bytes`, unless that leaves the 64-bit range.
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(raw) => Some(Self(raw)),
            None => None,
        }
    }
}

impl Gfn {
    /// The address of the first byte of this frame; bits above the 64-bit range are lost.
    pub const fn base(self) -> GuestPhys {
        GuestPhys(self.0 << 12)
    }

    /// The frame `count` frames further on, unless that leaves the 64-bit range.
    pub const fn checked_add(self, count: u64) -> Option<Self> {
        match self.0.checked_add(count) {
            Some(raw) => Some(Self(raw)),
            None => None,
        }
    }
}
