//! What becomes of the sums of `smmla`: blocks of 2 x 2, `[row 0: 2 columns, row 1: 2 columns]`, of which a pair of rows has four.
//!
//! An epilogue works on rows. To bring 12 rows of i32 in order takes as many instructions as to scale them, so bytes are put in
//! order when they are bytes: a quarter of the vectors, and one instruction for each.

use core::arch::aarch64::*;

use super::{
    super::{
        product::{End, TileEnd, correct, finish_from_base},
        vectors::{lanes::Lanes, narrow::Narrow},
    },
    lanes128::{ByteRange, Lanes128},
    opaque,
};

/// The sums of pairs of rows by 8 columns.
type Blocks<const PAIRS: usize> = [[int32x4_t; 4]; PAIRS];

/// The first halves of both.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
unsafe fn low(left: int32x4_t, right: int32x4_t) -> int32x4_t {
    // SAFETY: the CPU has NEON.
    unsafe { vreinterpretq_s32_s64(vzip1q_s64(vreinterpretq_s64_s32(left), vreinterpretq_s64_s32(right))) }
}

/// The second halves of both.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
unsafe fn high(left: int32x4_t, right: int32x4_t) -> int32x4_t {
    // SAFETY: the CPU has NEON.
    unsafe { vreinterpretq_s32_s64(vzip2q_s64(vreinterpretq_s64_s32(left), vreinterpretq_s64_s32(right))) }
}

/// The blocks of two rows that are both this.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
pub(super) unsafe fn twice([left, right]: [int32x4_t; 2]) -> [int32x4_t; 4] {
    // SAFETY: the CPU has NEON.
    unsafe { [low(left, left), high(left, left), low(right, right), high(right, right)] }
}

/// [`twice`] of floats.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
unsafe fn twice_f(row: [float32x4_t; 2]) -> [float32x4_t; 4] {
    // SAFETY: the CPU has NEON.
    unsafe {
        let row = [vreinterpretq_s32_f32(row[0]), vreinterpretq_s32_f32(row[1])];
        let [a, b, c, d] = twice(row);
        [
            vreinterpretq_f32_s32(a),
            vreinterpretq_f32_s32(b),
            vreinterpretq_f32_s32(c),
            vreinterpretq_f32_s32(d),
        ]
    }
}

/// Rows of blocks: a row's vector is the halves of two.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
unsafe fn rows_of<const R: usize, const PAIRS: usize>(sums: Blocks<PAIRS>) -> [[int32x4_t; 2]; R] {
    // SAFETY: the CPU has NEON.
    unsafe {
        let mut rows = [[vdupq_n_s32(0); 2]; R];
        for (pair, [a, b, c, d]) in sums.into_iter().enumerate() {
            rows[2 * pair + 1] = [high(a, b), high(c, d)];
            rows[2 * pair] = [low(a, b), low(c, d)];
        }
        rows
    }
}

/// Blocks of rows: the same halves, back again.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
unsafe fn blocks_of<const R: usize, const PAIRS: usize>(rows: [[int32x4_t; 2]; R]) -> Blocks<PAIRS> {
    // SAFETY: the CPU has NEON.
    unsafe {
        let mut sums = [[vdupq_n_s32(0); 4]; PAIRS];
        for (pair, sums) in sums.iter_mut().enumerate() {
            let ([a, c], [b, d]) = (rows[2 * pair], rows[2 * pair + 1]);
            *sums = [low(a, b), high(a, b), low(c, d), high(c, d)];
        }
        sums
    }
}

/// [`finish_from_base`] of `R` rows in `PAIRS` pairs.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn finish<E: End, const R: usize, const PAIRS: usize>(
    mut sums: Blocks<PAIRS>,
    end: &TileEnd,
    ready: &E::Ready<Lanes128>,
) {
    // SAFETY: `end` and `ready` belong together and to these rows, and the CPU has NEON.
    unsafe {
        let Some(bytes) = E::bytes(ready) else {
            return finish_from_base::<Lanes128, E, R, 2>(rows_of(sums), end, ready);
        };
        if end.corrects {
            // Copies, so that otherwise nothing need be in memory.
            let mut copy = sums;
            correct_blocks::<R, PAIRS>(&mut copy, &TileEnd { ..*end });
            sums = copy;
        }
        if bytes.bias {
            store_bytes::<true, PAIRS>(sums, end, &bytes.range);
        } else {
            store_bytes::<false, PAIRS>(sums, end, &bytes.range);
        }
    }
}

/// [`correct`], of blocks. By itself, because most outputs of 8 bits need none of it.
///
/// # Safety
/// As [`finish`].
#[target_feature(enable = "neon")]
#[inline(never)]
unsafe fn correct_blocks<const R: usize, const PAIRS: usize>(sums: &mut Blocks<PAIRS>, end: &TileEnd) {
    // SAFETY: row sums and column parameters are those of the tile's `R` rows and 8 columns.
    unsafe {
        let mut rows: [_; R] = rows_of(*sums);
        correct::<Lanes128, R, 2>(&mut rows, end);
        *sums = blocks_of(rows);
    }
}

/// What [`EndByte`](super::super::product::EndByte) stores, of blocks.
///
/// # Safety
/// As [`finish`]; the f32 bias is not null if `BIAS`.
#[inline(always)]
unsafe fn store_bytes<const BIAS: bool, const PAIRS: usize>(
    sums: Blocks<PAIRS>,
    end: &TileEnd,
    to: &ByteRange,
) {
    // SAFETY: there is room for 8 bytes in each of two rows for every pair, and 8 columns have scales.
    unsafe {
        let [scales, biases] =
            [end.scales(), end.biases()].map(|from| [Lanes128::load_f(from), Lanes128::load_f(from.add(4))]);
        let scales = twice_f(scales);
        let biases = if BIAS { twice_f(biases) } else { scales };
        let mut bytes = [vdupq_n_s8(0); PAIRS];
        for (pair, bytes) in bytes.iter_mut().enumerate() {
            let mut steps = scales;
            for (j, step) in steps.iter_mut().enumerate() {
                *step = vmulq_f32(vcvtq_f32_s32(sums[pair][j]), *step);
                if BIAS {
                    *step = vaddq_f32(*step, biases[j]);
                }
            }
            *bytes = Lanes128::narrow(steps, to, false);
        }
        if Lanes128::limits(to) {
            for bytes in &mut bytes {
                *bytes = Lanes128::limit(*bytes, to);
            }
        }
        // Two bytes of the first row, two of the second, four times over: of two pairs of rows, the first rows of both are the
        // even elements.
        let mut out = end.out.cast::<u8>().wrapping_add(end.col);
        for pairs in bytes.chunks(2) {
            let (a, b) = (vreinterpretq_u16_s8(pairs[0]), vreinterpretq_u16_s8(pairs[pairs.len() - 1]));
            let first = vreinterpretq_u8_u16(vuzp1q_u16(a, b));
            let second = vreinterpretq_u8_u16(vuzp2q_u16(a, b));
            vst1_u8(out, vget_low_u8(first));
            vst1_u8(out.wrapping_add(end.out_stride), vget_low_u8(second));
            if pairs.len() > 1 {
                out = opaque(out.wrapping_add(2 * end.out_stride)).cast_mut();
                vst1_u8(out, vget_high_u8(first));
                out = opaque(out.wrapping_add(end.out_stride)).cast_mut();
                vst1_u8(out, vget_high_u8(second));
                out = opaque(out.wrapping_add(end.out_stride)).cast_mut();
            }
        }
    }
}
