//! Multiplication by a fixed-point number: how integer requantization scales and rounds.

use crate::{Error, FixedPoint};

/// How integer requantization rounds: `s * multiplier * 2^(shift - 31)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FixedRounding {
    /// `(s * multiplier + 2^(30 - shift)) >> (31 - shift)`: one rounding, ties up.
    Single,
    /// gemmlowp and TFLite, bit for bit: a saturating rounding doubling high multiply (ties up), then a rounding divide
    /// by a power of two (ties away from zero). A shift above 0 is a saturating shift left before the multiply.
    Double,
}

impl FixedPoint {
    /// From the two numbers that TFLite and gemmlowp call quantized multiplier and shift.
    ///
    /// # Errors
    /// [`Error::FixedPoint`] unless the multiplier is 0 or at least 2^30, and the shift in -31..=30.
    pub fn new(multiplier: i32, shift: i32) -> Result<Self, Error> {
        if (multiplier == 0 || multiplier >= 1 << 30) && (-31..=30).contains(&shift) {
            Ok(Self { multiplier, shift })
        } else {
            Err(Error::FixedPoint { multiplier, shift })
        }
    }

    /// The nearest fixed-point number, as TFLite's `QuantizeMultiplier` makes it: scales too small for the shift become 0.
    ///
    /// # Errors
    /// [`Error::Scale`] unless the scale is finite and above zero, [`Error::FixedPointScale`] at 2^30 and above.
    pub fn from_scale(scale: f64) -> Result<Self, Error> {
        if !(scale > 0.0 && scale.is_finite()) {
            return Err(Error::Scale { what: "fixed-point scale", index: 0, value: scale });
        }
        let (fraction, mut shift) = libm::frexp(scale);
        let mut multiplier = libm::round(fraction * f64::from(1u32 << 31)) as i64;
        if multiplier == 1 << 31 {
            multiplier = 1 << 30;
            shift += 1;
        }
        if shift > 30 {
            return Err(Error::FixedPointScale { value: scale });
        }
        if shift < -31 {
            return Ok(Self { multiplier: 0, shift: 0 });
        }
        Ok(Self { multiplier: multiplier as i32, shift })
    }

    /// The multiplier, in units of 2^-31.
    #[must_use]
    pub fn multiplier(&self) -> i32 {
        self.multiplier
    }

    /// The power of two.
    #[must_use]
    pub fn shift(&self) -> i32 {
        self.shift
    }
}
