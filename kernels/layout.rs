//! Packing: bytes moved into the order that micro-kernels read them in.
//!
//! The slow definition of each layout is its index formula (in [`super`] for `rhs`, at each function here for
//! `lhs`); tests pack by the formula and compare byte for byte.

use super::LhsRows;

/// `k` rounded up to a multiple of `step`.
pub(crate) fn padded(k: usize, step: usize) -> usize {
    k.next_multiple_of(step)
}

/// Source of weights: element (k, n) of K x N bytes lies at `k * k_stride + n * n_stride`.
#[derive(Clone, Copy)]
pub(crate) struct RhsBytes {
    pub ptr: *const u8,
    pub k: usize,
    pub n: usize,
    pub k_stride: usize,
    pub n_stride: usize,
    /// 0x80 for u8 weights, 0 for i8: panels hold i8.
    pub flip: u8,
}

/// Packs the panel that starts at column `first` (layout: see [`super`]) and adds up its columns.
///
/// `sums[j]` is the sum of the packed values of column `first + j`; `late[j]` the sum of those in the second half
/// of each step. Columns beyond N are zeros.
///
/// # Safety
/// The source is readable as described.
pub(crate) unsafe fn pack_rhs_panel<const NR: usize, const KR: usize>(
    src: &RhsBytes,
    first: usize,
    panel: &mut [i8],
    sums: &mut [i32; NR],
    late: &mut [i32; NR],
) {
    debug_assert_eq!(panel.len(), padded(src.k, KR) * NR);
    let cols = NR.min(src.n - first);
    *sums = [0; NR];
    *late = [0; NR];
    for (step, chunk) in panel.chunks_exact_mut(NR * KR).enumerate() {
        let k0 = step * KR;
        let depth = KR.min(src.k - k0);
        if cols == NR && depth == KR {
            // Whole steps with constant bounds, which the compiler unrolls and vectorizes.
            // SAFETY: rows `k0 .. k0 + KR` and columns `first .. first + NR` lie inside the source.
            unsafe {
                let at = src.ptr.add(k0 * src.k_stride + first * src.n_stride);
                match (src.k_stride, src.n_stride) {
                    (1, n_stride) => copy_step::<NR, KR>(chunk, |j, t| *at.add(j * n_stride + t), src.flip),
                    (k_stride, 1) => copy_step::<NR, KR>(chunk, |j, t| *at.add(t * k_stride + j), src.flip),
                    (k_stride, n_stride) => {
                        copy_step::<NR, KR>(chunk, |j, t| *at.add(t * k_stride + j * n_stride), src.flip);
                    }
                }
            }
        } else {
            chunk.fill(0);
            for j in 0..cols {
                for t in 0..depth {
                    // SAFETY: as above, within the ragged edge.
                    let byte = unsafe { *src.ptr.add((k0 + t) * src.k_stride + (first + j) * src.n_stride) };
                    chunk[j * KR + t] = (byte ^ src.flip) as i8;
                }
            }
        }
        for j in 0..NR {
            let column = &chunk[j * KR..][..KR];
            let (head, tail) = column.split_at(KR / 2);
            let add = |values: &[i8]| values.iter().map(|&v| i32::from(v)).sum::<i32>();
            let tail = add(tail);
            sums[j] = sums[j].wrapping_add(add(head) + tail);
            late[j] = late[j].wrapping_add(tail);
        }
    }
}

#[inline(always)]
fn copy_step<const NR: usize, const KR: usize>(
    chunk: &mut [i8],
    byte: impl Fn(usize, usize) -> u8,
    flip: u8,
) {
    let chunk = &mut chunk[..NR * KR];
    for j in 0..NR {
        for t in 0..KR {
            chunk[j * KR + t] = (byte(j, t) ^ flip) as i8;
        }
    }
}

