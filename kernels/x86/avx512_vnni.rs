//! AVX-512 VNNI kernel: x86-64 servers since Ice Lake and Zen 4.
//!
//! - Instruction: `vpdpbusd zmm`: 64 products of u8 by i8, added in fours to 16 i32.
//! - Tile: 6 rows x 64 columns, or 8 x 48 when 7 or 8 rows are all there are: 24 sums, 4 (3) of `rhs`, 1 broadcast of
//!   `lhs`, 29 (28) of 32 registers, and one of sign bits where i8 is flipped. Fewer adjacent panels make narrower tiles of the same layout;
//!   where there are no more than two, tiles are 12 rows tall: 12 chains hide a latency of 5 cycles at two instructions a cycle.
//! - One row is multiplied panel after panel (`avx512_row.rs`), few columns of many rows along K (`avx512_dots.rs`).
//! - `lhs`: rows of u8, read in place, 4 values broadcast for a step. The sign bit of i8 values is flipped and their zero point
//!   raised by 128: as they are broadcast where ports for logic stand beside those that multiply (AMD), or in a copy made before
//!   where both 512-bit ports multiply (Intel): a pass over M * K bytes. `rhs`: panels of 16 columns of i8, kr = 4: `value(k, n)` at
//!   `(n / 16) * K4 * 16 + (k / 4) * 64 + (n % 16) * 4 + k % 4`, the layout of avx_vnni.
//! - Memory: tiles fetch the lines of their outputs and the panels that come next while they multiply; one row passes many short
//!   panels one after the other.
//! - Ceiling: 128 MAC/cycle on CPUs with two 512-bit units (64 MAC an instruction), 64 on Zen 4, which has one: 24 multiplies to
//!   10 loads.
//! - Exact: `vpdpbusd` (not its saturating form `vpdpbusds`) adds four 17-bit products to an i32, modulo 2^32.

use core::arch::x86_64::*;

use super::super::{
    Id, Isa, Job, Kernel, LhsFormat, LhsRows, SumOffset,
    product::{
        self, Buffers, End, MicroKernel, TileEnd, TileInput, correct, dots, each, finish_from_base,
        group_cols, layout, next_part,
    },
};
use super::{
    avx512_row as row, detect, fetch_output_row, lanes512::Lanes512, pack::pack_rhs_512, sums, tail_word,
};

pub(super) const KR: usize = 4;

/// Rows of the tallest tile of three panels.
const MR: usize = 8;
/// Rows of the tallest tile of two panels or one.
const TALL: usize = 12;
/// Columns of a panel: one vector.
pub(super) const NR: usize = 16;

/// The table entry.
pub(crate) static KERNEL: Kernel = Kernel {
    id: Id::Avx512Vnni,
    isa: Isa::Avx512Vnni,
    is_available: detect::has_avx512_vnni,
    mr: MR,
    nr: NR,
    kr: KR,
    group_cols: group_cols::<Avx512VnniTiles>(),
    macs_per_cycle: 128,
    lhs: LhsFormat::Bytes { unsigned: true },
    offset: SumOffset::None,
    flips_lhs: detect::is_amd,
    scratch: |_| 0,
    lhs_stride: layout::byte_row_stride,
    pack_rhs: pack_rhs_512::<NR, KR>,
    pack_lhs,
    row_sums,
};

/// # Safety
/// As [`Kernel::pack_lhs`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn pack_lhs(src: &LhsRows, dst: *mut u8) {
    let flip = if src.unsigned { 0 } else { 0x80 };
    // SAFETY: the rows are readable and `dst` has room for them in this format; the CPU has the features.
    unsafe { layout::copy_rows(src, flip, layout::byte_row_stride(src.k), dst) }
}

/// # Safety
/// As [`Kernel::row_sums`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn row_sums(src: &LhsRows, dst: *mut i32) {
    // SAFETY: the rows are readable and `dst` has room for a sum of each; the CPU has the features.
    unsafe { sums::row_sums(src, true, dst) }
}

/// # Safety
/// As [`super::super::Multiply`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(in crate::kernels) unsafe fn multiply<E: End>(job: &Job) {
    // SAFETY: the job is valid, and the CPU has the features that this is compiled for.
    unsafe {
        if dots::takes::<Avx512VnniTiles>(job) {
            return multiply_few_columns::<E>(job);
        }
        product::multiply::<Avx512VnniTiles, E>(job);
    }
}

/// # Safety
/// As [`multiply`], of a job that [`dots`] takes.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline(never)]
unsafe fn multiply_few_columns<E: End>(job: &Job) {
    // SAFETY: as above.
    unsafe { dots::multiply::<Avx512VnniTiles, E>(job) }
}

pub(super) struct Avx512VnniTiles;

