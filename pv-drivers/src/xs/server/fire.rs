//! Telling those who watch of changes.

use super::super::permissions::Permission;
use super::Server;
use super::view::Change;

impl Server {
    /// Tells the watchers of a change.
    pub(super) fn fire(&mut self, change: Option<Change>) {
        match change {
            None => {}
            Some(Change::Changed(path)) => {
                let permissions = self.tree.get(&path).map(|node| node.permissions.clone());
                self.fire_at(&path, &permissions.unwrap_or_default(), false);
            }
            Some(Change::Removed(nodes)) => {
                // The node itself is told to all who watch it or what is above; the nodes below it only to those
                // who watch just them, as the reference server does.
                for (number, (path, permissions)) in nodes.iter().enumerate() {
                    self.fire_at(path, permissions, number > 0);
                }
            }
        }
    }

    fn fire_at(&mut self, path: &str, permissions: &[Permission], exact: bool) {
        for connection in self.connections.values_mut() {
            if !connection.caller.may_read(permissions) {
                continue;
            }
            for watch in &connection.watches {
                if exact && watch.path != path {
                    continue;
                }
                if let Some(event) = watch.event(path) {
                    connection.queue.event(watch, event);
                }
            }
        }
    }

    pub(super) fn fire_special(&mut self, name: &str) {
        for connection in self.connections.values_mut() {
            for watch in connection.watches.iter().filter(|watch| watch.path == name) {
                connection.queue.event(watch, watch.whole());
            }
        }
    }
}
