//! AVX-VNNI kernel: x86-64 CPUs with the VEX form of `vpdpbusd` (Intel since Alder Lake, AMD since Zen 5).
//!
//! - Instruction: `vpdpbusd ymm`: 32 products of u8 by i8, added in fours to 8 i32.
//! - Tile: 6 rows x 16 columns. Registers: 12 sums, 2 of `rhs`, 1 broadcast of `lhs`: 15 of 16. With fewer rows the
//!   tile is wider (4x24, 3x32, 2x48, 1x64). Twelve sums hide a latency of 5 cycles at two instructions a cycle, which eight do not:
//!   4 rows pass three panels as two tiles of three vectors, the second of which begins in the middle of a panel. Few columns of many rows are
//!   multiplied along K: see [`super::dots256`].
//! - `lhs`: rows of u8, read in place, 4 values broadcast for a step (i8 rows are copied with the sign bit flipped,
//!   their zero point raised by 128). `rhs`: panels of 16 columns of i8, kr = 4: `value(k, n)` at
//!   `(n / 16) * K4 * 16 + (k / 4) * 64 + (n % 16) * 4 + k % 4`, the layout of avx512_vnni.
//! - Ceiling: 64 MAC/cycle on CPUs with two units (32 MAC an instruction): 12 multiplies to 8 loads.
//! - Exact: `vpdpbusd` (not its saturating form `vpdpbusds`) adds four 17-bit products to an i32, modulo 2^32.

use core::arch::x86_64::*;

use super::super::{
    Id, Isa, Job, Kernel, LhsFormat, LhsRows, SumOffset,
    product::{
        self, Buffers, End, MicroKernel, TileEnd, TileInput, dots, finish_from_base, group_cols, layout,
        next_part,
    },
};
use super::{
    avx_vnni_loops::{KR, NR, STEP, multiply_add},
    detect,
    lanes256::Lanes256,
    pack::pack_rhs_256,
    sums, tail_word,
};

const MR: usize = 6;

/// The table entry.
pub(crate) static KERNEL: Kernel = Kernel {
    id: Id::AvxVnni,
    isa: Isa::Avx2,
    is_available: detect::has_avx_vnni,
    mr: MR,
    nr: NR,
    kr: KR,
    group_cols: group_cols::<AvxVnniTiles>(),
    macs_per_cycle: 64,
    lhs: LhsFormat::Bytes { unsigned: true },
    flips_lhs: || false,
    offset: SumOffset::None,
    scratch: |_| 0,
    lhs_stride: layout::byte_row_stride,
    pack_rhs: pack_rhs_256::<NR, KR>,
    pack_lhs,
    row_sums,
};

/// # Safety
/// As [`Kernel::pack_lhs`].
#[target_feature(enable = "avx2")]
unsafe fn pack_lhs(src: &LhsRows, dst: *mut u8) {
    let flip = if src.unsigned { 0 } else { 0x80 };
    // SAFETY: the rows are readable and `dst` has room for them in this format; the CPU has the features.
    unsafe { layout::copy_rows(src, flip, layout::byte_row_stride(src.k), dst) }
}

/// # Safety
/// As [`Kernel::row_sums`].
#[target_feature(enable = "avx2")]
unsafe fn row_sums(src: &LhsRows, dst: *mut i32) {
    // SAFETY: the rows are readable and `dst` has room for a sum of each; the CPU has the features.
    unsafe { sums::row_sums(src, true, dst) }
}

/// # Safety
/// As [`super::super::Multiply`].
#[target_feature(enable = "avx2,avxvnni")]
pub(in crate::kernels) unsafe fn multiply<E: End>(job: &Job) {
    // SAFETY: the job is valid, and the CPU has the features that this is compiled for.
    unsafe {
        if dots::takes::<AvxVnniTiles>(job) {
            return multiply_few_columns::<E>(job);
        }
        product::multiply::<AvxVnniTiles, E>(job);
    }
}

/// # Safety
/// As [`multiply`], of a job that [`dots`] takes.
#[target_feature(enable = "avx2,avxvnni")]
#[inline(never)]
unsafe fn multiply_few_columns<E: End>(job: &Job) {
    // SAFETY: as above.
    unsafe { dots::multiply::<AvxVnniTiles, E>(job) }
}

pub(super) struct AvxVnniTiles;

// SAFETY: `tile` reads K bytes of each row and whole steps of each panel.
unsafe impl MicroKernel for AvxVnniTiles {
    type V = Lanes256;
    const NR: usize = NR;
    type Buffers = Buffers<MR, 64>;

    #[inline(always)]
    fn next_rows(remaining: usize, _job: &Job) -> usize {
        next_part(remaining, MR)
    }

    #[inline(always)]
    fn next_panels(remaining: usize, job: &Job) -> usize {
        match job.rows {
            1 => next_part(remaining, 4),
            // 7 and 8 are tiles of 4 and 3.
            2 | 4 | 7 | 8 => next_part(remaining, 3),
            3 => next_part(remaining, 2),
            _ => 1,
        }
    }

