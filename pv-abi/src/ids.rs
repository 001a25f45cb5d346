//! Identifiers and addresses as types of their own, so that none can stand where another is meant.
//!
//! All are transparent over the integer that the ABI uses and may be members of shared structures. There is no `From`
//! an integer: the places that make an identifier out of a number say so with `new`.

use core::fmt;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($raw:ty), $format:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(transparent)]
        pub struct $name($raw);

        impl $name {
            /// Names the object with this number.
            #[inline]
            pub const fn new(raw: $raw) -> Self {
                Self(raw)
            }

            /// The number itself, as the ABI carries it.
            #[inline]
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

id! {
    /// A domain (`domid_t`).
    DomainId(u16), "d{}"
}
id! {
    /// A virtual CPU within its domain.
    VcpuId(u32), "v{}"
}
id! {
    /// An event channel port within its domain (`evtchn_port_t`); 0 is never a valid one.
    Port(u32), "port:{}"
}
id! {
    /// A virtual interrupt line (`VIRQ_*` of `xen.h`).
    Virq(u32), "virq:{}"
}
id! {
    /// A physical interrupt as a driver domain numbers it.
    Pirq(u32), "pirq:{}"
}
id! {
    /// An entry of the *granting* domain's grant table (`grant_ref_t`).
    GrantRef(u32), "gref:{}"
}
id! {
    /// A mapping of a foreign grant in the *mapping* domain (`grant_handle_t`).
    GrantHandle(u32), "handle:{}"
}
id! {
    /// A guest-physical address.
    GuestPhys(u64), "gpa:{:#x}"
}
id! {
    /// A guest-virtual (linear) address: what the ABI's pointers are.
    GuestVirt(u64), "gva:{:#x}"
}
id! {
    /// A guest frame number: a guest-physical address divided by the page size.
    Gfn(u64), "gfn:{:#x}"
}

impl DomainId {
    /// The first domain, which the hypervisor builds at boot.
    pub const DOM0: Self = Self(0);
    /// First number that names no ordinary domain (`DOMID_FIRST_RESERVED`).
    pub const FIRST_RESERVED: Self = Self(0x7ff0);
    /// The caller itself (`DOMID_SELF`).
    pub const SELF: Self = Self(0x7ff0);
    /// The owner of device memory (`DOMID_IO`).
    pub const IO: Self = Self(0x7ff1);
    /// The hypervisor (`DOMID_XEN`).
    pub const XEN: Self = Self(0x7ff2);
    /// No domain (`DOMID_INVALID`).
    pub const INVALID: Self = Self(0x7ff4);

    /// Whether this can be the number of an ordinary domain.
    #[inline]
    pub const fn is_ordinary(self) -> bool {
        self.0 < Self::FIRST_RESERVED.0
    }
}

impl Virq {
    /// Timer, per vCPU (`VIRQ_TIMER`).
    pub const TIMER: Self = Self(0);
    /// Request for a state dump, per vCPU (`VIRQ_DEBUG`).
    pub const DEBUG: Self = Self(1);
    /// Input on the emergency console (`VIRQ_CONSOLE`).
    pub const CONSOLE: Self = Self(2);
    /// A domain changed its state: died, shut down, asks for attention (`VIRQ_DOM_EXC`).
    pub const DOM_EXC: Self = Self(3);
    /// Trace records are there to be read (`VIRQ_TBUF`).
    pub const TBUF: Self = Self(4);
    /// A debugger's attention (`VIRQ_DEBUGGER`).
    pub const DEBUGGER: Self = Self(6);
    /// Profiling samples, per vCPU (`VIRQ_XENOPROF`).
    pub const XENOPROF: Self = Self(7);
    /// Bytes arrived in the emergency console's ring (`VIRQ_CON_RING`).
    pub const CON_RING: Self = Self(8);
    /// Number of lines (`NR_VIRQS`).
    pub const COUNT: u32 = 24;

    /// Whether each vCPU has a line of its own with this number; the others exist once in a domain.
    #[inline]
    pub const fn is_per_vcpu(self) -> bool {
        matches!(self, Self::TIMER | Self::DEBUG | Self::XENOPROF)
    }
}

impl GuestPhys {
    /// The frame that holds the address.
    #[inline]
    pub const fn gfn(self) -> Gfn {
        Gfn(self.0 >> crate::PAGE_SHIFT)
    }

    /// The address's distance from the start of its page.
    #[inline]
    pub const fn offset(self) -> u64 {
        self.0 & (crate::PAGE_SIZE as u64 - 1)
    }

    /// The address `bytes` further, or `None` past the end of the address space.
    #[inline]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(raw) => Some(Self(raw)),
            None => None,
        }
    }
}

impl GuestVirt {
    /// The null pointer, with which several calls say "no buffer".
    pub const NULL: Self = Self(0);

    /// The address of a value of this program, for use in structures that carry pointers.
    #[inline]
    pub fn of<T: ?Sized>(value: &T) -> Self {
        Self(core::ptr::from_ref(value).cast::<u8>().expose_provenance() as u64)
    }

    /// Whether it is the null pointer.
    #[inline]
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }

    /// The address's distance from the start of its page.
    #[inline]
    pub const fn offset(self) -> u64 {
        self.0 & (crate::PAGE_SIZE as u64 - 1)
    }

    /// The address `bytes` further, or `None` past the end of the address space.
    #[inline]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(raw) => Some(Self(raw)),
            None => None,
        }
    }
}

impl Gfn {
    /// The address of the frame's first byte, or `None` when the frame number has no address.
    #[inline]
    pub const fn checked_base(self) -> Option<GuestPhys> {
        if self.0 >> (64 - crate::PAGE_SHIFT) == 0 {
            Some(GuestPhys(self.0 << crate::PAGE_SHIFT))
        } else {
            None
        }
    }

    /// The address of the frame's first byte; bits beyond the address space are lost.
    #[inline]
    pub const fn base(self) -> GuestPhys {
        GuestPhys(self.0 << crate::PAGE_SHIFT)
    }

    /// The frame `pages` further, or `None` when there is no such number.
    #[inline]
    pub const fn checked_add(self, pages: u64) -> Option<Self> {
        match self.0.checked_add(pages) {
            Some(raw) => Some(Self(raw)),
            None => None,
        }
    }
}
