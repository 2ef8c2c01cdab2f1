//! Activations to the `lhs` of a product, with parameters from the activations themselves.

use core::ops::Range;

use super::{
    Interval, Levels, QParams, Real, Rounding, Scheme,
    engine::{Engine, How, Steps, Values},
};
#[cfg(feature = "alloc")]
use {crate::memory, alloc::vec::Vec};

use crate::{
    Broadcast, Error, Kernel, Lhs, MatRef, Operand,
    check::check_len,
    kernels::vectors::{AHEAD, extent::Extent},
};

/// The longest row, in values, of which two fit the first cache level.
const NEAR: usize = 4096;

/// What every range holds.
const ZERO: Interval = Interval { min: 0.0, max: 0.0 };

/// Dynamic quantization: finds the range of activations, quantizes them and takes the sums of their rows, in one call
/// whose result a product takes as `lhs`.
///
/// ```
/// use i8gemm::{Gemm, MatMut, MatRef, Output, PackedRhs, quant::{DynamicBuffers, DynamicQuantizer}};
/// let w = [10i8, 20, -30, 40, 50, -60]; // K = 3, N = 2, scale 0.1
/// let weights = PackedRhs::pack(MatRef::row_major(&w, 3, 2)?)?;
/// let gemm = Gemm::new(&weights, Output::f32(0.1))?;
///
/// let x = [0.5f32, -1.0, 1.5, 100.0, 200.0, -300.0]; // M = 2: each row finds its own scale
/// let mut buffers = DynamicBuffers::<u8>::default();
/// let lhs = DynamicQuantizer::per_row().quantize(MatRef::row_major(&x, 2, 3)?, &mut buffers)?;
/// let mut y = [0.0; 4];
/// gemm.apply(lhs, MatMut::row_major(&mut y, 2, 2)?)?;
/// for (y, exact) in y.iter().zip([11.0, -12.0, -2000.0, 2800.0]) {
///     assert!((y - exact).abs() <= 0.01f32 * exact.abs());
/// }
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct DynamicQuantizer {
    per_row: bool,
    scheme: Scheme,
    levels: Option<Levels>,
    reciprocal: bool,
    ignore_non_finite: bool,
    kernel: Option<Kernel>,
}

impl DynamicQuantizer {
    /// One scale and zero point for the whole matrix, affine: ONNX's DynamicQuantizeLinear for u8. The scale is as small as the
    /// range asks for; activations that are all 0, or too small for a scale that is a normal f32, get scale 1.
    #[must_use]
    pub fn per_tensor() -> Self {
        Self {
            per_row: false,
            scheme: Scheme::Affine,
            levels: None,
            reciprocal: false,
            ignore_non_finite: false,
            kernel: None,
        }
    }

    /// One scale and zero point for each row, affine.
    #[must_use]
    pub fn per_row() -> Self {
        Self { per_row: true, ..Self::per_tensor() }
    }

    /// Symmetric instead of affine: zero point 0 for i8, 128 for u8.
    #[must_use]
    pub fn scheme(self, scheme: Scheme) -> Self {
        Self { scheme, ..self }
    }

    /// Quantizes to these levels instead of all values of the element type.
    #[must_use]
    pub fn levels(self, levels: Levels) -> Self {
        Self { levels: Some(levels), ..self }
    }

    /// Multiplies by `1 / scale`, as PyTorch does, instead of dividing by the scale, as ONNX does.
    #[must_use]
    pub fn reciprocal(self) -> Self {
        Self { reciprocal: true, ..self }
    }

    /// Leaves NaN and infinities out of the range instead of refusing them: NaN then becomes the zero point, infinities
    /// saturate.
    #[must_use]
    pub fn ignore_non_finite(self) -> Self {
        Self { ignore_non_finite: true, ..self }
    }

    /// Runs on this kernel instead of [`Kernel::best`].
    #[must_use]
    pub fn kernel(self, kernel: Kernel) -> Self {
        Self { kernel: Some(kernel), ..self }
    }

