//! The range of reals.

use super::super::{Isa, isa::compiled};
use super::{AHEAD, buffer::Buffer, lanes::Lanes};

/// Smallest and largest of some reals, and the largest bit pattern of a magnitude, which is above [`Extent::FINITE`] if one
/// of them is infinite or NaN; the other two mean nothing then. Of no reals: `max < min`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Extent {
    pub min: f32,
    pub max: f32,
    pub magnitude: i32,
}

impl Extent {
    pub const FINITE: i32 = f32::MAX.to_bits() as i32;
    pub const EMPTY: Self = Self { min: f32::INFINITY, max: f32::NEG_INFINITY, magnitude: 0 };

    /// The extent of both. Comparisons that know nothing of NaN will do: the magnitude tells of it.
    pub fn join(self, other: Self) -> Self {
        Self {
            min: if other.min < self.min { other.min } else { self.min },
            max: if other.max > self.max { other.max } else { self.max },
            magnitude: self.magnitude.max(other.magnitude),
        }
    }
}

/// The [`Extent`] of so many reals. Safety: they are readable.
pub(crate) fn extent(isa: Isa) -> unsafe fn(*const f32, usize) -> Extent {
    compiled!(isa; fn(src: *const f32, len: usize) -> Extent = extent_over::<Lanes>)
}

/// # Safety
/// `len` values at `src` are readable; the CPU has the features of `V`.
#[inline(always)]
unsafe fn extent_over<V: Lanes>(src: *const f32, len: usize) -> Extent {
    let mut at = 0;
    let mut result = Extent::EMPTY;
    // SAFETY: no value at or behind `len` is read, and the CPU has the features of `V`.
    unsafe {
        if len >= V::LANES {
            // Four chains: the latency of a minimum is several vectors long.
            let mut chains = [Running::<V>::new(V::load_f(src)); 4];
            while at + 4 * V::LANES <= len {
                V::prefetch(src.wrapping_add(at + AHEAD));
                V::prefetch(src.wrapping_add(at + AHEAD + 2 * V::LANES));
                chains[0].take(V::load_f(src.add(at)));
                chains[1].take(V::load_f(src.add(at + V::LANES)));
                chains[2].take(V::load_f(src.add(at + 2 * V::LANES)));
                chains[3].take(V::load_f(src.add(at + 3 * V::LANES)));
                at += 4 * V::LANES;
            }
            while at + V::LANES <= len {
                chains[0].take(V::load_f(src.add(at)));
                at += V::LANES;
            }
            let [a, b, c, d] = chains;
            result = a.join(b).join(c.join(d)).extent();
        }
        while at < len {
            let x = *src.add(at);
            result = result.join(Extent { min: x, max: x, magnitude: x.to_bits() as i32 & i32::MAX });
            at += 1;
        }
    }
    // No instruction set promises which zero a minimum of two is: both become +0.
    Extent { min: result.min + 0.0, max: result.max + 0.0, ..result }
}

/// The [`Extent`] of each lane.
#[derive(Clone, Copy)]
struct Running<V: Lanes> {
    min: V::F,
    max: V::F,
    magnitude: V::I,
}

impl<V: Lanes> Running<V> {
    /// # Safety
    /// The CPU has the features of `V`, here and below.
    #[inline(always)]
    unsafe fn new(x: V::F) -> Self {
        // SAFETY: the CPU has the features of `V`.
        Self { min: x, max: x, magnitude: unsafe { V::splat_i(0) } }
    }

    /// # Safety
    /// As [`Running::new`].
    #[inline(always)]
    unsafe fn take(&mut self, x: V::F) {
        // SAFETY: the CPU has the features of `V`.
        unsafe {
            self.min = V::min_f(self.min, x);
            self.max = V::max_f(self.max, x);
            self.magnitude = V::max_i(self.magnitude, V::and_i(V::bits(x), V::splat_i(i32::MAX)));
        }
    }

    /// # Safety
    /// As [`Running::new`].
    #[inline(always)]
    unsafe fn join(self, other: Self) -> Self {
        // SAFETY: the CPU has the features of `V`.
        unsafe {
            Self {
                min: V::min_f(self.min, other.min),
                max: V::max_f(self.max, other.max),
                magnitude: V::max_i(self.magnitude, other.magnitude),
            }
        }
    }

    /// # Safety
    /// As [`Running::new`].
    #[inline(always)]
    unsafe fn extent(self) -> Extent {
        let (mut min, mut max) = (Buffer::<f32>::NEW, Buffer::<f32>::NEW);
        let mut magnitude = Buffer::<i32>::NEW;
        let mut result = Extent::EMPTY;
        // SAFETY: a buffer holds a vector, of which each lane is read.
        unsafe {
            V::store_f(self.min, min.as_mut_ptr());
            V::store_f(self.max, max.as_mut_ptr());
            V::store_i(self.magnitude, magnitude.as_mut_ptr());
            for i in 0..V::LANES {
                result = result.join(Extent {
                    min: *min.as_mut_ptr().add(i),
                    max: *max.as_mut_ptr().add(i),
                    magnitude: *magnitude.as_mut_ptr().add(i),
                });
            }
        }
        result
    }
}
