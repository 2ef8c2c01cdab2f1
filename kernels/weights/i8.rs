//! Weights of 8 bits: what every micro-kernel reads.

use super::{
    super::{Kernel, product::layout::padded},
    Format, Panels, RhsBytes,
};

/// A byte for each weight.
pub(crate) static I8: Format =
    Format { bits: 8, min: [i8::MIN as i32, 0], max: [i8::MAX as i32, u8::MAX as i32], pack, unpack: None };

/// # Safety
/// As [`Pack`](super::Pack).
unsafe fn pack(kernel: &Kernel, src: &RhsBytes, first: usize, to: Panels) {
    // SAFETY: the caller's: the source is readable as described, and the panels have room.
    unsafe { (kernel.pack_rhs)(src, first, to) }
}

/// Packs panels byte by byte (layout: see [`super`]), as [`Kernel::pack_rhs`] does: one of `NR` columns and steps of `KR` for each `NR` sums.
/// For kernels whose instruction set has no vectors in Rust, or whose steps are shorter than those.
///
/// # Safety
/// As [`RhsBytes`].
pub(crate) unsafe fn pack_bytes<const NR: usize, const KR: usize>(src: &RhsBytes, first: usize, to: Panels) {
    let bytes = padded(src.k, KR) * NR;
    for (panel, sums) in to.sums.chunks_exact_mut(NR).enumerate() {
        let late_sums = to.late_sums.get_mut(panel * NR..).unwrap_or_default();
        let late_sums = late_sums.get_mut(..NR).unwrap_or_default();
        let packed = &mut to.bytes[panel * to.stride..][..bytes];
        // SAFETY: the caller's.
        unsafe { pack_panel::<NR, KR>(src, first + panel * NR, packed, sums, late_sums) }
    }
}

/// # Safety
/// As [`pack_bytes`], for one panel.
unsafe fn pack_panel<const NR: usize, const KR: usize>(
    src: &RhsBytes,
    first: usize,
    panel: &mut [u8],
    sums: &mut [i32],
    late_sums: &mut [i32],
) {
    let cols = NR.min(src.n - first);
    let (mut all, mut late) = ([0i32; NR], [0i32; NR]);
    for (step, chunk) in panel.chunks_exact_mut(NR * KR).enumerate() {
        let k0 = step * KR;
        let depth = KR.min(src.k - k0);
        if cols == NR && depth == KR {
            // Whole steps with constant bounds, which the compiler unrolls.
            // SAFETY: rows `k0 .. k0 + KR` and columns `first .. first + NR` lie inside the source.
            unsafe {
                let at = src.ptr.add(k0 * src.k_stride + first * src.n_stride);
                match (src.k_stride, src.n_stride) {
                    (1, n_stride) => copy_step::<NR, KR>(chunk, |j, t| *at.add(j * n_stride + t), src.flip),
                    (k_stride, 1) => copy_step::<NR, KR>(chunk, |j, t| *at.add(t * k_stride + j), src.flip),
                    (k_stride, n_stride) => {
                        copy_step::<NR, KR>(chunk, |j, t| *at.add(t * k_stride + j * n_stride), src.flip);
                    }
                }
            }
        } else {
            chunk.fill(0);
            for j in 0..cols {
                for t in 0..depth {
                    // SAFETY: as above, within the ragged edge.
                    let byte = unsafe { *src.ptr.add((k0 + t) * src.k_stride + (first + j) * src.n_stride) };
                    chunk[j * KR + t] = byte ^ src.flip;
                }
            }
        }
        for j in 0..NR {
            let column = &chunk[j * KR..][..KR];
            let (head, tail) = column.split_at(KR / 2);
            let add = |values: &[u8]| values.iter().map(|&v| i32::from(v as i8)).sum::<i32>();
            let tail = add(tail);
            all[j] = all[j].wrapping_add(add(head) + tail);
            late[j] = late[j].wrapping_add(tail);
        }
    }
    sums.copy_from_slice(&all);
    if !late_sums.is_empty() {
        late_sums.copy_from_slice(&late);
    }
}

#[inline(always)]
fn copy_step<const NR: usize, const KR: usize>(
    chunk: &mut [u8],
    byte: impl Fn(usize, usize) -> u8,
    flip: u8,
) {
    let chunk = &mut chunk[..NR * KR];
    for j in 0..NR {
        for t in 0..KR {
            chunk[j * KR + t] = byte(j, t) ^ flip;
        }
    }
}
