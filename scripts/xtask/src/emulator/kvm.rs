//! Whether this machine's own virtualization can be nested.

use crate::cli::Cpu;
use std::fs::{OpenOptions, read_to_string};

/// Tells whether KVM offers a guest the virtualization `cpu` (or any), or why not.
pub fn nested(cpu: Option<Cpu>) -> Result<(), String> {
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        return Err(format!("/dev/kvm cannot be opened ({error})"));
    }
    let info =
        read_to_string("/proc/cpuinfo").map_err(|error| format!("/proc/cpuinfo cannot be read ({error})"))?;
    let has = |flag: &str| {
        info.lines().any(|line| line.starts_with("flags") && line.split_whitespace().any(|word| word == flag))
    };
    let (own, flag, module) = if has("vmx") {
        (Cpu::Vmx, "vmx", "kvm_intel")
    } else if has("svm") {
        (Cpu::Svm, "svm", "kvm_amd")
    } else {
        return Err("/proc/cpuinfo lists neither vmx nor svm, so KVM cannot nest here".into());
    };
    if cpu.is_some_and(|cpu| cpu != own) {
        return Err(format!("this machine's processor has {flag}, not the other kind"));
    }
    let parameter = format!("/sys/module/{module}/parameters/nested");
    match read_to_string(&parameter) {
        Ok(value) if matches!(value.trim(), "Y" | "1") => Ok(()),
        Ok(_) => Err(format!("nesting is off: load {module} with nested=1")),
        Err(error) => Err(format!("{parameter} cannot be read ({error})")),
    }
}
