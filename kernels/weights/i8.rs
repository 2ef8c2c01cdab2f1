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

/// [`pack_bytes`] for panels of `nr` columns and steps of `kr`, if a kernel of any target has such.
#[cfg(feature = "alloc")]
pub(crate) fn packer(nr: usize, kr: usize) -> Option<unsafe fn(&RhsBytes, usize, Panels)> {
    Some(match (nr, kr) {
        (4, 1) => pack_bytes::<4, 1>,
        (4, 16) => pack_bytes::<4, 16>,
        (8, 2) => pack_bytes::<8, 2>,
        (8, 4) => pack_bytes::<8, 4>,
        (8, 8) => pack_bytes::<8, 8>,
        (16, 4) => pack_bytes::<16, 4>,
        _ => return None,
    })
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
    let whole = if cols == NR { src.k / KR } else { 0 };
    let (steps, edge) = panel.split_at_mut(whole * NR * KR);
    let mut totals = [[0i32; NR]; 2];
    // SAFETY: rows below `src.k` and columns from `first` on, of which there are `cols`, lie inside the source.
    unsafe {
        let at = src.ptr.add(first * src.n_stride);
        match (src.k_stride, src.n_stride) {
            (1, n) => whole_steps::<NR, KR>(steps, src.flip, &mut totals, |k, j| *at.add(k + j * n)),
            (k_stride, 1) => {
                whole_steps::<NR, KR>(steps, src.flip, &mut totals, |k, j| *at.add(k * k_stride + j))
            }
            (k_stride, n) => {
                whole_steps::<NR, KR>(steps, src.flip, &mut totals, |k, j| *at.add(k * k_stride + j * n));
            }
        }
        edge.fill(0);
        for (k, j) in (whole * KR..src.k).flat_map(|k| (0..cols).map(move |j| (k, j))) {
            let byte = *at.add(k * src.k_stride + j * src.n_stride) ^ src.flip;
            edge[(k / KR - whole) * NR * KR + j * KR + k % KR] = byte;
            let half = usize::from(k % KR >= KR.div_ceil(2));
            totals[half][j] = totals[half][j].wrapping_add(i32::from(byte as i8));
        }
    }
    for (sum, (early, late)) in sums.iter_mut().zip(totals[0].iter().zip(&totals[1])) {
        *sum = early.wrapping_add(*late);
    }
    late_sums.copy_from_slice(&totals[1][..late_sums.len()]);
}

/// Packs steps whose bytes are all there, with constant bounds, which the compiler unrolls, and adds up their halves.
#[inline(always)]
fn whole_steps<const NR: usize, const KR: usize>(
    steps: &mut [u8],
    flip: u8,
    totals: &mut [[i32; NR]; 2],
    byte: impl Fn(usize, usize) -> u8,
) {
    let mut added = *totals;
    for (step, chunk) in steps.chunks_exact_mut(NR * KR).enumerate() {
        for j in 0..NR {
            for t in 0..KR {
                let value = byte(step * KR + t, j) ^ flip;
                chunk[j * KR + t] = value;
                let half = usize::from(t >= KR.div_ceil(2));
                added[half][j] = added[half][j].wrapping_add(i32::from(value as i8));
            }
        }
    }
    *totals = added;
}
