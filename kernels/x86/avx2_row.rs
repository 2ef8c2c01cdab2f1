//! One row of [`super::avx2`].
//!
//! A row by itself meets every weight once, so that widening weights is a third of its instructions. It isn't done: the row's values,
//! 0 to 255, are cut into two digits of four bits, and `vpmaddubsw` multiplies 32 bytes of weights by either. A pair of products is at
//! most 2 * 15 * 128 in magnitude, and eight of them are added before 16 bits overflow: then each column's sums of low and of high
//! digits, side by side, are multiplied by 1 and 16 and added to i32. That is 19 vector instructions for 128 weights, where widening
//! takes 24. Weights that come from memory are widened all the same, for they come faster as eight streams than as the four that
//! registers have room for; only those are fetched ahead, which costs near ones an eighth of their speed.

use core::arch::x86_64::*;

use super::super::product::TileInput;
use super::avx2_loops::{KR, NR};

/// Values that a vector of a panel has of each column.
const WIDE_STEP: usize = 4;
/// Values that are multiplied before sums of 16 bits are widened.
const BLOCK: usize = 8 * WIDE_STEP;

/// Values from which cutting a row, and four panels at a time rather than eight, pay.
const LONG: usize = 4 * BLOCK;
/// Bytes of weights that a row may find in a cache if it has passed them before.
const NEAR: usize = 8 << 20;

/// A row of `k` values is cut, for panels of so many bytes in all; else it stays as it is.
#[inline(always)]
pub(super) fn cuts(k: usize, bytes: usize) -> bool {
    k >= LONG && bytes <= NEAR
}

/// Values as they are multiplied: those of whole blocks as their digits, the lower in the lower byte; the others stay words.
///
/// # Safety
/// `row` has `k` values, padded to whole steps, as words; `dst` has room for as many.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn cut_digits(row: *const u8, k: usize, dst: *mut u8) {
    let len = k.next_multiple_of(KR);
    let whole = k / BLOCK * BLOCK;
    let (row, dst) = (row.cast::<u16>(), dst.cast::<u16>());
    for i in 0..len {
        // SAFETY: both have `len` words.
        unsafe {
            let value = row.add(i).read_unaligned();
            let digits = value & 0x0f | (value & 0xf0) << 4;
            dst.add(i).write_unaligned(if i < whole { digits } else { value });
        }
    }
}

/// The digits of a step for the lanes of a vector of weights, which has two values of each column in either half.
static LOW: [u8; 32] = places(0);
static HIGH: [u8; 32] = places(1);

const fn places(digit: u8) -> [u8; 32] {
    let mut places = [0; 32];
    let mut i = 0;
    while i < 32 {
        places[i] = digit + 2 * (i % 2) as u8 + 4 * (i / 16) as u8;
        i += 1;
    }
    places
}

/// Adds the products of a row and `Q` panels, eight only if it is not cut, to their sums.
///
/// # Safety
/// The CPU has AVX2; the row, which was [cut](cut_digits) if [`cuts`] says so, and the panels are readable for whole steps.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) unsafe fn multiply_add<const Q: usize>(sums: &mut [__m256i; Q], input: &TileInput) {
    if Q == 8 {
        let sums = sums.as_mut_ptr();
        // SAFETY: the caller's; there are eight sums.
        return unsafe {
            if input.job_bytes > NEAR {
                multiply_words::<true>(sums, input)
            } else {
                multiply_words::<false>(sums, input)
            }
        };
    }
    let blocks = if cuts(input.k, input.job_bytes) { input.k / BLOCK } else { 0 };
    // SAFETY: blocks are whole steps of the row and of each panel, and so is what remains behind them.
    unsafe {
        if blocks > 0 {
            let mut halves = [[_mm256_setzero_si256(); 2]; Q];
            multiply_blocks(&mut halves, input, blocks);
            // Columns 0 to 3 and 4 to 7 of a panel, of the values in either half of vectors of weights.
            for (sum, [first, second]) in sums.iter_mut().zip(halves) {
                let low = _mm256_permute2x128_si256::<0x20>(first, second);
                let high = _mm256_permute2x128_si256::<0x31>(first, second);
                *sum = _mm256_add_epi32(*sum, _mm256_add_epi32(low, high));
            }
        }
        for step in blocks * BLOCK / KR..input.k.div_ceil(KR) {
            let pair = _mm256_set1_epi32(input.lhs.add(4 * step).cast::<i32>().read_unaligned());
            for (q, sum) in sums.iter_mut().enumerate() {
                let bytes = input.rhs.add(q * input.panel_stride + step * NR * KR);
                let weights = _mm256_cvtepi8_epi16(_mm_loadu_si128(bytes.cast()));
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(weights, pair));
            }
        }
    }
}

