//! Debian's GRUB, a 32-bit PVH kernel that nobody here wrote: its own drivers for our console, XenStore and disks.

use super::{Case, Context, Verdict, tool};
use crate::setup::{Need, need};
use crate::{disk, workspace};
use anyhow::Result;
use std::path::PathBuf;
use std::time::Duration;

/// The image in Debian's `grub-xen-bin`.
const KERNEL: &str = "/usr/lib/grub-xen/grub-i386-xen_pvh.bin";

/// What it finds on the disk, and does.
const SCRIPT: &str = "cat /boot/grub/marker\nsha256sum /noise.bin\nhalt\n";
const MARKER: &str = "these words came through the ring";

/// Returns the cases.
pub fn cases() -> Vec<Case> {
    ["svm", "vmx"].map(|cpu| Case::new(format!("run/grub/{cpu}"), move |context| grub(context, cpu))).into()
}

/// A disk image with what GRUB looks for; removed with this value.
struct Image(PathBuf);

impl Drop for Image {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Makes the image; also returns what the SHA-256 of its large file is.
fn image(context: &Context, cpu: &str) -> Result<(Image, String)> {
    let image = Image(context.file(&format!("grub-{cpu}.img"))?);
    let noise = super::disk::noise(1 << 20, 5);
    let files = [
        ("boot/grub/grub.cfg", SCRIPT.as_bytes()),
        ("boot/grub/marker", MARKER.as_bytes()),
        ("noise.bin", &noise),
    ];
    disk::make_with(&image.0, 16 << 20, files)?;
    Ok((image, workspace::sha256(&noise)))
}

fn grub(context: &Context, cpu: &str) -> Result<Verdict> {
    need(&[Need::Grub])?;
    let (image, hash) = image(context, cpu)?;
    // The images are built here already, so that the time-out below is for the machine alone.
    context.images()?;
    let disk = image.0.to_string_lossy().into_owned();
    let words =
        ["run", "--accel", "tcg", "--cpu", cpu, "--kernel", KERNEL, "--disk", &disk, "--timeout", "400"];
    let done = tool::xtask(&words, Duration::from_secs(900))?;
    let (marker, hashed) = (done.output.contains(MARKER), done.output.contains(&hash));
    Ok(match (done.code, marker, hashed) {
        (Some(0), true, true) => Verdict::passed(),
        (code, ..) => Verdict::Failed {
            why: format!(
                "it ended with {code:?}, showed the small file: {marker}, the large one's hash: {hashed}"
            ),
            end: done.tail(30),
        },
    })
}
