//! f32 output of sums over groups of K that have scales of their own.

use super::{
    super::{Epilogue, vectors::narrow::Narrow},
    columns::TileBuffer,
    ends::{End, EndF32, Makes, Store},
    place::Place,
    tile::TileEnd,
};

/// The place of a job in a sum over groups of K, `out = (first ? 0 : out) + f32(s) * scale`, and what is made of that sum.
pub(crate) struct GroupPlace {
    /// The sum begins with this group.
    pub first: bool,
    /// The sum ends with this group, and goes where a sum of i32 would: a [`Store::F32`].
    pub last: Option<Store>,
}

/// `out = out + f32(s) * scale`, group after group, each operation rounded, and of the last what [`EndF32`] makes of a sum: from the
/// products that a tile leaves in a buffer, so that tiles are those of f32 output.
pub(crate) struct EndGroups;

impl End for EndGroups {
    const MAKES: Makes = Makes::Reals;
    const BYTES: usize = 4;
    const BUFFERED: bool = true;
    type Tile = EndF32;
    type Ready<V: Narrow> = <EndF32 as End>::Ready<V>;

    #[inline(always)]
    unsafe fn ready<V: Narrow>(epilogue: &Epilogue) -> Self::Ready<V> {
        // SAFETY: the caller's: the store is that of f32 output.
        unsafe { EndF32::ready::<V>(epilogue) }
    }

    #[inline(always)]
    unsafe fn store<V: Narrow, const R: usize, const Q: usize>(
        sums: &[[V::I; Q]; R],
        end: &TileEnd,
        ready: &Self::Ready<V>,
    ) {
        // SAFETY: the caller's, of `finish`: the store is that of f32 output.
        unsafe { EndF32::store::<V, R, Q>(sums, end, ready) }
    }

    #[inline(always)]
    unsafe fn flush<V: Narrow>(buffer: &TileBuffer, end: &TileEnd, place: &Place) {
        // SAFETY: this end is for epilogues that have groups; the rest is the caller's.
        unsafe { add(buffer, end, place) }
    }
}

/// Adds a tile's products to the sums. Compiled once: formats whose groups matter have kernels that add them in registers.
///
/// # Safety
/// As [`End::flush`]; the epilogue has groups.
#[inline(never)]
unsafe fn add(buffer: &TileBuffer, end: &TileEnd, place: &Place) {
    // SAFETY: the epilogue has groups, which outlive the call.
    let groups = unsafe { &*end.epilogue.groups };
    for r in 0..place.rows {
        for j in 0..place.cols {
            // SAFETY: the buffer and the place have the element, and the last store has parameters for its row and column.
            unsafe {
                let out = place.out.cast::<f32>().add(r * place.row_stride + j * place.col_stride);
                let product = *buffer.start.cast::<f32>().add(r * buffer.stride + j);
                let sum = if groups.first { product } else { *out + product };
                *out = match &groups.last {
                    Some(store) => finished(sum, store, end.row + r, place.col + j),
                    None => sum,
                };
            }
        }
    }
}

/// What [`EndF32`] makes of a sum that is an f32 already.
///
/// # Safety
/// The store has parameters for the row and column.
unsafe fn finished(sum: f32, store: &Store, row: usize, col: usize) -> f32 {
    let Store::F32 { row_scales, col_scales, bias, min, max } = *store else { return sum };
    // SAFETY: the store has a scale for the row, and a scale and a bias, if any, for the column.
    unsafe {
        let mut value = sum * (row_scales.get(row) * col_scales.get(col));
        if !bias.is_null() {
            value += *bias.add(col);
        }
        if min > f32::NEG_INFINITY || max < f32::INFINITY {
            // NaN becomes `min`, as where vectors are clamped.
            value = if value > min { value } else { min };
            value = if max < value { max } else { value };
        }
        value
    }
}
