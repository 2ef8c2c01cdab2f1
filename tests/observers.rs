//! Observers: the same for every way the data came, refused and ignored values, plain states.

mod common;

use common::Random;
use i8gemm::{
    Error,
    quant::{
        Calibrator, Codebook, Grouping, Histogram, HistogramState, Interval, Levels, MinMax, MovingAverage,
        MovingAverageState, NonFinite, Observer, ParamList, PerChannel, QParams, Scheme,
    },
};
use quickcheck::quickcheck;

/// Values whose range keeps growing, so that bins join again and again.
fn growing(random: &mut Random, len: usize) -> Vec<f32> {
    let start = random.range(-60, 20);
    (0..len)
        .map(|i| {
            let exponent = start + (i * 12 / len.max(1)) as i32;
            (random.below(1 << 24) as f32 / (1 << 23) as f32 - 1.0) * 2f32.powi(exponent)
        })
        .collect()
}

/// Cuts a slice into pieces, some of them empty.
fn pieces<'a>(random: &mut Random, mut values: &'a [f32], longest: usize) -> Vec<&'a [f32]> {
    let mut pieces = Vec::new();
    while !values.is_empty() {
        let (piece, rest) = values.split_at(random.below(longest.min(values.len()) + 1));
        pieces.push(piece);
        values = rest;
    }
    pieces
}

/// The ranges that every method makes of a histogram.
fn ranges(histogram: &Histogram) -> Vec<Result<Interval, Error>> {
    let choices = [(Levels::I8, Scheme::Affine), (Levels::I8.narrow(), Scheme::Symmetric)];
    let calibrate = |method| choices.map(|(levels, scheme)| histogram.calibrate(method, levels, scheme));
    // The search takes long and sees the same points as the others.
    Calibrator::ALL.into_iter().filter(|method| *method != Calibrator::Mse).flat_map(calibrate).collect()
}

fn observed(values: &[f32]) -> Histogram {
    let mut histogram = Histogram::new(Calibrator::MinMax);
    histogram.observe(values).unwrap();
    histogram
}

/// The state, with values that are kept as they are in ascending order.
fn in_order(histogram: &Histogram) -> HistogramState {
    let mut state = HistogramState::from(histogram.clone());
    state.values.sort_by(f32::total_cmp);
    state
}

quickcheck! {
    fn pieces_are_the_whole(seed: u64, len: u16) -> bool {
        let mut random = Random(seed);
        let values = growing(&mut random, usize::from(len) % 3000);
        let (mut minmax, mut average) = (MinMax::new(), MovingAverage::default());
        let mut whole = (MinMax::new(), MovingAverage::default());
        let mut histogram = Histogram::new(Calibrator::MinMax);
        whole.0.observe_batch(&values).unwrap();
        whole.1.observe_batch(&values).unwrap();
        for piece in pieces(&mut random, &values, 700) {
            minmax.observe(piece).unwrap();
            average.observe(piece).unwrap();
            histogram.observe(piece).unwrap();
        }
        average.end_batch();
        (minmax, average) == whole && histogram == observed(&values)
    }

    fn channels_are_observed_by_themselves(seed: u64, channels: u8, inner: u16, outer: u8) -> bool {
        let mut random = Random(seed);
        let (channels, inner) = (usize::from(channels) % 5 + 1, usize::from(inner) % 300 + 1);
        let outer = usize::from(outer) % 7;
        let values = growing(&mut random, outer * channels * inner);
        let mut together = PerChannel::new(MovingAverage::default(), channels, inner).unwrap();
        let mut apart = vec![MovingAverage::default(); channels];
        let (first, second) = values.split_at(outer / 2 * channels * inner);
        for batch in [first, second] {
            together.observe(batch).unwrap();
            together.end_batch();
            for (channel, observer) in apart.iter_mut().enumerate() {
                let own: Vec<f32> =
                    (0..batch.len()).filter(|i| i / inner % channels == channel).map(|i| batch[i]).collect();
                observer.observe_batch(&own).unwrap();
            }
        }
        together.observers() == apart
    }
}