/// Bytes from one row to the next when rows of bytes are copied: whole cache lines, and an odd number of them, so
/// that the rows of a tile do not compete for the same sets of the cache.
pub(crate) fn byte_row_stride(k: usize) -> usize {
    (k.div_ceil(64) | 1) * 64
}

/// Copies rows of bytes, `dst[i * stride + k] = src[i][k] ^ flip`.
///
/// # Safety
/// As [`super::Kernel::pack_lhs`].
#[inline(always)]
pub(super) unsafe fn copy_rows(src: &LhsRows, flip: u8, stride: usize, dst: *mut u8) {
    for i in 0..src.rows {
        // SAFETY: row `i` is readable for k bytes, its copy writable.
        let (from, to) = unsafe {
            (
                core::slice::from_raw_parts(src.ptr.add(i * src.row_stride), src.k),
                core::slice::from_raw_parts_mut(dst.add(i * stride), src.k),
            )
        };
        for (to, &from) in to.iter_mut().zip(from) {
            *to = from ^ flip;
        }
    }
}

/// Packs rows into panels of `next_rows(remaining)` rows, steps of `KR` values of each row after one another: of a panel of
/// `h` rows, `value(i, k)` at `(k / KR) * KR * h + i * KR + k % KR`. Values are `src ^ flip`, zero beyond K, and each step
/// passes through `finish`.
///
/// # Safety
/// As [`super::Kernel::pack_lhs`].
#[inline(always)]
#[cfg_attr(not(i8gemm_aarch64), allow(dead_code, reason = "kernels of this target read rows"))]
pub(super) unsafe fn pack_row_panels<const KR: usize>(
    src: &LhsRows,
    flip: u8,
    next_rows: impl Fn(usize) -> usize,
    finish: impl Fn([u8; KR]) -> [u8; KR],
    mut dst: *mut u8,
) {
    let (whole, tail) = (src.k / KR, src.k % KR);
    let mut row = 0;
    while row < src.rows {
        let height = next_rows(src.rows - row);
        for i in 0..height {
            // SAFETY: row `row + i` is readable for k bytes; its steps lie `height * KR` bytes apart in the panel.
            unsafe {
                let from = src.ptr.add((row + i) * src.row_stride);
                let to = dst.add(i * KR);
                for step in 0..whole {
                    let values = from.add(step * KR).cast::<[u8; KR]>().read().map(|byte| byte ^ flip);
                    to.add(step * height * KR).cast::<[u8; KR]>().write(finish(values));
                }
                if tail > 0 {
                    let mut values = [0; KR];
                    for (t, value) in values[..tail].iter_mut().enumerate() {
                        *value = *from.add(whole * KR + t) ^ flip;
                    }
                    to.add(whole * height * KR).cast::<[u8; KR]>().write(finish(values));
                }
            }
        }
        // SAFETY: the next panel follows this one.
        dst = unsafe { dst.add(height * padded(src.k, KR)) };
        row += height;
    }
}

/// Sum of each row as values of the given signedness, after `src`'s own were brought to it.
///
/// # Safety
/// As [`super::Kernel::row_sums`].
#[inline(always)]
pub(super) unsafe fn row_sums(src: &LhsRows, as_unsigned: bool, dst: *mut i32) {
    // A byte sum is an unsigned sum of flipped bytes, less 128 for each: unsigned sums have an instruction on
    // several instruction sets.
    let flip = if src.unsigned { 0 } else { 0x80 };
    let bias = if as_unsigned { 0 } else { 128 * src.k as i32 };
    for i in 0..src.rows {
        // SAFETY: row `i` is readable for k bytes, sum `i` writable.
        unsafe {
            let row = core::slice::from_raw_parts(src.ptr.add(i * src.row_stride), src.k);
            let sum: u32 = row.iter().fold(0, |sum: u32, &byte| sum.wrapping_add(u32::from(byte ^ flip)));
            *dst.add(i) = (sum as i32).wrapping_sub(bias);
        }
    }
}
