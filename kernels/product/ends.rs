//! Epilogues, written once over [`Lanes`]: zero-point correction, bias, scale, rounding, clamp, store.
//!
//! A tile's sums are still in registers when they get here. A tile is compiled for each end that a program describes outputs with
//! ([`EndI32`], [`EndF32`], [`EndByte`](super::EndByte)); integer requantization ([`EndFixed`]), strided outputs and ragged last columns go through a
//! small buffer of the tile ([`End::flush`]) so that they cost no copy of the tile's code.

use core::hint::unreachable_unchecked;

use super::{
    super::{
        Epilogue, FixedPoint, Param,
        vectors::{lanes::Lanes, narrow::Narrow},
    },
    columns::TileBuffer,
    place::Place,
    tile::TileEnd,
};

/// Where the corrected sum `s` goes.
#[derive(Clone, Copy)]
pub(crate) enum Store {
    /// `out = s`, or `out += s` (wrapping).
    I32 { accumulate: bool },
    /// `out = clamp(f32(s) * (row_scale * col_scale) + bias)`.
    F32 { row_scales: Param<f32>, col_scales: Param<f32>, bias: *const f32, min: f32, max: f32 },
    /// `out = clamp(rint(f32(s) * scale + bias) + zero_point)` to 8 bits; half to even.
    HalfEven { scales: Param<f32>, bias: *const f32, zero_point: i32, min: i32, max: i32 },
    /// `out = clamp(s * multiplier * 2^(shift - 31) + zero_point)` to 8 bits, in integers.
    Fixed { multipliers: Param<FixedPoint>, double_rounding: bool, zero_point: i32, min: i32, max: i32 },
}

impl Store {
    /// Scales of columns, and what is added after scaling or null, if sums are scaled in f32.
    #[inline(always)]
    pub fn scales(&self) -> Option<(Param<f32>, *const f32)> {
        match *self {
            Self::F32 { col_scales: scales, bias, .. } | Self::HalfEven { scales, bias, .. } => {
                Some((scales, bias))
            }
            Self::I32 { .. } | Self::Fixed { .. } => None,
        }
    }

    /// Multipliers of columns, if sums are scaled in integers.
    #[inline(always)]
    pub fn multipliers(&self) -> Option<Param<FixedPoint>> {
        match *self {
            Self::Fixed { multipliers, .. } => Some(multipliers),
            _ => None,
        }
    }

    /// Tiles add their sums to what is there.
    #[inline(always)]
    pub fn accumulates(&self) -> bool {
        matches!(self, Self::I32 { accumulate: true })
    }
}

/// What an end makes of corrected sums: for instruction sets that make some of it by code of their own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Makes {
    /// Sums as they are, stored or added.
    Sums,
    /// Reals.
    Reals,
    /// Bytes, rounded half to even.
    Bytes,
}

/// The end of a tile: what happens to corrected sums that are still in registers.
pub(crate) trait End {
    /// What tiles that are compiled with it make.
    #[allow(dead_code, reason = "only kernels that leave sums in memory ask")]
    const MAKES: Makes;
    /// Of an element of the output.
    const BYTES: usize;
    /// Outputs are made of the sums that tiles leave in a buffer.
    const BUFFERED: bool = false;
    /// What tiles are compiled with: this end, or that of the sums.
    type Tile: End;
    /// What it makes of an epilogue before the first tile.
    type Ready<V: Narrow>: Copy;

    /// # Safety
    /// The end agrees with the store; the CPU has the features of `V`.
    unsafe fn ready<V: Narrow>(epilogue: &Epilogue) -> Self::Ready<V>;

    /// The end is [`EndByte`](super::EndByte), and this is what it needs.
    #[inline(always)]
    #[allow(dead_code, reason = "only blocks of sums, which some targets have, ask")]
    fn bytes<V: Narrow>(_ready: &Self::Ready<V>) -> Option<&ReadyBytes<V>> {
        None
    }

