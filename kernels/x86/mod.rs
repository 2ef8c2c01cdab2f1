//! x86-64 kernels.

pub(crate) mod avx2;
mod avx2_loops;
mod avx2_row;
mod avx512_dots;
mod avx512_row;
pub(crate) mod avx512_vnni;
pub(crate) mod avx_vnni;
mod avx_vnni_loops;
#[cfg_attr(not(feature = "alloc"), allow(dead_code, reason = "for layers, which need it"))]
pub(super) mod depthwise;
mod detect;
mod dots256;
pub(super) mod lanes256;
pub(super) mod lanes512;
mod narrow;
mod pack;
mod sums;

use super::product::{End, TileEnd};

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
    // SAFETY: no byte at or beyond `count` is read, and `count` is at least 1.
    unsafe {
        let first = u32::from(*p);
        let last = u32::from(*p.add(count - 1)) << (8 * (count - 1));
        let middle = u32::from(*p.add(count / 2)) << (8 * (count / 2));
        (first | middle | last) as i32
    }
}