    /// Quantizes M x K activations of any strides into buffers that grow to what they need and are reused.
    ///
    /// The result carries zero points, scales and row sums. It is for f32 output, where scales of `lhs` belong.
    ///
    /// # Errors
    /// [`Error::NonFinite`], with the index in row-major order, unless told to ignore it; [`Error::Levels`] when `T` cannot hold
    /// them; [`Error::SizeOverflow`]; [`Error::KernelUnavailable`].
    #[cfg(feature = "alloc")]
    pub fn quantize<'b, R: Real, T: Operand>(
        &self,
        real: MatRef<R>,
        buffers: &'b mut DynamicBuffers<T>,
    ) -> Result<Lhs<'b, T>, Error> {
        let (m, k) = (real.rows(), real.cols());
        let DynamicBuffers { values, scales, zero_points, row_sums } = buffers;
        memory::resize("quantized values", values, m, k)?;
        memory::resize("scales", scales, self.params(m), 1)?;
        memory::resize("zero points", zero_points, self.params(m), 1)?;
        memory::resize("row sums", row_sums, m, 1)?;
        if k == 0 {
            return self.no_columns(m);
        }
        self.quantize_into(real, values, scales, zero_points, row_sums)
    }

    /// As [`DynamicQuantizer::quantize`], into the caller's buffers: M * K values, as many scales and zero points as there are
    /// parameters ([`DynamicQuantizer::params`]), M row sums.
    ///
    /// # Errors
    /// As [`DynamicQuantizer::quantize`]; [`Error::Length`] for the buffers. After [`Error::NonFinite`] they hold rows that are
    /// not to be used.
    pub fn quantize_into<'b, R: Real, T: Operand>(
        &self,
        real: MatRef<R>,
        values: &'b mut [T],
        scales: &'b mut [f32],
        zero_points: &'b mut [i32],
        row_sums: &'b mut [i32],
    ) -> Result<Lhs<'b, T>, Error> {
        let (m, k) = (real.rows(), real.cols());
        check_len("quantized values", values.len(), elements(m, k)?)?;
        check_len("scales", scales.len(), self.params(m))?;
        check_len("zero points", zero_points.len(), self.params(m))?;
        check_len("row sums", row_sums.len(), m)?;
        let levels = self.levels_of::<T>()?;
        let engine = Engine::new(self.kernel)?;
        if k == 0 {
            let (scale, zero_point) = self.fit(levels, ZERO)?;
            scales.fill(scale);
            zero_points.fill(zero_point);
            row_sums.fill(0);
            return self.no_columns(m);
        }

        let mut range = if self.per_row { ZERO } else { self.tensor_range(engine, &real)? };
        if !self.per_row {
            (scales[0], zero_points[0]) = self.fit(levels, range)?;
        }
        // Rows of one scale that follow one another are quantized at once.
        let adjacent = if self.per_row { None } else { real.whole_slice().and_then(R::as_f32) };
        if let Some(reals) = adjacent {
            let how = self.how(&scales[0], &zero_points[0], levels, range, k);
            engine.quantize_rows(Values::F32(reals), how, values, row_sums);
        }
        for row in if adjacent.is_some() { m } else { 0 }..m {
            if self.per_row {
                range = self.row_range(engine, &real, row)?;
                (scales[row], zero_points[row]) = self.fit(levels, range)?;
            }
            let param = if self.per_row { row } else { 0 };
            let how = self.how(&scales[param], &zero_points[param], levels, range, k);
            let out = &mut values[row * k..][..k];
            let mut sum = 0i32;
            row_parts(&real, row, |at, part| {
                let out = &mut out[at..][..part.len()];
                sum = sum.wrapping_add(engine.quantize(Values::F32(part), how, out));
                Ok(())
            })?;
            row_sums[row] = sum;
        }
        let each = self.per_row;
        Ok(Lhs {
            matrix: MatRef::row_major(values, m, k)?,
            zero_points: if each { Broadcast::Each(zero_points) } else { Broadcast::All(zero_points[0]) },
            scales: Some(if each { Broadcast::Each(scales) } else { Broadcast::All(scales[0]) }),
            row_sums: Some(row_sums),
        })
    }

    /// Scales and zero points that `m` rows need: one, or one for each row.
    #[must_use]
    pub fn params(&self, m: usize) -> usize {
        if self.per_row { m } else { 1 }
    }

    /// How rows of `k` activations of that range are quantized.
    fn how<'a>(
        &self,
        scale: &'a f32,
        zero_point: &'a i32,
        levels: Levels,
        range: Interval,
        k: usize,
    ) -> How<'a> {
        let scales = core::slice::from_ref(scale);
        // What is not finite was refused, or is not in the range.
        let near = !self.ignore_non_finite
            && (1e-30..1e30).contains(scale)
            && range.max.max(-range.min) <= 1024.0 * scale;
        How {
            steps: if self.reciprocal { Steps::Reciprocal(scales) } else { Steps::Divide(scales) },
            zero_points: core::slice::from_ref(zero_point),
            levels,
            rounding: Rounding::HalfEven,
            index: 0,
            near,
            // The row has just been read: what is ahead is the next one.
            ahead: if k <= NEAR { k.max(AHEAD) } else { AHEAD },
        }
    }

    fn levels_of<T: Operand>(&self) -> Result<Levels, Error> {
        let levels = self.levels.unwrap_or(Levels::of::<T>());
        levels.check::<T>()?;
        Ok(levels)
    }

    /// Rows without values, however many: all are alike, and none is looked at.
    fn no_columns<T: Operand>(&self, m: usize) -> Result<Lhs<'static, T>, Error> {
        Engine::new(self.kernel)?;
        let (scale, zero_point) = self.fit(self.levels_of::<T>()?, ZERO)?;
        Ok(Lhs::new(MatRef::row_major(&[], m, 0)?).scale(scale).zero_point(zero_point))
    }

    fn fit(&self, levels: Levels, range: Interval) -> Result<(f32, i32), Error> {
        let QParams { scale, zero_point } = QParams::new(levels, self.scheme, range)?;
        Ok((scale, zero_point))
    }

    /// The range of all activations and 0.
    fn tensor_range<R: Real>(&self, engine: Engine, real: &MatRef<R>) -> Result<Interval, Error> {
        let mut range = ZERO;
        if let Some(whole) = real.whole_slice() {
            // In one sweep: rows of a few vectors each would take longer to begin and to end than to read.
            R::parts(whole, |at, part| {
                range = range.join(self.part_range(engine, at, part)?);
                Ok(())
            })?;
            return Ok(range);
        }
        for row in 0..real.rows() {
            range = range.join(self.row_range(engine, real, row)?);
        }
        Ok(range)
    }

    /// The range of a row and 0.
    fn row_range<R: Real>(&self, engine: Engine, real: &MatRef<R>, row: usize) -> Result<Interval, Error> {
        let mut range = ZERO;
        row_parts(real, row, |at, part| {
            range = range.join(self.part_range(engine, row * real.cols() + at, part)?);
            Ok(())
        })?;
        Ok(range)
    }

    /// The range of some activations and 0; `first` is the index of the first, in row-major order.
    fn part_range(&self, engine: Engine, first: usize, part: &[f32]) -> Result<Interval, Error> {
        let Extent { min, max, magnitude } = engine.extent(part);
        let mut range = ZERO;
        if magnitude <= Extent::FINITE {
            return Ok(range.join(Interval { min, max }));
        }
        for (i, &value) in part.iter().enumerate() {
            if value.is_finite() {
                range = range.join(Interval { min: value, max: value });
            } else if !self.ignore_non_finite {
                return Err(Error::NonFinite { what: "activation", index: first + i, value });
            }
        }
        Ok(range)
    }
}