/// More values than are kept as they are.
#[test]
fn binned_pieces_are_the_whole() {
    let mut random = Random(1);
    for len in [65_535, 65_536, 65_537, 150_000] {
        let values = growing(&mut random, len);
        let whole = observed(&values);
        for longest in [1000, 20_000, 100_000] {
            let mut pieced = Histogram::new(Calibrator::MinMax);
            for piece in pieces(&mut random, &values, longest) {
                pieced.observe(piece).unwrap();
                assert!(pieced.bytes() <= Histogram::MAX_BYTES);
            }
            assert_eq!(pieced, whole);
        }
        // Merged from threads, in any order, and from back to front.
        let parts: Vec<Histogram> = pieces(&mut random, &values, 70_000).into_iter().map(observed).collect();
        for order in [parts.iter().collect::<Vec<_>>(), parts.iter().rev().collect()] {
            let mut merged = Histogram::new(Calibrator::MinMax);
            order.into_iter().try_for_each(|part| merged.merge(part)).unwrap();
            assert_eq!(in_order(&merged), in_order(&whole), "{len}");
        }
        let reversed: Vec<f32> = values.iter().rev().copied().collect();
        assert_eq!(in_order(&observed(&reversed)), in_order(&whole));
    }
}

/// What the bins give is within a bin of what the values themselves give.
#[test]
fn bins_are_fine_enough() {
    let mut random = Random(5);
    let normal = |random: &mut Random| {
        (0..12).map(|_| random.below(1 << 24) as f32 / (1 << 24) as f32).sum::<f32>() - 6.0
    };
    let values: Vec<f32> = (0..65_536).map(|_| normal(&mut random)).collect();
    let exact = observed(&values);
    // Twice the same values is the same distribution, in bins.
    let mut binned = exact.clone();
    binned.observe(&values).unwrap();
    let bin = exact.observed().unwrap().max_abs() / 1024.0;
    for method in Calibrator::ALL {
        // Several windows may be about equally good by divergence.
        let slack =
            if matches!(method, Calibrator::KlTensorRt | Calibrator::KlOnnxRuntime) { 60.0 } else { 1.5 };
        for scheme in [Scheme::Affine, Scheme::Symmetric] {
            // The search of both ends takes long and sees what the other one sees.
            if method == Calibrator::Mse && scheme == Scheme::Affine {
                continue;
            }
            let [a, b] = [&exact, &binned].map(|h| h.calibrate(method, Levels::I8, scheme).unwrap());
            let off = (a.min - b.min).abs().max((a.max - b.max).abs());
            assert!(off <= slack * bin, "{method}, {scheme:?}: {a:?}, {b:?}");
        }
    }
    let params = QParams::symmetric(Levels::I8, 4.0).unwrap();
    let [a, b] = [&exact, &binned].map(|h| h.quality(params, Levels::I8).unwrap());
    assert!((a.mse / b.mse - 1.0).abs() < 0.02 && (a.clipped - b.clipped).abs() < 1e-4, "{a:?}, {b:?}");
    // Behind a ReLU: zeros stay zeros and add no noise.
    let before = b.mse * binned.count() as f64;
    binned.merge(&observed(&[0.0; 100_000])).unwrap();
    let after = binned.quality(params, Levels::I8).unwrap().mse * binned.count() as f64;
    assert!((after / before - 1.0).abs() < 1e-9, "{before}, {after}");
}

