//! AVX-512 VNNI kernel: x86-64 servers since Ice Lake and Zen 4.
//!
//! - Instruction: `vpdpbusd zmm`: 64 products of u8 by i8, added in fours to 16 i32.
//! - Tile: 6 rows x 64 columns, or 8 x 48 when 7 or 8 rows are all there are: 24 sums, 4 (3) of `rhs`, 1 broadcast of
//!   `lhs`, 29 (28) of 32 registers. Fewer adjacent panels make narrower tiles of the same layout.
//! - `lhs`: rows of u8, read in place, 4 values broadcast for a step. The sign bit of i8 values is flipped and their zero point
//!   raised by 128: as they are broadcast where ports for logic stand beside those that multiply (AMD), or in a copy made before
//!   where both 512-bit ports multiply (Intel): a pass over M * K bytes. `rhs`: panels of 16 columns of i8, kr = 4: `value(k, n)` at
//!   `(n / 16) * K4 * 16 + (k / 4) * 64 + (n % 16) * 4 + k % 4`, the layout of avx_vnni.
//! - Ceiling: 128 MAC/cycle on CPUs with two 512-bit units (64 MAC an instruction), 64 on Zen 4, which has one: 24 multiplies to
//!   10 loads.
//! - Exact: `vpdpbusd` (not its saturating form `vpdpbusds`) adds four 17-bit products to an i32, modulo 2^32.

use core::arch::x86_64::*;

use super::super::{
    Job, Kernel, LhsFormat, LhsRows, SumOffset,
    depthwise::{Depthwise, depthwise_functions, paired_depthwise_functions},
    drive::{self, MicroKernel, TileInput, next_part},
    epilogue::{End, TileEnd, finish},
    layout,
    slices::slice_functions,
};
use super::{depthwise::Taps512, fetch_output_row, is_amd, lanes512::Lanes512, sums, tail_word};

const KR: usize = 4;

/// Rows of the tallest tile.
const MR: usize = 8;
/// Columns of a panel: one vector.
const NR: usize = 16;

pulp::simd_type! {
    /// Proof that this CPU has AVX-512 with VNNI.
    struct Avx512Vnni {
        avx512f: "avx512f",
        avx512bw: "avx512bw",
        avx512vnni: "avx512vnni",
    }
}

/// The table entry.
pub(crate) static KERNEL: Kernel = Kernel {
    name: "avx512_vnni",
    instruction: "vpdpbusd, zmm",
    is_available: Avx512Vnni::is_available,
    mr: MR,
    nr: NR,
    kr: KR,
    lhs: LhsFormat::Bytes { unsigned: true },
    offset: SumOffset::None,
    flips_lhs: is_amd,
    scratch: |_| 0,
    lhs_stride: layout::byte_row_stride,
    pack_lhs,
    row_sums,
    multiply,
    slices: slice_functions!(Lanes512, "avx512f,avx512bw,avx512vnni"),
    depthwise: paired_depthwise_functions!(Taps512, "avx512f,avx512bw,avx512vnni"),
};

/// # Safety
/// As [`Kernel::pack_lhs`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn pack_lhs(src: &LhsRows, dst: *mut u8) {
    let flip = if src.unsigned { 0 } else { 0x80 };
    // SAFETY: the caller's.
    unsafe { layout::copy_rows(src, flip, layout::byte_row_stride(src.k), dst) }
}

/// # Safety
/// As [`Kernel::row_sums`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn row_sums(src: &LhsRows, dst: *mut i32) {
    // SAFETY: the caller's.
    unsafe { sums::row_sums(src, true, dst) }
}

/// # Safety
/// As [`Kernel::multiply`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn multiply(job: &Job) {
    // SAFETY: the caller's.
    unsafe { drive::multiply::<Avx512VnniTiles>(job) }
}

struct Avx512VnniTiles;

// SAFETY: `tile` reads K bytes of each row and whole steps of each panel.
unsafe impl MicroKernel for Avx512VnniTiles {
    type V = Lanes512;
    const NR: usize = NR;
    const KR: usize = KR;

    #[inline(always)]
    fn next_rows(remaining: usize, job: &Job) -> usize {
        if job.rows <= MR { remaining } else { next_part(remaining, 6) }
    }

    #[inline(always)]
    fn next_panels(remaining: usize, job: &Job) -> usize {
        next_part(remaining, if matches!(job.rows, 7 | 8) { 3 } else { 4 })
    }

