//! AVX2 kernel: any x86-64 CPU since 2013 (Intel) or 2015 (AMD).
//!
//! - Instruction: `vpmaddwd` (16 products of i16, added in pairs to 8 i32) and `vpaddd`. Not `vpmaddubsw`, which is
//!   twice as wide and saturates its pair sums at 16 bits.
//! - Tile: 6 rows x 16 columns, of panels that the loop widens itself: 12 multiplies, 12 additions and 2 instructions that
//!   widen are 6.5 cycles of four vector ports, in 32 instructions a step. Many rows of small K: 4 x 24, of panels widened
//!   ahead: the 24 alone, 6 cycles, in 30. Registers of either: 12 sums, 2 of `rhs`, 1 broadcast of `lhs`, 1 product: 16;
//!   a third vector of `rhs` is read by the multiplies. A single row is 1 x 64, at once or in halves, as caches like it best.
//! - `lhs`: rows widened to i16 (i8 and u8 keep their values), K padded with zero to even; a step broadcasts the 32 bits
//!   of two values. `rhs`: panels of 8 columns of i8, kr = 2: `value(k, n)` at
//!   `(n / 8) * K2 * 8 + (k / 2) * 16 + (n % 8) * 2 + k % 2`, widened by `vpmovsxbw` as they are loaded: weights cost one byte
//!   of memory traffic each. A group that is widened ahead lies in scratch step by step, the vectors of a tile side by
//!   side. It must fit the first cache level: beyond, or in blocks of K with sums that wait in memory, it gains nothing.
//! - Ceiling: 32 MAC/cycle on CPUs with two multiply ports (16 MAC an instruction), as long as the additions find other
//!   ports; 29.5 of it where the loop widens. Latency asks for no more sums: only the additions, of one cycle each, form chains.
//! - Exact: a pair of products is at most 2 * 255 * 128 in magnitude; pairs and sums are i32.

use core::arch::x86_64::*;

use super::super::{
    Id, Isa, Job, Kernel, LhsFormat, LhsRows, SumOffset,
    drive::{self, MicroKernel, TileInput, next_part},
    epilogue::{Buffers, End, TileEnd, finish},
    layout::{self, padded},
};
use super::{detect, fetch_output_row, lanes256::Lanes256, sums};

/// Rows and panels of a tile that widens panels as it loads them.
const MR: usize = 6;
const GROUP: usize = 2;
const NR: usize = 8;
const KR: usize = 2;

/// Rows and panels of a tile of panels that were widened ahead.
const WIDENED_ROWS: usize = 4;
const WIDENED_GROUP: usize = 3;

/// Rows from which widening a group of panels once is cheaper than widening it in every tile.
const WIDEN_FROM_ROWS: usize = 32;

/// Depth up to which a widened group leaves room for rows in a first-level cache of 32 KB.
const WIDEN_TO_K: usize = 512;

/// Bytes of weights that a single row may find in a cache if it has passed them before. Beyond, eight streams read memory faster
/// than four.
const NEAR: usize = 8 << 20;

/// Bytes of weights that stay in a cache of the second level, near enough without being asked for.
const SECOND_LEVEL: usize = 512 << 10;

/// Depth up to which panels end before the CPU's own prefetching has learnt where they lead, and four of them leave room in the
/// first cache level for the next four.
const SHORT_K: usize = 384;

/// What the panels of a tile are: vectors widened ahead.
const WIDENED: u8 = 0;
/// Bytes; eight for a single row are passed side by side.
const BYTES: u8 = 1;
/// Bytes for a single row, four at a time, the next four fetched meanwhile: panels of at most [`SHORT_K`].
const SHORT: u8 = 2;
/// Bytes for a single row, four at a time: eight that lie a multiple of 4 KB apart would compete for the same sets of the first
/// cache level.
const ALIGNED: u8 = 3;

/// Steps of a turn of the hand-written loops.
const TURN: usize = 4;

