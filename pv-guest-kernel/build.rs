//! Links every binary of this package with the kernel's linker script.
//!
//! The linker reads a copy in the target folder, which stays right when that folder is used from another checkout.

use std::path::Path;
use std::{env, fs};

fn main() {
    let folder = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    fs::copy("kernel.ld", Path::new(&folder).join("kernel.ld")).expect("kernel.ld can be copied");
    println!("cargo:rustc-link-arg-bins=-T{folder}/kernel.ld");
    println!("cargo:rustc-link-arg-bins=--build-id=none");
    println!("cargo:rustc-link-arg-bins=-znorelro");
    println!("cargo:rustc-link-arg-bins=-zmax-page-size=0x1000");
    println!("cargo:rerun-if-changed=kernel.ld");
    println!("cargo:rerun-if-changed=build.rs");
}
