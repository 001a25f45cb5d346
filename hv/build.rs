//! Links the image with its own linker script: it is entered in 32-bit mode at a low address and runs at a high one.
//!
//! The linker reads a copy in the target folder, which stays right when that folder is used from another checkout.

use std::path::Path;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=link.ld");
    println!("cargo:rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let folder = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
        fs::copy("link.ld", Path::new(&folder).join("link.ld")).expect("link.ld can be copied");
        println!("cargo:rustc-link-arg-bins=-T{folder}/link.ld");
        println!("cargo:rustc-link-arg-bins=-zmax-page-size=4096");
        println!("cargo:rustc-link-arg-bins=--no-pie");
    }
}
