//! `xen_version`: who the hypervisor is (`xen/version.h`).

use super::Reply;
use super::cx::Cx;
use crate::hw::{PAGE_BYTES, Platform};
use pv_abi::Errno;
use pv_abi::ids::{DomainId, GuestVirt};
use pv_abi::version::{
    Capabilities, Changeset, CommandLine, CompileInfo, DomainHandle, ExtraVersion, FeatureInfo, Features,
    PlatformParameters, VERSION,
};

/// Puts a text, ended by a zero byte, into a field; what does not fit is cut.
fn put(field: &mut [u8], text: &str) {
    let room = field.len().saturating_sub(1);
    field.fill(0);
    field.iter_mut().take(room).zip(text.bytes()).for_each(|(to, from)| *to = from);
}

/// The null hypercall: nothing is shorter.
#[inline(always)]
pub(super) fn version_number<P: Platform>(_cx: &mut Cx<'_, P>) -> Reply {
    Ok(VERSION as u64)
}

pub(super) fn version_extra<P: Platform>(_cx: &mut Cx<'_, P>, text: &mut ExtraVersion) -> Reply {
    put(text, "-xenolith");
    Ok(0)
}

pub(super) fn version_compile_info<P: Platform>(_cx: &mut Cx<'_, P>, info: &mut CompileInfo) -> Reply {
    put(&mut info.compiler, "rustc");
    put(&mut info.compile_by, "xenolith");
    put(&mut info.compile_domain, "");
    put(&mut info.compile_date, concat!("version ", env!("CARGO_PKG_VERSION")));
    Ok(0)
}

pub(super) fn version_capabilities<P: Platform>(_cx: &mut Cx<'_, P>, text: &mut Capabilities) -> Reply {
    put(text, "hvm-3.0-x86_64");
    Ok(0)
}

pub(super) fn version_changeset<P: Platform>(_cx: &mut Cx<'_, P>, text: &mut Changeset) -> Reply {
    put(text, "unavailable");
    Ok(0)
}

/// The hypervisor is nowhere in a translated guest's address space.
pub(super) fn version_platform_parameters<P: Platform>(
    _cx: &mut Cx<'_, P>,
    parameters: &mut PlatformParameters,
) -> Reply {
    parameters.virt_start = 0;
    Ok(0)
}

pub(super) fn version_features<P: Platform>(cx: &mut Cx<'_, P>, info: &mut FeatureInfo) -> Reply {
    if info.submap_idx != 0 {
        return Err(Errno::EINVAL.into());
    }
    let mut features = Features::WRITABLE_PAGE_TABLES
        | Features::AUTO_TRANSLATED_PHYSMAP
        | Features::HVM_CALLBACK_VECTOR
        | Features::HVM_SAFE_PVCLOCK;
    features |= if cx.domain.memory.read().is_one_to_one() {
        Features::DIRECT_MAPPED
    } else {
        Features::NOT_DIRECT_MAPPED
    };
    if cx.domain.id == DomainId::DOM0 {
        features |= Features::DOM0;
    }
    info.submap = features.bits();
    Ok(0)
}

pub(super) fn version_pagesize<P: Platform>(_cx: &mut Cx<'_, P>) -> Reply {
    Ok(PAGE_BYTES)
}

/// A handle that is unique while the machine runs: the domain's number.
pub(super) fn version_guest_handle<P: Platform>(cx: &mut Cx<'_, P>, handle: &mut DomainHandle) -> Reply {
    let number = cx.domain.id.raw().to_be_bytes();
    handle.iter_mut().rev().zip(number.iter().rev()).for_each(|(to, from)| *to = *from);
    Ok(0)
}

pub(super) fn version_commandline<P: Platform>(cx: &mut Cx<'_, P>, text: &mut CommandLine) -> Reply {
    put(text, cx.system.manifest().cmdline());
    Ok(0)
}

pub(super) fn version_build_id<P: Platform>(_cx: &mut Cx<'_, P>, _id: GuestVirt) -> Reply {
    Err(Errno::ENODATA.into())
}
