//! Error numbers of the ABI (`xen/errno.h`): a call that fails returns one of them negated.

use core::fmt;
use core::num::NonZeroU16;

/// What a call returns.
pub type Result<T> = core::result::Result<T, Errno>;

/// A positive error number.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(NonZeroU16);

macro_rules! errnos {
    ($($(#[$doc:meta])* $name:ident = $value:literal),* $(,)?) => {
        impl Errno {
            $($(#[$doc])* pub const $name: Self = Self(NonZeroU16::new($value).unwrap());)*

            /// All the named ones, with their names.
            pub const ALL: &'static [(&'static str, Self)] = &[$((stringify!($name), Self::$name)),*];
        }
    };
}

errnos! {
    /// The caller may not do this.
    EPERM = 1,
    /// No such entry.
    ENOENT = 2,
    /// No such domain.
    ESRCH = 3,
    /// Input or output failed.
    EIO = 5,
    /// No such device or line.
    ENXIO = 6,
    /// Too much at once.
    E2BIG = 7,
    /// Not a program that can be started.
    ENOEXEC = 8,
    /// No such open object.
    EBADF = 9,
    /// No such child.
    ECHILD = 10,
    /// Try again.
    EAGAIN = 11,
    /// Not enough memory.
    ENOMEM = 12,
    /// The object's owner does not allow it.
    EACCES = 13,
    /// A pointer leads to no memory, or to memory that may not be used so.
    EFAULT = 14,
    /// In use.
    EBUSY = 16,
    /// There already.
    EEXIST = 17,
    /// Belongs to another.
    EXDEV = 18,
    /// No such device.
    ENODEV = 19,
    /// Not a directory.
    ENOTDIR = 20,
    /// Is a directory.
    EISDIR = 21,
    /// An argument makes no sense.
    EINVAL = 22,
    /// The system's table is full.
    ENFILE = 23,
    /// The caller's table is full.
    EMFILE = 24,
    /// No room left.
    ENOSPC = 28,
    /// Can only be read.
    EROFS = 30,
    /// Too many links.
    EMLINK = 31,
    /// Argument out of the function's domain.
    EDOM = 33,
    /// Result out of range.
    ERANGE = 34,
    /// Would wait for itself.
    EDEADLK = 35,
    /// A name is too long.
    ENAMETOOLONG = 36,
    /// No lock left.
    ENOLCK = 37,
    /// No such call or sub-operation.
    ENOSYS = 38,
    /// Not empty.
    ENOTEMPTY = 39,
    /// There is no such datum.
    ENODATA = 61,
    /// Time is over.
    ETIME = 62,
    /// A malformed message.
    EBADMSG = 74,
    /// The value does not fit.
    EOVERFLOW = 75,
    /// An illegal sequence of bytes.
    EILSEQ = 84,
    /// Not a connection.
    ENOTSOCK = 88,
    /// A message is too long.
    EMSGSIZE = 90,
    /// This object does not support the operation.
    EOPNOTSUPP = 95,
    /// The address is in use.
    EADDRINUSE = 98,
    /// The address cannot be had.
    EADDRNOTAVAIL = 99,
    /// No buffer left.
    ENOBUFS = 105,
    /// Connected already.
    EISCONN = 106,
    /// Not connected.
    ENOTCONN = 107,
    /// Waited too long.
    ETIMEDOUT = 110,
    /// The other side refused.
    ECONNREFUSED = 111,
}

/// Largest number that a return value can carry as an error.
const MAX: i64 = 4095;

impl Errno {
    /// The positive number.
    #[inline]
    pub const fn code(self) -> u16 {
        self.0.get()
    }

    /// The value that a call returns to say this.
    #[inline]
    pub const fn to_return(self) -> i64 {
        -(self.0.get() as i64)
    }

    /// Reads a call's return value: an error when it lies in -4095..=-1.
    #[inline]
    pub fn from_return(value: i64) -> Result<u64> {
        if (-MAX..0).contains(&value)
            && let Some(code) = u16::try_from(-value).ok().and_then(NonZeroU16::new)
        {
            return Err(Self(code));
        }
        Ok(value.cast_unsigned())
    }

    /// Its name in the headers, such as `EINVAL`.
    pub fn name(self) -> Option<&'static str> {
        Self::ALL.iter().find(|(_, errno)| *errno == self).map(|(name, _)| *name)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl core::error::Error for Errno {}
