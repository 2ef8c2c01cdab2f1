//! The distribution of what was observed, in constant memory and the same for every way the data came.

use alloc::vec::Vec;

use super::{Interval, Levels, NonFinite, Observer, Scheme, join};
use crate::{
    Error, memory,
    quant::{Calibrator, QParams, Quality, calibrate::Points},
};

/// A histogram of everything observed, and a [`Calibrator`] that chooses the range from it.
///
/// The first 65,536 values are kept as they are: a small calibration set gets the exact answer. When there are more, they are
/// counted in 32,768 bins over `-2^e .. 2^e`, where `e` is the smallest that holds the largest magnitude. When a larger
/// value comes, pairs of bins join and `e` grows: a bin of the finer grid lies inside one of the coarser grid, so that the
/// counts depend on the values alone, not on their order, their batches, or on the threads whose histograms were merged. A bin is
/// 1/8192 to 1/16384 of the largest magnitude wide.
///
/// Memory: at most [`Histogram::MAX_BYTES`], 768 KiB, while one form becomes the other; 256 KiB afterwards, however much
/// data passes.
///
/// ```
/// use i8gemm::quant::{Calibrator, Histogram, Levels, Observer, Scheme};
/// let mut histogram = Histogram::new(Calibrator::Percentile(99.0));
/// let values: Vec<f32> = (0..1000).map(|i| i as f32 * 0.001).collect();
/// histogram.observe(&values)?;
/// histogram.observe(&[50.0])?; // an outlier
/// let range = histogram.range(Levels::U8, Scheme::Affine)?;
/// assert!(range.max < 1.1);
/// // The same data by another method.
/// let all = histogram.calibrate(Calibrator::MinMax, Levels::U8, Scheme::Affine)?;
/// assert_eq!(all.max, 50.0);
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "HistogramState", into = "HistogramState")
)]
pub struct Histogram(HistogramState);

/// All there is to a [`Histogram`], as plain data.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct HistogramState {
    /// Chooses the range.
    pub calibrator: Calibrator,
    /// What happens to NaN and infinities.
    pub non_finite: NonFinite,
    /// Values observed.
    pub count: u64,
    /// Smallest and largest value.
    pub observed: Option<Interval>,
    /// The values themselves while there are no more than 65,536; empty afterwards.
    pub values: Vec<f32>,
    /// Bins cover `-2^exponent .. 2^exponent`.
    pub exponent: i32,
    /// Counts of the bins: none, or 32,768.
    pub bins: Vec<u64>,
    /// Zeros among what the bins count: half of all values behind a ReLU, and no error when quantized.
    pub zeros: u64,
}

/// Values kept as they are.
const EXACT: usize = 1 << 16;
/// Bins below 0, and as many above.
const HALF: i32 = 1 << 14;
const BINS: usize = 2 * HALF as usize;
/// Values that can be counted: what is added to them in one call does not overflow.
const MAX_COUNT: u64 = 1 << 62;
/// The exponent of bins for nothing but zeros; below that of the smallest f32.
const MIN_EXPONENT: i32 = -149;

impl Histogram {
    /// The most memory that a histogram ever takes: the values, and the bins that they turn into.
    pub const MAX_BYTES: usize = 2 * 4 * EXACT + 8 * BINS;

    /// The most bins that [`Histogram::counts`] makes.
    pub const MAX_COUNTS: usize = 1 << 24;

    /// Nothing observed yet; NaN and infinities are refused.
    #[must_use]
    pub fn new(calibrator: Calibrator) -> Self {
        Self(HistogramState {
            calibrator,
            non_finite: NonFinite::Error,
            count: 0,
            observed: None,
            values: Vec::new(),
            exponent: MIN_EXPONENT,
            bins: Vec::new(),
            zeros: 0,
        })
    }

    /// What to do with NaN and infinities.
    #[must_use]
    pub fn non_finite(mut self, non_finite: NonFinite) -> Self {
        self.0.non_finite = non_finite;
        self
    }

    /// Bytes of memory that it holds, itself aside: never more than [`Histogram::MAX_BYTES`].
    #[must_use]
    pub fn bytes(&self) -> usize {
        4 * self.0.values.capacity() + 8 * self.0.bins.capacity()
    }

    /// So many more values can be counted.
    fn check_room(&self, values: u64) -> Result<(), Error> {
        let room = MAX_COUNT - self.0.count;
        if values > room { Err(Error::State { what: "more values than can be counted" }) } else { Ok(()) }
    }

