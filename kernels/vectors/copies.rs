//! Copies of short runs of bytes, of which the rows of an image's patches are made.

use core::ops::BitXor;

use super::super::{Isa, LhsRows, isa::compiled};
use super::lanes::Lanes;

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
        // SAFETY: runs are readable, their copies writable.
        unsafe { copy_runs_inline(src, flip, stride, dst) }
    }
    compiled!(isa; fn(src: &Runs, flip: u8, stride: usize, dst: *mut u8) = over::<Lanes>)
}

/// # Safety
/// As [`CopyRuns`].
#[inline(always)]
pub(crate) unsafe fn copy_runs_inline(src: &Runs, flip: u8, stride: usize, dst: *mut u8) {
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
    // SAFETY: runs have `k` bytes: blocks are no longer, and their words need no alignment.
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
            // SAFETY: each run of each row is readable, and its copy writable.
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
    // SAFETY: `N` words are readable and writable; none need be aligned.
    unsafe {
        let mut block = from.cast::<[T; N]>().read_unaligned();
        for word in &mut block {
            *word = *word ^ flip;
        }
        to.cast::<[T; N]>().write_unaligned(block);
    }
}