// SAFETY: `tile` reads K bytes of each row and whole steps of each panel.
unsafe impl MicroKernel for Avx512VnniTiles {
    type V = Lanes512;
    const NR: usize = NR;
    type Buffers = Buffers<TALL, { 4 * NR }>;

    #[inline(always)]
    fn next_rows(remaining: usize, job: &Job) -> usize {
        if job.rows <= MR {
            remaining
        } else {
            next_part(remaining, if job.cols <= 2 * NR { TALL } else { 6 })
        }
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
        // SAFETY: rows and panels are counts that this kernel names; input and end are valid for them.
        unsafe {
            match rows {
                1 => with_rows!(1: 1 2 3 4),
                2 => with_rows!(2: 1 2 3 4),
                3 => with_rows!(3: 1 2 3 4),
                4 => with_rows!(4: 1 2 3 4),
                5 => with_rows!(5: 1 2 3 4),
                6 => with_rows!(6: 1 2 3 4),
                7 => with_rows!(7: 1 2 3),
                8 => with_rows!(8: 1 2 3),
                9 => with_rows!(9: 1 2),
                10 => with_rows!(10: 1 2),
                11 => with_rows!(11: 1 2),
                _ => with_rows!(12: 1 2),
            }
        }
    }
}

/// Adds [`LAST_STEPS`] steps to two rows of sums. Written out because the compiler, which sees that all rows read the same weights,
/// would keep those in registers that it hasn't got. The three registers between are named, zmm0 to zmm2, because a compiler that is
/// told of AVX-512 (`-C target-cpu=native`) cannot choose for `out(zmm_reg) _`: rust-lang/rust #159418.
macro_rules! multiply_two_rows {
    (column $place:literal, $first:literal, $second:literal, $step:literal) => {
        concat!(
            "vmovdqu64 zmm2, zmmword ptr [", $place, " + ", $step, "]\n",
            "vpdpbusd ", $first, ", zmm0, zmm2\n",
            "vpdpbusd ", $second, ", zmm1, zmm2\n",
        )
    };
    (step 3, $word:literal, $step:literal) => {
        concat!(
            "vpxord zmm0, {flip}, dword ptr [{row0} + ", $word, "]{{1to16}}\n",
            "vpxord zmm1, {flip}, dword ptr [{row1} + ", $word, "]{{1to16}}\n",
            multiply_two_rows!(column "{panel}", "{s00}", "{s10}", $step),
            multiply_two_rows!(column "{panel} + {stride}", "{s01}", "{s11}", $step),
            multiply_two_rows!(column "{panel} + 2*{stride}", "{s02}", "{s12}", $step),
        )
    };
    (step 4, $word:literal, $step:literal) => {
        concat!(
            multiply_two_rows!(step 3, $word, $step),
            multiply_two_rows!(column "{panel} + {stride3}", "{s03}", "{s13}", $step),
        )
    };
    ($panels:tt, $sums:ident, $r:ident, $row:expr, $panel:expr, $input:expr, $flip:expr $(, $($more:tt)*)?) => {
        core::arch::asm!(
            multiply_two_rows!(step $panels, "0", "0"),
            multiply_two_rows!(step $panels, "4", "64"),
            multiply_two_rows!(step $panels, "8", "128"),
            multiply_two_rows!(step $panels, "12", "192"),
            s00 = inout(zmm_reg) $sums[$r][0],
            s01 = inout(zmm_reg) $sums[$r][1],
            s02 = inout(zmm_reg) $sums[$r][2],
            s10 = inout(zmm_reg) $sums[$r + 1][0],
            s11 = inout(zmm_reg) $sums[$r + 1][1],
            s12 = inout(zmm_reg) $sums[$r + 1][2],
            out("zmm0") _,
            out("zmm1") _,
            out("zmm2") _,
            flip = in(zmm_reg) $flip,
            row0 = in(reg) $row.wrapping_add($r * $input.lhs_stride),
            row1 = in(reg) $row.wrapping_add(($r + 1) * $input.lhs_stride),
            panel = in(reg) $panel,
            stride = in(reg) $input.panel_stride,
            $($($more)*)?
            options(pure, readonly, nostack, preserves_flags),
        )
    };
}

