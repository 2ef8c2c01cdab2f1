//! The end that makes bytes in f32: rounded half to even.

use core::hint::unreachable_unchecked;

use super::{
    super::{Epilogue, vectors::narrow::Narrow},
    columns::TileBuffer,
    ends::{End, Makes, ReadyBytes, Store, each},
    place::Place,
    tile::TileEnd,
};

/// Groups of four vectors of the largest tile of any kernel.
const MAX_GROUPS: usize = 12;

/// i8 or u8 output, rounded half to even. Both are the low byte of a clamped i32.
pub(crate) struct EndByte;

impl End for EndByte {
    const MAKES: Makes = Makes::Bytes;
    const BYTES: usize = 1;
    type Tile = Self;
    type Ready<V: Narrow> = ReadyBytes<V>;

    #[inline(always)]
    unsafe fn ready<V: Narrow>(epilogue: &Epilogue) -> ReadyBytes<V> {
        // SAFETY: the caller's: it is the end of this store.
        unsafe {
            let Store::HalfEven { bias, zero_point, min, max, .. } = epilogue.store else {
                unreachable_unchecked()
            };
            ReadyBytes { range: V::byte_range(zero_point, min, max), bias: !bias.is_null() }
        }
    }

    #[inline(always)]
    fn bytes<V: Narrow>(ready: &ReadyBytes<V>) -> Option<&ReadyBytes<V>> {
        Some(ready)
    }

    #[inline(always)]
    unsafe fn store<V: Narrow, const R: usize, const Q: usize>(
        sums: &[[V::I; Q]; R],
        end: &TileEnd,
        ready: &ReadyBytes<V>,
    ) {
        // SAFETY: the caller's, of `finish`; there is a bias where `BIAS` says so.
        unsafe {
            if ready.bias {
                Self::store_bytes::<V, true, R, Q>(sums, end, &ready.range);
            } else {
                Self::store_bytes::<V, false, R, Q>(sums, end, &ready.range);
            }
        }
    }

    #[inline(always)]
    unsafe fn flush<V: Narrow>(buffer: &TileBuffer, _end: &TileEnd, place: &Place) {
        // SAFETY: the buffer holds bytes, four to an element's room: rows are `stride` bytes apart.
        unsafe { place.fill::<u8>(buffer.start.cast(), buffer.stride) }
    }
}

impl EndByte {
    /// # Safety
    /// As [`finish`]; the f32 bias is not null if `BIAS`.
    #[inline(always)]
    unsafe fn store_bytes<V: Narrow, const BIAS: bool, const R: usize, const Q: usize>(
        sums: &[[V::I; Q]; R],
        end: &TileEnd,
        to: &V::ByteRange,
    ) {
        // SAFETY: as for EndF32.
        unsafe {
            // Stores of bytes may change anything, as the compiler sees it: with registers to spare, scales are read before.
            let keep = R * Q + Q + 6 <= V::REGISTERS;
            let mut kept = [V::splat_f(0.0); Q];
            let (scales, biases) = (end.scales(), end.biases());
            if keep {
                each!(q in 0..Q => kept[q] = V::load_f(scales.add(q * V::LANES)));
            }
            // Four vectors at a time, row by row: as many as instruction sets narrow together.
            // The columns were filled for a store with scales, which says this of them.
            let in_range = !BIAS && end.columns.small_scales;
            let mut bytes = [V::narrow([V::splat_f(0.0); 4], to, in_range); MAX_GROUPS];
            let mut row = end.out.cast::<u8>().wrapping_add(end.col);
            each!(g in 0..(R * Q).div_ceil(4) => {
                let mut steps = [V::splat_f(0.0); 4];
                each!(i in [0 1 2 3] => {
                    let (r, q) = Self::place::<R, Q>(g, i);
                    let scale = if keep { kept[q] } else { V::load_f(scales.add(q * V::LANES)) };
                    steps[i] = V::mul_f(V::to_f(sums[r][q]), scale);
                    if BIAS {
                        steps[i] = V::add_f(steps[i], V::load_f(biases.add(q * V::LANES)));
                    }
                });
                bytes[g] = V::narrow(steps, to, in_range);
                if !V::LIMITS_TOGETHER {
                    Self::store_group::<V, R, Q>(g, V::limit(bytes[g], to), to, end, &mut row);
                }
            });
            if V::LIMITS_TOGETHER {
                if V::limits(to) {
                    each!(g in 0..(R * Q).div_ceil(4) => bytes[g] = V::limit(bytes[g], to));
                }
                each!(g in 0..(R * Q).div_ceil(4) => Self::store_group::<V, R, Q>(g, bytes[g], to, end, &mut row));
            }
        }
    }

    /// Row and vector of a group's vector `i`. A group that is not whole repeats its last, which is not stored again.
    #[inline(always)]
    fn place<const R: usize, const Q: usize>(group: usize, i: usize) -> (usize, usize) {
        let vector = (4 * group + i).min(R * Q - 1);
        (vector / Q, vector % Q)
    }

    /// Stores a group. `row` is the place of the row of the vector before it, and becomes that of its last.
    ///
    /// # Safety
    /// As [`finish`]; the tile has the group.
    #[inline(always)]
    unsafe fn store_group<V: Narrow, const R: usize, const Q: usize>(
        group: usize,
        bytes: V::Bytes,
        to: &V::ByteRange,
        end: &TileEnd,
        row: &mut *mut u8,
    ) {
        let out = end.out.cast::<u8>().wrapping_add(end.col);
        let count = (R * Q - 4 * group).min(4);
        // SAFETY: `out` has room for R rows of Q vectors.
        unsafe {
            let mut places = [out; 4];
            each!(i in [0 1 2 3] => {
                let (r, q) = Self::place::<R, Q>(group, i);
                if q == 0 && i < count {
                    *row = V::row(out, *row, r, end.out_stride);
                }
                places[i] = row.add(q * V::LANES);
            });
            if Q.is_multiple_of(4) {
                V::store_bytes::<4>(bytes, to, places, count);
            } else if Q.is_multiple_of(2) {
                V::store_bytes::<2>(bytes, to, places, count);
            } else {
                V::store_bytes::<1>(bytes, to, places, count);
            }
        }
    }
}
