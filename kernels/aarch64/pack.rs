//! Packing for every kernel of 64-bit ARM: of weights, and of `lhs` into panels of rows.

use core::arch::{aarch64::*, asm};

use super::super::{
    LhsRows,
    product::layout::padded,
    weights::{self, Panels, RhsBytes},
};
use super::lanes128::Lanes128;

/// # Safety
/// As [`super::super::Kernel::pack_rhs`].
#[target_feature(enable = "neon")]
pub(super) unsafe fn pack_rhs<const NR: usize, const KR: usize>(src: &RhsBytes, first: usize, to: Panels) {
    // SAFETY: the caller's; the CPU has NEON.
    unsafe { weights::panels::pack_panels::<Lanes128, NR, KR>(src, first, to) }
}

/// `zip1` of 64-bit elements. The compiler makes an insertion of it, and copies the register that it would destroy.
#[inline(always)]
pub(super) fn first_halves(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t {
    let halves;
    // SAFETY: reads and writes the registers named, nothing else.
    unsafe {
        asm!(
            "zip1 {halves:v}.2d, {a:v}.2d, {b:v}.2d",
            halves = lateout(vreg) halves, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    halves
}

/// Bytes of a q register: what is packed of each row at a time.
const BLOCK: usize = 16;

/// Packs rows into panels of `next_rows(remaining)` rows, at most `MR`: of a panel of `h` rows, `value(i, k)` at
/// `(k / KR) * KR * h + i * KR + k % KR`. Bytes are `src ^ flip`, with `flip` repeated every 16; beyond K, what stands for
/// zero there. Without `FLIP`, `flip` is zeros, and costs nothing.
///
/// # Safety
/// As [`super::super::Kernel::pack_lhs`]; the CPU has NEON.
#[target_feature(enable = "neon")]
#[inline]
pub(super) unsafe fn pack_panels<const KR: usize, const MR: usize, const FLIP: bool>(
    src: &LhsRows,
    flip: uint8x16_t,
    next_rows: impl Fn(usize) -> usize,
    mut dst: *mut u8,
) {
    let mut row = 0;
    while row < src.rows {
        let height = next_rows(src.rows - row);
        // SAFETY: the panel's rows are readable for k bytes, and the panel takes `height` rows of padded bytes.
        unsafe {
            let from = src.ptr.add(row * src.row_stride);
            match height {
                12 if MR >= 12 => pack_panel::<KR, 12, FLIP>(from, src, flip, dst),
                8 if MR >= 8 => pack_panel::<KR, 8, FLIP>(from, src, flip, dst),
                4 => pack_panel::<KR, 4, FLIP>(from, src, flip, dst),
                3 if MR == 4 => pack_panel::<KR, 3, FLIP>(from, src, flip, dst),
                2 => pack_panel::<KR, 2, FLIP>(from, src, flip, dst),
                _ => pack_panel::<KR, 1, FLIP>(from, src, flip, dst),
            }
            dst = dst.add(height * padded(src.k, KR));
        }
        row += height;
    }
}

/// Packs one panel of `H` rows: two blocks of each row at a time, which one instruction loads.
///
/// # Safety
/// As [`pack_panels`], for the `H` rows from `from`.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn pack_panel<const KR: usize, const H: usize, const FLIP: bool>(
    from: *const u8,
    src: &LhsRows,
    flip: uint8x16_t,
    dst: *mut u8,
) {
    let (whole, tail) = (src.k / BLOCK, src.k % BLOCK);
    // SAFETY: a row is readable for `whole` blocks and `tail` bytes. A block of the panel is `BLOCK * H` bytes, and no step
    // beyond the last that has values is written.
    unsafe {
        let (mut at, mut to) = (from, dst);
        for _ in 0..whole / 2 {
            pack_blocks::<KR, H, 2, FLIP>(at, src.row_stride, flip, to);
            at = at.add(2 * BLOCK);
            to = to.add(2 * BLOCK * H);
        }
        if whole % 2 == 1 {
            pack_blocks::<KR, H, 1, FLIP>(at, src.row_stride, flip, to);
            to = to.add(BLOCK * H);
        }
        if tail > 0 {
            // A block of the panel, of which the steps that have values are copied.
            let (mut rows, mut block) = ([[0u8; BLOCK]; H], [[0u8; BLOCK]; H]);
            for i in 0..H {
                let bytes = tail_block(from.add(i * src.row_stride), src.k, flip);
                vst1q_u8(rows[i].as_mut_ptr(), bytes);
            }
            pack_blocks::<KR, H, 1, false>(rows.as_ptr().cast(), BLOCK, flip, block.as_mut_ptr().cast());
            block.as_ptr().cast::<u8>().copy_to_nonoverlapping(to, padded(tail, KR) * H);
        }
    }
}

/// Packs `BLOCKS` blocks of each row. Rows are taken in groups whose steps fill a register, and interleaved there. All are
/// loaded before any is stored, in the order of addresses, so that pairs of both are single instructions.
///
/// # Safety
/// The blocks of `H` rows from `at` are readable, as many bytes at `to` writable; the CPU has NEON.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn pack_blocks<const KR: usize, const H: usize, const BLOCKS: usize, const FLIP: bool>(
    at: *const u8,
    row_stride: usize,
    flip: uint8x16_t,
    to: *mut u8,
) {
    let group = const { if H < BLOCK / KR { H } else { BLOCK / KR } };
    let mut values = [[vdupq_n_u8(0); H]; BLOCKS];
    // SAFETY: blocks of `H` rows are readable, as many bytes writable. The group's part of a step is `group * KR` bytes at row `first`.
    unsafe {
        for i in 0..H {
            for block in 0..BLOCKS {
                let bytes = vld1q_u8(at.add(i * row_stride + block * BLOCK));
                values[block][i] = if FLIP { veorq_u8(bytes, flip) } else { bytes };
            }
        }
        for (block, rows) in values.iter_mut().enumerate() {
            for rows in rows.chunks_exact_mut(group) {
                interleave::<KR>(rows);
            }
            for i in 0..group {
                for first in (0..H).step_by(group) {
                    vst1q_u8(to.add((block * group + i) * (BLOCK * H / group) + first * KR), rows[first + i]);
                }
            }
        }
    }
}

/// Brings 16 bytes of each of some rows into the order of steps: `KR` bytes of each row, then the next `KR` of each.
#[target_feature(enable = "neon")]
#[inline]
fn interleave<const KR: usize>(rows: &mut [uint8x16_t]) {
    let zip32 = |a, b| {
        let (a, b) = (vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b));
        [vreinterpretq_u8_u32(vzip1q_u32(a, b)), vreinterpretq_u8_u32(vzip2q_u32(a, b))]
    };
    let transpose32 = |a, b| {
        let (a, b) = (vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b));
        [vreinterpretq_u8_u32(vtrn1q_u32(a, b)), vreinterpretq_u8_u32(vtrn2q_u32(a, b))]
    };
    let zip64 = |a, b| {
        let second = vzip2q_u64(vreinterpretq_u64_u8(a), vreinterpretq_u64_u8(b));
        [first_halves(a, b), vreinterpretq_u8_u64(second)]
    };
    match (KR, rows) {
        (4, [r0, r1, r2, r3]) => {
            // Words are not zipped last: the compiler would take that for stores that interleave, which have no offsets and are
            // slow on some cores.
            let ([even01, odd01], [even23, odd23]) = (transpose32(*r0, *r1), transpose32(*r2, *r3));
            ([*r0, *r2], [*r1, *r3]) = (zip64(even01, even23), zip64(odd01, odd23));
        }
        (4, [r0, r1]) => [*r0, *r1] = zip32(*r0, *r1),
        (8, [r0, r1]) => [*r0, *r1] = zip64(*r0, *r1),
        // One row.
        _ => {}
    }
}