/// The table entry.
pub(crate) static KERNEL: Kernel = Kernel {
    name: "avx2",
    id: Id::Avx2,
    isa: Isa::Avx2,
    instruction: "vpmaddwd + vpaddd, ymm",
    is_available: detect::has_avx2,
    mr: MR,
    nr: NR,
    kr: KR,
    lhs: LhsFormat::PackedAsIs,
    flips_lhs: || false,
    offset: SumOffset::None,
    scratch: |k| {
        if k <= WIDEN_TO_K { (2 * padded(k, KR) * NR * WIDENED_GROUP).next_multiple_of(64) } else { 0 }
    },
    lhs_stride,
    pack_rhs: layout::pack_rhs_panel::<NR, KR>,
    pack_lhs,
    row_sums,
};

/// Bytes from one widened row to the next.
fn lhs_stride(k: usize) -> usize {
    layout::byte_row_stride(2 * padded(k, KR))
}

/// `dst[i][k]` as i16, zero at k = K if K is odd.
///
/// # Safety
/// As [`Kernel::pack_lhs`].
#[target_feature(enable = "avx2")]
unsafe fn pack_lhs(src: &LhsRows, dst: *mut u8) {
    // SAFETY: the caller's.
    unsafe {
        if src.unsigned {
            widen_rows(src, dst, |byte| byte.into());
        } else {
            widen_rows(src, dst, |byte| (byte as i8).into());
        }
    }
}