/// A row that isn't cut by eight panels, which are widened. Of panels that are far, the lines that will be wanted in eight turns are
/// fetched, at the panels' ends those of the eight that come next; near ones arrive faster unasked.
///
/// # Safety
/// As [`multiply_add`]; there are eight sums.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn multiply_words<const FAR: bool>(sums: *mut __m256i, input: &TileInput) {
    /// Turns from fetching a line to reading it.
    const AHEAD: usize = 8;
    /// Steps of a turn, which reads a cache line of each panel.
    const TURN: usize = 4;
    let steps = input.k.div_ceil(KR);
    let (turns, rest) = (steps / TURN, steps % TURN);
    macro_rules! panel {
        ($place:literal $b:literal $sum:literal) => {
            concat!(
                "vpmovsxbw ymm14, xmmword ptr [{b}",
                $place,
                " + ",
                $b,
                "]\n",
                "vpmaddwd ymm14, ymm14, ymm12\n",
                "vpaddd ymm",
                $sum,
                ", ymm",
                $sum,
                ", ymm14\n",
            )
        };
    }
    macro_rules! words {
        ([$($fetch:literal)*] $($place:literal $sum:literal $register:tt $i:literal,)*) => {{
            macro_rules! step {
                ($x:literal $b:literal) => {
                    concat!("vpbroadcastd ymm12, dword ptr [{x} + ", $x, "]\n", $(panel!($place $b $sum)),*)
                };
            }
            core::arch::asm!(
                "test {turns}, {turns}", "jz 3f",
                // Not every loop fetches.
                "/* {f} {ahead} */",
                ".p2align 5", "2:", $($fetch,)*
                step!("0" "0"), step!("4" "16"), step!("8" "32"), step!("12" "48"),
                "add {x}, 16", "add {b}, 64", "dec {turns}", "jnz 2b",
                "3:", "test {rest}, {rest}", "jz 5f",
                "4:", step!("0" "0"), "add {x}, 4", "add {b}, 16", "dec {rest}", "jnz 4b",
                "5:",
                x = inout(reg) input.lhs => _,
                b = inout(reg) input.rhs => _,
                f = inout(reg) input.rhs.wrapping_add(64 * AHEAD) => _,
                ahead = const AHEAD,
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
    // SAFETY: each step reads a whole step of the row and each panel; fetching ahead reads nothing.
    unsafe {
        macro_rules! panels {
            ($($fetch:literal)*) => {
                words!(
                    [$($fetch)*]
                    "" "0" "ymm0" 0, " + {s}" "1" "ymm1" 1, " + 2*{s}" "2" "ymm2" 2, " + {s3}" "3" "ymm3" 3,
                    " + 4*{s}" "4" "ymm4" 4, " + {s5}" "5" "ymm5" 5, " + 2*{s3}" "6" "ymm6" 6, " + {s7}" "7" "ymm7" 7,
                )
            };
        }
        if FAR {
            panels!(
                "cmp {turns}, {ahead}" "jne 6f" "add {f}, {s7}" "6:"
                "prefetcht0 byte ptr [{f}]" "prefetcht0 byte ptr [{f} + {s}]" "prefetcht0 byte ptr [{f} + 2*{s}]"
                "prefetcht0 byte ptr [{f} + {s3}]" "prefetcht0 byte ptr [{f} + 4*{s}]" "prefetcht0 byte ptr [{f} + {s5}]"
                "prefetcht0 byte ptr [{f} + 2*{s3}]" "prefetcht0 byte ptr [{f} + {s7}]" "add {f}, 64"
            );
        } else {
            panels!();
        }
    }
}

/// The blocks of [`multiply_add`], at least one. The lines of four panels are fetched ahead: at their ends, the first of the four that
/// come next.
///
/// # Safety
/// As [`multiply_add`].
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn multiply_blocks<const Q: usize>(halves: &mut [[__m256i; 2]; Q], input: &TileInput, blocks: usize) {
    /// A vector of a panel, times the digits in ymm8 and ymm9, to sums of 16 bits: as the first of a block, or another.
    macro_rules! panel {
        (first $place:literal $b:literal $low:literal $high:literal) => {
            concat!(
                "vmovdqu ymm10, ymmword ptr [{b}",
                $place,
                " + ",
                $b,
                "]\n",
                "vpmaddubsw ymm",
                $low,
                ", ymm8, ymm10\n",
                "vpmaddubsw ymm",
                $high,
                ", ymm9, ymm10\n",
            )
        };
        (other $place:literal $b:literal $low:literal $high:literal) => {
            concat!(
                "vmovdqu ymm10, ymmword ptr [{b}",
                $place,
                " + ",
                $b,
                "]\n",
                "vpmaddubsw ymm11, ymm8, ymm10\n",
                "vpmaddubsw ymm15, ymm9, ymm10\n",
                "vpaddw ymm",
                $low,
                ", ymm",
                $low,
                ", ymm11\n",
                "vpaddw ymm",
                $high,
                ", ymm",
                $high,
                ", ymm15\n",
            )
        };
    }
    /// A panel's sums of 16 bits, to those of 32.
    macro_rules! widen {
        ($sum:literal $low:literal $high:literal) => {
            concat!(
                "vpunpcklwd ymm11, ymm",
                $low,
                ", ymm",
                $high,
                "\n",
                "vpunpckhwd ymm15, ymm",
                $low,
                ", ymm",
                $high,
                "\n",
                "vpmaddwd ymm11, ymm11, ymm14\n",
                "vpmaddwd ymm15, ymm15, ymm14\n",
                "vpaddd ymm11, ymm11, ymmword ptr [{halves} + ",
                $sum,
                "]\n",
                "vpaddd ymm15, ymm15, ymmword ptr [{halves} + ",
                $sum,
                " + 32]\n",
                "vmovdqu ymmword ptr [{halves} + ",
                $sum,
                "], ymm11\n",
                "vmovdqu ymmword ptr [{halves} + ",
                $sum,
                " + 32], ymm15\n",
            )
        };
    }
    /// The loop over blocks, with the places of panels, their sums and their registers.
    macro_rules! blocks {
        ($($place:literal $sum:literal $low:literal $high:literal,)*) => {{
            macro_rules! step {
                ($which:ident $x:literal $b:literal) => {
                    concat!(
                        "vpbroadcastq ymm9, qword ptr [{x} + ", $x, "]\n",
                        "vpshufb ymm8, ymm9, ymm12\n",
                        "vpshufb ymm9, ymm9, ymm13\n",
                        $(panel!($which $place $b $low $high)),*
                    )
                };
            }
            core::arch::asm!(
                // Not every number of panels needs every distance.
                "/* {s} {s3} */",
                ".p2align 6", "2:",
                step!(first "0" "0"), step!(other "8" "32"), step!(other "16" "64"), step!(other "24" "96"),
                step!(other "32" "128"), step!(other "40" "160"), step!(other "48" "192"), step!(other "56" "224"),
                $(widen!($sum $low $high),)*
                "add {x}, 64", "add {b}, 256", "dec {blocks}", "jnz 2b",
                x = inout(reg) input.lhs => _,
                b = inout(reg) input.rhs => _,
                s = in(reg) input.panel_stride,
                s3 = in(reg) 3 * input.panel_stride,
                blocks = inout(reg) blocks => _,
                halves = in(reg) halves.as_mut_ptr(),
                out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _, out("ymm6") _,
                out("ymm7") _, out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
                inout("ymm12") _mm256_loadu_si256(LOW.as_ptr().cast()) => _,
                inout("ymm13") _mm256_loadu_si256(HIGH.as_ptr().cast()) => _,
                inout("ymm14") _mm256_set1_epi32(0x10_0001) => _,
                out("ymm15") _,
                options(nostack)
            )
        }};
    }
    // SAFETY: each block reads eight vectors of the panels and as many fours of values, and writes to `halves` only; fetching ahead
    // reads nothing.
    unsafe {
        match Q {
            1 => blocks!("" "0" "0" "4",),
            2 => blocks!("" "0" "0" "4", " + {s}" "64" "1" "5",),
            4 => blocks!(
                "" "0" "0" "4", " + {s}" "64" "1" "5", " + 2*{s}" "128" "2" "6", " + {s3}" "192" "3" "7",),
            _ => unreachable!("a row by {Q} panels has no loop"),
        }
    }
}
