//! x86-64 kernels.

pub(crate) mod avx2;
pub(crate) mod avx512_vnni;
pub(crate) mod avx_vnni;
mod depthwise;
mod lanes256;
mod lanes512;
mod sums;

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