fn elements(m: usize, k: usize) -> Result<usize, Error> {
    m.checked_mul(k).ok_or(Error::SizeOverflow { what: "quantized values", rows: m, cols: k })
}

/// Calls `visit` with a row's values as f32 and the place of each part in the row; a strided row is gathered.
fn row_parts<R: Real>(
    real: &MatRef<R>,
    row: usize,
    mut visit: impl FnMut(usize, &[f32]) -> Result<(), Error>,
) -> Result<(), Error> {
    if let Some(row) = real.row_slice(row) {
        return R::parts(row, visit);
    }
    const PART: usize = 512;
    let mut buffer = [0.0; PART];
    for start in (0..real.cols()).step_by(PART) {
        let Range { end, .. } = start..(start + PART).min(real.cols());
        for (slot, col) in buffer.iter_mut().zip(start..end) {
            *slot = real.get(row, col).map_or(0.0, Real::to_f32);
        }
        visit(start, &buffer[..end - start])?;
    }
    Ok(())
}

/// What [`DynamicQuantizer::quantize`] fills and reuses.
#[cfg(feature = "alloc")]
#[derive(Debug, Clone, Default)]
pub struct DynamicBuffers<T> {
    values: Vec<T>,
    scales: Vec<f32>,
    zero_points: Vec<i32>,
    row_sums: Vec<i32>,
}