    #[inline(always)]
    unsafe fn tile<E: End>(rows: usize, panels: usize, input: &TileInput, end: &TileEnd) {
        /// One arm for each number of panels, for tiles of `$r` rows.
        macro_rules! with_rows {
            ($r:literal: $($p:literal)*) => {
                match panels {
                    $( $p => tile::<E, $r, $p>(input, end), )*
                    _ => debug_assert!(false, "no tile of {rows} rows by {panels} panels"),
                }
            };
        }
        // SAFETY: the caller's.
        unsafe {
            match rows {
                1 => with_rows!(1: 1 2 3 4),
                2 => with_rows!(2: 1 2 3 4),
                3 => with_rows!(3: 1 2 3 4),
                4 => with_rows!(4: 1 2 3 4),
                5 => with_rows!(5: 1 2 3 4),
                6 => with_rows!(6: 1 2 3 4),
                7 => with_rows!(7: 1 2 3),
                _ => with_rows!(8: 1 2 3),
            }
        }
    }
}

/// `R` rows by `Q` panels of one vector.
///
/// # Safety
/// As [`MicroKernel::tile`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline(never)]
unsafe fn tile<E: End, const R: usize, const Q: usize>(input: &TileInput, end: &TileEnd) {
    // SAFETY: the caller's.
    unsafe {
        let sums = if input.flip_lhs {
            sums::<E, R, Q, true>(input, end)
        } else {
            sums::<E, R, Q, false>(input, end)
        };
        finish::<Lanes512, E, R, Q>(sums, end);
    }
}

/// The sign of each byte of a vector.
static SIGN_BITS: [i8; 64] = [i8::MIN; 64];

/// Steps below which a tile is over before its outputs could be fetched; a row's are in each `MR`-th part of so many.
const FETCH_STEPS: usize = 64;

/// The sums of a tile; the bytes of `lhs` are flipped on their way if `FLIP`.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn sums<E: End, const R: usize, const Q: usize, const FLIP: bool>(
    input: &TileInput,
    end: &TileEnd,
) -> [[__m512i; Q]; R] {
    let steps = input.k / KR;
    let tail = input.k % KR;
    // SAFETY: rows are readable for K bytes, panels for whole steps.
    unsafe {
        let mut sums = [[_mm512_setzero_si512(); Q]; R];
        // From an address that the compiler knows nothing of: it would flip words before they are broadcast, in an instruction more.
        let sign_bits = if FLIP {
            _mm512_loadu_si512(core::hint::black_box(&SIGN_BITS).as_ptr().cast())
        } else {
            _mm512_setzero_si512()
        };
        let flip = |a| if FLIP { _mm512_xor_si512(a, sign_bits) } else { a };
        let row = |r: usize, step: usize| input.lhs.wrapping_add(r * input.lhs_stride + step * KR);
        let word =
            |r: usize, step: usize| flip(_mm512_set1_epi32(row(r, step).cast::<i32>().read_unaligned()));
        // Stores of a large product would wait for memory one after the other: lines are fetched in the time that the sums take,
        // a row's at a time, since all at once they would keep panels from coming out of the second cache level.
        let mut step = 0;
        if R > 1 && steps >= FETCH_STEPS {
            for r in 0..R {
                fetch_output_row::<E>(end, r, Q * NR);
                let until = step + FETCH_STEPS / MR;
                while step < until {
                    multiply_add(&mut sums, input, step, |r| word(r, step));
                    step += 1;
                }
            }
        }
        while step < steps {
            multiply_add(&mut sums, input, step, |r| word(r, step));
            step += 1;
        }
        if tail > 0 {
            multiply_add(&mut sums, input, steps, |r| {
                flip(_mm512_set1_epi32(tail_word(row(r, steps), tail)))
            });
        }
        sums
    }
}

/// Adds the products of one step, `values(r)` being the four values of row `r`, sixteen times.
///
/// # Safety
/// As [`tile`], for this step.
#[inline(always)]
unsafe fn multiply_add<const R: usize, const Q: usize>(
    sums: &mut [[__m512i; Q]; R],
    input: &TileInput,
    step: usize,
    values: impl Fn(usize) -> __m512i,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut b = [_mm512_setzero_si512(); Q];
        for (q, b) in b.iter_mut().enumerate() {
            *b = _mm512_loadu_si512(input.rhs.add(q * input.panel_stride + step * 64).cast());
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            let a = values(r);
            for (sum, &b) in sums.iter_mut().zip(&b) {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
    }
}
