//! 64-bit ARM kernels.

use core::arch::aarch64::*;

use super::{LhsRows, layout::padded};

mod depthwise;
pub(crate) mod dotprod;
pub(crate) mod i8mm;
mod lanes128;
pub(crate) mod neon;

/// Row panels of the kernels with tiles of 12 rows: fewer rows are packed as panels of 8, 4, 2 and 1.
#[inline(always)]
fn next_rows_of_12(remaining: usize) -> usize {
    match remaining {
        12.. => 12,
        8.. => 8,
        4.. => 4,
        2.. => 2,
        _ => 1,
    }
}

/// Columns that pass the rows of a tile while those are in the first cache level: the group's panels are read once a tile.
const GROUP_COLS: usize = 64;

/// Bytes of a q register: what is packed of each row at a time.
const BLOCK: usize = 16;

/// Packs rows into panels of `next_rows(remaining)` rows, at most `MR`: of a panel of `h` rows, `value(i, k)` at
/// `(k / KR) * KR * h + i * KR + k % KR`. Bytes are `src ^ flip`, with `flip` repeated every 16; beyond K, what stands for
/// zero there.
///
/// # Safety
/// As [`super::Kernel::pack_lhs`]; the CPU has NEON.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn pack_panels<const KR: usize, const MR: usize>(
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
                12 if MR >= 12 => pack_panel::<KR, 12>(from, src, flip, dst),
                8 if MR >= 8 => pack_panel::<KR, 8>(from, src, flip, dst),
                4 => pack_panel::<KR, 4>(from, src, flip, dst),
                3 if MR == 4 => pack_panel::<KR, 3>(from, src, flip, dst),
                2 => pack_panel::<KR, 2>(from, src, flip, dst),
                _ => pack_panel::<KR, 1>(from, src, flip, dst),
            }
            dst = dst.add(height * padded(src.k, KR));
        }
        row += height;
    }
}

/// Packs one panel of `H` rows. Rows are taken in groups whose steps fill a register, 16 bytes of each at a time, and
/// interleaved there.
///
/// # Safety
/// As [`pack_panels`], for the `H` rows from `from`.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn pack_panel<const KR: usize, const H: usize>(
    from: *const u8,
    src: &LhsRows,
    flip: uint8x16_t,
    dst: *mut u8,
) {
    let group = H.min(BLOCK / KR);
    let (whole, tail) = (src.k / BLOCK, src.k % BLOCK);
    for first in (0..H).step_by(group) {
        // SAFETY: a row is readable for `whole` blocks and `tail` bytes. A block of the panel is `BLOCK * H` bytes; the group's
        // part of a step is `group * KR` bytes at row `first`, and no step beyond the last that has values is written.
        unsafe {
            let row = |i: usize| from.add((first + i) * src.row_stride);
            let to = dst.add(first * KR);
            let mut values = [vdupq_n_u8(0); 4];
            for block in 0..whole {
                for i in 0..group {
                    values[i] = veorq_u8(vld1q_u8(row(i).add(block * BLOCK)), flip);
                }
                let steps = interleave::<KR>(values, group);
                for i in 0..group {
                    vst1q_u8(to.add((block * group + i) * (BLOCK * H / group)), steps[i]);
                }
            }
            if tail > 0 {
                for i in 0..group {
                    values[i] = tail_block(row(i), src.k, flip);
                }
                let steps = interleave::<KR>(values, group);
                let mut bytes = [0u8; 4 * BLOCK];
                for i in 0..group {
                    vst1q_u8(bytes[i * BLOCK..][..BLOCK].as_mut_ptr(), steps[i]);
                }
                for step in 0..tail.div_ceil(KR) {
                    let part = bytes[step * group * KR..][..group * KR].as_ptr();
                    part.copy_to_nonoverlapping(to.add(whole * BLOCK * H + step * H * KR), group * KR);
                }
            }
        }
    }
}

/// Brings 16 bytes of each of `group` rows into the order of steps: `KR` bytes of each row, then the next `KR` of each.
#[target_feature(enable = "neon")]
#[inline]
fn interleave<const KR: usize>(rows: [uint8x16_t; 4], group: usize) -> [uint8x16_t; 4] {
    let zip32 = |a, b| {
        let (a, b) = (vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b));
        [vreinterpretq_u8_u32(vzip1q_u32(a, b)), vreinterpretq_u8_u32(vzip2q_u32(a, b))]
    };
    let zip64 = |a, b| {
        let (a, b) = (vreinterpretq_u64_u8(a), vreinterpretq_u64_u8(b));
        [vreinterpretq_u8_u64(vzip1q_u64(a, b)), vreinterpretq_u8_u64(vzip2q_u64(a, b))]
    };
    match (KR, group) {
        (4, 4) => {
            let ([a, b], [c, d]) = (zip32(rows[0], rows[2]), zip32(rows[1], rows[3]));
            let ([s0, s1], [s2, s3]) = (zip32(a, c), zip32(b, d));
            [s0, s1, s2, s3]
        }
        (4, 2) => {
            let [a, b] = zip32(rows[0], rows[1]);
            [a, b, rows[2], rows[3]]
        }
        (8, 2) => {
            let [a, b] = zip64(rows[0], rows[1]);
            [a, b, rows[2], rows[3]]
        }
        _ => rows,
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
