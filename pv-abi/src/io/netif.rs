//! The network rings' messages and XenStore keys (`io/netif.h`).

use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Slots that a back end must accept for one packet (`XEN_NETIF_NR_SLOTS_MIN`).
pub const NR_SLOTS_MIN: usize = 18;
/// The largest packet from a front end (`XEN_NETIF_MAX_TX_SIZE`).
pub const MAX_TX_SIZE: usize = 0xffff;

/// The transport checksum is still to be filled in (`NETTXF_csum_blank`).
pub const TX_CSUM_BLANK: u16 = 1 << 0;
/// The sender vouches for the data (`NETTXF_data_validated`).
pub const TX_DATA_VALIDATED: u16 = 1 << 1;
/// The packet goes on in the next request (`NETTXF_more_data`).
pub const TX_MORE_DATA: u16 = 1 << 2;
/// An [`ExtraInfo`] follows in the next slot (`NETTXF_extra_info`).
pub const TX_EXTRA_INFO: u16 = 1 << 3;

/// The back end vouches for the data (`NETRXF_data_validated`).
pub const RX_DATA_VALIDATED: u16 = 1 << 0;
/// The transport checksum is not filled in (`NETRXF_csum_blank`).
pub const RX_CSUM_BLANK: u16 = 1 << 1;
/// The packet goes on in the next response (`NETRXF_more_data`).
pub const RX_MORE_DATA: u16 = 1 << 2;
/// An [`ExtraInfo`] follows in the next slot (`NETRXF_extra_info`).
pub const RX_EXTRA_INFO: u16 = 1 << 3;
/// Older form of segmentation offload (`NETRXF_gso_prefix`).
pub const RX_GSO_PREFIX: u16 = 1 << 4;

/// The packet was dropped (`NETIF_RSP_DROPPED`).
pub const RSP_DROPPED: i16 = -2;
/// The request was bad (`NETIF_RSP_ERROR`).
pub const RSP_ERROR: i16 = -1;
/// Done (`NETIF_RSP_OKAY`).
pub const RSP_OKAY: i16 = 0;
/// No response: the slot held an extra (`NETIF_RSP_NULL`).
pub const RSP_NULL: i16 = 1;

/// `XEN_NETIF_EXTRA_TYPE_NONE`
pub const EXTRA_TYPE_NONE: u8 = 0;
/// Segmentation offload (`XEN_NETIF_EXTRA_TYPE_GSO`).
pub const EXTRA_TYPE_GSO: u8 = 1;
/// Adds a multicast address (`XEN_NETIF_EXTRA_TYPE_MCAST_ADD`).
pub const EXTRA_TYPE_MCAST_ADD: u8 = 2;
/// Removes a multicast address (`XEN_NETIF_EXTRA_TYPE_MCAST_DEL`).
pub const EXTRA_TYPE_MCAST_DEL: u8 = 3;
/// A hash of the packet (`XEN_NETIF_EXTRA_TYPE_HASH`).
pub const EXTRA_TYPE_HASH: u8 = 4;
/// The first number that is no type (`XEN_NETIF_EXTRA_TYPE_MAX`).
pub const EXTRA_TYPE_MAX: u8 = 5;
/// Another extra follows (`XEN_NETIF_EXTRA_FLAG_MORE`).
pub const EXTRA_FLAG_MORE: u8 = 1 << 0;

/// `XEN_NETIF_GSO_TYPE_NONE`
pub const GSO_TYPE_NONE: u8 = 0;
/// TCP over IPv4 (`XEN_NETIF_GSO_TYPE_TCPV4`).
pub const GSO_TYPE_TCPV4: u8 = 1;
/// TCP over IPv6 (`XEN_NETIF_GSO_TYPE_TCPV6`).
pub const GSO_TYPE_TCPV6: u8 = 2;

/// A piece of a packet from the front end (`struct netif_tx_request`).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TxRequest {
    /// The page.
    pub gref: u32,
    /// Where in the page the piece starts.
    pub offset: u16,
    /// `TX_*`.
    pub flags: u16,
    /// Chosen by the front end, echoed in the response.
    pub id: u16,
    /// In the first request the size of the whole packet, in the others of the piece.
    pub size: u16,
}

/// The answer to a [`TxRequest`] (`struct netif_tx_response`).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TxResponse {
    /// The request's id.
    pub id: u16,
    /// One of `RSP_*`.
    pub status: i16,
}

/// A page for a piece of a packet to the front end (`struct netif_rx_request`).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RxRequest {
    /// Chosen by the front end, echoed in the response.
    pub id: u16,
    /// Padding.
    pub pad: u16,
    /// The page.
    pub gref: u32,
}

