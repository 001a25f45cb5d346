//! Memory: frames, nested page tables, domains' memory, and the guests' pointers.

pub mod frame;
