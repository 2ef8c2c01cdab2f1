//! Packing: bytes moved into the order that micro-kernels read them in.
//!
//! The slow definition of each layout is its index formula (in [`super::super::weights`] for `rhs`, at each function here for
//! `lhs`); tests pack by the formula and compare byte for byte.

use super::super::{
    LhsRows,
    vectors::copies::{Runs, copy_runs_inline},
};

/// `k` rounded up to a multiple of `step`.
pub(crate) fn padded(k: usize, step: usize) -> usize {
    k.next_multiple_of(step)
}

/// Bytes from one row to the next when rows of bytes are copied: whole cache lines, and an odd number of them, so
/// that the rows of a tile do not compete for the same sets of the cache.
pub(crate) fn byte_row_stride(k: usize) -> usize {
    (k.div_ceil(64) | 1) * 64
}

/// Copies rows of bytes, `dst[i * stride + k] = src[i][k] ^ flip`.
///
/// # Safety
/// As [`super::super::Kernel::pack_lhs`], with rows of `dst` that are `stride` bytes apart.
#[inline(always)]
pub(crate) unsafe fn copy_rows(src: &LhsRows, flip: u8, stride: usize, dst: *mut u8) {
    let runs = Runs { first: LhsRows { ..*src }, count: 1, src_step: 0, dst_step: 0 };
    // SAFETY: a row is one run, readable for `k` bytes, and `dst` has room for each at its stride.
    unsafe { copy_runs_inline(&runs, flip, stride, dst) }
}

/// Sum of each row as values of the given signedness, after `src`'s own were brought to it.
///
/// # Safety
/// As [`super::super::Kernel::row_sums`].
#[inline(always)]
pub(crate) unsafe fn row_sums(src: &LhsRows, as_unsigned: bool, dst: *mut i32) {
    // A byte sum is an unsigned sum of flipped bytes, less 128 for each: unsigned sums have an instruction on
    // several instruction sets.
    let flip = if src.unsigned { 0 } else { 0x80 };
    let bias = if as_unsigned { 0 } else { (src.k as i32).wrapping_mul(128) };
    for i in 0..src.rows {
        // SAFETY: row `i` is readable for k bytes, sum `i` writable.
        unsafe {
            let row = core::slice::from_raw_parts(src.ptr.add(i * src.row_stride), src.k);
            let sum: u32 = row.iter().fold(0, |sum: u32, &byte| sum.wrapping_add(u32::from(byte ^ flip)));
            *dst.add(i) = (sum as i32).wrapping_sub(bias);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Kernel,
        kernels::{LhsFormat, SumOffset},
    };
    use quickcheck::quickcheck;

    /// The slow packer: what `Kernel::pack_lhs` must make of rows, byte by byte from the index formulas in the headers of the
    /// kernels' files. Bytes that no formula names keep what `dst` held.
    fn slow_pack(
        kernel: &crate::kernels::Kernel,
        row: &dyn Fn(usize, usize) -> u8,
        src: &LhsRows,
        dst: &mut [u8],
    ) {
        let flip_to = |unsigned: bool| if unsigned == src.unsigned { 0u8 } else { 0x80 };
        let stride = (kernel.lhs_stride)(src.k);
        let depth = padded(src.k, kernel.kr);
        match kernel.lhs {
            LhsFormat::Bytes { unsigned } => {
                for i in 0..src.rows {
                    for k in 0..src.k {
                        dst[i * stride + k] = row(i, k) ^ flip_to(unsigned);
                    }
                }
            }
            // Values of 16 bits.
            LhsFormat::PackedUnsigned => {
                for i in 0..src.rows {
                    for k in 0..depth {
                        let byte = if k < src.k { row(i, k) ^ flip_to(true) } else { 0 };
                        dst[i * stride + 2 * k..][..2].copy_from_slice(&u16::from(byte).to_le_bytes());
                    }
                }
            }
            // Panels of rows.
            LhsFormat::PackedSigned => {
                let halves = kernel.offset == SumOffset::SecondHalves;
                let heights: &[usize] = if halves { &[] } else { &[12, 8, 4, 2, 1] };
                let mut first = 0;
                while first < src.rows {
                    let remaining = src.rows - first;
                    let part = match remaining.div_ceil(kernel.mr) {
                        0 | 1 => remaining,
                        2 => remaining.div_ceil(2),
                        _ => kernel.mr,
                    };
                    let height = heights.iter().copied().find(|&h| h <= remaining).unwrap_or(part);
                    for i in 0..height {
                        for k in 0..depth {
                            let value = if k < src.k { row(first + i, k) ^ flip_to(false) } else { 0 };
                            let late = halves && k % 16 >= 8;
                            let at = (k / kernel.kr) * kernel.kr * height + i * kernel.kr + k % kernel.kr;
                            dst[first * stride + at] = if late { !value } else { value };
                        }
                    }
                    first += height;
                }
            }
        }
    }

    quickcheck! {
        fn fast_packing_of_lhs_is_the_formula(bytes: Vec<u8>, rows: u8, k: u8, unsigned: bool) -> bool {
            let (rows, k) = (rows as usize % 40, k as usize % 90);
            let row_stride = k + 3;
            let byte = |i: usize| bytes.get(i % bytes.len().max(1)).copied().unwrap_or(9).wrapping_mul((i as u8) | 1);
            let data: Vec<u8> = (0..rows * row_stride).map(byte).collect();
            let src = LhsRows { ptr: data.as_ptr(), row_stride, rows, k, unsigned };
            let value = |i: usize, k: usize| data[i * row_stride + k];
            for kernel in Kernel::available().map(|kernel| kernel.0) {
                let mut slow = vec![0xAA; rows * (kernel.lhs_stride)(k)];
                let mut fast = slow.clone();
                slow_pack(kernel, &value, &src, &mut slow);
                // SAFETY: the rows lie in `data`, `fast` has room for them, and the kernel is available.
                unsafe { (kernel.pack_lhs)(&src, fast.as_mut_ptr()) };
                assert_eq!(fast, slow, "{}: {rows} x {k}", kernel.name());

                // Sums of the values as the kernel sees them.
                let shift = kernel.lhs.shift(unsigned);
                let widen = |byte: u8| if unsigned { i32::from(byte) } else { i32::from(byte as i8) };
                let expected: Vec<i32> =
                    (0..rows).map(|i| (0..k).map(|k| widen(value(i, k)) + shift).sum()).collect();
                let mut sums = vec![0; rows];
                // SAFETY: as above; there is room for a sum of each row.
                unsafe { (kernel.row_sums)(&src, sums.as_mut_ptr()) };
                assert_eq!(sums, expected, "{}: {rows} x {k}", kernel.name());
            }
            true
        }
    }
}
