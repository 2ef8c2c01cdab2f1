//! Vectors as pieces of sixteen bytes: what weights are packed by. Every instruction set that has vectors moves bytes within such a piece
//! at one instruction; across pieces few do, and at a cost: pieces are told apart only as they are loaded and stored.

use super::lanes::Lanes;

/// A vector of `PIECES` times sixteen bytes. Every method may only be called as those of [`Lanes`].
///
/// # Safety
/// Methods read or write exactly the pieces that they name.
pub(crate) unsafe trait Pieces: Lanes {
    const PIECES: usize = Self::LANES / 4;

    /// Loads piece `i` from `p + i * stride`.
    unsafe fn load_pieces(p: *const u8, stride: usize) -> Self::I;
    /// Stores piece `i` at `p + i * stride`, of the first `count`.
    unsafe fn store_pieces(v: Self::I, p: *mut u8, stride: usize, count: usize);
    /// In each piece, elements of `BYTES` bytes (1, 2, 4 or 8) of `a` and `b` in turn: those of the first halves, those of the second.
    unsafe fn zip<const BYTES: usize>(a: Self::I, b: Self::I) -> [Self::I; 2];
    /// Adds the sum of each four i8 to an i32.
    unsafe fn add_fours(sums: Self::I, bytes: Self::I) -> Self::I;
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::{
        super::super::{KERNELS, isa::compiled},
        *,
    };

    /// Values that no method may write.
    const UNTOUCHED: u8 = 0xa5;
    /// Between pieces in memory.
    const STRIDE: usize = 21;

    /// Where pieces lie.
    fn place(piece: usize) -> core::ops::Range<usize> {
        piece * STRIDE..piece * STRIDE + 16
    }

    /// # Safety
    /// The CPU has the features of `V`.
    #[inline(always)]
    unsafe fn vector<V: Pieces>(v: V::I) -> [[u8; 16]; 4] {
        let mut pieces = [[UNTOUCHED; 16]; 4];
        // SAFETY: no vector is larger.
        unsafe { V::store_i(v, pieces.as_mut_ptr().cast()) };
        pieces
    }

    /// Holds every method against its definition.
    ///
    /// # Safety
    /// The CPU has the features of `V`.
    #[inline(always)]
    unsafe fn check<V: Pieces>(bytes: &[u8; 2 * 4 * STRIDE], sums: &[i32; 16]) {
        let (first, second) = bytes.split_at(4 * STRIDE);
        // SAFETY: the caller's; there is room for four pieces, and no vector has more.
        unsafe {
            let [a, b] = [first, second].map(|bytes| V::load_pieces(bytes.as_ptr(), STRIDE));
            let loaded = [a, b].map(|v| vector::<V>(v));
            for (bytes, loaded) in [first, second].iter().zip(loaded) {
                for piece in 0..V::PIECES {
                    assert_eq!(loaded[piece], bytes[place(piece)], "load_pieces");
                }
            }
            for count in 0..=V::PIECES {
                let mut stored = [UNTOUCHED; 4 * STRIDE];
                let mut expected = stored;
                V::store_pieces(a, stored.as_mut_ptr(), STRIDE, count);
                (0..count).for_each(|piece| expected[place(piece)].copy_from_slice(&first[place(piece)]));
                assert_eq!(stored, expected, "store_pieces");
            }
            let zips = [
                (1, V::zip::<1>(a, b)),
                (2, V::zip::<2>(a, b)),
                (4, V::zip::<4>(a, b)),
                (8, V::zip::<8>(a, b)),
            ];
            for (size, zipped) in zips {
                let halves = zipped.map(|v| vector::<V>(v));
                for (half, piece, at) in
                    (0..2).flat_map(|h| (0..V::PIECES).flat_map(move |p| (0..16).map(move |at| (h, p, at))))
                {
                    let element = 8 / size * half + at / (2 * size);
                    let from = loaded[at / size % 2][piece][element * size + at % size];
                    assert_eq!(halves[half][piece][at], from, "zip::<{size}>");
                }
            }
            let mut added = *sums;
            V::store_i(V::add_fours(V::load_i(sums.as_ptr()), a), added.as_mut_ptr());
            for i in 0..V::LANES {
                let four = &loaded[0][i / 4][i % 4 * 4..][..4];
                let sum = four.iter().fold(sums[i], |sum, &x| sum.wrapping_add((x as i8).into()));
                assert_eq!(added[i], sum, "add_fours");
            }
        }
    }

    #[test]
    fn methods_are_their_definitions() {
        for turn in 0..=255u8 {
            // All bytes, of which each four may be extremes.
            let extremes = |i: usize| if turn % 2 == 0 { turn } else { [0x80, 0x7f][i / 4 % 2] };
            let byte =
                |i: usize| if i.is_multiple_of(3) { extremes(i) } else { turn.wrapping_add((37 * i) as u8) };
            let bytes: [[u8; 2 * 4 * STRIDE]; 2] =
                [core::array::from_fn(byte), core::array::from_fn(extremes)];
            let sums = core::array::from_fn(|i| [0, -1, i32::MAX, i32::MIN][i % 4]);
            for isa in KERNELS.iter().filter(|kernel| (kernel.is_available)()).map(|kernel| kernel.isa) {
                for bytes in &bytes {
                    // SAFETY: the CPU has the instruction set.
                    unsafe {
                        let check = compiled!(
                            isa; fn(bytes: &[u8; 2 * 4 * STRIDE], sums: &[i32; 16]) = check::<Lanes>
                        );
                        check(bytes, &sums);
                    }
                }
            }
        }
    }
}
