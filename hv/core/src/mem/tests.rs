//! Tests of nested tables, the physmap, the memory operations, and guest pointers.

mod access;
mod npt;
mod physmap;
