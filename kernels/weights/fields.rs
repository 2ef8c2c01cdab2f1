//! Weights of fewer than 8 bits: steps share bytes, each value as a code that is `2^(bits - 1)` larger. See [`super`] for the layout.

use super::{
    super::{Isa, Kernel, isa::compiled, vectors::lanes::Lanes},
    Format, Panels, RhsBytes, Unpack,
};

/// A width, of 4, 2 or 1 bits.
pub(super) trait Width {
    const BITS: usize;
    /// Fields of a byte.
    const FIELDS: usize = 8 / Self::BITS;
    /// What is added to a weight to make a code of it.
    const CODE_OF_ZERO: u8 = 1 << (Self::BITS - 1);
    const MASK: u8 = (1 << Self::BITS) - 1;
}

/// All values of a width, signed or unsigned.
pub(super) const fn format<W: Width>() -> Format {
    let (half, last) = (W::CODE_OF_ZERO as i32, W::MASK as i32);
    Format {
        bits: W::BITS,
        min: [-half, 0],
        max: [half - 1, last],
        pack: pack::<W>,
        unpack: Some(unpack::<W>),
    }
}

/// Most bytes of a step of any kernel's panel.
const MAX_STEP: usize = 64;
/// Steps of i8 that are packed at a time: whole bytes of every width.
const TURN: usize = 8;
/// Panels that are packed at a time: the columns of a vector of bytes, on every instruction set.
const PANELS: usize = 4;

/// # Safety
/// As [`Pack`](super::Pack).
unsafe fn pack<W: Width>(kernel: &Kernel, src: &RhsBytes, first: usize, to: Panels) {
    let (nr, step) = (kernel.nr, kernel.nr * kernel.kr);
    debug_assert!(step <= MAX_STEP, "no kernel has larger steps");
    to.sums.fill(0);
    to.late_sums.fill(0);
    let mut wide = [0; PANELS * TURN * MAX_STEP];
    for at in (0..to.sums.len()).step_by(PANELS * nr) {
        let columns = at..(at + PANELS * nr).min(to.sums.len());
        for start in (0..src.k).step_by(TURN * kernel.kr) {
            let k = (src.k - start).min(TURN * kernel.kr);
            // SAFETY: the caller's; the rows from `start` on are part of the source.
            let src = RhsBytes { ptr: unsafe { src.ptr.add(start * src.k_stride) }, k, ..*src };
            let sums = &mut to.sums[columns.clone()];
            let late_sums = to.late_sums.get_mut(columns.clone()).unwrap_or_default();
            // SAFETY: the caller's; the columns from `first + at` on are part of the source.
            unsafe { pack_wide::<W>(kernel, &src, first + at, &mut wide, sums, late_sums) };
            let steps = k.div_ceil(kernel.kr);
            for (panel, wide) in wide.chunks(TURN * step).take(columns.len() / nr).enumerate() {
                let panel = &mut to.bytes[(at / nr + panel) * to.stride + start * nr / W::FIELDS..];
                let bytes = panel.chunks_exact_mut(step).take(steps.div_ceil(W::FIELDS));
                for (bytes, wide) in bytes.zip(wide.chunks_exact(W::FIELDS * step)) {
                    bytes.fill(0);
                    for (field, wide) in wide.chunks_exact(step).enumerate() {
                        for (byte, &value) in bytes.iter_mut().zip(wide) {
                            *byte |= code::<W>(value, src.flip) << (field * W::BITS);
                        }
                    }
                }
            }
        }
    }
}

