//! Typed slices carved out of bytes.

use core::mem;

use crate::{Error, quant::DynamicQuantizer};

/// Every slice starts at a multiple of this.
const ALIGN: usize = 64;

/// Adds up what slices take.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Size(usize);

impl Size {
    /// Room for `rows * cols` values.
    pub fn add<T>(self, rows: usize, cols: usize) -> Result<Self, Error> {
        let bytes = rows.checked_mul(cols).and_then(|count| count.checked_mul(size_of::<T>()));
        bytes
            .and_then(|bytes| bytes.checked_next_multiple_of(ALIGN))
            .and_then(|bytes| self.0.checked_add(bytes))
            .map(Self)
            .ok_or(Error::SizeOverflow { what: "workspace", rows, cols })
    }

    /// Room for an `m` x `k` matrix of quantized activations.
    pub fn add_activations(self, quantizer: &DynamicQuantizer, m: usize, k: usize) -> Result<Self, Error> {
        let params = quantizer.params(m);
        self.add::<u8>(m, k)?.add::<f32>(params, 1)?.add::<i32>(params, 1)?.add::<i32>(m, 1)
    }

    /// Bytes, at any alignment, with as many behind them for a product.
    pub fn total(self, product: usize) -> Result<usize, Error> {
        let overflow = Error::SizeOverflow { what: "workspace", rows: self.0, cols: 1 };
        let bytes = self.0.checked_add(product).and_then(|bytes| bytes.checked_add(ALIGN - 1));
        // No slice is larger.
        bytes.filter(|&bytes| isize::try_from(bytes).is_ok()).ok_or(overflow)
    }
}

/// What is left of a buffer.
pub(super) struct Carver<'a>(&'a mut [u8]);

/// Buffers of quantized activations.
pub(super) struct Activations<'a> {
    pub values: &'a mut [u8],
    pub scales: &'a mut [f32],
    pub zero_points: &'a mut [i32],
    pub row_sums: &'a mut [i32],
}

impl<'a> Carver<'a> {
    /// Of a buffer with at least `needed` bytes.
    pub fn new(buffer: &'a mut [u8], needed: usize) -> Result<Self, Error> {
        let actual = buffer.len();
        let small = Error::BufferTooSmall { what: "workspace", needed, actual };
        if actual < needed {
            return Err(small);
        }
        let start = buffer.as_ptr().align_offset(ALIGN);
        buffer.get_mut(start..).map(Self).ok_or(small)
    }

    /// The next `rows * cols` values; what they hold is left over from before.
    pub fn take<T: bytemuck::Pod>(&mut self, rows: usize, cols: usize) -> Result<&'a mut [T], Error> {
        let overflow = Error::SizeOverflow { what: "workspace", rows, cols };
        let count = rows.checked_mul(cols).ok_or(overflow)?;
        let bytes = count.checked_mul(size_of::<T>()).ok_or(overflow)?;
        let needed = bytes.checked_next_multiple_of(ALIGN).ok_or(overflow)?;
        let actual = self.0.len();
        let (taken, rest) = mem::take(&mut self.0)
            .split_at_mut_checked(needed)
            .ok_or(Error::BufferTooSmall { what: "workspace", needed, actual })?;
        self.0 = rest;
        // Aligned to 64 and of the right length: this cannot fail.
        bytemuck::try_cast_slice_mut(&mut taken[..bytes]).map_err(|_| overflow)
    }

    /// Buffers for an `m` x `k` matrix.
    pub fn take_activations(
        &mut self,
        quantizer: &DynamicQuantizer,
        m: usize,
        k: usize,
    ) -> Result<Activations<'a>, Error> {
        let params = quantizer.params(m);
        Ok(Activations {
            values: self.take(m, k)?,
            scales: self.take(params, 1)?,
            zero_points: self.take(params, 1)?,
            row_sums: self.take(m, 1)?,
        })
    }

    /// What is left.
    pub fn rest(self) -> &'a mut [u8] {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_alignment() -> Result<(), Error> {
        let size = Size::default().add::<u8>(3, 1)?.add::<f32>(5, 2)?.total(7)?;
        let mut bytes = [0u8; 512];
        for start in 0..64 {
            let mut carver = Carver::new(&mut bytes[start..start + size], size)?;
            let small: &mut [u8] = carver.take(3, 1)?;
            let floats: &mut [f32] = carver.take(5, 2)?;
            assert_eq!((small.len(), floats.len()), (3, 10));
            assert!(carver.rest().len() >= 7);
            assert!(Carver::new(&mut bytes[start..start + size - 1], size).is_err());
        }
        assert!(Size::default().add::<f32>(usize::MAX, 2).is_err());
        assert!(Size::default().add::<f32>(usize::MAX / 8, 1)?.total(usize::MAX).is_err());
        Ok(())
    }
}