#[test]
fn quality_is_its_definition() {
    let mut random = Random(7);
    let values: Vec<f32> = (0..5000).map(|_| random.range(-10_000, 20_000) as f32 * 1e-3).collect();
    let histogram = observed(&values);
    for (levels, params) in [
        (Levels::I8, QParams::affine(Levels::I8, -5.0, 7.0).unwrap()),
        (Levels::signed(4).unwrap(), QParams::symmetric(Levels::signed(4).unwrap(), 11.0).unwrap()),
        (Levels::unsigned(2).unwrap(), QParams { scale: 3.0, zero_point: 1 }),
    ] {
        let (mut noise, mut signal, mut clipped) = (0.0, 0.0, 0);
        for &x in &values {
            let unclamped = f64::from(x / params.scale).round_ties_even() + f64::from(params.zero_point);
            let q = unclamped.clamp(levels.min().into(), levels.max().into());
            let back = (q - f64::from(params.zero_point)) * f64::from(params.scale);
            noise += (f64::from(x) - back).powi(2);
            signal += f64::from(x).powi(2);
            clipped += usize::from(unclamped != q);
        }
        let quality = histogram.quality(params, levels).unwrap();
        assert!((quality.mse / (noise / 5000.0) - 1.0).abs() < 1e-6, "{quality:?}, {noise}");
        assert!((quality.sqnr_db - 10.0 * (signal / noise).log10()).abs() < 1e-4);
        assert!((quality.clipped - clipped as f64 / 5000.0).abs() < 1e-3, "{quality:?}, {clipped}");
    }
}

/// Searching finds no more error than the other methods.
#[test]
fn least_squares_search_is_best_at_least_squares() {
    let mut random = Random(9);
    let values: Vec<f32> =
        (0..500).map(|_| (random.range(-1000, 1000) as f32 * 1e-3).powi(5) + 0.1).collect();
    let histogram = observed(&values);
    for bits in [2, 4, 8] {
        for scheme in [Scheme::Affine, Scheme::Symmetric] {
            let levels = Levels::signed(bits).unwrap();
            let mse = |method| {
                let range = histogram.calibrate(method, levels, scheme).unwrap();
                histogram.quality(QParams::new(levels, scheme, range).unwrap(), levels).unwrap().mse
            };
            let least = mse(Calibrator::Mse);
            for method in Calibrator::ALL {
                assert!(least <= mse(method) * 1.001, "{bits} bits, {scheme:?}: {method}");
            }
        }
    }
}

#[test]
fn moving_averages_merge_as_batches_in_a_row() {
    let mut random = Random(11);
    let batches: Vec<Vec<f32>> = (0..9).map(|_| growing(&mut random, 50)).collect();
    let after = |batches: &[Vec<f32>]| {
        let mut average = MovingAverage::new(0.3).unwrap();
        batches.iter().try_for_each(|batch| average.observe_batch(batch)).unwrap();
        average
    };
    let whole = after(&batches).range(Levels::I8, Scheme::Affine).unwrap();
    for cut in 0..=9 {
        let mut merged = after(&batches[..cut]);
        merged.merge(&after(&batches[cut..])).unwrap();
        let range = merged.range(Levels::I8, Scheme::Affine).unwrap();
        let close = |a: f32, b: f32| (a - b).abs() <= 1e-5 * whole.max_abs();
        assert!(close(range.min, whole.min) && close(range.max, whole.max), "{range:?}, {whole:?}");
    }
    // A batch seen by two threads.
    let (mut a, mut b) = (MovingAverage::default(), MovingAverage::default());
    a.observe(&[1.0]).unwrap();
    b.observe(&[-1.0]).unwrap();
    a.merge(&b).unwrap();
    a.end_batch();
    assert_eq!(a.range(Levels::I8, Scheme::Affine), Ok(Interval { min: -1.0, max: 1.0 }));
    b.end_batch();
    a.observe(&[3.0]).unwrap();
    assert!(matches!(a.merge(&b), Err(Error::State { .. })));
    assert!(matches!(MovingAverage::new(0.5).unwrap().merge(&b), Err(Error::State { .. })));
}

