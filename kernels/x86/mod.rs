//! x86-64 kernels.

pub(crate) mod avx2;
pub(crate) mod avx512_vnni;
pub(crate) mod avx_vnni;
#[cfg_attr(not(feature = "alloc"), allow(dead_code, reason = "for layers, which need it"))]
mod depthwise;
mod detect;
mod lanes256;
mod lanes512;
mod sums;

#[cfg_attr(not(feature = "alloc"), allow(unused_imports, reason = "for layers, which need it"))]
pub(super) use depthwise::three;

use self::{
    depthwise::{Taps256, Taps512},
    lanes256::Lanes256,
    lanes512::Lanes512,
};
use super::{
    epilogue::{End, TileEnd},
    isa::Types,
};

/// The types of [`Isa::Avx2`](super::Isa::Avx2).
pub(super) struct Avx2;

impl Types for Avx2 {
    type Lanes = Lanes256;
    type Taps = Taps256;
}

/// The types of [`Isa::Avx512Vnni`](super::Isa::Avx512Vnni).
pub(super) struct Avx512Vnni;

impl Types for Avx512Vnni {
    type Lanes = Lanes512;
    type Taps = Taps512;
}

/// Fetches the lines that row `r` of a tile of `columns` columns will write. Where outputs are not aligned, the first line is not
/// whole and left alone.
#[inline(always)]
fn fetch_output_row<E: End>(end: &TileEnd, r: usize, columns: usize) {
    let behind = (r * end.out_stride + end.col + columns) * E::BYTES;
    for line in (0..columns * E::BYTES).step_by(64) {
        let last = end.out.cast::<u8>().wrapping_add(behind - 1 - line);
        // SAFETY: fetching ahead writes nothing. CPUs without the instruction take it for no operation.
        unsafe {
            core::arch::asm!("prefetchw byte ptr [{}]", in(reg) last, options(readonly, nostack, preserves_flags));
        }
    }
}

/// The last 1 to 3 bytes of a row as a word whose other bytes are 0.
///
/// # Safety
/// `count` bytes at `p` are readable; `count` is 1 to 3.
#[inline(always)]
unsafe fn tail_word(p: *const u8, count: usize) -> i32 {
    // SAFETY: the caller's: no byte at or beyond `count` is read.
    unsafe {
        let first = u32::from(*p);
        let last = u32::from(*p.add(count - 1)) << (8 * (count - 1));
        let middle = u32::from(*p.add(count / 2)) << (8 * (count / 2));
        (first | middle | last) as i32
    }
}
