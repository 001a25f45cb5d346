//! XenStore's messages and ring (`io/xs_wire.h`).

use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::errno::Errno;

/// The kinds of message (`enum xsd_sockmsg_type`).
pub mod kind {
    /// `XS_CONTROL`
    pub const CONTROL: u32 = 0;
    /// `XS_DIRECTORY`
    pub const DIRECTORY: u32 = 1;
    /// `XS_READ`
    pub const READ: u32 = 2;
    /// `XS_GET_PERMS`
    pub const GET_PERMS: u32 = 3;
    /// `XS_WATCH`
    pub const WATCH: u32 = 4;
    /// `XS_UNWATCH`
    pub const UNWATCH: u32 = 5;
    /// `XS_TRANSACTION_START`
    pub const TRANSACTION_START: u32 = 6;
    /// `XS_TRANSACTION_END`
    pub const TRANSACTION_END: u32 = 7;
    /// `XS_INTRODUCE`
    pub const INTRODUCE: u32 = 8;
    /// `XS_RELEASE`
    pub const RELEASE: u32 = 9;
    /// `XS_GET_DOMAIN_PATH`
    pub const GET_DOMAIN_PATH: u32 = 10;
    /// `XS_WRITE`
    pub const WRITE: u32 = 11;
    /// `XS_MKDIR`
    pub const MKDIR: u32 = 12;
    /// `XS_RM`
    pub const RM: u32 = 13;
    /// `XS_SET_PERMS`
    pub const SET_PERMS: u32 = 14;
    /// `XS_WATCH_EVENT`
    pub const WATCH_EVENT: u32 = 15;
    /// `XS_ERROR`
    pub const ERROR: u32 = 16;
    /// `XS_IS_DOMAIN_INTRODUCED`
    pub const IS_DOMAIN_INTRODUCED: u32 = 17;
    /// `XS_RESUME`
    pub const RESUME: u32 = 18;
    /// `XS_SET_TARGET`
    pub const SET_TARGET: u32 = 19;
    /// `XS_RESET_WATCHES`
    pub const RESET_WATCHES: u32 = 21;
    /// `XS_DIRECTORY_PART`
    pub const DIRECTORY_PART: u32 = 22;
    /// `XS_INVALID`
    pub const INVALID: u32 = 0xffff;
}

/// The head of every message (`struct xsd_sockmsg`).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// One of [`kind`] (`type`).
    pub kind: u32,
    /// Chosen by the client, echoed in the reply.
    pub req_id: u32,
    /// The transaction, zero for none.
    pub tx_id: u32,
    /// Bytes that follow.
    pub len: u32,
}

const_assert_eq!(size_of::<Header>(), 16);

/// Bytes of each direction of the ring (`XENSTORE_RING_SIZE`).
pub const RING_SIZE: u32 = 1024;
/// Offset of the requests (`req`).
pub const REQ: usize = 0;
/// Offset of the replies and watch events (`rsp`).
pub const RSP: usize = 1024;
/// Offset of `req_cons`.
pub const REQ_CONS: usize = 2048;
/// Offset of `req_prod`.
pub const REQ_PROD: usize = 2052;
/// Offset of `rsp_cons`.
pub const RSP_CONS: usize = 2056;
/// Offset of `rsp_prod`.
pub const RSP_PROD: usize = 2060;
/// Offset of `server_features`.
pub const SERVER_FEATURES: usize = 2064;
/// Offset of `connection`.
pub const CONNECTION: usize = 2068;
/// Offset of `error`.
pub const ERROR: usize = 2072;
/// Size of `struct xenstore_domain_interface`.
pub const INTERFACE_SIZE: usize = 2076;

/// The longest payload (`XENSTORE_PAYLOAD_MAX`).
pub const PAYLOAD_MAX: usize = 4096;
/// The longest absolute path (`XENSTORE_ABS_PATH_MAX`).
pub const ABS_PATH_MAX: usize = 3072;
/// The longest path relative to a domain's own (`XENSTORE_REL_PATH_MAX`).
pub const REL_PATH_MAX: usize = 2048;

/// The server understands a ring that is connected anew (`XENSTORE_SERVER_FEATURE_RECONNECTION`).
pub const SERVER_FEATURE_RECONNECTION: u32 = 1;
/// The server fills the `error` field (`XENSTORE_SERVER_FEATURE_ERROR`).
pub const SERVER_FEATURE_ERROR: u32 = 2;
/// `connection`: the steady state (`XENSTORE_CONNECTED`).
pub const CONNECTED: u32 = 0;
/// `connection`: the guest asks for the ring to be emptied (`XENSTORE_RECONNECT`).
pub const RECONNECT: u32 = 1;
/// `error`: none (`XENSTORE_ERROR_NONE`).
pub const ERROR_NONE: u32 = 0;
/// `error`: communication problem (`XENSTORE_ERROR_COMM`).
pub const ERROR_COMM: u32 = 1;
/// `error`: bad ring index (`XENSTORE_ERROR_RINGIDX`).
pub const ERROR_RINGIDX: u32 = 2;
/// `error`: payload too long (`XENSTORE_ERROR_PROTO`).
pub const ERROR_PROTO: u32 = 3;

/// The errors a server may answer, as they are spelled on the wire (`xsd_errors`).
pub const ERRORS: [(Errno, &str); 16] = [
    (Errno::EINVAL, "EINVAL"),
    (Errno::EACCES, "EACCES"),
    (Errno::EEXIST, "EEXIST"),
    (Errno::EISDIR, "EISDIR"),
    (Errno::ENOENT, "ENOENT"),
    (Errno::ENOMEM, "ENOMEM"),
    (Errno::ENOSPC, "ENOSPC"),
    (Errno::EIO, "EIO"),
    (Errno::ENOTEMPTY, "ENOTEMPTY"),
    (Errno::ENOSYS, "ENOSYS"),
    (Errno::EROFS, "EROFS"),
    (Errno::EBUSY, "EBUSY"),
    (Errno::EAGAIN, "EAGAIN"),
    (Errno::EISCONN, "EISCONN"),
    (Errno::E2BIG, "E2BIG"),
    (Errno::EPERM, "EPERM"),
];

/// How an error is spelled on the wire; one that has no spelling there is told as `EINVAL`, as servers do.
#[must_use]
pub fn error_text(error: Errno) -> &'static str {
    ERRORS.iter().find(|(known, _)| *known == error).map_or("EINVAL", |&(_, text)| text)
}

/// The error that a wire text spells, with or without its final zero byte; an unknown one is `EIO`.
#[must_use]
pub fn error_from_text(text: &[u8]) -> Errno {
    let text = text.strip_suffix(b"\0").unwrap_or(text);
    ERRORS.iter().find(|(_, known)| known.as_bytes() == text).map_or(Errno::EIO, |&(error, _)| error)
}