fn refuses_and_ignores<O: Observer + Clone + PartialEq + std::fmt::Debug>(strict: O, lenient: O) {
    let values = [1.0, f32::NAN, -2.0, f32::INFINITY, f32::NEG_INFINITY];
    let mut observer = strict.clone();
    let refused = observer.observe(&values);
    assert!(matches!(refused, Err(Error::NonFinite { index: 1, value, .. }) if value.is_nan()));
    assert_eq!(observer, strict, "a refused piece leaves no trace");
    assert_eq!(observer.range(Levels::I8, Scheme::Affine), Err(Error::NothingObserved));
    let mut observer = lenient;
    observer.observe_batch(&[f32::NAN]).unwrap();
    assert_eq!(observer.range(Levels::I8, Scheme::Affine), Err(Error::NothingObserved));
    observer.observe_batch(&values).unwrap();
    assert_eq!(observer.range(Levels::I8, Scheme::Affine), Ok(Interval { min: -2.0, max: 1.0 }));
}

#[test]
fn what_is_not_finite() {
    refuses_and_ignores(MinMax::new(), MinMax::new().non_finite(NonFinite::Ignore));
    refuses_and_ignores(MovingAverage::default(), MovingAverage::default().non_finite(NonFinite::Ignore));
    let histogram = Histogram::new(Calibrator::MinMax);
    refuses_and_ignores(histogram.clone(), histogram.non_finite(NonFinite::Ignore));
    let mut channels = PerChannel::new(MinMax::new(), 2, 1).unwrap();
    assert!(channels.observe(&[1.0, f32::NAN]).is_err());
    assert_eq!(channels.observers()[0].observed, None);
    assert!(matches!(channels.observe(&[1.0]), Err(Error::Length { .. })));
}

/// Channels leave out what is not finite by themselves, whatever their observers would do.
#[test]
fn channels_ignore_for_their_observers() -> Result<(), Error> {
    let values = [1.0, f32::NAN, -2.0, f32::INFINITY, 3.0, 0.5];
    for inner in [1, 3] {
        let strict = PerChannel::new(MinMax::new(), 2, inner)?;
        assert!(matches!(strict.clone().observe(&values), Err(Error::NonFinite { index: 1, .. })));
        let mut lenient = strict.non_finite(NonFinite::Ignore);
        lenient.observe(&values)?;
        let range = |channel: usize| lenient.observers()[channel].range(Levels::I8, Scheme::Affine);
        let expected = if inner == 1 { [(-2.0, 3.0), (0.5, 0.5)] } else { [(-2.0, 1.0), (0.5, 3.0)] };
        for (channel, (min, max)) in expected.into_iter().enumerate() {
            assert_eq!(range(channel)?, Interval { min, max });
        }
    }
    Ok(())
}

/// Observers that would see data differently are not merged, and stay as they were.
#[test]
fn merges_of_different_observers() {
    fn refused<O: Observer + Clone + PartialEq + std::fmt::Debug>(mut one: O, other: O) {
        one.observe_batch(&[1.0, -2.0]).unwrap();
        let before = one.clone();
        assert!(matches!(one.merge(&other), Err(Error::State { .. })));
        assert_eq!(one, before);
    }
    refused(MinMax::new(), MinMax::new().non_finite(NonFinite::Ignore));
    refused(MovingAverage::default(), MovingAverage::default().non_finite(NonFinite::Ignore));
    refused(MovingAverage::default(), MovingAverage::new(0.5).unwrap());
    let histogram = Histogram::new(Calibrator::MinMax);
    refused(histogram.clone(), histogram.non_finite(NonFinite::Ignore));
    refused(Histogram::new(Calibrator::MinMax), Histogram::new(Calibrator::Mse));
    let of = |channels, inner| PerChannel::new(MinMax::new(), channels, inner).unwrap();
    for other in [of(2, 4), of(3, 3), of(2, 3).non_finite(NonFinite::Ignore)] {
        let mut one = of(2, 3);
        assert!(matches!(one.merge(&other), Err(Error::State { .. })));
        assert_eq!(one, of(2, 3));
    }
}