    /// # Safety
    /// As [`finish`]; `ready` is of the epilogue.
    unsafe fn store<V: Narrow, const R: usize, const Q: usize>(
        sums: &[[V::I; Q]; R],
        end: &TileEnd,
        ready: &Self::Ready<V>,
    );

    /// Moves a finished tile from a buffer, to its place.
    ///
    /// # Safety
    /// [`End::store`] has written the buffer; the elements may be written to their place; the CPU has the features of `V`.
    unsafe fn flush<V: Narrow>(buffer: &TileBuffer, end: &TileEnd, place: &Place);
}

/// What [`EndByte`](super::EndByte) makes of an epilogue.
#[derive(Clone, Copy)]
pub(crate) struct ReadyBytes<V: Narrow> {
    pub range: V::ByteRange,
    /// There is an f32 bias.
    pub bias: bool,
}

/// Calls the body with each constant index below `$count`, unrolled in the source: an array of vectors indexed by a
/// loop that the compiler chose not to unroll would live in memory. What is not below is gone before the compiler translates it:
/// `const` makes the library build several times faster.
macro_rules! each {
    ($i:ident in 0..$count:expr => $body:expr) => {
        {
            const { assert!($count <= 12, "no more are written out") };
            each!(@ $i, $count, $body, 0 1 2 3 4 5 6 7 8 9 10 11)
        }
    };
    ($i:ident in [$($n:literal)*] => $body:expr) => {
        { $( { let $i: usize = $n; $body } )* }
    };
    (@ $i:ident, $count:expr, $body:expr, $($n:literal)*) => {
        { $( if const { $n < $count } { let $i: usize = $n; $body } )* }
    };
}

#[allow(unused_imports, reason = "for kernels that finish a tile in parts")]
pub(crate) use each;

/// Corrects the sums of a tile of `R` rows by `Q` vectors and hands them to the end `E`.
///
/// # Safety
/// `end.epilogue` is valid for rows `end.row .. end.row + R`; `end.out` has room for `R` rows of `Q` whole vectors;
/// the CPU has the features of `V`.
#[inline(always)]
pub(crate) unsafe fn finish<V: Narrow, E: End, const R: usize, const Q: usize>(
    mut sums: [[V::I; Q]; R],
    end: &TileEnd,
) {
    // SAFETY: the columns of the tile have a base; the rest is what `finish_from_base` asks for.
    unsafe {
        each!(q in 0..Q => {
            let base = end.base::<V>(q);
            each!(r in 0..R => sums[r][q] = V::add_i(sums[r][q], base));
        });
        finish_from_base::<V, E, R, Q>(sums, end, &E::ready(end.epilogue));
    }
}

/// [`finish`] of sums that started from [`TileEnd::base`], with the end ready.
///
/// # Safety
/// As [`finish`]; `ready` is of the epilogue.
#[inline(always)]
pub(crate) unsafe fn finish_from_base<V: Narrow, E: End, const R: usize, const Q: usize>(
    mut sums: [[V::I; Q]; R],
    end: &TileEnd,
    ready: &E::Ready<V>,
) {
    // SAFETY: the epilogue is valid for the tile's rows, `out` has room for the tile, `ready` is of the epilogue.
    unsafe {
        if end.corrects {
            correct::<V, R, Q>(&mut sums, end);
        }
        E::store::<V, R, Q>(&sums, end, ready);
    }
}

