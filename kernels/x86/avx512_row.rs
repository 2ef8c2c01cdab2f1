//! AVX-512 VNNI, one row: what little there is beside the weights, which are read once and multiplied as they come.
//!
//! - Panel after panel, so that the weights of a call are one stream, in one loop for all panels and outputs: the processor's
//!   prefetching follows the addresses of each load *instruction*, and of a copy of the loop for each panel each would begin anew. One
//!   loop is 1.5 times as fast as four copies, or as four panels side by side, on Zen 5 (weights in the second cache level).
//! - Registers: 4 sums, the chains of one panel, since a `vpdpbusd` waits for the one before; the sign bits of i8 values, or zeros.
//! - Ceiling: the weights' way. A step is 64 bytes of them, a broadcast, a `vpxord`, a `vpdpbusd`: two loads, one cycle.

use core::arch::x86_64::*;

use super::{
    super::product::TileInput,
    avx512_vnni::{KR, NR, sign_bits, weights, word},
    detect::is_amd,
};

/// Bytes of weights that the second cache level can't hold beside the rest.
pub(super) const SECOND_LEVEL: usize = 3 << 19;

/// Bytes of weights that a cache beyond the second level may hold: from there they come sooner if they are asked for sooner.
const THIRD_LEVEL: usize = 8 << 20;

/// Depth from which four panels are four streams that are long enough for the processor's own prefetching, which memory serves well.
const LONG_PANEL: usize = 2048;

/// Depth below which four panels side by side need fewer instructions.
const SHORT_PANEL: usize = 256;

/// Bytes from the weights of a step to those that are asked for: more than are on their way at a time.
const AHEAD: usize = 2048;

/// A row is multiplied panel after panel, rather than four panels side by side. Out of the second cache level Intel's cores read four streams
/// 1.1 times as fast as one.
#[inline(always)]
pub(super) fn pays(input: &TileInput) -> bool {
    let (k, bytes) = (input.k, input.job_bytes);
    let reads_one_stream = if bytes <= SECOND_LEVEL { is_amd() } else { bytes <= THIRD_LEVEL };
    k >= SHORT_PANEL && (reads_one_stream || bytes > THIRD_LEVEL && k < LONG_PANEL)
}

/// Adds `steps` steps of as many panels as there are sums.
///
/// # Safety
/// The input has a row and as many panels, readable for as many steps; the CPU has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline(never)]
pub(super) unsafe fn multiply(sums: &mut [__m512i], input: &TileInput, steps: usize) {
    // SAFETY: the caller's.
    unsafe {
        if input.job_bytes > SECOND_LEVEL && input.job_bytes <= THIRD_LEVEL {
            panels::<true>(sums, input, steps);
        } else {
            panels::<false>(sums, input, steps);
        }
    }
}

/// [`multiply`], asking for what comes later if it lies `FAR`.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn panels<const FAR: bool>(sums: &mut [__m512i], input: &TileInput, steps: usize) {
    // SAFETY: the input has the row and panels for as many steps. A prefetch is a hint, which never faults.
    unsafe {
        let zero = _mm512_setzero_si512();
        let flip = if input.flip_lhs { sign_bits() } else { zero };
        for (q, sum) in sums.iter_mut().enumerate() {
            let add = |sum, step| {
                if FAR {
                    let line = input.rhs.wrapping_add(q * input.panel_stride + step * NR * KR + AHEAD);
                    _mm_prefetch::<_MM_HINT_T0>(line.cast());
                }
                let a = _mm512_xor_si512(word(input, 0, step), flip);
                _mm512_dpbusd_epi32(sum, a, weights(input, q, step))
            };
            let [mut a, mut b, mut c, mut d] = [*sum, zero, zero, zero];
            let mut step = 0;
            while step + 4 <= steps {
                [a, b, c, d] = [add(a, step), add(b, step + 1), add(c, step + 2), add(d, step + 3)];
                step += 4;
            }
            while step < steps {
                a = add(a, step);
                step += 1;
            }
            *sum = _mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(c, d));
        }
    }
}
