//! Numbers of the hypercalls that this ABI has (`__HYPERVISOR_*` of `xen/xen.h`), in RAX.

/// `memory_op`
pub const MEMORY_OP: u64 = 12;
/// `multicall`
pub const MULTICALL: u64 = 13;
/// `set_timer_op`
pub const SET_TIMER_OP: u64 = 15;
/// `xen_version`
pub const XEN_VERSION: u64 = 17;
/// `console_io`
pub const CONSOLE_IO: u64 = 18;
/// `grant_table_op`
pub const GRANT_TABLE_OP: u64 = 20;
/// `vcpu_op`
pub const VCPU_OP: u64 = 24;
/// `sched_op`
pub const SCHED_OP: u64 = 29;
/// `event_channel_op`
pub const EVENT_CHANNEL_OP: u64 = 32;
/// `physdev_op`
pub const PHYSDEV_OP: u64 = 33;
/// `hvm_op`
pub const HVM_OP: u64 = 34;
/// `arch_7`: our own control call
pub const CONTROL: u64 = 55;

/// Sub-operation of `console_io`: writes text (`CONSOLEIO_write`).
pub const CONSOLE_WRITE: u64 = 0;
/// Sub-operation of `console_io`: reads input (`CONSOLEIO_read`).
pub const CONSOLE_READ: u64 = 1;
