//! Matrix-multiply kernel: 64-bit ARM CPUs with FEAT_I8MM (Neoverse V1, N2, Apple M2 and later).
//!
//! - Instruction: `smmla`: 2 rows x 8 by 8 x 2 columns of i8, added to a 2 x 2 block of i32: 32 MAC.
//! - Tile: 12 rows x 8 columns as 6 x 4 blocks. Registers: 24 sums, 4 of `rhs`, 1 to 4 of `lhs`: 32. Fewer rows: 8, 4, 2, 1 on
//!   the same layout of `rhs`; 1 row takes two steps as if they were two rows.
//! - `lhs`: panels of `h` = 12 (8, 4, 2, 1) rows of i8, kr = 8: `value(i, k)` at `(k / 8) * 8 * h + i * 8 + k % 8`. `rhs`:
//!   panels of 8 columns, kr = 8: `value(k, n)` at `(n / 8) * K8 * 8 + (k / 8) * 64 + (n % 8) * 8 + k % 8`.
//! - Ceiling: 64 MAC/cycle on N2, 128 on V1 and V2. 10 loads to 24 multiplies.
//! - Exact: `smmla` adds eight 16-bit products to each i32, modulo 2^32.

use core::arch::{aarch64::*, asm};

use super::{
    super::{
        Job, Kernel, LhsFormat, LhsRows, SumOffset,
        drive::{self, MicroKernel, TileInput},
        epilogue::{End, TileEnd, finish},
        layout::{self, padded},
        slices::slice_functions,
    },
    lanes128::Lanes128,
    next_rows_of_12, pack_panels,
};

const MR: usize = 12;
const NR: usize = 8;
const KR: usize = 8;

pulp::simd_type! {
    /// Proof that this CPU has int8 matrix multiplies.
    struct I8mm {
        neon: "neon",
        i8mm: "i8mm",
    }
}

/// The table entry.
pub(crate) static KERNEL: Kernel = Kernel {
    name: "neon_i8mm",
    instruction: "smmla",
    is_available: I8mm::is_available,
    mr: MR,
    nr: NR,
    kr: KR,
    lhs: LhsFormat::PackedSigned,
    offset: SumOffset::None,
    scratch: |_| 0,
    lhs_stride: |k| padded(k, KR),
    pack_lhs,
    row_sums,
    multiply,
    slices: slice_functions!(Lanes128, "neon"),
};

/// # Safety
/// As [`Kernel::pack_lhs`].
#[target_feature(enable = "neon")]
unsafe fn pack_lhs(src: &LhsRows, dst: *mut u8) {
    let flip = vdupq_n_u8(if src.unsigned { 0x80 } else { 0 });
    // SAFETY: the caller's.
    unsafe { pack_panels::<KR, MR>(src, flip, next_rows_of_12, dst) }
}

/// # Safety
/// As [`Kernel::row_sums`].
#[target_feature(enable = "neon")]
unsafe fn row_sums(src: &LhsRows, dst: *mut i32) {
    // SAFETY: the caller's.
    unsafe { layout::row_sums(src, false, dst) }
}

/// # Safety
/// As [`Kernel::multiply`].
#[target_feature(enable = "neon,i8mm")]
unsafe fn multiply(job: &Job) {
    // SAFETY: the caller's.
    unsafe { drive::multiply::<I8mmTiles>(job) }
}

struct I8mmTiles;

// SAFETY: `tile` reads whole steps of packed rows and panels.
unsafe impl MicroKernel for I8mmTiles {
    type V = Lanes128;
    const NR: usize = NR;
    const KR: usize = KR;

    #[inline(always)]
    fn next_rows(remaining: usize, _rows: usize) -> usize {
        next_rows_of_12(remaining)
    }

    #[inline(always)]
    fn next_panels(_remaining: usize, _rows: usize) -> usize {
        1
    }

    #[inline(always)]
    unsafe fn tile<E: End>(rows: usize, _panels: usize, input: &TileInput, end: &TileEnd) {
        // SAFETY: the caller's.
        unsafe {
            match rows {
                1 => one_row::<E>(input, end),
                2 => tile::<E, 2, 1>(input, end),
                4 => tile::<E, 4, 2>(input, end),
                8 => tile::<E, 8, 4>(input, end),
                _ => tile::<E, 12, 6>(input, end),
            }
        }
    }
}

