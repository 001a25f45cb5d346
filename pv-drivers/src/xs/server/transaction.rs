//! Transactions: a snapshot, what was looked at in it, and what is to be done again on the store at the end.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::ids::DomainId;

use super::tree::Tree;
use super::view::{Account, Looked, Operation};

pub(super) struct Transaction {
    /// The store as it was at the start.
    base: Tree,
    /// The same with the transaction's own changes.
    pub tree: Tree,
    /// Nodes by owner in `tree`.
    pub nodes: BTreeMap<DomainId, Account>,
    pub looked: BTreeMap<String, Looked>,
    pub log: Vec<Operation>,
}

impl Transaction {
    pub fn new(tree: &Tree, nodes: &BTreeMap<DomainId, Account>) -> Self {
        Self {
            base: tree.clone(),
            tree: tree.clone(),
            nodes: nodes.clone(),
            looked: BTreeMap::new(),
            log: Vec::new(),
        }
    }

    /// How much memory what it remembers takes, about.
    pub fn bytes(&self) -> usize {
        let looked = self.looked.keys().map(String::len).sum::<usize>();
        looked + self.log.iter().map(Operation::bytes).sum::<usize>()
    }

    /// Refuses when somebody changed a node since the start that the transaction looked at.
    pub fn check(&self, now: &Tree) -> Result<(), Errno> {
        for (path, looked) in &self.looked {
            let same = match (self.base.get(path), now.get(path)) {
                (None, None) => true,
                (Some(then), Some(now)) => {
                    (!looked.at_value || then.version == now.version)
                        && (!looked.at_children || then.children_version == now.children_version)
                }
                _ => false,
            };
            if !same {
                return Err(Errno::EAGAIN);
            }
        }
        Ok(())
    }
}