    /// Values observed.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.count
    }

    /// Smallest and largest value.
    #[must_use]
    pub fn observed(&self) -> Option<Interval> {
        self.0.observed
    }

    /// The range by a method of the caller's choice.
    ///
    /// # Errors
    /// [`Error::NothingObserved`]; [`Error::Parameter`] for a percentile outside 0..=100; [`Error::SizeOverflow`] for want of memory.
    pub fn calibrate(&self, method: Calibrator, levels: Levels, scheme: Scheme) -> Result<Interval, Error> {
        method.range(&self.points()?, levels, scheme)
    }

    /// What quantizing to these levels with these parameters does to what was observed.
    ///
    /// # Errors
    /// [`Error::NothingObserved`], [`Error::Scale`]; [`Error::SizeOverflow`] for want of memory.
    pub fn quality(&self, params: QParams, levels: Levels) -> Result<Quality, Error> {
        let points = self.points()?;
        if !(params.scale > 0.0 && params.scale.is_finite()) {
            return Err(Error::Scale { what: "scale", index: 0, value: params.scale.into() });
        }
        Ok(points.quality(params, levels))
    }

    /// Counts over `bins` equal parts of the observed range, to be drawn.
    ///
    /// # Errors
    /// [`Error::NothingObserved`], [`Error::Zero`] for no bins, [`Error::SizeOverflow`] for more than
    /// [`Histogram::MAX_COUNTS`].
    pub fn counts(&self, bins: usize) -> Result<Vec<u64>, Error> {
        if bins == 0 {
            return Err(Error::Zero { what: "bins" });
        }
        if bins > Self::MAX_COUNTS {
            return Err(Error::SizeOverflow { what: "bins", rows: bins, cols: 1 });
        }
        let points = self.points()?;
        Ok(points.uniform(bins, points.range)?.counts)
    }

    /// Everything observed as numbers with counts, in ascending order.
    fn points(&self) -> Result<Points, Error> {
        let HistogramState { observed, values, exponent, bins, zeros, .. } = &self.0;
        let range = observed.ok_or(Error::NothingObserved)?;
        if bins.is_empty() {
            let mut values = memory::copied("observed values", values)?;
            values.sort_unstable_by(f32::total_cmp);
            return Points::new(range, values.len(), values.iter().map(|&x| (x, 1)));
        }
        let width = libm::exp2(f64::from(exponent - HALF.trailing_zeros() as i32));
        let centre = |i: usize| (((i as f64 - f64::from(HALF)) + 0.5) * width) as f32;
        let middle = HALF as usize;
        let point = |i: usize| {
            // The first bin from 0 on holds the zeros too.
            let count = if i == middle { bins[i] - zeros } else { bins[i] };
            (centre(i).clamp(range.min, range.max), count)
        };
        let points = (0..middle).map(point).chain([(0.0, *zeros)]).chain((middle..BINS).map(point));
        Points::new(range, BINS + 1, points.filter(|(_, count)| *count > 0))
    }

    /// Counts finite values whose magnitude is at most that of `range`. Nothing changes after an error.
    fn add(&mut self, values: &[f32], range: Interval) -> Result<(), Error> {
        let state = &mut self.0;
        let finite = values.iter().copied().filter(|x| x.is_finite());
        if state.bins.is_empty() {
            // No more than fit, however many come.
            let room = EXACT - state.values.len();
            let new = finite.clone().count();
            if new <= room {
                // Room grows in doubles, and never beyond what is kept.
                let held = state.values.len() + new;
                if held > state.values.capacity() {
                    let room = held.max(2 * state.values.capacity()).min(EXACT);
                    let overflow = |_| Error::SizeOverflow { what: "observed values", rows: room, cols: 1 };
                    state.values.try_reserve_exact(room - state.values.len()).map_err(overflow)?;
                }
                state.values.extend(finite);
                return Ok(());
            }
            state.bins = memory::zeroed("bins", BINS, 1)?;
            state.exponent = MIN_EXPONENT;
            let kept = core::mem::take(&mut state.values);
            if let Some(range) = state.observed {
                state.widen(range);
                state.bin(kept.into_iter());
            }
        }
        state.widen(range);
        state.bin(finite);
        Ok(())
    }
}

impl HistogramState {
    /// Joins bins until they hold the range.
    fn widen(&mut self, range: Interval) {
        let exponent = exponent_above(range.max_abs());
        if exponent <= self.exponent {
            return;
        }
        let shift = exponent - self.exponent;
        // In place: outward from 0, a bin moves to one that has been emptied already, or stays.
        let middle = HALF as usize;
        for i in (0..middle).rev().chain(middle..self.bins.len()) {
            let count = core::mem::take(&mut self.bins[i]);
            self.bins[coarser(i, shift)] += count;
        }
        self.exponent = exponent;
    }

    /// Counts values that the bins hold.
    fn bin(&mut self, values: impl Iterator<Item = f32>) {
        let factor = libm::exp2(f64::from(HALF.trailing_zeros() as i32 - self.exponent));
        for x in values {
            // Exact: a power of two, and f64 has room for every f32 times it.
            let scaled = f64::from(x) * factor;
            let whole = scaled as i32;
            let floor = whole - i32::from(scaled < f64::from(whole));
            self.bins[(floor + HALF) as usize] += 1;
            self.zeros += u64::from(x == 0.0);
        }
    }
}