/// `R` rows by `Q` panels of one vector.
///
/// # Safety
/// As [`MicroKernel::tile`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline(never)]
unsafe fn tile<E: End, const R: usize, const Q: usize>(input: &TileInput, end: &TileEnd) {
    let steps = input.k / KR;
    let tail = input.k % KR;
    let large = const { is_large(R, Q) };
    let last = if large && steps >= LAST_STEPS { LAST_STEPS } else { 0 };
    // SAFETY: rows are readable for K bytes, panels for whole steps; the rest is the caller's.
    unsafe {
        let mut base = [_mm512_setzero_si512(); Q];
        for (q, base) in base.iter_mut().enumerate() {
            *base = end.base::<Lanes512>(q);
        }
        let mut sums = [base; R];
        let flip = if input.flip_lhs {
            let sign_bits = sign_bits();
            multiply_steps::<E, R, Q>(&mut sums, input, end, steps - last, |a| {
                _mm512_xor_si512(a, sign_bits)
            });
            sign_bits
        } else {
            multiply_steps::<E, R, Q>(&mut sums, input, end, steps - last, |a| a);
            _mm512_setzero_si512()
        };
        if tail > 0 {
            multiply_tail(&mut sums, input, flip);
        }
        let ready = E::ready::<Lanes512>(end.epilogue);
        if !large {
            return finish_from_base::<Lanes512, E, R, Q>(sums, end, &ready);
        }
        if end.corrects {
            correct::<Lanes512, R, Q>(&mut sums, end);
        }
        // Sums are stored as slowly as they are multiplied, and what waits for a sum keeps the multiplications behind it waiting: so
        // the last steps go two rows at a time, and rows are finished while the next are multiplied.
        let panel = input.rhs.wrapping_add((steps - last) * NR * KR);
        let row = input.lhs.wrapping_add((steps - last) * KR);
        // Row 0 is alone if R is odd.
        if R % 2 == 1 && last > 0 {
            for step in steps - LAST_STEPS..steps {
                let a = _mm512_xor_si512(word(input, 0, step), flip);
                for (q, sum) in sums[0].iter_mut().enumerate() {
                    *sum = _mm512_dpbusd_epi32(*sum, a, weights(input, q, step));
                }
            }
        }
        each!(pair in 0..R / 2 => {
            let r = R % 2 + 2 * pair;
            if last > 0 && Q == 3 {
                multiply_two_rows!(3, sums, r, row, panel, input, flip);
            } else if last > 0 {
                multiply_two_rows!(4, sums, r, row, panel, input, flip,
                    s03 = inout(zmm_reg) sums[r][3], s13 = inout(zmm_reg) sums[r + 1][3],
                    stride3 = in(reg) 3 * input.panel_stride,);
            }
            if r == 1 {
                E::store::<Lanes512, 1, Q>(&[sums[0]], end, &ready);
            } else if r > 1 {
                E::store::<Lanes512, 2, Q>(&[sums[r - 2], sums[r - 1]], &end.at_row(r - 2, E::BYTES), &ready);
            }
        });
        E::store::<Lanes512, 2, Q>(&[sums[R - 2], sums[R - 1]], &end.at_row(R - 2, E::BYTES), &ready);
    }
}

/// The sign of each byte of a vector.
static SIGN_BITS: [i8; 64] = [i8::MIN; 64];

/// Tiles of so many rows and panels have time to fetch for others and are finished two rows at a time; smaller ones, at the edges
/// or of few rows, are not worth the code.
const fn is_large(rows: usize, panels: usize) -> bool {
    rows >= 3 && panels >= 3
}

/// Steps that go two rows at a time: as many as `multiply_two_rows!` has.
const LAST_STEPS: usize = 4;

/// Steps below which a tile is over before its outputs could be fetched.
const FETCH_STEPS: usize = 24;

/// From an address that the compiler knows nothing of: it would flip words before they are broadcast, in an instruction more.
///
/// # Safety
/// The CPU has AVX-512.
#[inline(always)]
pub(super) unsafe fn sign_bits() -> __m512i {
    // SAFETY: 64 bytes.
    unsafe { _mm512_loadu_si512(core::hint::black_box(&SIGN_BITS).as_ptr().cast()) }
}

/// Four values of row `r`, sixteen times.
///
/// # Safety
/// The tile has that row and whole step.
#[inline(always)]
pub(super) unsafe fn word(input: &TileInput, r: usize, step: usize) -> __m512i {
    // SAFETY: the row's step is 4 readable bytes.
    unsafe {
        _mm512_set1_epi32(input.lhs.add(r * input.lhs_stride + step * KR).cast::<i32>().read_unaligned())
    }
}

/// Four weights of each column of panel `q`.
///
/// # Safety
/// The tile has that panel and step.
#[inline(always)]
pub(super) unsafe fn weights(input: &TileInput, q: usize, step: usize) -> __m512i {
    // SAFETY: the panel's step is 64 readable bytes.
    unsafe { _mm512_loadu_si512(input.rhs.add(q * input.panel_stride + step * NR * KR).cast()) }
}