/// A piece of a packet to the front end (`struct netif_rx_response`).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RxResponse {
    /// The request's id.
    pub id: u16,
    /// Where in the page the piece starts.
    pub offset: u16,
    /// `RX_*`.
    pub flags: u16,
    /// The size of the piece, or one of `RSP_*` if negative.
    pub status: i16,
}

/// What more there is to say about a packet (`struct netif_extra_info`); `data` depends on the kind.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(2))]
pub struct ExtraInfo {
    /// One of `EXTRA_TYPE_*` (`type`).
    pub kind: u8,
    /// [`EXTRA_FLAG_MORE`] or zero.
    pub flags: u8,
    /// The union `u`.
    pub data: [u8; 6],
}

impl ExtraInfo {
    /// A segmentation request: `size` bytes of payload in a segment (`u.gso`).
    #[must_use]
    pub const fn gso(kind: u8, size: u16) -> Self {
        let [low, high] = size.to_le_bytes();
        Self { kind: EXTRA_TYPE_GSO, flags: 0, data: [low, high, kind, 0, 0, 0] }
    }

    /// `u.gso.size`: payload in a segment.
    #[must_use]
    pub const fn gso_size(&self) -> u16 {
        u16::from_le_bytes([self.data[0], self.data[1]])
    }

    /// `u.gso.type`: one of `GSO_TYPE_*`.
    #[must_use]
    pub const fn gso_kind(&self) -> u8 {
        self.data[2]
    }
}

/// A request on the control ring (`struct xen_netif_ctrl_request`).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CtrlRequest {
    /// Chosen by the front end, echoed in the response.
    pub id: u16,
    /// One of `CTRL_TYPE_*` (`type`).
    pub kind: u16,
    /// What the type says.
    pub data: [u32; 3],
}

/// A response on the control ring (`struct xen_netif_ctrl_response`).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CtrlResponse {
    /// The request's id.
    pub id: u16,
    /// The request's type (`type`).
    pub kind: u16,
    /// One of `CTRL_STATUS_*`.
    pub status: u32,
    /// What the type says.
    pub data: u32,
}

/// An entry in a list of grants to keep mapped (`struct xen_netif_gref`).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CtrlGref {
    /// The page (`ref`).
    pub gref: u32,
    /// [`CTRLF_GREF_READONLY`] or zero.
    pub flags: u16,
    /// One of `CTRL_STATUS_*`.
    pub status: u16,
}

/// `XEN_NETIF_CTRL_TYPE_GET_HASH_FLAGS`
pub const CTRL_TYPE_GET_HASH_FLAGS: u16 = 1;
/// `XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS`
pub const CTRL_TYPE_SET_HASH_FLAGS: u16 = 2;
/// `XEN_NETIF_CTRL_TYPE_SET_HASH_KEY`
pub const CTRL_TYPE_SET_HASH_KEY: u16 = 3;
/// `XEN_NETIF_CTRL_TYPE_GET_HASH_MAPPING_SIZE`
pub const CTRL_TYPE_GET_HASH_MAPPING_SIZE: u16 = 4;
/// `XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE`
pub const CTRL_TYPE_SET_HASH_MAPPING_SIZE: u16 = 5;
/// `XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING`
pub const CTRL_TYPE_SET_HASH_MAPPING: u16 = 6;
/// `XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM`
pub const CTRL_TYPE_SET_HASH_ALGORITHM: u16 = 7;
/// `XEN_NETIF_CTRL_TYPE_GET_GREF_MAPPING_SIZE`
pub const CTRL_TYPE_GET_GREF_MAPPING_SIZE: u16 = 8;
/// `XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING`
pub const CTRL_TYPE_ADD_GREF_MAPPING: u16 = 9;
/// `XEN_NETIF_CTRL_TYPE_DEL_GREF_MAPPING`
pub const CTRL_TYPE_DEL_GREF_MAPPING: u16 = 10;
/// `XEN_NETIF_CTRL_STATUS_SUCCESS`
pub const CTRL_STATUS_SUCCESS: u32 = 0;
/// `XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED`
pub const CTRL_STATUS_NOT_SUPPORTED: u32 = 1;
/// `XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER`
pub const CTRL_STATUS_INVALID_PARAMETER: u32 = 2;
/// `XEN_NETIF_CTRL_STATUS_BUFFER_OVERFLOW`
pub const CTRL_STATUS_BUFFER_OVERFLOW: u32 = 3;
/// `XEN_NETIF_CTRL_HASH_ALGORITHM_NONE`: the back end spreads packets as it likes.
pub const CTRL_HASH_ALGORITHM_NONE: u32 = 0;
/// `XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ`
pub const CTRL_HASH_ALGORITHM_TOEPLITZ: u32 = 1;
/// `XEN_NETIF_CTRL_HASH_TYPE_IPV4`: by both addresses.
pub const CTRL_HASH_TYPE_IPV4: u32 = 1 << 0;
/// `XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP`: by both addresses and ports.
pub const CTRL_HASH_TYPE_IPV4_TCP: u32 = 1 << 1;
/// `XEN_NETIF_CTRL_HASH_TYPE_IPV6`: by both addresses.
pub const CTRL_HASH_TYPE_IPV6: u32 = 1 << 2;
/// `XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP`: by both addresses and ports.
pub const CTRL_HASH_TYPE_IPV6_TCP: u32 = 1 << 3;
/// `XEN_NETIF_CTRLF_GREF_readonly`
pub const CTRLF_GREF_READONLY: u16 = 1 << 0;