/// Where a bin lies in a grid that is `2^shift` times as coarse: rounds down on both sides of 0, as the bins themselves do.
fn coarser(bin: usize, shift: i32) -> usize {
    (((bin as i32 - HALF) >> shift.min(31)) + HALF) as usize
}

/// The smallest exponent, not below that of nothing but zeros, whose power of two is above the magnitude.
fn exponent_above(magnitude: f32) -> i32 {
    // frexp: magnitude = f * 2^e with f in 0.5..1.
    if magnitude == 0.0 { MIN_EXPONENT } else { libm::frexp(magnitude.into()).1.max(MIN_EXPONENT) }
}

impl Observer for Histogram {
    fn observe(&mut self, values: &[f32]) -> Result<(), Error> {
        let Some(range) = self.0.non_finite.range(values)? else { return Ok(()) };
        self.check_room(values.len() as u64)?;
        self.add(values, range)?;
        let ignored = if self.0.non_finite == NonFinite::Ignore {
            values.iter().filter(|x| !x.is_finite()).count()
        } else {
            0
        };
        self.0.count += (values.len() - ignored) as u64;
        self.0.observed = join(self.0.observed, Some(range));
        Ok(())
    }

    fn merge(&mut self, other: &Self) -> Result<(), Error> {
        if self.0.calibrator != other.0.calibrator {
            return Err(Error::State { what: "histograms of different calibrators" });
        }
        self.0.non_finite.check_same(other.0.non_finite)?;
        let Some(range) = other.0.observed else { return Ok(()) };
        self.check_room(other.0.count)?;
        if other.0.bins.is_empty() {
            self.add(&other.0.values, range)?;
        } else {
            let (state, theirs) = (&mut self.0, &other.0);
            if state.bins.is_empty() {
                state.bins = memory::copied("bins", &theirs.bins)?;
                (state.exponent, state.zeros) = (theirs.exponent, theirs.zeros);
                let kept = core::mem::take(&mut state.values);
                if let Some(range) = state.observed {
                    state.widen(range);
                    state.bin(kept.into_iter());
                }
            } else {
                // Their grid holds their range, and ours then holds both.
                state.widen(range);
                let shift = state.exponent - theirs.exponent;
                for (i, count) in theirs.bins.iter().enumerate() {
                    state.bins[coarser(i, shift)] += count;
                }
                state.zeros += theirs.zeros;
            }
        }
        self.0.count += other.0.count;
        self.0.observed = join(self.0.observed, Some(range));
        Ok(())
    }

    fn try_clone(&self) -> Result<Self, Error> {
        let HistogramState { calibrator, non_finite, count, observed, exponent, zeros, .. } = self.0;
        Ok(Self(HistogramState {
            calibrator,
            non_finite,
            count,
            observed,
            values: memory::copied("observed values", &self.0.values)?,
            exponent,
            bins: memory::copied("bins", &self.0.bins)?,
            zeros,
        }))
    }

    fn range(&self, levels: Levels, scheme: Scheme) -> Result<Interval, Error> {
        self.calibrate(self.0.calibrator, levels, scheme)
    }
}

impl TryFrom<HistogramState> for Histogram {
    type Error = Error;

    /// # Errors
    /// [`Error::State`] when the counts contradict each other, [`Error::Range`].
    fn try_from(state: HistogramState) -> Result<Self, Error> {
        let HistogramState { count, observed, values, exponent, bins, zeros, .. } = &state;
        let wrong = |what| Err(Error::State { what });
        observed.map_or(Ok(()), Interval::check)?;
        if observed.is_some() != (*count > 0) {
            return wrong("a range without values, or values without a range");
        }
        let held = if bins.is_empty() {
            let inside = |x: &f32| observed.is_some_and(|range| range.min <= *x && *x <= range.max);
            if values.len() > EXACT || !values.iter().all(inside) {
                return wrong("more values than are kept, or one outside the observed range");
            }
            values.len() as u64
        } else {
            let largest = observed.map_or(0.0, Interval::max_abs);
            if bins.len() != BINS || !values.is_empty() || *exponent != exponent_above(largest) {
                return wrong("bins that do not fit the observed range");
            }
            bins.iter().fold(0, |sum: u64, n| sum.saturating_add(*n))
        };
        if held > MAX_COUNT {
            return wrong("more values than can be counted");
        }
        if *zeros > bins.get(HALF as usize).copied().unwrap_or(0) {
            return wrong("more zeros than small values");
        }
        if held != *count {
            return wrong("counts that do not add up");
        }
        Ok(Self(state))
    }
}

impl From<Histogram> for HistogramState {
    fn from(histogram: Histogram) -> Self {
        histogram.0
    }
}
