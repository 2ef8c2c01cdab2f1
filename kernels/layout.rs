//! Packing: bytes moved into the order that micro-kernels read them in.
//!
//! The slow definition of each layout is its index formula (in [`super`] for `rhs`, at each function here for
//! `lhs`); tests pack by the formula and compare byte for byte.

use core::ops::BitXor;

use super::{Isa, LhsRows, isa::compiled, lanes::Lanes};

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

/// Packs the panel that starts at column `first` (layout: see [`super`]) and adds up its columns: [`super::Kernel::pack_rhs`] of
/// kernels whose panels have `NR` columns and steps of `KR`.
///
/// # Safety
/// The source is readable as described.
pub(super) unsafe fn pack_rhs_panel<const NR: usize, const KR: usize>(
    src: &RhsBytes,
    first: usize,
    panel: &mut [i8],
    sums: &mut [i32],
    late_sums: &mut [i32],
) {
    debug_assert_eq!(panel.len(), padded(src.k, KR) * NR);
    let cols = NR.min(src.n - first);
    let (mut all, mut late) = ([0i32; NR], [0i32; NR]);
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
            all[j] = all[j].wrapping_add(add(head) + tail);
            late[j] = late[j].wrapping_add(tail);
        }
    }
    sums.copy_from_slice(&all);
    if !late_sums.is_empty() {
        late_sums.copy_from_slice(&late);
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

/// Rows that are several runs of bytes each.
pub(crate) struct Runs {
    /// The first runs of all rows.
    pub first: LhsRows,
    /// Runs of a row.
    pub count: usize,
    /// Bytes from one run of a row to the next.
    pub src_step: usize,
    /// The same in the copy.
    pub dst_step: usize,
}

/// Copies rows of bytes, `dst[i * stride + k] = src[i][k] ^ flip`.
///
/// # Safety
/// As [`super::Kernel::pack_lhs`], with rows of `dst` that are `stride` bytes apart.
#[inline(always)]
pub(super) unsafe fn copy_rows(src: &LhsRows, flip: u8, stride: usize, dst: *mut u8) {
    let runs = Runs { first: LhsRows { ..*src }, count: 1, src_step: 0, dst_step: 0 };
    // SAFETY: the caller's.
    unsafe { copy_runs_inline(&runs, flip, stride, dst) }
}

/// Copies rows of runs, `dst[i * stride + run * dst_step + k] = src[i][run][k] ^ flip`. Safety: every run is readable for `first.k`
/// bytes and its copy writable; the CPU has the instruction set.
pub(crate) type CopyRuns = unsafe fn(src: &Runs, flip: u8, stride: usize, dst: *mut u8);

/// See [`CopyRuns`].
#[cfg_attr(not(feature = "alloc"), allow(dead_code, reason = "for images, which need it"))]
pub(crate) fn copy_runs(isa: Isa) -> CopyRuns {
    /// # Safety
    /// As [`CopyRuns`].
    #[inline(always)]
    unsafe fn over<V: Lanes>(src: &Runs, flip: u8, stride: usize, dst: *mut u8) {
        // SAFETY: the caller's.
        unsafe { copy_runs_inline(src, flip, stride, dst) }
    }
    compiled!(isa; fn(src: &Runs, flip: u8, stride: usize, dst: *mut u8) = over::<Lanes>)
}

/// # Safety
/// As [`CopyRuns`].
#[inline(always)]
unsafe fn copy_runs_inline(src: &Runs, flip: u8, stride: usize, dst: *mut u8) {
    let k = src.first.k;
    if k == 0 {
        return;
    }
    /// Copies runs of up to two blocks of words as two, which may overlap.
    macro_rules! in_two_blocks {
        ($($word:ty, $words:literal;)*) => {
            $( if k <= 2 * $words * size_of::<$word>() {
                let last = k - $words * size_of::<$word>();
                return each_run(src, stride, dst, |from, to| {
                    let flip = <$word>::from_ne_bytes([flip; size_of::<$word>()]);
                    copy_block::<$word, $words>(from, to, flip);
                    copy_block::<$word, $words>(from.add(last), to.add(last), flip);
                });
            } )*
        };
    }
    // SAFETY: the caller's; in blocks of no more than `k` bytes, of words that need no alignment.
    unsafe {
        in_two_blocks! { u8, 1; u16, 1; u32, 1; u64, 1; u64, 2; u64, 4; }
        const BLOCK: usize = 64;
        let flip = u64::from_ne_bytes([flip; 8]);
        each_run(src, stride, dst, |from, to| {
            let mut at = 0;
            while at + BLOCK < k {
                not_across_turns();
                copy_block::<u64, 8>(from.add(at), to.add(at), flip);
                at += BLOCK;
            }
            copy_block::<u64, 8>(from.add(k - BLOCK), to.add(k - BLOCK), flip);
        });
    }
}

/// # Safety
/// As [`CopyRuns`].
#[inline(always)]
unsafe fn each_run(src: &Runs, stride: usize, dst: *mut u8, copy: impl Fn(*const u8, *mut u8)) {
    for run in 0..src.count {
        for i in 0..src.first.rows {
            // SAFETY: the caller's.
            unsafe {
                not_across_turns();
                let from = src.first.ptr.add(i * src.first.row_stride + run * src.src_step);
                copy(from, dst.add(i * stride + run * src.dst_step));
            }
        }
    }
}

/// Keeps the compiler from making vectors of words of several turns of a loop: it would gather and scatter them, word by word, in
/// many times the time.
#[inline(always)]
fn not_across_turns() {
    #[cfg(all(not(miri), any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "arm")))]
    // SAFETY: no instruction.
    unsafe {
        core::arch::asm!("", options(nomem, nostack, preserves_flags));
    }
}

/// # Safety
/// `N` words are readable at `from` and writable at `to`.
#[inline(always)]
unsafe fn copy_block<T: Copy + BitXor<Output = T>, const N: usize>(from: *const u8, to: *mut u8, flip: T) {
    // SAFETY: the caller's.
    unsafe {
        let mut block = from.cast::<[T; N]>().read_unaligned();
        for word in &mut block {
            *word = *word ^ flip;
        }
        to.cast::<[T; N]>().write_unaligned(block);
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
    use super::{super::SumOffset, *};
    use crate::Kernel;
    use quickcheck::quickcheck;

    /// The slow packer: what `Kernel::pack_lhs` must make of rows, byte by byte from the index formulas in the headers of the
    /// kernels' files. Bytes that no formula names keep what `dst` held.
    fn slow_pack(
        kernel: &super::super::Kernel,
        row: &dyn Fn(usize, usize) -> u8,
        src: &LhsRows,
        dst: &mut [u8],
    ) {
        let flip_to = |unsigned: bool| if unsigned == src.unsigned { 0u8 } else { 0x80 };
        let stride = (kernel.lhs_stride)(src.k);
        let depth = padded(src.k, kernel.kr);
        match kernel.name {
            "portable" | "avx_vnni" | "avx512_vnni" => {
                for i in 0..src.rows {
                    for k in 0..src.k {
                        dst[i * stride + k] = row(i, k) ^ flip_to(kernel.name != "portable");
                    }
                }
            }
            "avx2" => {
                for i in 0..src.rows {
                    for k in 0..depth {
                        let byte = if k < src.k { row(i, k) } else { 0 };
                        let wide = if src.unsigned { i16::from(byte) } else { i16::from(byte as i8) };
                        dst[i * stride + 2 * k..][..2].copy_from_slice(&wide.to_le_bytes());
                    }
                }
            }
            "neon" | "neon_a53" | "armv7_neon" | "neon_dotprod" | "neon_dotprod_a55" | "neon_i8mm" => {
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
            name => panic!("{name} has no slow packer"),
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
                assert_eq!(fast, slow, "{}: {rows} x {k}", kernel.name);

                // Sums of the values as the kernel sees them.
                let shift = kernel.lhs.shift(unsigned);
                let widen = |byte: u8| if unsigned { i32::from(byte) } else { i32::from(byte as i8) };
                let expected: Vec<i32> =
                    (0..rows).map(|i| (0..k).map(|k| widen(value(i, k)) + shift).sum()).collect();
                let mut sums = vec![0; rows];
                // SAFETY: as above; there is room for a sum of each row.
                unsafe { (kernel.row_sums)(&src, sums.as_mut_ptr()) };
                assert_eq!(sums, expected, "{}: {rows} x {k}", kernel.name);
            }
            true
        }
    }
}