/// Packs a turn of panels in 8 bits, zeros behind those steps that there are, and adds their sums.
///
/// # Safety
/// As [`Pack`](super::Pack), for at most [`PANELS`] panels and [`TURN`] steps.
unsafe fn pack_wide<W: Width>(
    kernel: &Kernel,
    src: &RhsBytes,
    first: usize,
    wide: &mut [u8; PANELS * TURN * MAX_STEP],
    sums: &mut [i32],
    late_sums: &mut [i32],
) {
    let (nr, kr) = (kernel.nr, kernel.kr);
    let (mut turn_sums, mut turn_late_sums) = ([0; PANELS * MAX_STEP], [0; PANELS * MAX_STEP]);
    if src.k < TURN * kr {
        wide.fill(0);
    }
    let to = Panels {
        bytes: &mut wide[..],
        stride: TURN * nr * kr,
        sums: &mut turn_sums[..sums.len()],
        late_sums: &mut turn_late_sums[..late_sums.len()],
    };
    // SAFETY: the caller's; there is room for so many panels and steps.
    unsafe { (kernel.pack_rhs)(src, first, to) };
    // Unsigned weights were packed as if they had 8 bits, as `w - 128`, of which zeros beyond K and N have no share.
    let shift = if src.flip == 0 { 0 } else { 128 - i32::from(W::CODE_OF_ZERO) };
    let late_k: usize = (0..src.k).step_by(kr).map(|at| (src.k - at).min(kr).saturating_sub(kr / 2)).sum();
    let columns = src.n - first;
    let add = |sums: &mut [i32], turn_sums: &[i32], k: usize| {
        for (j, (sum, turn)) in sums.iter_mut().zip(turn_sums).enumerate() {
            *sum = sum.wrapping_add(turn + if j < columns { shift * k as i32 } else { 0 });
        }
    };
    add(sums, &turn_sums, src.k);
    add(late_sums, &turn_late_sums, late_k);
}

/// The code of a weight as it is packed in 8 bits.
fn code<W: Width>(value: u8, flip: u8) -> u8 {
    match (flip, value) {
        (0, _) => (value & W::MASK) ^ W::CODE_OF_ZERO,
        (_, 0) => W::CODE_OF_ZERO,
        _ => value & W::MASK,
    }
}

/// See [`Format::unpack`].
fn unpack<W: Width>(isa: Isa) -> Unpack {
    /// # Safety
    /// As [`Unpack`].
    #[inline(always)]
    unsafe fn over<V: Lanes, W: Width>(src: *const u8, step: usize, count: usize, dst: *mut i8) {
        // SAFETY: `count` steps are readable, and `FIELDS` times as many values writable.
        unsafe {
            match step {
                64 => steps::<W, 64>(src, count, dst),
                32 => steps::<W, 32>(src, count, dst),
                16 => steps::<W, 16>(src, count, dst),
                // Any other is a multiple of this.
                _ => (0..count).for_each(|i| {
                    for j in (0..step).step_by(4) {
                        fields::<W, 4>(src.add(i * step + j), dst.add(W::FIELDS * i * step + j), step);
                    }
                }),
            }
        }
    }
    compiled!(isa; <W: Width> fn(src: *const u8, step: usize, count: usize, dst: *mut i8) = over::<Lanes, W>)
}

/// # Safety
/// As [`Unpack`], with steps of `S` bytes.
#[inline(always)]
unsafe fn steps<W: Width, const S: usize>(src: *const u8, count: usize, dst: *mut i8) {
    for i in 0..count {
        // SAFETY: as in `over`, for the step `i`.
        unsafe { fields::<W, S>(src.add(i * S), dst.add(W::FIELDS * i * S), S) }
    }
}

/// All fields of `S` bytes, to as many places, `step` values apart.
///
/// # Safety
/// The bytes are readable, and as many values writable at each place.
#[inline(always)]
unsafe fn fields<W: Width, const S: usize>(src: *const u8, dst: *mut i8, step: usize) {
    // SAFETY: the caller's; bytes need no alignment.
    unsafe {
        let codes = src.cast::<[u8; S]>().read();
        for field in 0..W::FIELDS {
            let mut values = [0; S];
            for i in 0..S {
                let code = codes[i] >> (field * W::BITS) & W::MASK;
                values[i] = code.wrapping_sub(W::CODE_OF_ZERO) as i8;
            }
            dst.add(field * step).cast::<[i8; S]>().write(values);
        }
    }
}
