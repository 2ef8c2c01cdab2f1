//! Non-linear quantization: values from a table.

use super::Grouping;
use crate::{
    Broadcast, Error,
    check::{check_len, check_scales},
};
#[cfg(feature = "alloc")]
use {
    super::{Interval, param_list::group_ranges, qparams::normal_or_one},
    crate::memory,
    alloc::vec::Vec,
};

/// A table of 16 values, which a nibble chooses from: `r = scale * entry[code]`.
///
/// Codes are packed two to a byte, value `2 i` in the low nibble of byte `i`. Scales belong to groups of weights, and are the
/// largest magnitude of the group if the table spans -1..=1, as [`Codebook::NF4`] does.
///
/// ```
/// use i8gemm::quant::{Codebook, Grouping};
/// let weights = [0.5, -1.0, 0.0, 2.0, 0.1, -4.0];
/// let groups = Grouping::per_group(&[6], 0, 3)?;
/// let scales = Codebook::scales(groups, &weights)?;
/// assert_eq!(scales, [1.0, 4.0]);
/// let (mut codes, mut back) = ([0; 3], [0.0; 6]);
/// Codebook::NF4.quantize(groups, &scales, &weights, &mut codes)?;
/// Codebook::NF4.dequantize(groups, &scales, &codes, &mut back)?;
/// assert_eq!((back[1], back[2], back[5]), (-1.0, 0.0, -4.0));
/// assert!((back[0] - 0.5).abs() < 0.07);
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Codebook([f32; 16]);

impl Codebook {
    /// NormalFloat 4 (T. Dettmers et al. 2023, "QLoRA", appendix E): quantiles of the normal distribution scaled to -1..=1,
    /// with an exact 0.
    pub const NF4: Self = Self([
        -1.0,
        -0.696_192_8,
        -0.525_073_05,
        -0.394_917_5,
        -0.284_441_38,
        -0.184_773_43,
        -0.091_050_036,
        0.0,
        0.079_580_3,
        0.160_930_2,
        0.246_112_3,
        0.337_915_24,
        0.440_709_83,
        0.562_617,
        0.722_956_84,
        1.0,
    ]);

    /// A table of the caller's.
    ///
    /// # Errors
    /// [`Error::Codebook`] unless the entries are finite and in ascending order; some may be equal.
    pub fn new(entries: [f32; 16]) -> Result<Self, Error> {
        for (index, &value) in entries.iter().enumerate() {
            if !value.is_finite() || (index > 0 && value < entries[index - 1]) {
                return Err(Error::Codebook { index, value });
            }
        }
        Ok(Self(entries))
    }

    /// The table of least squared error for these values, found by k-means (S. Lloyd 1982) from their quantiles: an optimum of
    /// its neighbourhood. With groups, fit the values divided by the scales of their groups.
    ///
    /// # Errors
    /// [`Error::NothingObserved`] for no values, [`Error::NonFinite`], [`Error::SizeOverflow`].
    #[cfg(feature = "alloc")]
    pub fn fit(values: &[f32]) -> Result<Self, Error> {
        if values.is_empty() {
            return Err(Error::NothingObserved);
        }
        if let Some(index) = values.iter().position(|x| !x.is_finite()) {
            return Err(Error::NonFinite { what: "value", index, value: values[index] });
        }
        let mut sorted = memory::copied("values", values)?;
        sorted.sort_unstable_by(f32::total_cmp);
        let mut before: Vec<f64> = memory::room("values", sorted.len() + 1, 1)?;
        before.push(0.0);
        for (i, &x) in sorted.iter().enumerate() {
            before.push(before[i] + f64::from(x));
        }
        // From the quantiles of all values, and from those of the different ones: where one value is most of the data, the
        // first start has it many times. Up to 16 different values are the table that the second start is.
        let at = |values: &[f32], part: usize, of: u64| {
            values[(part as u64 * (values.len() - 1) as u64 / of) as usize]
        };
        let quantiles = Self(core::array::from_fn(|i| at(&sorted, 2 * i + 1, 32)));
        let mut distinct = memory::copied("values", &sorted)?;
        distinct.dedup();
        let spread = Self(core::array::from_fn(|i| at(&distinct, i, 15)));
        let [a, b] = [quantiles, spread].map(|start| start.improved(&sorted, &before));
        let error = |table: &Self| -> f64 {
            let thresholds = table.thresholds();
            let entry = |x| f64::from(table.0[usize::from(nearest(&thresholds, x))]);
            sorted
                .iter()
                .map(|&x| {
                    let off = f64::from(x) - entry(x);
                    off * off
                })
                .sum()
        };
        Ok(if error(&b) < error(&a) { b } else { a })
    }

