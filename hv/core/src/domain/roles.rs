//! What a domain is permitted.

use core::fmt;

bitflags::bitflags! {
    /// Permissions that a domain's configuration gives: there are no special kinds of domains, only roles.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Roles: u32 {
        /// May use the control calls, and has the machine's console.
        const CONTROL = 1;
        /// Owns PCI devices and binds their interrupts; its memory is mapped one to one.
        const DRIVER = 2;
        /// Serves the store to the other domains.
        const STORE = 4;
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        let names = [(Self::CONTROL, "control"), (Self::DRIVER, "driver"), (Self::STORE, "store")];
        let mut first = true;
        for (_, name) in names.into_iter().filter(|(role, _)| self.contains(*role)) {
            if !first {
                f.write_str(" ")?;
            }
            first = false;
            f.write_str(name)?;
        }
        Ok(())
    }
}
