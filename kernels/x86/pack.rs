//! Packing of weights, compiled for each instruction set.

use super::super::weights::{Panels, RhsBytes, panels::pack_panels};
use super::{lanes256::Lanes256, lanes512::Lanes512};

/// # Safety
/// As [`super::super::Kernel::pack_rhs`].
#[target_feature(enable = "avx2")]
pub(super) unsafe fn pack_rhs_256<const NR: usize, const KR: usize>(
    src: &RhsBytes,
    first: usize,
    to: Panels,
) {
    // SAFETY: the caller's; the CPU has the features that this is compiled for.
    unsafe { pack_panels::<Lanes256, NR, KR>(src, first, to) }
}

/// # Safety
/// As [`super::super::Kernel::pack_rhs`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn pack_rhs_512<const NR: usize, const KR: usize>(
    src: &RhsBytes,
    first: usize,
    to: Panels,
) {
    // SAFETY: as above.
    unsafe { pack_panels::<Lanes512, NR, KR>(src, first, to) }
}