/// Adds what depends on both row and column.
///
/// # Safety
/// As [`finish`].
#[inline(always)]
pub(crate) unsafe fn correct<V: Lanes, const R: usize, const Q: usize>(
    sums: &mut [[V::I; Q]; R],
    end: &TileEnd,
) {
    let columns = end.columns;
    let epilogue = end.epilogue;
    // SAFETY: the columns reach to col + Q * LANES; rows are the caller's promise.
    unsafe {
        if epilogue.lhs_zero.step != 0 {
            each!(r in 0..R => {
                let zero = V::splat_i(epilogue.lhs_zero.get(end.row + r).wrapping_add(epilogue.lhs_shift));
                each!(q in 0..Q => {
                    let factor = V::load_i(columns.zero_factor.at(end.col + q * V::LANES));
                    sums[r][q] = V::add_i(sums[r][q], V::mul_i(zero, factor));
                });
            });
        }
        if !epilogue.rhs_zero.is_null() {
            each!(r in 0..R => {
                let row_sum = V::splat_i(*end.row_sums.add(r));
                each!(q in 0..Q => {
                    let zero = V::load_i(columns.rhs_zero.at(end.col + q * V::LANES));
                    sums[r][q] = V::sub_i(sums[r][q], V::mul_i(row_sum, zero));
                });
            });
        }
    }
}

/// i32 output.
pub(crate) struct EndI32;

impl End for EndI32 {
    const MAKES: Makes = Makes::Sums;
    const BYTES: usize = 4;
    type Tile = Self;
    type Ready<V: Narrow> = ();

    #[inline(always)]
    unsafe fn ready<V: Narrow>(_epilogue: &Epilogue) {}

    #[inline(always)]
    unsafe fn store<V: Narrow, const R: usize, const Q: usize>(
        sums: &[[V::I; Q]; R],
        end: &TileEnd,
        _ready: &(),
    ) {
        let out = end.out.cast::<i32>().wrapping_add(end.col);
        // SAFETY: `out` has room for R rows of Q vectors.
        unsafe {
            let mut row = out;
            if end.accumulate {
                each!(r in 0..R => {
                    row = V::row(out, row, r, end.out_stride);
                    each!(q in 0..Q => {
                        let p = row.add(q * V::LANES);
                        V::store_i(V::add_i(V::load_i(p), sums[r][q]), p);
                    });
                });
            } else {
                each!(r in 0..R => {
                    row = V::row(out, row, r, end.out_stride);
                    each!(q in 0..Q => V::store_i(sums[r][q], row.add(q * V::LANES)));
                });
            }
        }
    }

    #[inline(always)]
    unsafe fn flush<V: Narrow>(buffer: &TileBuffer, end: &TileEnd, place: &Place) {
        // SAFETY: the buffer holds sums, and the places are writable; to be added to, they hold sums too.
        unsafe {
            match end.epilogue.store {
                Store::I32 { accumulate: true } => place.add(buffer),
                _ => place.fill::<i32>(buffer.start, buffer.stride),
            }
        }
    }
}

/// i8 or u8 output, requantized in integers: from the sums of a tile, so that tiles are those of i32 output.
pub(crate) struct EndFixed;

impl End for EndFixed {
    const MAKES: Makes = Makes::Sums;
    const BYTES: usize = 1;
    const BUFFERED: bool = true;
    type Tile = EndI32;
    type Ready<V: Narrow> = ();

    #[inline(always)]
    unsafe fn ready<V: Narrow>(_epilogue: &Epilogue) {}

    #[inline(always)]
    unsafe fn store<V: Narrow, const R: usize, const Q: usize>(
        sums: &[[V::I; Q]; R],
        end: &TileEnd,
        ready: &(),
    ) {
        // SAFETY: the tile goes to the buffer as sums, for which it has room.
        unsafe { EndI32::store::<V, R, Q>(sums, end, ready) }
    }

    #[inline(always)]
    unsafe fn flush<V: Narrow>(buffer: &TileBuffer, end: &TileEnd, place: &Place) {
        // SAFETY: the buffer holds the tile's sums, then their bytes; the places are writable.
        unsafe {
            requantize::<V>(buffer, end, place.rows, place.cols);
            place.fill::<u8>(buffer.start.cast(), 4 * buffer.stride);
        }
    }
}

