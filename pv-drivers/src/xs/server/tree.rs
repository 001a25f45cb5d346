//! The tree of nodes.
//!
//! Nodes are shared between the store and the snapshots of its transactions; a change copies the nodes on the way to
//! it that others still hold. Depth is bounded by [`path::DEPTH_MAX`](super::super::path::DEPTH_MAX), and so is
//! recursion.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use pv_abi::ids::DomainId;

use super::super::path;
use super::super::permissions::{Permission, Rights};

/// A node and all below it.
#[derive(Clone)]
pub(super) struct Node {
    pub value: Vec<u8>,
    /// Never empty: the first names the owner.
    pub permissions: Vec<Permission>,
    pub children: BTreeMap<String, Arc<Node>>,
    /// Changes with value and permissions; never the same for two versions of any node.
    pub version: u64,
    /// Changes with the set of children.
    pub children_version: u64,
}

impl Node {
    pub fn new(permissions: Vec<Permission>, version: u64) -> Self {
        Self { value: Vec::new(), permissions, children: BTreeMap::new(), version, children_version: version }
    }

    pub fn owner(&self) -> DomainId {
        self.permissions.first().map_or(DomainId::DOM0, |entry| entry.domain)
    }

    /// Calls `visit` for the node and all below it, with their paths.
    pub fn walk(&self, at: &str, visit: &mut dyn FnMut(&str, &Node)) {
        visit(at, self);
        for (name, child) in &self.children {
            child.walk(&alloc::format!("{}/{name}", at.strip_suffix('/').unwrap_or(at)), visit);
        }
    }

    /// Calls `change` for the node and all below it.
    pub fn change_all(node: &mut Arc<Node>, change: &mut dyn FnMut(&mut Node)) {
        let node = Arc::make_mut(node);
        change(node);
        for child in node.children.values_mut() {
            Self::change_all(child, change);
        }
    }
}

/// A version of the tree. Cloning is cheap.
#[derive(Clone)]
pub(super) struct Tree {
    pub root: Arc<Node>,
}

impl Tree {
    pub fn new() -> Self {
        let owner = Permission::new(DomainId::DOM0, Rights::NONE);
        Self { root: Arc::new(Node::new(alloc::vec![owner], 0)) }
    }

    pub fn get(&self, at: &str) -> Option<&Node> {
        path::names(at).try_fold(&*self.root, |node, name| node.children.get(name).map(|child| &**child))
    }

    pub fn get_mut(&mut self, at: &str) -> Option<&mut Node> {
        // Looking first keeps a failure from copying nodes.
        self.get(at)?;
        path::names(at).try_fold(Arc::make_mut(&mut self.root), |node, name| {
            node.children.get_mut(name).map(Arc::make_mut)
        })
    }

    /// The deepest node that exists on the way to `at`, itself included, with its path.
    pub fn nearest<'a>(&self, at: &'a str) -> (&'a str, &Node) {
        let mut look = at;
        loop {
            if let Some(node) = self.get(look) {
                return (look, node);
            }
            match path::parent(look) {
                Some(parent) => look = parent,
                None => return ("/", &self.root),
            }
        }
    }

    /// Puts a node in; its parent must exist.
    pub fn insert(&mut self, at: &str, node: Node) {
        let version = node.version;
        let (Some(parent), Some(name)) = (path::parent(at), path::names(at).last()) else { return };
        if let Some(parent) = self.get_mut(parent) {
            parent.children.insert(name.into(), Arc::new(node));
            parent.children_version = version;
        }
    }

    /// Takes a node out with all below it.
    pub fn remove(&mut self, at: &str, version: u64) -> Option<Arc<Node>> {
        let name = path::names(at).last()?;
        self.get(at)?;
        let parent = self.get_mut(path::parent(at)?)?;
        parent.children_version = version;
        parent.children.remove(name)
    }
}
