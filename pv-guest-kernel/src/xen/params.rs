//! HVM parameters of this domain.

use pv_abi::hvm::Param;
use pv_abi::{DomainId, Result};

use super::{hv, stub};

/// Reads a parameter (`pv_abi::hvm::param`).
pub fn get(index: u32) -> Result<u64> {
    let mut arg = Param { domid: DomainId::SELF, pad: 0, index, value: 0 };
    stub::hvm_get_param(hv(), &mut arg)?;
    Ok(arg.value)
}

/// Sets a parameter.
pub fn set(index: u32, value: u64) -> Result<()> {
    stub::hvm_set_param(hv(), &Param { domid: DomainId::SELF, pad: 0, index, value })?;
    Ok(())
}
