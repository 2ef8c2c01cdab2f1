//! Scales and zero points of a whole tensor, a list of each.

use alloc::vec::Vec;

use super::{Grouping, Interval, Levels, QParams, Quantizer, Scheme, engine::Engine};
use crate::{Error, Operand, memory};

/// Scales and zero points of a [`Grouping`], in the form that [`Quantizer`], [`Rhs`](crate::Rhs) and
/// [`Output`](crate::Output) take.
///
/// ```
/// use i8gemm::quant::{Grouping, Levels, ParamList, Scheme};
/// let weights = [0.5f32, -1.27, 0.1, 2.54, 0.0, 1.0]; // 2 output channels of 3
/// let channels = Grouping::per_channel(&[2, 3], 0)?;
/// let params = ParamList::fit(channels, Levels::I8.narrow(), Scheme::Symmetric, &weights)?;
/// assert_eq!(params.scales, [0.01, 0.02]);
/// let mut q = [0i8; 6];
/// params.quantizer(channels).quantize(&weights, &mut q)?;
/// assert_eq!(q, [50, -127, 10, 127, 0, 50]);
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ParamList {
    /// One for each group.
    pub scales: Vec<f32>,
    /// One for each group.
    pub zero_points: Vec<i32>,
}

impl ParamList {
    /// From the smallest and largest value of each group, as [`QParams::new`]: how weights are quantized.
    ///
    /// # Errors
    /// [`Error::Length`] when the values are not what the grouping is for; [`Error::NonFinite`]; [`Error::SizeOverflow`] for
    /// more groups than memory holds; the errors of [`Kernel::best`](crate::Kernel::best).
    pub fn fit(grouping: Grouping, levels: Levels, scheme: Scheme, values: &[f32]) -> Result<Self, Error> {
        grouping.check_len("values", values.len())?;
        let ranges = group_ranges(&grouping, "value", values)?;
        // A group without values (a shape with a 0) has the range of nothing: 0.
        let zero = Interval { min: 0.0, max: 0.0 };
        Self::collected(ranges.iter().map(|range| QParams::new(levels, scheme, range.unwrap_or(zero))))
    }

    /// The parameters of each group, or the first error.
    pub(super) fn collected(
        params: impl ExactSizeIterator<Item = Result<QParams, Error>>,
    ) -> Result<Self, Error> {
        let count = params.len();
        let mut all = Self {
            scales: memory::room("channels or groups", count, 1)?,
            zero_points: memory::room("channels or groups", count, 1)?,
        };
        for params in params {
            let QParams { scale, zero_point } = params?;
            all.scales.push(scale);
            all.zero_points.push(zero_point);
        }
        Ok(all)
    }

    /// A quantizer with these parameters.
    #[must_use]
    pub fn quantizer<T: Operand>(&self, grouping: Grouping) -> Quantizer<'_, T> {
        Quantizer::new(grouping, &self.scales, &self.zero_points)
    }
}

/// The range of each group; `None` where it has no values.
pub(super) fn group_ranges(
    grouping: &Grouping,
    what: &'static str,
    values: &[f32],
) -> Result<Vec<Option<Interval>>, Error> {
    let engine = Engine::new(None)?;
    // A shape with a 0 may have any number of channels: more than memory holds are an error.
    let mut ranges: Vec<Option<Interval>> = memory::filled("channels or groups", None, grouping.count())?;
    let mut join = |at: usize, new: Interval| ranges[at] = Some(ranges[at].map_or(new, |old| old.join(new)));
    grouping.runs(values.len(), |elements, params| {
        let start = elements.start;
        let run = &values[elements];
        let range = engine.finite_extent(what, run).map_err(|error| match error {
            Error::NonFinite { what, index, value } => Error::NonFinite { what, index: start + index, value },
            other => other,
        })?;
        if params.len() == 1 {
            if let Some(range) = range {
                join(params.start, range);
            }
        } else {
            for (param, &x) in params.zip(run) {
                join(param, Interval { min: x, max: x });
            }
        }
        Ok(())
    })?;
    Ok(ranges)
}
