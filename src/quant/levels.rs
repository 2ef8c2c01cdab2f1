//! The integers that values are quantized to, and ranges of reals.

use crate::{Error, Operand};

/// The integers that values are quantized to: 2 to 8 bits, signed or unsigned.
///
/// ```
/// use i8gemm::quant::Levels;
/// assert_eq!((Levels::I8.min(), Levels::I8.max()), (-128, 127));
/// let nibble = Levels::signed(4)?;
/// assert_eq!((nibble.min(), nibble.max(), nibble.steps()), (-8, 7, 15));
/// // Weights: symmetric about 0, the smallest value left out.
/// assert_eq!(Levels::I8.narrow().min(), -127);
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Levels {
    min: i16,
    max: i16,
}

impl Levels {
    /// -128..=127.
    pub const I8: Self = Self { min: -128, max: 127 };
    /// 0..=255.
    pub const U8: Self = Self { min: 0, max: 255 };

    /// `-2^(bits - 1) ..= 2^(bits - 1) - 1`.
    ///
    /// # Errors
    /// [`Error::Bits`] unless `bits` is 2 to 8.
    pub fn signed(bits: u32) -> Result<Self, Error> {
        let Self { max, .. } = Self::unsigned(bits)?;
        Ok(Self { min: -(max + 1) / 2, max: max / 2 })
    }

    /// `0 ..= 2^bits - 1`.
    ///
    /// # Errors
    /// [`Error::Bits`] unless `bits` is 2 to 8.
    pub fn unsigned(bits: u32) -> Result<Self, Error> {
        if (2..=8).contains(&bits) {
            Ok(Self { min: 0, max: (1 << bits) - 1 })
        } else {
            Err(Error::Bits { bits })
        }
    }

    /// All values of an element type.
    #[must_use]
    pub fn of<T: Operand>() -> Self {
        if T::MIN == 0 { Self::U8 } else { Self::I8 }
    }

    /// Without the smallest value: -127..=127 for i8. Symmetric weights then have a mirror image for every value.
    #[must_use]
    pub const fn narrow(self) -> Self {
        // What is narrow already stays so: of two's complement ranges only full ones have an even minimum or 0.
        if self.min & 1 == 0 { Self { min: self.min + 1, ..self } } else { self }
    }

    /// Smallest value.
    #[must_use]
    pub const fn min(self) -> i32 {
        self.min as i32
    }

    /// Largest value.
    #[must_use]
    pub const fn max(self) -> i32 {
        self.max as i32
    }

    /// Steps from the smallest to the largest value: `max - min`.
    #[must_use]
    pub const fn steps(self) -> i32 {
        self.max() - self.min()
    }

    /// The zero point of symmetric quantization: 0 for signed values, `2^(bits - 1)` for unsigned ones.
    #[must_use]
    pub const fn middle(self) -> i32 {
        (self.max() + self.min() + 1).div_euclid(2)
    }

    /// Of the integers that 8-bit types have between them.
    #[cfg(feature = "alloc")]
    pub(crate) fn between(min: i32, max: i32) -> Self {
        Self { min: min.clamp(-128, 255) as i16, max: max.clamp(-128, 255) as i16 }
    }

    pub(crate) fn check<T: Operand>(self) -> Result<(), Error> {
        if self.min() < T::MIN || self.max() > T::MAX {
            let (min, max) = (self.min(), self.max());
            return Err(Error::Levels { min, max, type_min: T::MIN, type_max: T::MAX });
        }
        Ok(())
    }
}

/// Where the zero point goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Scheme {
    /// Asymmetric: the range, widened to hold 0, is spread over all levels.
    Affine,
    /// The range is widened to be symmetric about 0; the zero point is [`Levels::middle`], 0 for signed values.
    Symmetric,
}

/// A range of reals, both ends included.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Interval {
    /// Smallest value.
    pub min: f32,
    /// Largest value.
    pub max: f32,
}

impl Interval {
    /// Errors unless both ends are finite and in order.
    pub(crate) fn check(self) -> Result<(), Error> {
        let Self { min, max } = self;
        if min.is_finite() && max.is_finite() && min <= max { Ok(()) } else { Err(Error::Range { min, max }) }
    }

    /// The smallest range that holds both.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }

    /// The range that a scheme quantizes of it: widened to hold 0, or to be symmetric about it. What lies outside is clipped.
    #[must_use]
    pub fn widened(self, scheme: Scheme) -> Self {
        match scheme {
            Scheme::Affine => self.with_zero(),
            Scheme::Symmetric => Self { min: -self.max_abs(), max: self.max_abs() },
        }
    }

    /// The range widened to hold 0.
    #[must_use]
    pub fn with_zero(self) -> Self {
        Self { min: self.min.min(0.0), max: self.max.max(0.0) }
    }

    /// The largest magnitude in it.
    #[must_use]
    pub fn max_abs(self) -> f32 {
        self.min.abs().max(self.max.abs())
    }
}