    #[inline(always)]
    unsafe fn tile<E: End>(rows: usize, panels: usize, input: &TileInput, end: &TileEnd) {
        // SAFETY: rows and panels are counts that this kernel names; input and end are valid for them.
        unsafe {
            match (rows, panels) {
                (1, 1) => tile::<E, 1, 2, false>(input, end),
                (1, 2) => tile::<E, 1, 4, false>(input, end),
                (1, 3) => tile::<E, 1, 6, false>(input, end),
                (1, _) => tile::<E, 1, 8, false>(input, end),
                (2, 1) => tile::<E, 2, 2, false>(input, end),
                (2, 2) => tile::<E, 2, 4, false>(input, end),
                (2, _) => tile::<E, 2, 6, false>(input, end),
                (3, 1) => tile::<E, 3, 2, false>(input, end),
                (3, 2) => tile::<E, 3, 4, false>(input, end),
                (3, _) => {
                    tile::<E, 3, 3, false>(input, end);
                    tile::<E, 3, 3, true>(input, end);
                }
                (4, 3) => {
                    tile::<E, 4, 3, false>(input, end);
                    tile::<E, 4, 3, true>(input, end);
                }
                (4, _) => {
                    for panel in 0..panels {
                        let end = TileEnd { col: panel * NR, ..*end };
                        tile::<E, 4, 2, false>(&input.panel(panel), &end);
                    }
                }
                (5, _) => tile::<E, 5, 2, false>(input, end),
                (_, _) => tile::<E, 6, 2, false>(input, end),
            }
        }
    }
}

/// Rows of a job from which its tiles fetch the next panel.
const FETCH_ROWS: usize = 48;
/// Steps of a panel from which it is worth it.
const FETCH_STEPS: usize = 48;
/// Lines that a tile fetches.
const FETCH_LINES: usize = 8;

/// `R` rows by `Q` vectors, two a panel: the first of the group, or, if `LATE`, those behind the first three.
///
/// # Safety
/// As [`MicroKernel::tile`].
#[target_feature(enable = "avx2,avxvnni")]
#[inline(never)]
unsafe fn tile<E: End, const R: usize, const Q: usize, const LATE: bool>(input: &TileInput, end: &TileEnd) {
    let first = if LATE { 3 } else { 0 };
    let late;
    let end = if LATE {
        late = TileEnd { col: end.col + 8 * first, ..*end };
        &late
    } else {
        end
    };
    let (steps, tail) = (input.k / KR, input.k % KR);
    // SAFETY: rows are readable for K bytes, panels for whole steps; the columns of the tile have a base.
    unsafe {
        let mut base = [_mm256_setzero_si256(); Q];
        for (q, base) in base.iter_mut().enumerate() {
            *base = end.base::<Lanes256>(q);
        }
        let mut sums = [base; R];
        // The processor's own prefetching would learn of the next panel at its second line: each tile of many asks for some lines of it.
        if R >= 5 && input.job_rows >= FETCH_ROWS && steps >= FETCH_STEPS && !input.next_rhs.is_null() {
            let line = input.tiles_before * FETCH_LINES;
            for line in line..steps.min(line + FETCH_LINES) {
                _mm_prefetch::<_MM_HINT_T1>(input.next_rhs.wrapping_add(line * STEP).cast());
            }
        }
        if R == 1 {
            for step in 0..steps {
                let word = input.lhs.add(step * KR).cast::<i32>().read_unaligned();
                add_step(&mut sums, input, first, step, |_| _mm256_set1_epi32(word));
            }
        } else {
            multiply_add::<R, Q, LATE>(sums.as_mut_ptr().cast(), input);
        }
        if tail > 0 {
            let row = |r: usize| input.lhs.add(r * input.lhs_stride);
            if steps > 0 {
                // The last four values of a row, of which those that a step has multiplied are shifted out.
                let taken = _mm256_set1_epi32(8 * (KR - tail) as i32);
                add_step(&mut sums, input, first, steps, |r| {
                    let last = row(r).add(input.k - KR).cast::<i32>().read_unaligned();
                    _mm256_srlv_epi32(_mm256_set1_epi32(last), taken)
                });
            } else {
                add_step(&mut sums, input, first, steps, |r| _mm256_set1_epi32(tail_word(row(r), tail)));
            }
        }
        finish_from_base::<Lanes256, E, R, Q>(sums, end, &E::ready::<Lanes256>(end.epilogue));
    }
}

/// Adds the products of one step, `values(r)` being the four values of row `r`, eight times.
///
/// # Safety
/// The tile's panels are readable at this step; the CPU has AVX-VNNI.
#[inline(always)]
unsafe fn add_step<const R: usize, const Q: usize>(
    sums: &mut [[__m256i; Q]; R],
    input: &TileInput,
    first: usize,
    step: usize,
    values: impl Fn(usize) -> __m256i,
) {
    // SAFETY: the tile's panels are readable at this step.
    unsafe {
        let load = |q: usize| {
            let vector = first + q;
            let place = vector / 2 * input.panel_stride + step * STEP + vector % 2 * 32;
            _mm256_loadu_si256(input.rhs.add(place).cast())
        };
        // The shorter side stays in registers while the other passes.
        if R < Q {
            let mut a = [_mm256_setzero_si256(); R];
            a.iter_mut().enumerate().for_each(|(r, a)| *a = values(r));
            for q in 0..Q {
                let b = load(q);
                for r in 0..R {
                    sums[r][q] = _mm256_dpbusd_avx_epi32(sums[r][q], a[r], b);
                }
            }
        } else {
            let mut b = [_mm256_setzero_si256(); Q];
            b.iter_mut().enumerate().for_each(|(q, b)| *b = load(q));
            for (r, sums) in sums.iter_mut().enumerate() {
                let a = values(r);
                for (sum, &b) in sums.iter_mut().zip(&b) {
                    *sum = _mm256_dpbusd_avx_epi32(*sum, a, b);
                }
            }
        }
    }
}
