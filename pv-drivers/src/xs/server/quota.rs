//! What an unprivileged domain may use of the store.

/// What an unprivileged domain may use.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    /// Nodes that it owns.
    pub nodes: usize,
    /// Bytes in a value.
    pub node_size: usize,
    /// Bytes in the names and values of all nodes that it owns, and again in what its transactions remember.
    pub bytes: usize,
    /// Children of a node that it adds to.
    pub children: usize,
    /// Entries in a list of permissions; holds for everybody.
    pub permissions: usize,
    /// Watches.
    pub watches: usize,
    /// Transactions at a time.
    pub transactions: usize,
    /// Nodes looked at, and operations, in one transaction.
    pub transaction_size: usize,
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            nodes: 1000,
            node_size: 2048,
            bytes: 128 << 10,
            children: 1000,
            permissions: 16,
            watches: 128,
            transactions: 10,
            transaction_size: 1024,
        }
    }
}