/// The size of a slot of the transmit ring.
pub const TX_SLOT_SIZE: usize = size_of::<TxRequest>();
/// The size of a slot of the receive ring.
pub const RX_SLOT_SIZE: usize = size_of::<RxResponse>();
/// The size of a slot of the control ring.
pub const CTRL_SLOT_SIZE: usize = size_of::<CtrlRequest>();

const_assert_eq!(size_of::<TxRequest>(), 12);
const_assert_eq!(size_of::<TxResponse>(), 4);
const_assert_eq!(size_of::<RxRequest>(), 8);
const_assert_eq!(size_of::<RxResponse>(), 8);
const_assert_eq!(size_of::<ExtraInfo>(), 8);
const_assert_eq!(size_of::<CtrlRequest>(), 16);
const_assert_eq!(size_of::<CtrlResponse>(), 12);
const_assert_eq!(size_of::<CtrlGref>(), 8);

/// XenStore keys that the two ends write (comments of `io/netif.h`).
pub mod key {
    /// Front end: grant of the transmit ring.
    pub const TX_RING_REF: &str = "tx-ring-ref";
    /// Front end: grant of the receive ring.
    pub const RX_RING_REF: &str = "rx-ring-ref";
    /// Front end: the port of both rings.
    pub const EVENT_CHANNEL: &str = "event-channel";
    /// Front end: the port of the transmit ring.
    pub const EVENT_CHANNEL_TX: &str = "event-channel-tx";
    /// Front end: the port of the receive ring.
    pub const EVENT_CHANNEL_RX: &str = "event-channel-rx";
    /// Back end: the two rings may have ports of their own.
    pub const FEATURE_SPLIT_EVENT_CHANNELS: &str = "feature-split-event-channels";
    /// Back end: the most queues.
    pub const MULTI_QUEUE_MAX_QUEUES: &str = "multi-queue-max-queues";
    /// Front end: how many queues there are.
    pub const MULTI_QUEUE_NUM_QUEUES: &str = "multi-queue-num-queues";
    /// Front end: the back end copies into the receive pages.
    pub const REQUEST_RX_COPY: &str = "request-rx-copy";
    /// Back end: it copies into the receive pages.
    pub const FEATURE_RX_COPY: &str = "feature-rx-copy";
    /// Front end: it sends an event for new receive requests.
    pub const FEATURE_RX_NOTIFY: &str = "feature-rx-notify";
    /// Both: packets may lie in several pieces.
    pub const FEATURE_SG: &str = "feature-sg";
    /// Both: large TCP packets over IPv4.
    pub const FEATURE_GSO_TCPV4: &str = "feature-gso-tcpv4";
    /// Both: large TCP packets over IPv6.
    pub const FEATURE_GSO_TCPV6: &str = "feature-gso-tcpv6";
    /// Both: no checksum offload for IPv4.
    pub const FEATURE_NO_CSUM_OFFLOAD: &str = "feature-no-csum-offload";
    /// Both: checksum offload for IPv6.
    pub const FEATURE_IPV6_CSUM_OFFLOAD: &str = "feature-ipv6-csum-offload";
    /// Back end: multicast filtering.
    pub const FEATURE_MULTICAST_CONTROL: &str = "feature-multicast-control";
    /// Front end: asks for multicast filtering.
    pub const REQUEST_MULTICAST_CONTROL: &str = "request-multicast-control";
    /// Back end: a control ring is understood.
    pub const FEATURE_CTRL_RING: &str = "feature-ctrl-ring";
    /// Front end: grant of the control ring.
    pub const CTRL_RING_REF: &str = "ctrl-ring-ref";
    /// Front end: the port of the control ring.
    pub const EVENT_CHANNEL_CTRL: &str = "event-channel-ctrl";
    /// Back end: link state, `0` or `1`.
    pub const CARRIER: &str = "carrier";
    /// Front end's directory, written by the toolstack: largest packet payload.
    pub const MTU: &str = "mtu";
    /// Both: the interface's address.
    pub const MAC: &str = "mac";
    /// Toolstack: the interface's number.
    pub const HANDLE: &str = "handle";
    /// Toolstack: rate limit, `bytes,microseconds`.
    pub const RATE: &str = "rate";
}
