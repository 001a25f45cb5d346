//! The boot bundle's manifest.