/// The last `k % 16` values of a row, and zeros, flipped.
///
/// # Safety
/// `k` bytes at `row` are readable, `k % 16` is not 0; the CPU has NEON.
#[target_feature(enable = "neon")]
#[inline(never)]
unsafe fn tail_block(row: *const u8, k: usize, flip: uint8x16_t) -> uint8x16_t {
    const IOTA: [u8; BLOCK] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    let tail = k % BLOCK;
    // SAFETY: no byte outside the row is read: the row's last 16, or each by itself if the row is shorter.
    unsafe {
        let iota = vld1q_u8(IOTA.as_ptr());
        let bytes = if k >= BLOCK {
            // A table look-up moves them to the front.
            let from = vaddq_u8(iota, vdupq_n_u8((BLOCK - tail) as u8));
            vqtbl1q_u8(vld1q_u8(row.add(k - BLOCK)), from)
        } else {
            let mut bytes = [0; BLOCK];
            for (i, byte) in bytes[..tail].iter_mut().enumerate() {
                *byte = *row.add(i);
            }
            vld1q_u8(bytes.as_ptr())
        };
        let used = vcltq_u8(iota, vdupq_n_u8(tail as u8));
        // Bytes that the layout inverts differ from the first in `flip`: so do their zeros.
        let zeros = veorq_u8(flip, vdupq_laneq_u8::<0>(flip));
        vbslq_u8(used, veorq_u8(bytes, flip), zeros)
    }
}
