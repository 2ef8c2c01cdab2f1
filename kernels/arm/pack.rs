//! Packing of `lhs` for [`super::neon`], and sums of its rows.

use core::arch::naked_asm;

use super::{
    super::{
        LhsRows,
        product::{layout::padded, next_part},
    },
    tiles::{KR, MR},
};

/// # Safety
/// As [`super::super::Kernel::pack_lhs`].
pub(super) unsafe fn pack_lhs(src: &LhsRows, mut dst: *mut u8) {
    let flip = if src.unsigned { 0x80 } else { 0 };
    let mut row = 0;
    while row < src.rows {
        let height = next_part(src.rows - row, MR);
        for i in 0..height {
            // SAFETY: the row is readable for k bytes, and the panel takes `height` rows of padded bytes.
            unsafe {
                let from = src.ptr.add((row + i) * src.row_stride);
                let to = dst.add(i * KR);
                let (whole, stride) = (src.k / KR, height * KR);
                if whole > 0 {
                    pack_steps(from, whole, to, stride, flip);
                }
                if !src.k.is_multiple_of(KR) {
                    let tail = tail(from, src.k, flip);
                    pack_steps(tail.as_ptr(), 1, to.add(whole * stride), stride, flip);
                }
            }
        }
        // SAFETY: `dst` has room for the panels of all rows.
        dst = unsafe { dst.add(height * padded(src.k, KR)) };
        row += height;
    }
}

/// # Safety
/// As [`super::super::Kernel::row_sums`].
pub(super) unsafe fn row_sums(src: &LhsRows, dst: *mut i32) {
    let flip = if src.unsigned { 0x80 } else { 0 };
    for i in 0..src.rows {
        // SAFETY: the row is readable for k bytes, its sum writable.
        unsafe {
            let row = src.ptr.add(i * src.row_stride);
            let whole = src.k / KR;
            let mut sum = if whole > 0 { add_steps(row, whole, flip) } else { 0 };
            if !src.k.is_multiple_of(KR) {
                sum = sum.wrapping_add(add_steps(tail(row, src.k, flip).as_ptr(), 1, flip));
            }
            *dst.add(i) = sum;
        }
    }
}

/// The last bytes of a row, which are no whole step, and behind them what stands for zero.
///
/// # Safety
/// `k` bytes at `row` are readable.
#[inline(always)]
unsafe fn tail(row: *const u8, k: usize, flip: u32) -> [u8; KR] {
    let mut bytes = [flip as u8; KR];
    // SAFETY: the last `k % KR` bytes of the row are readable, and no step is shorter.
    unsafe { row.add(k - k % KR).copy_to_nonoverlapping(bytes.as_mut_ptr(), k % KR) };
    bytes
}

/// Copies `steps` times 16 bytes, 16 at every `stride`: `src ^ flip`, inverted in the second halves.
///
/// # Safety
/// `16 * steps` bytes at `src` are readable, 16 bytes at each `i * stride` for `i < steps` writable; `steps` is not 0; the CPU
/// has NEON.
#[unsafe(naked)]
unsafe extern "C" fn pack_steps(src: *const u8, steps: usize, dst: *mut u8, stride: usize, flip: u32) {
    naked_asm!(
        ".syntax unified",
        ".fpu neon",
        "ldr ip, [sp]",
        "vdup.8 d30, ip",
        "vmvn d31, d30",
        "2:",
        "vld1.8 {{d0-d1}}, [r0]!",
        "subs r1, r1, #1",
        "veor q0, q0, q15",
        "vst1.8 {{d0-d1}}, [r2], r3",
        "bne 2b",
        "bx lr",
    )
}

/// Sum of `16 * steps` bytes `src ^ flip` as i8, modulo 2^32.
///
/// # Safety
/// The bytes are readable, `steps` is not 0, the CPU has NEON.
#[unsafe(naked)]
unsafe extern "C" fn add_steps(src: *const u8, steps: usize, flip: u32) -> i32 {
    naked_asm!(
        ".syntax unified",
        ".fpu neon",
        "vdup.8 q15, r2",
        "vmov.i32 q8, #0",
        "2:",
        "vld1.8 {{d0-d1}}, [r0]!",
        "subs r1, r1, #1",
        "veor q0, q0, q15",
        "vpaddl.s8 q0, q0",
        "vpadal.s16 q8, q0",
        "bne 2b",
        "vadd.i32 d16, d16, d17",
        "vpadd.i32 d16, d16, d16",
        "vmov.32 r0, d16[0]",
        "bx lr",
    )
}
