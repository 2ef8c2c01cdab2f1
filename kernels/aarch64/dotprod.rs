//! Dot-product kernel: 64-bit ARM CPUs with FEAT_DotProd (Cortex-A55, A76, Neoverse N1 and later).
//!
//! - Instruction: `sdot` by lane: 16 products of i8, added in fours to 4 i32.
//! - Tile: 12 rows x 8 columns. Registers: 24 sums, 3 of `lhs` (4 rows each), 2 of `rhs`: 29 of 32. Fewer rows: 8, 4, 2, 1 on
//!   the same layout of `rhs`; 2 and 1 take 2 and 4 steps with one load of `lhs`.
//! - `lhs`: panels of `h` = 12 (8, 4, 2, 1) rows of i8, kr = 4: `value(i, k)` at `(k / 4) * 4 * h + i * 4 + k % 4`. `rhs`:
//!   panels of 8 columns, kr = 4: `value(k, n)` at `(n / 8) * K4 * 8 + (k / 4) * 32 + (n % 8) * 4 + k % 4`.
//! - Ceiling: 16 MAC an instruction: 16 MAC/cycle on A55, 32 on N1 and A76, 64 on V1, V2 and X1. 5 loads to 24 multiplies.
//! - Exact: `sdot` adds four 16-bit products to an i32, modulo 2^32.

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
const KR: usize = 4;

pulp::simd_type! {
    /// Proof that this CPU has dot products.
    struct Dotprod {
        neon: "neon",
        dotprod: "dotprod",
    }
}

/// The table entry.
pub(crate) static KERNEL: Kernel = Kernel {
    name: "neon_dotprod",
    instruction: "sdot by lane",
    is_available: Dotprod::is_available,
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
#[target_feature(enable = "neon,dotprod")]
unsafe fn multiply(job: &Job) {
    // SAFETY: the caller's.
    unsafe { drive::multiply::<DotprodTiles>(job) }
}

struct DotprodTiles;

// SAFETY: `tile` reads whole steps of packed rows and panels.
unsafe impl MicroKernel for DotprodTiles {
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
                1 => tile::<E, 1>(input, end),
                2 => tile::<E, 2>(input, end),
                4 => tile::<E, 4>(input, end),
                8 => tile::<E, 8>(input, end),
                _ => tile::<E, 12>(input, end),
            }
        }
    }
}

/// `sum[j] += a[4 * LANE ..][..4] . b[4 * j ..][..4]`.
///
/// The intrinsic is not stable; without these options every `sdot` would be a barrier to the compiler.
///
/// # Safety
/// The CPU has dot products.
#[target_feature(enable = "neon,dotprod")]
#[inline]
unsafe fn sdot<const LANE: i32>(mut sum: int32x4_t, b: int8x16_t, a: int8x16_t) -> int32x4_t {
    // SAFETY: reads and writes the registers named, nothing else.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {b:v}.16b, {a:v}.4b[{lane}]",
            sum = inout(vreg) sum, b = in(vreg) b, a = in(vreg) a, lane = const LANE,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// [`sdot`] with a lane that is known once loops are unrolled.
///
/// # Safety
/// The CPU has dot products.
#[target_feature(enable = "neon,dotprod")]
#[inline]
unsafe fn sdot_lane(sum: int32x4_t, b: int8x16_t, a: int8x16_t, lane: usize) -> int32x4_t {
    // SAFETY: the caller's.
    unsafe {
        match lane {
            0 => sdot::<0>(sum, b, a),
            1 => sdot::<1>(sum, b, a),
            2 => sdot::<2>(sum, b, a),
            _ => sdot::<3>(sum, b, a),
        }
    }
}

/// `R` rows by one panel.
///
/// # Safety
/// As [`MicroKernel::tile`].
#[target_feature(enable = "neon,dotprod")]
#[inline(never)]
unsafe fn tile<E: End, const R: usize>(input: &TileInput, end: &TileEnd) {
    // SAFETY: packed rows and the panel are readable for whole steps, of which each row has 4 bytes.
    unsafe {
        let mut sums = [[vdupq_n_s32(0); 2]; R];
        let (mut lhs, mut rhs): (*const i8, *const i8) = (input.lhs.cast(), input.rhs.cast());
        let mut steps = input.k.div_ceil(KR);
        if R < 4 {
            // One load takes 4 steps of one row, or 2 of two.
            let together = 4 / R;
            for _ in 0..steps / together {
                let a = vld1q_s8(lhs);
                for step in 0..together {
                    let panel = rhs.add(step * NR * KR);
                    let b = [vld1q_s8(panel), vld1q_s8(panel.add(16))];
                    for r in 0..R {
                        sums[r][0] = sdot_lane(sums[r][0], b[0], a, step * R + r);
                        sums[r][1] = sdot_lane(sums[r][1], b[1], a, step * R + r);
                    }
                }
                lhs = lhs.add(16);
                rhs = rhs.add(together * NR * KR);
            }
            steps %= together;
        }
        for _ in 0..steps {
            let b = [vld1q_s8(rhs), vld1q_s8(rhs.add(16))];
            for first in (0..R).step_by(4) {
                let a = match R {
                    1 => vreinterpretq_s8_u32(vdupq_n_u32(lhs.cast::<u32>().read_unaligned())),
                    2 => vreinterpretq_s8_u64(vdupq_n_u64(lhs.cast::<u64>().read_unaligned())),
                    _ => vld1q_s8(lhs.add(first * KR)),
                };
                for q in 0..2 {
                    sums[first][q] = sdot::<0>(sums[first][q], b[q], a);
                    if R > 1 {
                        sums[first + 1][q] = sdot::<1>(sums[first + 1][q], b[q], a);
                    }
                    if R > 2 {
                        sums[first + 2][q] = sdot::<2>(sums[first + 2][q], b[q], a);
                        sums[first + 3][q] = sdot::<3>(sums[first + 3][q], b[q], a);
                    }
                }
            }
            lhs = lhs.add(R * KR);
            rhs = rhs.add(NR * KR);
        }
        finish::<Lanes128, E, R, 2>(sums, end);
    }
}
