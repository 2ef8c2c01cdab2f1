//! AVX2 kernel: any x86-64 CPU since 2013 (Intel) or 2015 (AMD).
//!
//! - Instruction: `vpmaddwd` (16 products of i16, added in pairs to 8 i32) and `vpaddd`. Not `vpmaddubsw`, which is
//!   twice as wide and saturates its pair sums at 16 bits, but for a single row.
//! - Tile: 6 rows x 16 columns, of panels that the loop widens itself: 12 multiplies, 12 additions and 2 instructions that
//!   widen are 6.5 cycles of four vector ports, in 32 instructions a step. Many rows of small K: 4 x 24, of panels widened
//!   ahead: the 24 alone, 6 cycles, in 30. Registers of either: 12 sums, 2 of `rhs`, 1 broadcast of `lhs`, 1 product: 16;
//!   a third vector of `rhs` is read by the multiplies. A single row is 1 x 32, by an arithmetic of its own: see [`super::avx2_row`].
//!   Few columns of many rows are multiplied along K: see [`super::dots256`].
//! - `lhs`: rows of u8 widened to i16 (i8 values and their zero point are raised by 128), K padded with zero to even; a step broadcasts
//!   the 32 bits of two values. `rhs`: panels of 8 columns of i8, kr = 2: `value(k, n)` at
//!   `(n / 8) * K2 * 8 + (k / 2) * 16 + (n % 8) * 2 + k % 2`, widened by `vpmovsxbw` as they are loaded: weights cost one byte
//!   of memory traffic each. A group that is widened ahead lies in scratch step by step, the vectors of a tile side by
//!   side. It must fit the first cache level: beyond, or in blocks of K with sums that wait in memory, it gains nothing.
//! - Ceiling: 32 MAC/cycle on CPUs with two multiply ports (16 MAC an instruction), as long as the additions find other
//!   ports; 29.5 of it where the loop widens. Latency asks for no more sums: only the additions, of one cycle each, form chains.
//! - Exact: a pair of products is at most 2 * 255 * 128 in magnitude; pairs and sums are i32. A single row's pairs are of digits, too
//!   small to saturate.

use core::arch::x86_64::*;

use super::super::{
    Id, Isa, Job, Kernel, LhsFormat, LhsRows, SumOffset,
    product::{
        self, Buffers, End, MicroKernel, TileEnd, TileInput, dots, finish_from_base, group_cols,
        layout::{self, padded},
        next_part,
    },
};
use super::{
    avx2_loops::{KR, NR, multiply_add},
    avx2_row, detect, fetch_output_row,
    lanes256::Lanes256,
    pack::pack_rhs_256,
    sums,
};

/// Rows and panels of a tile that widens panels as it loads them.
const MR: usize = 6;
const GROUP: usize = 2;

/// Rows and panels of a tile of panels that were widened ahead.
const WIDENED_ROWS: usize = 4;
const WIDENED_GROUP: usize = 3;

/// Rows from which widening a group of panels once is cheaper than widening it in every tile.
const WIDEN_FROM_ROWS: usize = 32;

/// Depth up to which a widened group leaves room for rows in a first-level cache of 32 KB.
const WIDEN_TO_K: usize = 512;

/// The table entry.
pub(crate) static KERNEL: Kernel = Kernel {
    id: Id::Avx2,
    isa: Isa::Avx2,
    is_available: detect::has_avx2,
    mr: MR,
    nr: NR,
    kr: KR,
    group_cols: group_cols::<Avx2Tiles>(),
    macs_per_cycle: 32,
    lhs: LhsFormat::PackedUnsigned,
    flips_lhs: || false,
    offset: SumOffset::None,
    scratch: |k| {
        // The panels of a group, widened, or a single row, cut.
        let widened = 2 * padded(k.min(WIDEN_TO_K), KR) * NR * WIDENED_GROUP;
        widened.max(2 * padded(k, KR)).next_multiple_of(64)
    },
    lhs_stride,
    pack_rhs: pack_rhs_256::<NR, KR>,
    pack_lhs,
    row_sums,
};