/// Requantizes in integers: bytes overwrite the sums of their own row from its start. A vector of LANES bytes ends before
/// the next vector of sums begins.
///
/// # Safety
/// The buffer holds `rows` x `cols` sums; the epilogue's store is [`Store::Fixed`]; the CPU has the features of `V`.
#[inline(always)]
unsafe fn requantize<V: Lanes>(buffer: &TileBuffer, end: &TileEnd, rows: usize, cols: usize) {
    let Store::Fixed { double_rounding, zero_point, min, max, .. } = end.epilogue.store else { return };
    // SAFETY: a row of the buffer has whole vectors.
    unsafe {
        let zero = V::splat_i(zero_point);
        let (low, high) = (V::splat_i(min - zero_point), V::splat_i(max - zero_point));
        for r in 0..rows {
            let sums: *mut i32 = buffer.start.add(r * buffer.stride);
            for j in (0..cols).step_by(V::LANES) {
                let x = V::load_i(sums.add(j));
                let m = V::load_i(end.columns.multiplier.at(j));
                let e = V::load_i(end.columns.shift.at(j));
                let scaled = if double_rounding {
                    V::scale_double_rounding(x, m, e)
                } else {
                    V::scale_single_rounding(x, m, e)
                };
                let clamped = V::min_i(V::max_i(scaled, low), high);
                V::store_low_bytes(V::add_i(clamped, zero), sums.cast::<u8>().add(j));
            }
        }
    }
}

/// f32 output.
pub(crate) struct EndF32;

impl End for EndF32 {
    const MAKES: Makes = Makes::Reals;
    const BYTES: usize = 4;
    type Tile = Self;
    /// The range, if there is one. Its zeros are positive, so that zeros of either sign that meet them become the same on every
    /// instruction set: see the order of operands in [`EndF32::store`].
    type Ready<V: Narrow> = Option<[V::F; 2]>;

    #[inline(always)]
    unsafe fn ready<V: Narrow>(epilogue: &Epilogue) -> Option<[V::F; 2]> {
        // SAFETY: the caller's: it is the end of this store.
        unsafe {
            let Store::F32 { min, max, .. } = epilogue.store else { unreachable_unchecked() };
            let clamps = min > f32::NEG_INFINITY || max < f32::INFINITY;
            clamps.then(|| [V::splat_f(min), V::splat_f(max)])
        }
    }

    #[inline(always)]
    unsafe fn store<V: Narrow, const R: usize, const Q: usize>(
        sums: &[[V::I; Q]; R],
        end: &TileEnd,
        ready: &Option<[V::F; 2]>,
    ) {
        // SAFETY: the caller's, of `finish`: the store is that of f32 output.
        unsafe {
            match ready {
                Some([min, max]) => {
                    Self::store_f32::<V, R, Q>(sums, end, |v| V::min_f(*max, V::max_f(v, *min)))
                }
                None => Self::store_f32::<V, R, Q>(sums, end, |v| v),
            }
        }
    }

    #[inline(always)]
    unsafe fn flush<V: Narrow>(buffer: &TileBuffer, _end: &TileEnd, place: &Place) {
        // SAFETY: the buffer holds reals, and the places are writable.
        unsafe { place.fill::<f32>(buffer.start.cast(), buffer.stride) }
    }
}

impl EndF32 {
    /// # Safety
    /// As [`finish`].
    #[inline(always)]
    unsafe fn store_f32<V: Lanes, const R: usize, const Q: usize>(
        sums: &[[V::I; Q]; R],
        end: &TileEnd,
        clamp: impl Fn(V::F) -> V::F,
    ) {
        // SAFETY: the caller's: it is the end of this store.
        let Store::F32 { row_scales, .. } = end.epilogue.store else { unsafe { unreachable_unchecked() } };
        let out = end.out.cast::<f32>().wrapping_add(end.col);
        // SAFETY: as for EndI32; Columns holds whole vectors; row scales are valid for the tile's rows.
        unsafe {
            // With registers to spare, scales are read before the first store, which may change anything, as the compiler sees it.
            let keep = R * Q + Q + 6 <= V::REGISTERS;
            let mut kept = [V::splat_f(0.0); Q];
            let (scales, biases) = (end.scales(), end.biases());
            if keep {
                each!(q in 0..Q => kept[q] = V::load_f(scales.add(q * V::LANES)));
            }
            let mut row = out;
            each!(r in 0..R => {
                row = V::row(out, row, r, end.out_stride);
                let row_scale = V::splat_f(row_scales.get(end.row + r));
                each!(q in 0..Q => {
                    let scale = V::mul_f(row_scale, if keep { kept[q] } else { V::load_f(scales.add(q * V::LANES)) });
                    let bias = V::load_f(biases.add(q * V::LANES));
                    let value = V::add_f(V::mul_f(V::to_f(sums[r][q]), scale), bias);
                    V::store_f(clamp(value), row.add(q * V::LANES));
                });
            });
        }
    }
}

