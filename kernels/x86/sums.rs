//! Sums of rows of bytes: `vpsadbw`, which adds eight unsigned bytes to one sum, the distance of each from zero.

use core::arch::x86_64::*;

use super::super::LhsRows;

/// Sum of each row as values of the given signedness, after `src`'s own were brought to it.
///
/// # Safety
/// As [`super::super::Kernel::row_sums`].
#[target_feature(enable = "avx2")]
pub(super) unsafe fn row_sums(src: &LhsRows, as_unsigned: bool, dst: *mut i32) {
    // A sum of signed bytes is one of flipped bytes, less 128 for each.
    let flip = if src.unsigned { 0 } else { 0x80 };
    let bias = if as_unsigned { 0 } else { (src.k as i32).wrapping_mul(128) };
    for i in 0..src.rows {
        // SAFETY: row `i` is readable for k bytes, sum `i` writable.
        unsafe {
            let sum = row_sum(src.ptr.add(i * src.row_stride), src.k, flip);
            dst.add(i).write(sum.wrapping_sub(bias));
        }
    }
}

/// Sum of `bytes ^ flip` as unsigned values.
///
/// # Safety
/// `k` bytes at `row` are readable.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn row_sum(row: *const u8, k: usize, flip: u8) -> i32 {
    const STEP: usize = 32;
    /// The window that starts at `count` has its last `count` bytes set.
    static LAST: [u8; 2 * STEP] = {
        let mut mask = [0; 2 * STEP];
        let mut i = STEP;
        while i < 2 * STEP {
            mask[i] = 0xff;
            i += 1;
        }
        mask
    };
    // SAFETY: `k` bytes are readable: whole steps only, the last of them ends where the row does.
    unsafe {
        if k < STEP {
            return (0..k).fold(0, |sum, at| sum + i32::from(*row.add(at) ^ flip));
        }
        let flips = _mm256_set1_epi8(flip as i8);
        let load = |at: usize| _mm256_xor_si256(_mm256_loadu_si256(row.add(at).cast()), flips);
        let count = |bytes| _mm256_sad_epu8(bytes, _mm256_setzero_si256());
        let mut sums = _mm256_setzero_si256();
        let mut at = 0;
        while at + STEP <= k {
            sums = _mm256_add_epi64(sums, count(load(at)));
            at += STEP;
        }
        if at < k {
            // Those that were counted already are masked.
            let mask = _mm256_loadu_si256(LAST.as_ptr().add(k - at).cast());
            sums = _mm256_add_epi64(sums, count(_mm256_and_si256(load(k - STEP), mask)));
        }
        let sums = _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
        _mm_cvtsi128_si32(_mm_add_epi64(sums, _mm_unpackhi_epi64(sums, sums)))
    }
}
