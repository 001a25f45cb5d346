//! The I/O protocols.

use crate::entry::{Const, Struct};
use crate::{consts, structs};
use pv_abi::io::xenbus::XenbusState;

/// Structures.
#[rustfmt::skip]
pub fn structures() -> Vec<Struct> {
    structs! {
        io::blkif::Segment = "struct blkif_request_segment" { gref, first_sect, last_sect }
        io::blkif::Request = "struct blkif_request" { operation, nr_segments, handle, id, sector_number, seg }
        io::blkif::DiscardRequest = "struct blkif_request_discard" { operation, flag, handle, id, sector_number, nr_sectors }
        io::blkif::IndirectRequest = "struct blkif_request_indirect" { operation, indirect_op, nr_segments, id, sector_number, handle, indirect_grefs }
        io::blkif::Response = "struct blkif_response" { id, operation, status }
        io::netif::TxRequest = "struct netif_tx_request" { gref, offset, flags, id, size }
        io::netif::TxResponse = "struct netif_tx_response" { id, status }
        io::netif::RxRequest = "struct netif_rx_request" { id, pad, gref }
        io::netif::RxResponse = "struct netif_rx_response" { id, offset, flags, status }
        io::netif::ExtraInfo = "struct netif_extra_info" { kind as "type", flags, data as "u" }
        io::netif::CtrlRequest = "struct xen_netif_ctrl_request" { id, kind as "type", data }
        io::netif::CtrlResponse = "struct xen_netif_ctrl_response" { id, kind as "type", status, data }
        io::netif::CtrlGref = "struct xen_netif_gref" { gref as "ref", flags, status }
        io::xs_wire::Header = "struct xsd_sockmsg" { kind as "type", req_id, tx_id, len }
    }
}

