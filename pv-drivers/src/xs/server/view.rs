//! The operations on a tree, for the store itself and inside transactions alike.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use pv_abi::errno::Errno;
use pv_abi::ids::DomainId;

use super::super::path;
use super::super::permissions::{Permission, rights_of};
use super::Quota;
use super::tree::{Node, Tree};

/// Who asks.
#[derive(Clone, Copy)]
pub(super) struct Caller {
    pub domain: DomainId,
    /// Permissions and quotas do not apply.
    pub is_privileged: bool,
}

impl Caller {
    pub fn may_read(self, permissions: &[Permission]) -> bool {
        self.is_privileged || rights_of(permissions, self.domain).read
    }

    fn may_write(self, node: &Node) -> bool {
        self.is_privileged || rights_of(&node.permissions, self.domain).write
    }
}

/// A change that watchers may want to hear of.
pub(super) enum Change {
    /// The node was made or changed.
    Changed(String),
    /// The node was removed; these were it and all below it, with their permissions.
    Removed(Vec<(String, Vec<Permission>)>),
}

/// What an operation changes.
#[derive(Clone)]
pub(super) enum Operation {
    Write { path: String, value: Vec<u8> },
    Make { path: String },
    Remove { path: String },
    SetPermissions { path: String, permissions: Vec<Permission> },
}

impl Operation {
    /// How much memory it takes, about.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Write { path, value } => path.len() + value.len(),
            Self::Make { path } | Self::Remove { path } => path.len(),
            Self::SetPermissions { path, permissions } => path.len() + size_of_val(&**permissions),
        }
    }
}

/// What a domain has in a tree.
#[derive(Clone, Copy, Default)]
pub(super) struct Account {
    /// Nodes that it owns.
    pub nodes: usize,
    /// Bytes in their names and values.
    pub bytes: usize,
}

impl Account {
    /// It gets what is in another.
    pub fn add(&mut self, other: Self) {
        self.nodes += other.nodes;
        self.bytes += other.bytes;
    }

    /// It has this no longer.
    fn take(&mut self, other: Self) {
        self.nodes = self.nodes.saturating_sub(other.nodes);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }
}

/// What the node at `path` counts for, without those below it.
fn size(path: &str, node: &Node) -> Account {
    let name = path::names(path).last().map_or(0, str::len);
    Account { nodes: 1, bytes: name + node.value.len() }
}

/// Which sides of a node a transaction has looked at.
#[derive(Clone, Copy, Default)]
pub(super) struct Looked {
    pub at_value: bool,
    pub at_children: bool,
}

/// A tree with the accounts that go with it.
pub(super) struct View<'a> {
    pub tree: &'a mut Tree,
    /// Nodes by owner.
    pub nodes: &'a mut BTreeMap<DomainId, Account>,
    pub next_version: &'a mut u64,
    pub quota: &'a Quota,
    /// What was looked at, if anybody wants to know.
    pub looked: Option<&'a mut BTreeMap<String, Looked>>,
}