/// # Safety
/// As [`pack_lhs`].
#[inline(always)]
unsafe fn widen_rows(src: &LhsRows, dst: *mut u8, value: impl Fn(u8) -> i16) {
    let stride = lhs_stride(src.k);
    for i in 0..src.rows {
        // SAFETY: row `i` is readable, and writable as padded i16; scratch rows are aligned to 64.
        unsafe {
            let from = core::slice::from_raw_parts(src.ptr.add(i * src.row_stride), src.k);
            let to: *mut i16 = dst.add(i * stride).cast();
            for (k, &byte) in from.iter().enumerate() {
                to.add(k).write_unaligned(value(byte));
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
    // SAFETY: the caller's.
    unsafe { sums::row_sums(src, src.unsigned, dst) }
}

/// # Safety
/// As [`super::super::Multiply`].
#[target_feature(enable = "avx2")]
pub(in crate::kernels) unsafe fn multiply<E: End>(job: &Job) {
    // SAFETY: the caller's.
    unsafe { drive::multiply::<Avx2Tiles, E>(job) }
}

/// Groups of panels are widened ahead.
#[inline(always)]
fn widens(job: &Job) -> bool {
    job.rows >= WIDEN_FROM_ROWS && job.k <= WIDEN_TO_K
}

struct Avx2Tiles;

// SAFETY: `tile` reads whole steps of padded rows and panels.
unsafe impl MicroKernel for Avx2Tiles {
    type V = Lanes256;
    const NR: usize = NR;
    const KR: usize = KR;
    type Buffers = Buffers<MR, 64>;

    #[inline(always)]
    fn next_rows(remaining: usize, job: &Job) -> usize {
        if widens(job) { next_part(remaining, WIDENED_ROWS) } else { next_part(remaining, MR) }
    }

    #[inline(always)]
    fn next_panels(remaining: usize, job: &Job) -> usize {
        match (job.rows, remaining) {
            (1, 8..) => 8,
            (1, 4..) => 4,
            (1, 2..) => 2,
            (1, _) => 1,
            _ if widens(job) => next_part(remaining, WIDENED_GROUP),
            _ => next_part(remaining, GROUP),
        }
    }

    #[inline(always)]
    unsafe fn widen(rhs: *const i8, panels: usize, job: &Job) -> bool {
        // There are groups of two and three; a panel by itself is all there is.
        if !widens(job) || panels == 1 {
            return false;
        }
        // SAFETY: the caller's.
        unsafe { widen(rhs, panels, job.k, job.scratch) };
        true
    }

    #[inline(always)]
    unsafe fn tile<E: End>(rows: usize, panels: usize, input: &TileInput, end: &TileEnd) {
        // SAFETY: the caller's.
        unsafe {
            match (input.widened, rows, panels) {
                (true, 2, 2) => tile::<E, 2, 2, WIDENED>(input, end),
                (true, 2, _) => tile::<E, 2, 3, WIDENED>(input, end),
                (true, 3, 2) => tile::<E, 3, 2, WIDENED>(input, end),
                (true, 3, _) => tile::<E, 3, 3, WIDENED>(input, end),
                (true, _, 2) => tile::<E, 4, 2, WIDENED>(input, end),
                (true, _, _) => tile::<E, 4, 3, WIDENED>(input, end),
                (false, 1, 1) => tile::<E, 1, 1, BYTES>(input, end),
                (false, 1, 2) => tile::<E, 1, 2, BYTES>(input, end),
                (false, 1, 4) => tile::<E, 1, 4, BYTES>(input, end),
                (false, 1, _) if input.k <= SHORT_K && input.job_bytes > SECOND_LEVEL => {
                    tile::<E, 1, 8, SHORT>(input, end);
                }
                (false, 1, _) if input.panel_stride.is_multiple_of(4096) && input.job_bytes <= NEAR => {
                    tile::<E, 1, 8, ALIGNED>(input, end);
                }
                (false, 1, _) => tile::<E, 1, 8, BYTES>(input, end),
                (false, 2, 1) => tile::<E, 2, 1, BYTES>(input, end),
                (false, 2, _) => tile::<E, 2, 2, BYTES>(input, end),
                (false, 3, 1) => tile::<E, 3, 1, BYTES>(input, end),
                (false, 3, _) => tile::<E, 3, 2, BYTES>(input, end),
                (false, 4, 1) => tile::<E, 4, 1, BYTES>(input, end),
                (false, 4, _) => tile::<E, 4, 2, BYTES>(input, end),
                (false, 5, 1) => tile::<E, 5, 1, BYTES>(input, end),
                (false, 5, _) => tile::<E, 5, 2, BYTES>(input, end),
                (false, _, 1) => tile::<E, 6, 1, BYTES>(input, end),
                (false, _, _) => tile::<E, 6, 2, BYTES>(input, end),
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
unsafe fn widen(rhs: *const i8, panels: usize, k: usize, scratch: *mut u8) {
    // SAFETY: each panel has 16 bytes a step, and scratch 32 a step for every panel of a group.
    unsafe {
        let steps = k.div_ceil(KR);
        for panel in 0..panels {
            let (from, to) = (rhs.add(panel * steps * 16), scratch.add(panel * 32));
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
unsafe fn tile<E: End, const R: usize, const Q: usize, const FORM: u8>(input: &TileInput, end: &TileEnd) {
    let mut sums = [[_mm256_setzero_si256(); Q]; R];
    // SAFETY: rows and panels are readable for whole steps; there are R x Q sums.
    unsafe {
        if R > 1 {
            for r in 0..R {
                fetch_output_row::<E>(end, r, Q * NR);
            }
        }
        multiply_add::<R, Q, FORM>(sums.as_mut_ptr().cast(), input);
        finish::<Lanes256, E, R, Q>(sums, end);
    }
}

/// The loop over K, adding to `R` x `Q` sums: [`TURN`] steps a turn, then what steps remain one at a time.
///
/// It is written out because the additions leave no room: the vector instructions of a step fill the four ports of a core such
/// as Zen 3 for 6.5 cycles (6 x 16) or 6 (4 x 24), in which it can start 39 or 36 instructions. A step below takes 33 or 31 with
/// its share of the turn; the compiler's own loops took a third more, most of it arithmetic on addresses.
///
/// # Safety
/// The CPU has AVX2; rows and panels are readable for whole steps; `sums` has R x Q vectors.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn multiply_add<const R: usize, const Q: usize, const FORM: u8>(
    sums: *mut __m256i,
    input: &TileInput,
) {
    let steps = input.k.div_ceil(KR);
    let (turns, rest) = (steps / TURN, steps % TURN);
    /// A row's pair of values, times the vectors of `rhs` in ymm12 and ymm13 and a third in memory, to its sums.
    macro_rules! row {
        ($row:literal $d:literal; $x:literal) => {
            concat!(
                "vpbroadcastd ymm14, dword ptr [{p}",
                $row,
                " + ",
                $d,
                "]\n",
                "vpmaddwd ymm14, ymm14, ymm12\n",
                "vpaddd ymm",
                $x,
                ", ymm",
                $x,
                ", ymm14\n",
            )
        };
        ($row:literal $d:literal; $x:literal $y:literal) => {
            concat!(
                "vpbroadcastd ymm14, dword ptr [{p}",
                $row,
                " + ",
                $d,
                "]\n",
                "vpmaddwd ymm15, ymm14, ymm12\n",
                "vpmaddwd ymm14, ymm14, ymm13\n",
                "vpaddd ymm",
                $x,
                ", ymm",
                $x,
                ", ymm15\n",
                "vpaddd ymm",
                $y,
                ", ymm",
                $y,
                ", ymm14\n",
            )
        };
        ($row:literal $d:literal; $x:literal $y:literal $z:literal $third:literal) => {
            concat!(
                "vpbroadcastd ymm14, dword ptr [{p}",
                $row,
                " + ",
                $d,
                "]\n",
                "vpmaddwd ymm15, ymm14, ymm12\n",
                "vpaddd ymm",
                $x,
                ", ymm",
                $x,
                ", ymm15\n",
                "vpmaddwd ymm15, ymm14, ymm13\n",
                "vpmaddwd ymm14, ymm14, ymmword ptr [{b} + ",
                $third,
                "]\n",
                "vpaddd ymm",
                $y,
                ", ymm",
                $y,
                ", ymm15\n",
                "vpaddd ymm",
                $z,
                ", ymm",
                $z,
                ", ymm14\n",
            )
        };
    }
    /// A widened vector of `rhs`.
    macro_rules! load {
        ($register:literal $d:literal) => {
            concat!("vmovdqa ", $register, ", ymmword ptr [{b} + ", $d, "]\n")
        };
    }
    /// A vector of bytes of a panel, widened.
    macro_rules! widen {
        ($register:literal $panel:literal $d:literal) => {
            concat!("vpmovsxbw ", $register, ", xmmword ptr [{b}", $panel, " + ", $d, "]\n")
        };
    }
    /// The loops around the steps of a turn and the steps that remain, each of `$bytes` of `rhs`.
    macro_rules! turn {
        ([$($register:tt $i:literal)*] $bytes:literal $first:expr, $($step:expr,)*) => {
            core::arch::asm!(
                // Not every tile needs every stride.
                "/* {s} {s3} {s5} {ps} */",
                "test {turns}, {turns}", "jz 3f",
                ".p2align 6", "2:", $first, $($step,)* "add {p}, 16", concat!("add {b}, 4*", $bytes), "dec {turns}", "jnz 2b",
                "3:", "test {rest}, {rest}", "jz 5f",
                "4:", $first, "add {p}, 4", concat!("add {b}, ", $bytes), "dec {rest}", "jnz 4b",
                "5:",
                p = inout(reg) input.lhs => _,
                s = in(reg) input.lhs_stride,
                s3 = in(reg) 3 * input.lhs_stride,
                s5 = in(reg) 5 * input.lhs_stride,
                b = inout(reg) input.rhs => _,
                ps = in(reg) input.panel_stride,
                turns = inout(reg) turns => _,
                rest = inout(reg) rest => _,
                $(inout($register) *sums.add($i),)*
                out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
                options(readonly, nostack)
            )
        };
    }
    /// Rows by one panel.
    macro_rules! one {
        ($sums:tt $($row:literal $x:literal,)*) => {{
            macro_rules! step {
                ($d:literal $b:literal) => {
                    concat!(widen!("ymm12" "" $b), $(row!($row $d; $x)),*)
                };
            }
            turn!($sums "16" step!("0" "0"), step!("4" "16"), step!("8" "32"), step!("12" "48"),)
        }};
    }
    /// Rows by two panels.
    macro_rules! two {
        ($sums:tt $($row:literal $x:literal $y:literal,)*) => {{
            macro_rules! wide {
                ($d:literal $b0:literal $b1:literal) => {
                    concat!(load!("ymm12" $b0), load!("ymm13" $b1), $(row!($row $d; $x $y)),*)
                };
            }
            macro_rules! bytes {
                ($d:literal $b:literal) => {
                    concat!(widen!("ymm12" "" $b), widen!("ymm13" " + {ps}" $b), $(row!($row $d; $x $y)),*)
                };
            }
            if FORM == WIDENED {
                turn!($sums "64" wide!("0" "0" "32"), wide!("4" "64" "96"), wide!("8" "128" "160"),
                    wide!("12" "192" "224"),)
            } else {
                turn!($sums "16" bytes!("0" "0"), bytes!("4" "16"), bytes!("8" "32"), bytes!("12" "48"),)
            }
        }};
    }
    /// Rows by three panels, which are always widened ahead.
    macro_rules! three {
        ($sums:tt $($row:literal $x:literal $y:literal $z:literal,)*) => {{
            macro_rules! step {
                ($d:literal $b0:literal $b1:literal $b2:literal) => {
                    concat!(load!("ymm12" $b0), load!("ymm13" $b1), $(row!($row $d; $x $y $z $b2)),*)
                };
            }
            turn!($sums "96" step!("0" "0" "32" "64"), step!("4" "96" "128" "160"),
                step!("8" "192" "224" "256"), step!("12" "288" "320" "352"),)
        }};
    }
    // SAFETY: each step reads a whole step of each row and panel, and writes registers only.
    unsafe {
        match (R, Q) {
            (1, 1) => one!(["ymm0" 0] "" "0",),
            (2, 1) => one!(["ymm0" 0 "ymm1" 1] "" "0", " + {s}" "1",),
            (3, 1) => one!(["ymm0" 0 "ymm1" 1 "ymm2" 2] "" "0", " + {s}" "1", " + 2*{s}" "2",),
            (4, 1) => one!(
                ["ymm0" 0 "ymm1" 1 "ymm2" 2 "ymm3" 3]
                "" "0", " + {s}" "1", " + 2*{s}" "2", " + {s3}" "3",
            ),
            (5, 1) => one!(
                ["ymm0" 0 "ymm1" 1 "ymm2" 2 "ymm3" 3 "ymm4" 4]
                "" "0", " + {s}" "1", " + 2*{s}" "2", " + {s3}" "3", " + 4*{s}" "4",
            ),
            (6, 1) => one!(
                ["ymm0" 0 "ymm1" 1 "ymm2" 2 "ymm3" 3 "ymm4" 4 "ymm5" 5]
                "" "0", " + {s}" "1", " + 2*{s}" "2", " + {s3}" "3", " + 4*{s}" "4", " + {s5}" "5",
            ),
            (1, 2) => two!(["ymm0" 0 "ymm1" 1] "" "0" "1",),
            (2, 2) => two!(["ymm0" 0 "ymm1" 1 "ymm2" 2 "ymm3" 3] "" "0" "1", " + {s}" "2" "3",),
            (3, 2) => two!(
                ["ymm0" 0 "ymm1" 1 "ymm2" 2 "ymm3" 3 "ymm4" 4 "ymm5" 5]
                "" "0" "1", " + {s}" "2" "3", " + 2*{s}" "4" "5",
            ),
            (4, 2) => two!(
                ["ymm0" 0 "ymm1" 1 "ymm2" 2 "ymm3" 3 "ymm4" 4 "ymm5" 5 "ymm6" 6 "ymm7" 7]
                "" "0" "1", " + {s}" "2" "3", " + 2*{s}" "4" "5", " + {s3}" "6" "7",
            ),
            (5, 2) => two!(
                ["ymm0" 0 "ymm1" 1 "ymm2" 2 "ymm3" 3 "ymm4" 4 "ymm5" 5 "ymm6" 6 "ymm7" 7 "ymm8" 8 "ymm9" 9]
                "" "0" "1", " + {s}" "2" "3", " + 2*{s}" "4" "5", " + {s3}" "6" "7", " + 4*{s}" "8" "9",
            ),
            (6, 2) => two!(
                ["ymm0" 0 "ymm1" 1 "ymm2" 2 "ymm3" 3 "ymm4" 4 "ymm5" 5 "ymm6" 6 "ymm7" 7 "ymm8" 8 "ymm9" 9
                 "ymm10" 10 "ymm11" 11]
                "" "0" "1", " + {s}" "2" "3", " + 2*{s}" "4" "5", " + {s3}" "6" "7", " + 4*{s}" "8" "9",
                " + {s5}" "10" "11",
            ),
            (2, 3) => three!(
                ["ymm0" 0 "ymm1" 1 "ymm2" 2 "ymm3" 3 "ymm4" 4 "ymm5" 5]
                "" "0" "1" "2", " + {s}" "3" "4" "5",
            ),
            (3, 3) => three!(
                ["ymm0" 0 "ymm1" 1 "ymm2" 2 "ymm3" 3 "ymm4" 4 "ymm5" 5 "ymm6" 6 "ymm7" 7 "ymm8" 8]
                "" "0" "1" "2", " + {s}" "3" "4" "5", " + 2*{s}" "6" "7" "8",
            ),
            (4, 3) => three!(
                ["ymm0" 0 "ymm1" 1 "ymm2" 2 "ymm3" 3 "ymm4" 4 "ymm5" 5 "ymm6" 6 "ymm7" 7 "ymm8" 8 "ymm9" 9
                 "ymm10" 10 "ymm11" 11]
                "" "0" "1" "2", " + {s}" "3" "4" "5", " + 2*{s}" "6" "7" "8", " + {s3}" "9" "10" "11",
            ),
            (1, 4) => thin::<4, false>(sums, input),
            (1, 8) if FORM == SHORT => {
                thin::<4, true>(sums, input);
                thin::<4, true>(sums.add(4), &input.panel(4));
            }
            (1, 8) if FORM == ALIGNED => {
                thin::<4, false>(sums, input);
                thin::<4, false>(sums.add(4), &input.panel(4));
            }
            (1, 8) => thin::<8, false>(sums, input),
            _ => unreachable!("a tile of {R} x {Q} vectors has no loop"),
        }
    }
}

/// [`multiply_add`] of one row by four panels, the next four fetched meanwhile if `NEXT`; or by eight, their own lines fetched ahead.
///
/// # Safety
/// As [`multiply_add`].
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn thin<const Q: usize, const NEXT: bool>(sums: *mut __m256i, input: &TileInput) {
    /// Turns from fetching a line to reading it.
    const AHEAD: usize = 8;
    let steps = input.k.div_ceil(KR);
    let (turns, rest) = (steps / TURN, steps % TURN);
    /// A step of one panel: bytes at `$panel`, widened, times the pair in ymm12, to a sum.
    macro_rules! panel {
        ($panel:literal $b:literal $x:literal) => {
            concat!(
                "vpmovsxbw ymm14, xmmword ptr [{b}",
                $panel,
                " + ",
                $b,
                "]\n",
                "vpmaddwd ymm14, ymm14, ymm12\n",
                "vpaddd ymm",
                $x,
                ", ymm",
                $x,
                ", ymm14\n",
            )
        };
    }
    /// Fetches the line of each panel that will be wanted in `AHEAD` turns: at a panel's end, the first lines of the panel that takes
    /// its place.
    macro_rules! fetch {
        ($($panel:literal)*) => {
            concat!(
                "cmp {turns}, {ahead}\n jne 6f\n add {f}, {next}\n 6:\n",
                $("prefetcht0 byte ptr [{f}", $panel, "]\n",)*
                "add {f}, 64",
            )
        };
    }
    /// The loop around the steps of a turn, which reads a cache line of each panel.
    macro_rules! turn {
        ([$($register:tt $i:literal)*] $f:expr, $fetch:expr; $($panel:literal $x:literal,)*) => {{
            macro_rules! step {
                ($d:literal $b:literal) => {
                    concat!("vpbroadcastd ymm12, dword ptr [{p} + ", $d, "]\n", $(panel!($panel $b $x)),*)
                };
            }
            core::arch::asm!(
                "/* {s5} {s7} {f} {next} {ahead} */",
                "test {turns}, {turns}", "jz 3f",
                ".p2align 5", "2:", $fetch, step!("0" "0"), step!("4" "16"), step!("8" "32"), step!("12" "48"),
                "add {p}, 16", "add {b}, 64", "dec {turns}", "jnz 2b",
                "3:", "test {rest}, {rest}", "jz 5f",
                "4:", step!("0" "0"), "add {p}, 4", "add {b}, 16", "dec {rest}", "jnz 4b",
                "5:",
                p = inout(reg) input.lhs => _,
                b = inout(reg) input.rhs => _,
                f = inout(reg) input.rhs.wrapping_add($f) => _,
                ahead = const AHEAD,
                next = in(reg) (Q - 1) * input.panel_stride,
                s = in(reg) input.panel_stride,
                s3 = in(reg) 3 * input.panel_stride,
                s5 = in(reg) 5 * input.panel_stride,
                s7 = in(reg) 7 * input.panel_stride,
                turns = inout(reg) turns => _,
                rest = inout(reg) rest => _,
                $(inout($register) *sums.add($i),)*
                out("ymm12") _, out("ymm14") _,
                options(readonly, nostack)
            )
        }};
    }
    // SAFETY: the caller's; fetching ahead reads nothing.
    unsafe {
        match (Q, NEXT) {
            (4, false) => turn!(
                ["ymm0" 0 "ymm1" 1 "ymm2" 2 "ymm3" 3] 0, "";
                "" "0", " + {s}" "1", " + 2*{s}" "2", " + {s3}" "3",
            ),
            (4, true) => turn!(
                ["ymm0" 0 "ymm1" 1 "ymm2" 2 "ymm3" 3] 4 * input.panel_stride,
                concat!(
                    "prefetcht0 byte ptr [{f}]\n prefetcht0 byte ptr [{f} + 64]\n",
                    "prefetcht0 byte ptr [{f} + 128]\n prefetcht0 byte ptr [{f} + 192]\n add {f}, 256",
                );
                "" "0", " + {s}" "1", " + 2*{s}" "2", " + {s3}" "3",
            ),
            _ => turn!(
                ["ymm0" 0 "ymm1" 1 "ymm2" 2 "ymm3" 3 "ymm4" 4 "ymm5" 5 "ymm6" 6 "ymm7" 7] 64 * AHEAD,
                fetch!("" " + {s}" " + 2*{s}" " + {s3}" " + 4*{s}" " + {s5}" " + 2*{s3}" " + {s7}");
                "" "0", " + {s}" "1", " + 2*{s}" "2", " + {s3}" "3",
                " + 4*{s}" "4", " + {s5}" "5", " + 2*{s3}" "6", " + {s7}" "7",
            ),
        }
    }
}
