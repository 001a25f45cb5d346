//! Rings and protocols of the split drivers.