/// f32 output that is added to what is there: from the sums of a tile, so that tiles are those of i32 output.
pub(crate) struct EndF32Added;

impl End for EndF32Added {
    const MAKES: Makes = Makes::Sums;
    const BYTES: usize = 4;
    const BUFFERED: bool = true;
    type Tile = EndI32;
    type Ready<V: Narrow> = ();

    #[inline(always)]
    unsafe fn ready<V: Narrow>(_epilogue: &Epilogue) {}

    #[inline(always)]
    unsafe fn store<V: Narrow, const R: usize, const Q: usize>(
        sums: &[[V::I; Q]; R],
        end: &TileEnd,
        ready: &(),
    ) {
        // SAFETY: the tile goes to the buffer as sums, for which it has room.
        unsafe { EndI32::store::<V, R, Q>(sums, end, ready) }
    }

    #[inline(always)]
    unsafe fn flush<V: Narrow>(buffer: &TileBuffer, end: &TileEnd, place: &Place) {
        // SAFETY: the buffer holds the tile's sums, and the places reals that are writable.
        unsafe { add_reals::<V>(buffer, end, place) }
    }
}

/// `out = clamp(out + f32(s) * (row_scale * col_scale) + bias)`, every operation rounded: whole vectors of contiguous outputs, then what
/// remains one by one.
///
/// # Safety
/// As [`End::flush`]; the buffer holds sums; the epilogue's store is [`Store::F32`].
#[inline(always)]
unsafe fn add_reals<V: Lanes>(buffer: &TileBuffer, end: &TileEnd, place: &Place) {
    let Store::F32 { row_scales, min, max, .. } = end.epilogue.store else { return };
    let clamps = min > f32::NEG_INFINITY || max < f32::INFINITY;
    let (scales, biases) = (end.scales(), end.biases());
    let whole = if place.col_stride == 1 { place.cols / V::LANES * V::LANES } else { 0 };
    for r in 0..place.rows {
        // SAFETY: the buffer, the place and the columns have every element below `cols`; row scales are valid for the tile's rows.
        unsafe {
            let sums = buffer.start.add(r * buffer.stride).cast_const();
            let out = place.out.cast::<f32>().add(r * place.row_stride);
            let row_scale = row_scales.get(end.row + r);
            for j in (0..whole).step_by(V::LANES) {
                let scale = V::mul_f(V::splat_f(row_scale), V::load_f(scales.add(j)));
                let product = V::mul_f(V::to_f(V::load_i(sums.add(j))), scale);
                let sum = V::add_f(V::load_f(out.add(j)), product);
                let mut value = V::add_f(sum, V::load_f(biases.add(j)));
                if clamps {
                    // NaN becomes `min`: see the order of operands in [`EndF32::store`].
                    value = V::min_f(V::splat_f(max), V::max_f(value, V::splat_f(min)));
                }
                V::store_f(value, out.add(j));
            }
            for j in whole..place.cols {
                let out = out.add(j * place.col_stride);
                let product = *sums.add(j) as f32 * (row_scale * *scales.add(j));
                let mut value = *out + product + *biases.add(j);
                if clamps {
                    value = if value > min { value } else { min };
                    value = if max < value { max } else { value };
                }
                *out = value;
            }
        }
    }
}