/// Bytes from one widened row to the next.
fn lhs_stride(k: usize) -> usize {
    layout::byte_row_stride(2 * padded(k, KR))
}

/// `dst[i][k]` as u8 in 16 bits, zero at k = K if K is odd.
///
/// # Safety
/// As [`Kernel::pack_lhs`].
#[target_feature(enable = "avx2")]
unsafe fn pack_lhs(src: &LhsRows, dst: *mut u8) {
    let (stride, flip) = (lhs_stride(src.k), if src.unsigned { 0 } else { 0x80 });
    for i in 0..src.rows {
        // SAFETY: row `i` is readable, and writable as padded words; the CPU has the features.
        unsafe {
            let from = core::slice::from_raw_parts(src.ptr.add(i * src.row_stride), src.k);
            let to: *mut u16 = dst.add(i * stride).cast();
            for (k, &byte) in from.iter().enumerate() {
                to.add(k).write_unaligned((byte ^ flip).into());
            }
            if !src.k.is_multiple_of(KR) {
                to.add(src.k).write_unaligned(0);
            }
        }
    }
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
#[target_feature(enable = "avx2")]
pub(in crate::kernels) unsafe fn multiply<E: End>(job: &Job) {
    // SAFETY: the job is valid, and the CPU has the features that this is compiled for. Scratch, which panels are not widened into for
    // a single row, has room for it.
    unsafe {
        if dots::takes::<Avx2Tiles>(job) {
            return multiply_few_columns::<E>(job);
        }
        if job.rows != 1 || !avx2_row::cuts(job.k, panel_bytes(job)) {
            return product::multiply::<Avx2Tiles, E>(job);
        }
        let skipped = 2 * job.first_k;
        avx2_row::cut_digits(job.lhs.wrapping_add(skipped), job.k, job.scratch);
        product::multiply::<Avx2Tiles, E>(&Job { lhs: job.scratch.wrapping_sub(skipped), ..*job });
    }
}

/// # Safety
/// As [`multiply`], of a job that [`dots`] takes.
#[target_feature(enable = "avx2")]
#[inline(never)]
unsafe fn multiply_few_columns<E: End>(job: &Job) {
    // SAFETY: as above.
    unsafe { dots::multiply::<Avx2Tiles, E>(job) }
}

/// Bytes of the job's panels, as [`TileInput::job_bytes`] has them.
#[inline(always)]
fn panel_bytes(job: &Job) -> usize {
    job.cols.div_ceil(NR) * job.rhs_stride
}

/// Groups of panels are widened ahead.
#[inline(always)]
fn widens(job: &Job) -> bool {
    job.rows >= WIDEN_FROM_ROWS && job.k <= WIDEN_TO_K
}

pub(super) struct Avx2Tiles;

// SAFETY: `tile` reads whole steps of padded rows and panels.
unsafe impl MicroKernel for Avx2Tiles {
    type V = Lanes256;
    const NR: usize = NR;
    const LHS_BYTES: usize = 2;
    type Buffers = Buffers<MR, 64>;

    #[inline(always)]
    fn next_rows(remaining: usize, job: &Job) -> usize {
        if widens(job) { next_part(remaining, WIDENED_ROWS) } else { next_part(remaining, MR) }
    }

    #[inline(always)]
    fn next_panels(remaining: usize, job: &Job) -> usize {
        match (job.rows, remaining) {
            (1, 8..) if !avx2_row::cuts(job.k, panel_bytes(job)) => 8,
            (1, 4..) => 4,
            (1, 2..) => 2,
            (1, _) => 1,
            _ if widens(job) => next_part(remaining, WIDENED_GROUP),
            _ => next_part(remaining, GROUP),
        }
    }

    #[inline(always)]
    unsafe fn widen(rhs: *const u8, panels: usize, job: &Job) -> bool {
        // There are groups of two and three; a panel by itself is all there is.
        if !widens(job) || panels == 1 {
            return false;
        }
        // SAFETY: scratch has room for a group of widened panels of the job's depth; the panels lie a stride apart.
        unsafe { widen(rhs, job.rhs_stride, panels, job.k, job.scratch) };
        true
    }

    #[inline(always)]
    unsafe fn tile<E: End>(rows: usize, panels: usize, input: &TileInput, end: &TileEnd) {
        // SAFETY: rows and panels are counts that this kernel names; input and end are valid for them.
        unsafe {
            match (input.widened, rows, panels) {
                (true, 2, 2) => tile::<E, 2, 2, true>(input, end),
                (true, 2, _) => tile::<E, 2, 3, true>(input, end),
                (true, 3, 2) => tile::<E, 3, 2, true>(input, end),
                (true, 3, _) => tile::<E, 3, 3, true>(input, end),
                (true, _, 2) => tile::<E, 4, 2, true>(input, end),
                (true, _, _) => tile::<E, 4, 3, true>(input, end),
                (false, 1, 1) => tile::<E, 1, 1, false>(input, end),
                (false, 1, 2) => tile::<E, 1, 2, false>(input, end),
                (false, 1, 4) => tile::<E, 1, 4, false>(input, end),
                (false, 1, _) => tile::<E, 1, 8, false>(input, end),
                (false, 2, 1) => tile::<E, 2, 1, false>(input, end),
                (false, 2, _) => tile::<E, 2, 2, false>(input, end),
                (false, 3, 1) => tile::<E, 3, 1, false>(input, end),
                (false, 3, _) => tile::<E, 3, 2, false>(input, end),
                (false, 4, 1) => tile::<E, 4, 1, false>(input, end),
                (false, 4, _) => tile::<E, 4, 2, false>(input, end),
                (false, 5, 1) => tile::<E, 5, 1, false>(input, end),
                (false, 5, _) => tile::<E, 5, 2, false>(input, end),
                (false, _, 1) => tile::<E, 6, 1, false>(input, end),
                (false, _, _) => tile::<E, 6, 2, false>(input, end),
            }
        }
    }
}

/// Widens the panels of a group side by side: `scratch[step][panel]` is the vector of a step. Not inlined, for what few rows
/// never need would take registers from what they do.
///
/// # Safety
/// The panels are readable, `scratch` is aligned to 64 and has room for them widened.
#[target_feature(enable = "avx2")]
#[inline(never)]
unsafe fn widen(rhs: *const u8, stride: usize, panels: usize, k: usize, scratch: *mut u8) {
    // SAFETY: each panel has 16 bytes a step, and scratch 32 a step for every panel of a group.
    unsafe {
        let steps = k.div_ceil(KR);
        for panel in 0..panels {
            let (from, to) = (rhs.add(panel * stride), scratch.add(panel * 32));
            for step in 0..steps {
                let bytes = _mm_loadu_si128(from.add(step * 16).cast());
                _mm256_store_si256(to.add(step * panels * 32).cast(), _mm256_cvtepi8_epi16(bytes));
            }
        }
    }
}

/// `R` rows by `Q` vectors, one a panel, from a widened group or from bytes.
///
/// # Safety
/// As [`MicroKernel::tile`].
#[target_feature(enable = "avx2")]
#[inline(never)]
unsafe fn tile<E: End, const R: usize, const Q: usize, const WIDENED: bool>(
    input: &TileInput,
    end: &TileEnd,
) {
    // SAFETY: rows and panels are readable for whole steps; there are R x Q sums, whose columns have a base.
    unsafe {
        let mut base = [_mm256_setzero_si256(); Q];
        for (q, base) in base.iter_mut().enumerate() {
            *base = end.base::<Lanes256>(q);
        }
        let mut sums = [base; R];
        if R == 1 {
            avx2_row::multiply_add::<Q>(&mut sums[0], input);
        } else {
            for r in 0..R {
                fetch_output_row::<E>(end, r, Q * NR);
            }
            multiply_add::<R, Q, WIDENED>(sums.as_mut_ptr().cast(), input);
        }
        finish_from_base::<Lanes256, E, R, Q>(sums, end, &E::ready::<Lanes256>(end.epilogue));
    }
}