/// `sum[i][j] += a[i] . b[j]` for i, j in 0..2, each of 8 values.
///
/// The intrinsic is not stable; without these options every `smmla` would be a barrier to the compiler.
///
/// # Safety
/// The CPU has int8 matrix multiplies.
#[target_feature(enable = "neon,i8mm")]
#[inline]
unsafe fn smmla(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: reads and writes the registers named, nothing else.
    unsafe {
        asm!(
            "smmla {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// `R` rows, in `PAIRS` pairs, by one panel.
///
/// # Safety
/// As [`MicroKernel::tile`].
#[target_feature(enable = "neon,i8mm")]
#[inline(never)]
unsafe fn tile<E: End, const R: usize, const PAIRS: usize>(input: &TileInput, end: &TileEnd) {
    // SAFETY: packed rows and the panel are readable for whole steps, of which each row has 8 bytes.
    unsafe {
        let mut sums = [[vdupq_n_s32(0); 4]; PAIRS];
        let (mut lhs, mut rhs): (*const i8, *const i8) = (input.lhs.cast(), input.rhs.cast());
        for _ in 0..input.k.div_ceil(KR) {
            let b = [vld1q_s8(rhs), vld1q_s8(rhs.add(16)), vld1q_s8(rhs.add(32)), vld1q_s8(rhs.add(48))];
            for (pair, sums) in sums.iter_mut().enumerate() {
                let a = vld1q_s8(lhs.add(pair * 2 * KR));
                for (sum, &b) in sums.iter_mut().zip(&b) {
                    *sum = smmla(*sum, a, b);
                }
            }
            lhs = lhs.add(R * KR);
            rhs = rhs.add(NR * KR);
        }
        // A block holds [row 0: 2 columns, row 1: 2 columns]; a row's vector is the halves of two blocks.
        let half = |block: int32x4_t| vreinterpretq_s64_s32(block);
        let mut rows = [[vdupq_n_s32(0); 2]; R];
        for (r, row) in rows.iter_mut().enumerate() {
            for (q, vector) in row.iter_mut().enumerate() {
                let (left, right) = (half(sums[r / 2][2 * q]), half(sums[r / 2][2 * q + 1]));
                let joined = if r % 2 == 0 { vzip1q_s64(left, right) } else { vzip2q_s64(left, right) };
                *vector = vreinterpretq_s32_s64(joined);
            }
        }
        finish::<Lanes128, E, R, 2>(rows, end);
    }
}

/// One row by one panel, two steps of the row in place of two rows: of the blocks of even steps the first half is wanted,
/// of those of odd steps the second. The other halves hold products of values that do not belong together.
///
/// # Safety
/// As [`MicroKernel::tile`].
#[target_feature(enable = "neon,i8mm")]
#[inline(never)]
unsafe fn one_row<E: End>(input: &TileInput, end: &TileEnd) {
    // SAFETY: the packed row and the panel are readable for whole steps, of which the row has 8 bytes.
    unsafe {
        let (mut even, mut odd) = ([vdupq_n_s32(0); 4], [vdupq_n_s32(0); 4]);
        let (mut lhs, mut rhs): (*const i8, *const i8) = (input.lhs.cast(), input.rhs.cast());
        let steps = input.k.div_ceil(KR);
        for _ in 0..steps / 2 {
            let a = vld1q_s8(lhs);
            for j in 0..4 {
                even[j] = smmla(even[j], a, vld1q_s8(rhs.add(j * 16)));
            }
            for j in 0..4 {
                odd[j] = smmla(odd[j], a, vld1q_s8(rhs.add(NR * KR + j * 16)));
            }
            lhs = lhs.add(2 * KR);
            rhs = rhs.add(2 * NR * KR);
        }
        if steps % 2 == 1 {
            let a = vcombine_s8(vld1_s8(lhs), vdup_n_s8(0));
            for j in 0..4 {
                even[j] = smmla(even[j], a, vld1q_s8(rhs.add(j * 16)));
            }
        }
        let half = |block: int32x4_t| vreinterpretq_s64_s32(block);
        let mut row = [vdupq_n_s32(0); 2];
        for (q, vector) in row.iter_mut().enumerate() {
            let even = vzip1q_s64(half(even[2 * q]), half(even[2 * q + 1]));
            let odd = vzip2q_s64(half(odd[2 * q]), half(odd[2 * q + 1]));
            *vector = vaddq_s32(vreinterpretq_s32_s64(even), vreinterpretq_s32_s64(odd));
        }
        finish::<Lanes128, E, 1, 2>([row], end);
    }
}
