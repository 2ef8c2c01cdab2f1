//! A table of quantized rows.

use alloc::vec::Vec;

use super::DynamicConfig;
use crate::{
    Error, Kernel, MatMut, MatRef,
    check::check_shape,
    memory,
    quant::{Engine, Interval, Levels, QParams, Quantizer, Scheme},
};

/// A table of rows with 8 or 4 bits a value and one scale a row, looked up as f32.
///
/// Values are symmetric and narrow: -127..=127, or -7..=7; two of 4 bits share a byte, the first in its low half.
///
/// ```
/// use i8gemm::{MatMut, MatRef, nn::Embedding};
/// let table = [1.27f32, -0.5, 0.1, 12.7, 2.0, -1.0]; // 2 rows, 3 features
/// let embedding = Embedding::new(MatRef::row_major(&table, 2, 3)?)?;
/// let mut out = [0.0; 6];
/// embedding.lookup(&[1, 0], MatMut::row_major(&mut out, 2, 3)?)?;
/// for (out, exact) in out.iter().zip([12.7, 2.0, -1.0, 1.27, -0.5, 0.1]) {
///     assert!((out - exact).abs() <= 1e-6);
/// }
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug)]
pub struct Embedding {
    bytes: Vec<u8>,
    scales: Vec<f32>,
    features: usize,
    bits: u32,
    kernel: Kernel,
}

impl Embedding {
    /// 8 bits a value, from a table of rows x features.
    ///
    /// # Errors
    /// [`Error::NonFinite`], with the index in row-major order; [`Error::SizeOverflow`]; the errors of
    /// [`Kernel::best`](crate::Kernel::best).
    pub fn new(table: MatRef<f32>) -> Result<Self, Error> {
        Self::with_config(table, 8, DynamicConfig::default())
    }

    /// 4 bits a value.
    ///
    /// # Errors
    /// As [`Embedding::new`].
    pub fn new_4bit(table: MatRef<f32>) -> Result<Self, Error> {
        Self::with_config(table, 4, DynamicConfig::default())
    }

    /// With 8 or 4 bits, one scale for all rows if the weights are to be per tensor, and on a kernel of the caller's choice.
    ///
    /// # Errors
    /// As [`Embedding::new`]; [`Error::Bits`] for other numbers of bits; [`Error::KernelUnavailable`] when this CPU cannot
    /// run the kernel.
    pub fn with_config(table: MatRef<f32>, bits: u32, config: DynamicConfig) -> Result<Self, Error> {
        if bits != 8 && bits != 4 {
            return Err(Error::Bits { bits });
        }
        let kernel = config.chosen_kernel()?;
        let (rows, features) = (table.rows(), table.cols());
        let levels = Levels::signed(bits)?.narrow();
        let what = "embedding";
        let mut real = memory::zeroed(what, 1, features)?;
        let mut quantized = memory::zeroed(what, 1, features)?;
        let row_bytes = if bits == 8 { features } else { features.div_ceil(2) };
        let mut bytes = memory::room(what, rows, row_bytes)?;
        if features == 0 {
            // Rows without values have no use for a scale: however many, none is looked at.
            return Ok(Self { bytes, scales: memory::zeroed(what, rows, 1)?, features, bits, kernel });
        }
        let mut scales = memory::room(what, rows, 1)?;

        let read = |row: usize, real: &mut [f32]| {
            for (col, value) in real.iter_mut().enumerate() {
                *value = table.get(row, col).unwrap_or(0.0);
            }
        };
        let engine = Engine::new(None)?;
        // The range of no values.
        let zero = Interval { min: 0.0, max: 0.0 };
        let mut whole = zero;
        // One row at a time: the f32 table may be all that fits.
        for row in 0..rows {
            read(row, &mut real);
            let range = engine.finite_extent("weight", &real).map_err(|error| match error {
                Error::NonFinite { what, index, value } => {
                    Error::NonFinite { what, index: row * features + index, value }
                }
                other => other,
            })?;
            let range = range.unwrap_or(zero);
            whole = whole.join(range);
            scales.push(QParams::new(levels, Scheme::Symmetric, range)?.scale);
        }
        if config.tensor_weights {
            scales.fill(QParams::new(levels, Scheme::Symmetric, whole)?.scale);
        }
        for (row, &scale) in scales.iter().enumerate() {
            read(row, &mut real);
            let params = QParams { scale, zero_point: 0 };
            Quantizer::per_tensor(params).levels(levels).kernel(kernel).quantize(&real, &mut quantized)?;
            if bits == 8 {
                bytes.extend(quantized.iter().map(|&q| q as u8));
            } else {
                let nibble = |q: i8| q as u8 & 0xF;
                let pairs = quantized.chunks(2);
                bytes.extend(pairs.map(|pair| nibble(pair[0]) | nibble(*pair.get(1).unwrap_or(&0)) << 4));
            }
        }
        Ok(Self { bytes, scales, features, bits, kernel })
    }

    /// Rows of the table.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.scales.len()
    }

    /// Values of a row.
    #[must_use]
    pub fn features(&self) -> usize {
        self.features
    }

    /// Bits of a value: 8 or 4.
    #[must_use]
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// Bytes that values and scales take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len() + size_of_val(&self.scales[..])
    }

    /// Writes the rows that `ids` name to `out`, `ids.len()` x features: `scale * q`. Allocates nothing.
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::Index`] for an id that the table does not have. Nothing has been written then.
    pub fn lookup(&self, ids: &[u32], mut out: MatMut<f32>) -> Result<(), Error> {
        /// Values that are unpacked at a time; even, so that a part starts at a whole byte.
        const PART: usize = 256;
        check_shape("rows of out (ids)", ids.len(), out.rows())?;
        check_shape("columns of out (features)", self.features, out.cols())?;
        let len = self.rows();
        let find = |&id: &u32| usize::try_from(id).ok().filter(|&id| id < len);
        if let Some(index) = ids.iter().position(|id| find(id).is_none()) {
            let value = ids[index] as usize;
            return Err(Error::Index { what: "id", index, value, len });
        }
        let row_bytes = if self.bits == 8 { self.features } else { self.features.div_ceil(2) };
        let engine = Engine::new(Some(self.kernel))?;
        let (mut unpacked, mut real) = ([0i8; PART], [0.0; PART]);
        for (at, id) in ids.iter().filter_map(find).enumerate() {
            let bytes = &self.bytes[id * row_bytes..][..row_bytes];
            let scale = &self.scales[id..=id];
            for start in (0..self.features).step_by(PART) {
                let count = PART.min(self.features - start);
                let values: &[i8] = if self.bits == 8 {
                    bytemuck::cast_slice(&bytes[start..][..count])
                } else {
                    for (pair, &byte) in unpacked.chunks_exact_mut(2).zip(&bytes[start / 2..]) {
                        // Shifted to the top and back, a nibble brings its sign.
                        pair[0] = (byte << 4) as i8 >> 4;
                        pair[1] = byte as i8 >> 4;
                    }
                    &unpacked[..count]
                };
                if let Some(row) = out.row_slice_mut(at) {
                    engine.dequantize(values, scale, &[0], &mut row[start..][..count]);
                } else {
                    engine.dequantize(values, scale, &[0], &mut real[..count]);
                    for (col, &value) in real[..count].iter().enumerate() {
                        out.set(at, start + col, value);
                    }
                }
            }
        }
        Ok(())
    }
}