/// Sizes that no memory holds are errors.
#[test]
fn absurd_counts() {
    let overflow = |result: Result<(), Error>| assert!(matches!(result, Err(Error::SizeOverflow { .. })));
    overflow(observed(&[1.0]).counts(usize::MAX).map(drop));
    overflow(PerChannel::new(MinMax::new(), usize::MAX, 1).map(drop));
    let grouping = Grouping::per_channel(&[usize::MAX, 0], 0).unwrap();
    overflow(ParamList::fit(grouping, Levels::I8, Scheme::Affine, &[]).map(drop));
    overflow(Codebook::scales(grouping, &[]).map(drop));
}

#[test]
fn degenerate_data() {
    for value in [0.0, -3.0, 5.0, 1e-45, f32::MAX, f32::MIN] {
        for count in [1, 100, 70_000] {
            let histogram = observed(&vec![value; count]);
            for range in ranges(&histogram) {
                assert_eq!(range, Ok(Interval { min: value, max: value }));
            }
        }
    }
    // The whole range of f32, and bins narrower than the smallest.
    for values in [&[f32::MIN, -1.0, 0.0, 1.0, f32::MAX][..], &[1e-45, 3e-44]] {
        assert!(ranges(&observed(values)).into_iter().all(|range| range.is_ok_and(|r| r.min <= r.max)));
    }
    let histogram = observed(&[1.0, 2.0]);
    assert!(histogram.calibrate(Calibrator::Percentile(100.5), Levels::I8, Scheme::Affine).is_err());
    assert!(histogram.counts(0).is_err());
    assert_eq!(histogram.counts(2), Ok(vec![1, 1]));
    assert_eq!(observed(&[f32::MIN, -1.0, 0.0, 1.0, f32::MAX]).counts(3), Ok(vec![1, 3, 1]));
}

/// All values in one bin at the end of a range about 0: a method that keeps less than that bin still gives a range.
#[test]
fn a_narrow_band_far_from_zero() {
    let methods = || Calibrator::ALL.into_iter().filter(|method| *method != Calibrator::Mse);
    for sign in [1.0, -1.0] {
        let histogram = observed(&[1000.0, 1000.1, 1000.2].map(|x: f32| sign * x));
        for (method, scheme) in methods().flat_map(|m| [(m, Scheme::Affine), (m, Scheme::Symmetric)]) {
            let range = histogram.calibrate(method, Levels::I8, scheme).unwrap();
            assert!(range.min <= range.max && range.max_abs() <= 1000.2, "{method}: {range:?}");
            // Less than a bin of 2,048 is lost.
            let quality = histogram.quality(QParams::new(Levels::I8, scheme, range).unwrap(), Levels::I8);
            assert!(quality.unwrap().sqnr_db > 40.0, "{method}, {scheme:?}: {range:?}, {quality:?}");
        }
    }
}

#[test]
fn states_are_plain_data_and_checked() {
    let mut random = Random(13);
    for len in [0, 10, 70_000] {
        let histogram = observed(&growing(&mut random, len));
        let state = HistogramState::from(histogram.clone());
        assert_eq!(Histogram::try_from(state.clone()), Ok(histogram));
        let broken = HistogramState { count: state.count + 1, ..state.clone() };
        assert!(matches!(Histogram::try_from(broken), Err(Error::State { .. })));
        if len == 10 {
            let observed = Some(Interval { min: 0.0, max: 0.0 });
            let broken = HistogramState { observed, ..state.clone() };
            assert!(matches!(Histogram::try_from(broken), Err(Error::State { .. })));
        }
        if len > 65_536 {
            let mut full = state.clone();
            full.bins[0] += u64::MAX / 2;
            full.count += u64::MAX / 2;
            assert!(matches!(Histogram::try_from(full), Err(Error::State { .. })));
            let broken = HistogramState { exponent: state.exponent + 1, ..state.clone() };
            assert!(matches!(Histogram::try_from(broken), Err(Error::State { .. })));
            let broken = HistogramState { bins: state.bins[1..].to_vec(), ..state };
            assert!(matches!(Histogram::try_from(broken), Err(Error::State { .. })));
        }
    }
    let state = MovingAverageState::from(MovingAverage::default());
    assert!(MovingAverage::try_from(MovingAverageState { constant: 0.0, ..state }).is_err());
    assert!(MovingAverage::try_from(MovingAverageState { average: [1.0, 0.0], ..state }).is_err());
}