/// Constants.
#[rustfmt::skip]
pub fn constants() -> Vec<Const> {
    let mut all = consts! {
        io::blkif::OP_READ = "BLKIF_OP_READ"
        io::blkif::OP_WRITE = "BLKIF_OP_WRITE"
        io::blkif::OP_WRITE_BARRIER = "BLKIF_OP_WRITE_BARRIER"
        io::blkif::OP_FLUSH_DISKCACHE = "BLKIF_OP_FLUSH_DISKCACHE"
        io::blkif::OP_RESERVED_1 = "BLKIF_OP_RESERVED_1"
        io::blkif::OP_DISCARD = "BLKIF_OP_DISCARD"
        io::blkif::OP_INDIRECT = "BLKIF_OP_INDIRECT"
        io::blkif::RSP_OKAY = "BLKIF_RSP_OKAY"
        io::blkif::RSP_ERROR = "BLKIF_RSP_ERROR"
        io::blkif::RSP_EOPNOTSUPP = "BLKIF_RSP_EOPNOTSUPP"
        io::blkif::MAX_SEGMENTS_PER_REQUEST = "BLKIF_MAX_SEGMENTS_PER_REQUEST"
        io::blkif::MAX_INDIRECT_PAGES_PER_REQUEST = "BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST"
        io::blkif::SEGMENTS_PER_INDIRECT_PAGE = "4096 / sizeof(struct blkif_request_segment)"
        io::blkif::DISCARD_SECURE = "BLKIF_DISCARD_SECURE"
        io::blkif::VDISK_CDROM = "VDISK_CDROM"
        io::blkif::VDISK_REMOVABLE = "VDISK_REMOVABLE"
        io::blkif::VDISK_READONLY = "VDISK_READONLY"
        io::blkif::SLOT_SIZE = "sizeof(union probe_sring_entry)"
        io::console::IN_SIZE = "sizeof(((struct xencons_interface *)0)->in)"
        io::console::OUT_SIZE = "sizeof(((struct xencons_interface *)0)->out)"
        io::console::IN = "offsetof(struct xencons_interface, in)"
        io::console::OUT = "offsetof(struct xencons_interface, out)"
        io::console::IN_CONS = "offsetof(struct xencons_interface, in_cons)"
        io::console::IN_PROD = "offsetof(struct xencons_interface, in_prod)"
        io::console::OUT_CONS = "offsetof(struct xencons_interface, out_cons)"
        io::console::OUT_PROD = "offsetof(struct xencons_interface, out_prod)"
        io::console::INTERFACE_SIZE = "offsetof(struct xencons_interface, out_prod) + 4"
        io::netif::NR_SLOTS_MIN = "XEN_NETIF_NR_SLOTS_MIN"
        io::netif::MAX_TX_SIZE = "XEN_NETIF_MAX_TX_SIZE"
        io::netif::TX_CSUM_BLANK = "NETTXF_csum_blank"
        io::netif::TX_DATA_VALIDATED = "NETTXF_data_validated"
        io::netif::TX_MORE_DATA = "NETTXF_more_data"
        io::netif::TX_EXTRA_INFO = "NETTXF_extra_info"
        io::netif::RX_DATA_VALIDATED = "NETRXF_data_validated"
        io::netif::RX_CSUM_BLANK = "NETRXF_csum_blank"
        io::netif::RX_MORE_DATA = "NETRXF_more_data"
        io::netif::RX_EXTRA_INFO = "NETRXF_extra_info"
        io::netif::RX_GSO_PREFIX = "NETRXF_gso_prefix"
        io::netif::RSP_DROPPED = "NETIF_RSP_DROPPED"
        io::netif::RSP_ERROR = "NETIF_RSP_ERROR"
        io::netif::RSP_OKAY = "NETIF_RSP_OKAY"
        io::netif::RSP_NULL = "NETIF_RSP_NULL"
        io::netif::EXTRA_TYPE_NONE = "XEN_NETIF_EXTRA_TYPE_NONE"
        io::netif::EXTRA_TYPE_GSO = "XEN_NETIF_EXTRA_TYPE_GSO"
        io::netif::EXTRA_TYPE_MCAST_ADD = "XEN_NETIF_EXTRA_TYPE_MCAST_ADD"
        io::netif::EXTRA_TYPE_MCAST_DEL = "XEN_NETIF_EXTRA_TYPE_MCAST_DEL"
        io::netif::EXTRA_TYPE_HASH = "XEN_NETIF_EXTRA_TYPE_HASH"
        io::netif::EXTRA_TYPE_MAX = "XEN_NETIF_EXTRA_TYPE_MAX"
        io::netif::EXTRA_FLAG_MORE = "XEN_NETIF_EXTRA_FLAG_MORE"
        io::netif::GSO_TYPE_NONE = "XEN_NETIF_GSO_TYPE_NONE"
        io::netif::GSO_TYPE_TCPV4 = "XEN_NETIF_GSO_TYPE_TCPV4"
        io::netif::GSO_TYPE_TCPV6 = "XEN_NETIF_GSO_TYPE_TCPV6"
        io::netif::CTRL_TYPE_GET_HASH_FLAGS = "XEN_NETIF_CTRL_TYPE_GET_HASH_FLAGS"
        io::netif::CTRL_TYPE_SET_HASH_FLAGS = "XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS"
        io::netif::CTRL_TYPE_SET_HASH_KEY = "XEN_NETIF_CTRL_TYPE_SET_HASH_KEY"
        io::netif::CTRL_TYPE_GET_HASH_MAPPING_SIZE = "XEN_NETIF_CTRL_TYPE_GET_HASH_MAPPING_SIZE"
        io::netif::CTRL_TYPE_SET_HASH_MAPPING_SIZE = "XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE"
        io::netif::CTRL_TYPE_SET_HASH_MAPPING = "XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING"
        io::netif::CTRL_TYPE_SET_HASH_ALGORITHM = "XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM"
        io::netif::CTRL_TYPE_GET_GREF_MAPPING_SIZE = "XEN_NETIF_CTRL_TYPE_GET_GREF_MAPPING_SIZE"
        io::netif::CTRL_TYPE_ADD_GREF_MAPPING = "XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING"
        io::netif::CTRL_TYPE_DEL_GREF_MAPPING = "XEN_NETIF_CTRL_TYPE_DEL_GREF_MAPPING"
        io::netif::CTRL_STATUS_SUCCESS = "XEN_NETIF_CTRL_STATUS_SUCCESS"
        io::netif::CTRL_STATUS_NOT_SUPPORTED = "XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED"
        io::netif::CTRL_STATUS_INVALID_PARAMETER = "XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER"
        io::netif::CTRL_STATUS_BUFFER_OVERFLOW = "XEN_NETIF_CTRL_STATUS_BUFFER_OVERFLOW"
        io::netif::CTRL_HASH_ALGORITHM_NONE = "XEN_NETIF_CTRL_HASH_ALGORITHM_NONE"
        io::netif::CTRL_HASH_ALGORITHM_TOEPLITZ = "XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ"
        io::netif::CTRL_HASH_TYPE_IPV4 = "XEN_NETIF_CTRL_HASH_TYPE_IPV4"
        io::netif::CTRL_HASH_TYPE_IPV4_TCP = "XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP"
        io::netif::CTRL_HASH_TYPE_IPV6 = "XEN_NETIF_CTRL_HASH_TYPE_IPV6"
        io::netif::CTRL_HASH_TYPE_IPV6_TCP = "XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP"
        io::netif::CTRLF_GREF_READONLY = "XEN_NETIF_CTRLF_GREF_readonly"
        io::netif::TX_SLOT_SIZE = "sizeof(union netif_tx_sring_entry)"
        io::netif::RX_SLOT_SIZE = "sizeof(union netif_rx_sring_entry)"
        io::netif::CTRL_SLOT_SIZE = "sizeof(union xen_netif_ctrl_sring_entry)"
        io::ring::REQ_PROD = "offsetof(probe_sring_t, req_prod)"
        io::ring::REQ_EVENT = "offsetof(probe_sring_t, req_event)"
        io::ring::RSP_PROD = "offsetof(probe_sring_t, rsp_prod)"
        io::ring::RSP_EVENT = "offsetof(probe_sring_t, rsp_event)"
        io::ring::FIRST_SLOT = "offsetof(probe_sring_t, ring)"
        io::xs_wire::kind::CONTROL = "XS_CONTROL"
        io::xs_wire::kind::DIRECTORY = "XS_DIRECTORY"
        io::xs_wire::kind::READ = "XS_READ"
        io::xs_wire::kind::GET_PERMS = "XS_GET_PERMS"
        io::xs_wire::kind::WATCH = "XS_WATCH"
        io::xs_wire::kind::UNWATCH = "XS_UNWATCH"
        io::xs_wire::kind::TRANSACTION_START = "XS_TRANSACTION_START"
        io::xs_wire::kind::TRANSACTION_END = "XS_TRANSACTION_END"
        io::xs_wire::kind::INTRODUCE = "XS_INTRODUCE"
        io::xs_wire::kind::RELEASE = "XS_RELEASE"
        io::xs_wire::kind::GET_DOMAIN_PATH = "XS_GET_DOMAIN_PATH"
        io::xs_wire::kind::WRITE = "XS_WRITE"
        io::xs_wire::kind::MKDIR = "XS_MKDIR"
        io::xs_wire::kind::RM = "XS_RM"
        io::xs_wire::kind::SET_PERMS = "XS_SET_PERMS"
        io::xs_wire::kind::WATCH_EVENT = "XS_WATCH_EVENT"
        io::xs_wire::kind::ERROR = "XS_ERROR"
        io::xs_wire::kind::IS_DOMAIN_INTRODUCED = "XS_IS_DOMAIN_INTRODUCED"
        io::xs_wire::kind::RESUME = "XS_RESUME"
        io::xs_wire::kind::SET_TARGET = "XS_SET_TARGET"
        io::xs_wire::kind::RESET_WATCHES = "XS_RESET_WATCHES"
        io::xs_wire::kind::DIRECTORY_PART = "XS_DIRECTORY_PART"
        io::xs_wire::kind::INVALID = "XS_INVALID"
        io::xs_wire::RING_SIZE = "XENSTORE_RING_SIZE"
        io::xs_wire::REQ = "offsetof(struct xenstore_domain_interface, req)"
        io::xs_wire::RSP = "offsetof(struct xenstore_domain_interface, rsp)"
        io::xs_wire::REQ_CONS = "offsetof(struct xenstore_domain_interface, req_cons)"
        io::xs_wire::REQ_PROD = "offsetof(struct xenstore_domain_interface, req_prod)"
        io::xs_wire::RSP_CONS = "offsetof(struct xenstore_domain_interface, rsp_cons)"
        io::xs_wire::RSP_PROD = "offsetof(struct xenstore_domain_interface, rsp_prod)"
        io::xs_wire::SERVER_FEATURES = "offsetof(struct xenstore_domain_interface, server_features)"
        io::xs_wire::CONNECTION = "offsetof(struct xenstore_domain_interface, connection)"
        io::xs_wire::ERROR = "offsetof(struct xenstore_domain_interface, error)"
        io::xs_wire::INTERFACE_SIZE = "offsetof(struct xenstore_domain_interface, error) + 4"
        io::xs_wire::PAYLOAD_MAX = "XENSTORE_PAYLOAD_MAX"
        io::xs_wire::ABS_PATH_MAX = "XENSTORE_ABS_PATH_MAX"
        io::xs_wire::REL_PATH_MAX = "XENSTORE_REL_PATH_MAX"
        io::xs_wire::SERVER_FEATURE_RECONNECTION = "XENSTORE_SERVER_FEATURE_RECONNECTION"
        io::xs_wire::SERVER_FEATURE_ERROR = "XENSTORE_SERVER_FEATURE_ERROR"
        io::xs_wire::CONNECTED = "XENSTORE_CONNECTED"
        io::xs_wire::RECONNECT = "XENSTORE_RECONNECT"
        io::xs_wire::ERROR_NONE = "XENSTORE_ERROR_NONE"
        io::xs_wire::ERROR_COMM = "XENSTORE_ERROR_COMM"
        io::xs_wire::ERROR_RINGIDX = "XENSTORE_ERROR_RINGIDX"
        io::xs_wire::ERROR_PROTO = "XENSTORE_ERROR_PROTO"
    };
    all.extend(states());
    all
}

/// The XenBus states, in the order of the header's enumeration.
fn states() -> impl Iterator<Item = Const> {
    const NAMES: [&str; 9] = [
        "XenbusStateUnknown",
        "XenbusStateInitialising",
        "XenbusStateInitWait",
        "XenbusStateInitialised",
        "XenbusStateConnected",
        "XenbusStateClosing",
        "XenbusStateClosed",
        "XenbusStateReconfiguring",
        "XenbusStateReconfigured",
    ];
    XenbusState::ALL.into_iter().zip(NAMES).map(|(state, c)| Const {
        path: format!("io::xenbus::XenbusState::{state:?}"),
        c,
        value: u64::from(state.raw()),
    })
}