    /// The table that Lloyd's rounds lead to, for ascending values and the sums before each.
    #[cfg(feature = "alloc")]
    fn improved(self, sorted: &[f32], before: &[f64]) -> Self {
        let mut table = self;
        // Ends by itself after some dozens of rounds; the bound is for values whose sums round in circles.
        for _ in 0..1000 {
            let mut next = table;
            let mut start = 0;
            let thresholds = table.thresholds();
            for (i, entry) in next.0.iter_mut().enumerate() {
                let end = thresholds.get(i).map_or(sorted.len(), |t| sorted.partition_point(|x| x <= t));
                // An entry that no value is nearest to stays where it is.
                if end > start {
                    *entry = ((before[end] - before[start]) / (end - start) as f64) as f32;
                    start = end;
                }
            }
            // A mean that was rounded may pass one that stayed.
            next.0.sort_unstable_by(f32::total_cmp);
            if next == table {
                break;
            }
            table = next;
        }
        table
    }

    /// The table.
    #[must_use]
    pub fn entries(&self) -> &[f32; 16] {
        &self.0
    }

    /// The largest magnitude of each group: scales for a table that spans -1..=1. A group of zeros, or one whose largest
    /// magnitude is below the normal f32, gets 1, as in [`QParams`](super::QParams).
    ///
    /// # Errors
    /// [`Error::Length`] when the values are not what the grouping is for; [`Error::NonFinite`]; [`Error::SizeOverflow`].
    #[cfg(feature = "alloc")]
    pub fn scales(grouping: Grouping, values: &[f32]) -> Result<Vec<f32>, Error> {
        grouping.check_len("values", values.len())?;
        let ranges = group_ranges(&grouping, "value", values)?;
        let scale = |range: Option<Interval>| normal_or_one(range.map_or(0.0, Interval::max_abs));
        memory::collected("scales", ranges.into_iter().map(scale))
    }

    /// The code of the entry nearest to `x`, the lower of two equally near. NaN takes the code of 0.
    #[inline]
    #[must_use]
    pub fn code(&self, x: f32) -> u8 {
        nearest(&self.thresholds(), x)
    }

    /// Codes of values divided by the scales of their groups, packed into `codes`: a byte for every two values.
    ///
    /// # Errors
    /// [`Error::Length`] when lengths, grouping and scales disagree; [`Error::Scale`].
    pub fn quantize<'a>(
        &self,
        grouping: Grouping,
        scales: impl Into<Broadcast<'a, f32>>,
        values: &[f32],
        codes: &mut [u8],
    ) -> Result<(), Error> {
        let scales = scales.into();
        check(&grouping, &scales, values.len(), codes.len())?;
        let thresholds = self.thresholds();
        codes.fill(0);
        grouping.runs(values.len(), |elements, params| {
            for (i, element) in elements.enumerate() {
                let param = if params.len() == 1 { params.start } else { params.start + i };
                let code = nearest(&thresholds, values[element] / scales.at(param));
                codes[element / 2] |= code << (4 * (element % 2));
            }
            Ok(())
        })
    }

    /// The values of packed codes.
    ///
    /// # Errors
    /// As [`Codebook::quantize`].
    pub fn dequantize<'a>(
        &self,
        grouping: Grouping,
        scales: impl Into<Broadcast<'a, f32>>,
        codes: &[u8],
        out: &mut [f32],
    ) -> Result<(), Error> {
        let scales = scales.into();
        check(&grouping, &scales, out.len(), codes.len())?;
        grouping.runs(out.len(), |elements, params| {
            for (i, element) in elements.enumerate() {
                let param = if params.len() == 1 { params.start } else { params.start + i };
                let code = codes[element / 2] >> (4 * (element % 2)) & 15;
                out[element] = scales.at(param) * self.0[usize::from(code)];
            }
            Ok(())
        })
    }

    /// The middle between each entry and the next.
    fn thresholds(&self) -> [f32; 15] {
        core::array::from_fn(|i| ((f64::from(self.0[i]) + f64::from(self.0[i + 1])) / 2.0) as f32)
    }
}

/// Counts the thresholds below `x`: no branches, so that a loop of these becomes vector code.
#[inline(always)]
fn nearest(thresholds: &[f32; 15], x: f32) -> u8 {
    let x = if x.is_nan() { 0.0 } else { x };
    thresholds.iter().map(|&threshold| u8::from(x > threshold)).sum()
}

fn check(grouping: &Grouping, scales: &Broadcast<f32>, values: usize, codes: usize) -> Result<(), Error> {
    grouping.check_len("values", values)?;
    check_len("bytes of packed codes", codes, values.div_ceil(2))?;
    check_scales("scale", scales, grouping.count())
}