impl View<'_> {
    fn version(&mut self) -> u64 {
        *self.next_version += 1;
        *self.next_version
    }

    fn look(&mut self, at: &str, looked: Looked) {
        if let Some(set) = &mut self.looked {
            let entry = set.entry(at.into()).or_default();
            entry.at_value |= looked.at_value;
            entry.at_children |= looked.at_children;
        }
    }

    fn look_at_value(&mut self, at: &str) {
        self.look(at, Looked { at_value: true, at_children: false });
    }

    /// Finds a node that the caller may read.
    pub fn readable(&mut self, caller: Caller, at: &str, children: bool) -> Result<&Node, Errno> {
        self.look(at, Looked { at_value: true, at_children: children });
        let (found, node) = self.tree.nearest(at);
        // Whether a node is missing is told only to those who may read where it would be.
        match (caller.may_read(&node.permissions), found == at) {
            (true, true) => Ok(node),
            (true, false) => Err(Errno::ENOENT),
            (false, _) => Err(Errno::EACCES),
        }
    }

    /// Does an operation.
    pub fn apply(&mut self, caller: Caller, operation: &Operation) -> Result<Option<Change>, Errno> {
        match operation {
            Operation::Write { path, value } => self.write(caller, path, value),
            Operation::Make { path } => self.make(caller, path),
            Operation::Remove { path } => self.remove(caller, path),
            Operation::SetPermissions { path, permissions } => {
                self.set_permissions(caller, path, permissions)
            }
        }
    }

    fn write(&mut self, caller: Caller, at: &str, value: &[u8]) -> Result<Option<Change>, Errno> {
        if !caller.is_privileged && value.len() > self.quota.node_size {
            return Err(Errno::ENOSPC);
        }
        self.look_at_value(at);
        if let Some(node) = self.tree.get(at) {
            let (owner, old) = (node.owner(), node.value.len());
            if !caller.may_write(node) {
                return Err(Errno::EACCES);
            }
            self.check_bytes(caller, owner, value.len().saturating_sub(old))?;
        } else {
            self.create(caller, at, value.len())?;
        }
        let version = self.version();
        let node = self.tree.get_mut(at).ok_or(Errno::EIO)?;
        let old = core::mem::replace(&mut node.value, value.to_vec());
        node.version = version;
        let account = self.nodes.entry(node.owner()).or_default();
        account.bytes = (account.bytes + value.len()).saturating_sub(old.len());
        Ok(Some(Change::Changed(at.into())))
    }

    fn make(&mut self, caller: Caller, at: &str) -> Result<Option<Change>, Errno> {
        self.look_at_value(at);
        if let Some(node) = self.tree.get(at) {
            return if caller.may_write(node) { Ok(None) } else { Err(Errno::EACCES) };
        }
        self.create(caller, at, 0)?;
        Ok(Some(Change::Changed(at.into())))
    }

    /// Refuses what would make a guest's own nodes too large together.
    fn check_bytes(&self, caller: Caller, owner: DomainId, more: usize) -> Result<(), Errno> {
        let has = self.nodes.get(&owner).map_or(0, |account| account.bytes);
        let is_own = !caller.is_privileged && owner == caller.domain;
        if is_own && more > 0 && has + more > self.quota.bytes { Err(Errno::ENOSPC) } else { Ok(()) }
    }

    /// Makes a missing node, which will get a value of so many bytes, and its missing parents.
    fn create(&mut self, caller: Caller, at: &str, value: usize) -> Result<(), Errno> {
        let (found, nearest) = self.tree.nearest(at);
        if !caller.may_write(nearest) {
            return Err(Errno::EACCES);
        }
        // Children take after their parent, but unprivileged domains own what they make.
        let mut permissions = nearest.permissions.clone();
        if !caller.is_privileged
            && let Some(owner) = permissions.first_mut()
        {
            owner.domain = caller.domain;
        }
        let owner = permissions.first().map_or(DomainId::DOM0, |entry| entry.domain);
        let above = path::names(found).count();
        let missing = path::names(at).count() - above;
        let owned = self.nodes.get(&owner).map_or(0, |account| account.nodes);
        if !caller.is_privileged
            && (owned + missing > self.quota.nodes || nearest.children.len() >= self.quota.children)
        {
            return Err(Errno::ENOSPC);
        }
        self.check_bytes(caller, owner, at.len() - found.len() + value)?;
        self.look_at_value(found);
        let mut full = String::from(found.strip_suffix('/').unwrap_or(found));
        for name in path::names(at).skip(above) {
            full.push('/');
            full.push_str(name);
            self.look_at_value(&full);
            let version = self.version();
            let node = Node::new(permissions.clone(), version);
            self.nodes.entry(owner).or_default().add(size(&full, &node));
            self.tree.insert(&full, node);
        }
        Ok(())
    }

    fn remove(&mut self, caller: Caller, at: &str) -> Result<Option<Change>, Errno> {
        let parent = path::parent(at).ok_or(Errno::EINVAL)?;
        self.look_at_value(at);
        let Some(node) = self.tree.get(at) else {
            self.look_at_value(parent);
            let (found, nearest) = self.tree.nearest(at);
            return match (caller.may_read(&nearest.permissions), found == parent) {
                (true, true) => Ok(None),
                (true, false) => Err(Errno::ENOENT),
                (false, _) => Err(Errno::EACCES),
            };
        };
        if !caller.may_write(node) {
            return Err(Errno::EACCES);
        }
        let mut removed = Vec::new();
        node.walk(at, &mut |path, node| {
            removed.push((String::from(path), node.permissions.clone()));
            if let Some(account) = self.nodes.get_mut(&node.owner()) {
                account.take(size(path, node));
            }
        });
        for (path, _) in &removed {
            self.look(path, Looked { at_value: true, at_children: true });
        }
        let version = self.version();
        self.tree.remove(at, version);
        Ok(Some(Change::Removed(removed)))
    }

    fn set_permissions(
        &mut self,
        caller: Caller,
        at: &str,
        permissions: &[Permission],
    ) -> Result<Option<Change>, Errno> {
        let owner = permissions.first().ok_or(Errno::EINVAL)?.domain;
        if permissions.len() > self.quota.permissions {
            return Err(Errno::ENOSPC);
        }
        let (old, moved) = {
            let node = self.readable(caller, at, false)?;
            if !caller.is_privileged && node.owner() != caller.domain {
                return Err(Errno::EACCES);
            }
            (node.owner(), size(at, node))
        };
        if !caller.is_privileged && owner != old {
            return Err(Errno::EPERM);
        }
        let version = self.version();
        let node = self.tree.get_mut(at).ok_or(Errno::EIO)?;
        node.permissions = permissions.to_vec();
        node.version = version;
        if owner != old {
            if let Some(account) = self.nodes.get_mut(&old) {
                account.take(moved);
            }
            self.nodes.entry(owner).or_default().add(moved);
        }
        Ok(Some(Change::Changed(at.into())))
    }
}