/// One batch whose average is not its own: no batches lead there, and what is merged is a range all the same, and a state.
#[test]
fn made_up_averages_merge_to_a_range() {
    let max = f64::from(f32::MAX);
    for (first, average) in
        [([1.0, 1.0], [3e38, 3.4e38]), ([-1.0, 1.0], [-max, -max]), ([-3e38, 3e38], [1.0, 1.0])]
    {
        let state = MovingAverageState { batches: 1, first, average, ..MovingAverage::default().into() };
        let other = MovingAverage::try_from(state).unwrap();
        let mut merged = other;
        merged.merge(&other).unwrap();
        let range = merged.range(Levels::I8, Scheme::Affine).unwrap();
        assert!(range.min.is_finite() && range.max.is_finite() && range.min <= range.max, "{range:?}");
        assert_eq!(MovingAverage::try_from(MovingAverageState::from(merged)), Ok(merged));
    }
}

#[cfg(feature = "serde")]
#[test]
fn states_pass_through_json() {
    let histogram = observed(&[1.5, -0.25, 1e-30]);
    let text = serde_json::to_string(&histogram).unwrap();
    assert_eq!(serde_json::from_str::<Histogram>(&text).unwrap(), histogram);
    let broken = text.replace("\"count\":3", "\"count\":4");
    assert!(serde_json::from_str::<Histogram>(&broken).is_err());
    let mut channels = PerChannel::new(MovingAverage::default(), 2, 2).unwrap();
    channels.observe(&[1.0, 2.0, 3.0, 4.0]).unwrap();
    let text = serde_json::to_string(&channels).unwrap();
    assert_eq!(serde_json::from_str::<PerChannel<MovingAverage>>(&text).unwrap(), channels);
    // Rows that nothing can be as long as.
    for inner in ["0".to_owned(), usize::MAX.to_string()] {
        let broken = text.replace("\"inner\":2", &format!("\"inner\":{inner}"));
        assert_ne!(broken, text);
        let mut channels: PerChannel<MovingAverage> = serde_json::from_str(&broken).unwrap();
        assert!(matches!(channels.observe(&[1.0]), Err(Error::State { .. })));
    }
}

/// 1 Gi values, 4 GiB of memory for the piece that is all of them: `cargo test --release -- --ignored`.
#[test]
#[ignore = "takes 4 GiB and most of a minute"]
fn a_gibi_of_values_in_constant_memory() {
    let len = 1 << 30;
    let mut random = Random(17);
    let values: Vec<f32> = (0..len)
        .map(|_| {
            let bits = random.next();
            // Heavy tails: a normal mantissa times a power of two that is rarely large.
            (bits as i32) as f32 * 2f32.powi((bits >> 32).trailing_zeros() as i32 - 31)
        })
        .collect();
    let whole = observed(&values);
    let mut pieced = Histogram::new(Calibrator::MinMax);
    let (mut minmax, mut average) = (MinMax::new(), MovingAverage::default());
    for piece in pieces(&mut random, &values, 1 << 20) {
        pieced.observe(piece).unwrap();
        minmax.observe(piece).unwrap();
        average.observe(piece).unwrap();
        assert!(pieced.bytes() <= Histogram::MAX_BYTES);
    }
    assert_eq!(pieced.count(), 1 << 30);
    assert_eq!(pieced, whole);
    assert_eq!(minmax.observed, whole.observed());
    assert_eq!(average.range(Levels::I8, Scheme::Affine).ok(), whole.observed());
    assert_eq!(ranges(&pieced), ranges(&whole));
}