/// The first `steps` steps of a tile. `flip` makes u8 of the values of `lhs`.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn multiply_steps<E: End, const R: usize, const Q: usize>(
    sums: &mut [[__m512i; Q]; R],
    input: &TileInput,
    end: &TileEnd,
    steps: usize,
    flip: impl Fn(__m512i) -> __m512i,
) {
    let large = const { is_large(R, Q) };
    let mut step = 0;
    // SAFETY: the tile has `R` rows and `Q` panels, readable for as many steps.
    unsafe {
        if R == 1 && row::pays(input) {
            // A copy, so that the sums of the loop below need no address.
            let mut row = sums[0];
            row::multiply(&mut row, input, steps);
            sums[0] = row;
            return;
        }
        // The weights of few rows come out of the second cache level as fast as they are multiplied, if it holds them all.
        let fetches = large && (input.job_rows > 3 * MR || input.job_bytes > row::SECOND_LEVEL);
        if !fetches {
            while step < steps {
                multiply_add(sums, input, step, |r| flip(word(input, r, step)));
                step += 1;
            }
            return;
        }
        // The next group's panels would come too late: the processor's own prefetching stops at the end of a panel or a page. A tile
        // of few asks for all of them, the first of many for one panel each, so that memory has time.
        let mut fetch = input.rhs;
        if !input.next_rhs.is_null() {
            if input.job_rows > 3 * MR {
                if input.tiles_before < Q {
                    fetch = input.next_rhs.wrapping_add(input.tiles_before * input.panel_stride);
                }
            } else if input.tiles_before == 0 {
                while step < steps {
                    for q in 0..Q {
                        fetch_line(input.next_rhs, q * input.panel_stride, step);
                    }
                    multiply_add(sums, input, step, |r| flip(word(input, r, step)));
                    step += 1;
                }
                return;
            }
        }
        // Stores of a large product would wait for memory one after the other: lines are fetched in the time that the sums take,
        // a row's at a time, since all at once they would keep panels from coming out of the second cache level.
        if steps >= FETCH_STEPS {
            let part = steps / MR;
            for r in 0..R {
                fetch_output_row::<E>(end, r, Q * NR);
                let until = step + part;
                while step < until {
                    fetch_line(fetch, 0, step);
                    multiply_add(sums, input, step, |r| flip(word(input, r, step)));
                    step += 1;
                }
            }
        }
        while step < steps {
            fetch_line(fetch, 0, step);
            multiply_add(sums, input, step, |r| flip(word(input, r, step)));
            step += 1;
        }
    }
}

/// Asks for the weights of a step of the panel at an offset, for the second cache level.
#[inline(always)]
fn fetch_line(panels: *const u8, offset: usize, step: usize) {
    // SAFETY: a hint, which never faults.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(panels.wrapping_add(offset + step * NR * KR).cast()) };
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
    // SAFETY: the tile has `Q` panels, readable at this step.
    unsafe { add_products(sums, |q| weights(input, q, step), values) }
}

/// Adds the products of the last values of rows, fewer than a step has: the last four of a row, by weights that are moved to meet
/// them. What has been multiplied already meets zeros.
///
/// # Safety
/// As [`tile`]; K is no multiple of a step.
#[inline(always)]
unsafe fn multiply_tail<const R: usize, const Q: usize>(
    sums: &mut [[__m512i; Q]; R],
    input: &TileInput,
    flip: __m512i,
) {
    let (step, tail) = (input.k / KR, input.k % KR);
    // SAFETY: rows are readable for K bytes, panels for whole steps.
    unsafe {
        let row = |r: usize| input.lhs.wrapping_add(r * input.lhs_stride);
        if step > 0 {
            let shift = _mm_cvtsi32_si128((8 * (KR - tail)) as i32);
            add_products(
                sums,
                |q| _mm512_sll_epi32(weights(input, q, step), shift),
                |r| {
                    let word = row(r).add(input.k - KR).cast::<i32>().read_unaligned();
                    _mm512_xor_si512(_mm512_set1_epi32(word), flip)
                },
            );
        } else {
            multiply_add(sums, input, step, |r| {
                _mm512_xor_si512(_mm512_set1_epi32(tail_word(row(r), tail)), flip)
            });
        }
    }
}

/// `sums[r][q] += values(r) * weights(q)`.
///
/// # Safety
/// The CPU has the features of [`tile`].
#[inline(always)]
unsafe fn add_products<const R: usize, const Q: usize>(
    sums: &mut [[__m512i; Q]; R],
    weights: impl Fn(usize) -> __m512i,
    values: impl Fn(usize) -> __m512i,
) {
    // SAFETY: the CPU has the features.
    unsafe {
        let mut b = [_mm512_setzero_si512(); Q];
        for (q, b) in b.iter_mut().enumerate() {
            *b = weights(q);
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            let a = values(r);
            for (sum, &b) in sums.iter_mut().zip(&b) {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
    }
}
