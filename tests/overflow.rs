//! Numbers at the ends of their types: the right result, or an error, where arithmetic that overflows panics.

use i8gemm::{
    quant::{
        Calibrator, Histogram, HistogramState, Interval, Levels, MovingAverage, MovingAverageState,
        NonFinite, Observer, QParams, Rounding, Scheme,
    },
    reference,
};

#[test]
fn moving_averages_of_more_batches_than_can_be_counted() {
    let state = MovingAverageState {
        constant: 0.5,
        batches: u64::MAX,
        first: [0.0, 1.0],
        average: [0.0, 1.0],
        open: None,
        non_finite: NonFinite::Error,
    };
    let mut observer = MovingAverage::try_from(state).unwrap();
    observer.observe(&[0.0, 3.0]).unwrap();
    observer.end_batch();
    let range = |observer: &MovingAverage| {
        let Interval { min, max } = observer.range(Levels::U8, Scheme::Affine).unwrap();
        (min, max)
    };
    assert_eq!(range(&observer), (0.0, 2.0));
    let other = MovingAverage::try_from(state).unwrap();
    observer.merge(&other).unwrap();
    assert_eq!(range(&observer), (0.0, 1.0), "batches of the other, endlessly many, come last");
}

#[test]
fn histograms_of_more_values_than_can_be_counted() {
    let most = 1u64 << 62;
    let mut one = Histogram::new(Calibrator::MinMax);
    one.observe(&vec![1.0; 70_000]).unwrap();
    let state = HistogramState::from(one.clone());
    assert!(!state.bins.is_empty(), "values that are counted, not kept");
    let bins: Vec<u64> = state.bins.iter().map(|&count| if count == 0 { 0 } else { most }).collect();
    let mut full = Histogram::try_from(HistogramState { count: most, bins, ..state }).unwrap();
    assert!(full.observe(&[1.0]).is_err());
    assert!(full.merge(&one).is_err());
    assert!(one.merge(&full).is_err());
    assert_eq!((full.count(), one.count()), (most, 70_000), "what was refused changed nothing");
}

/// The scalar definitions take any numbers.
#[test]
fn the_reference_is_total() {
    for x in [i32::MIN, i32::MIN + 1, -1, 0, 1, i32::MAX] {
        for exponent in [0, 1, 31, 32, 33, 62, 63, 64, u32::MAX] {
            let exact = f64::from(x) / 2f64.powi(exponent.min(1000) as i32);
            assert_eq!(reference::rounding_divide_by_power_of_two(x, exponent), exact.round() as i32);
        }
        for zero_point in [i32::MIN, i32::MAX] {
            let q = reference::requantize(x, zero_point, 1e-9, 0, Levels::I8, Rounding::HalfEven, 0);
            let exact = (f64::from(x) - f64::from(zero_point)) * 1e-9;
            assert_eq!(q, exact.round_ties_even() as i32);
            let params = QParams { scale: 1e-9, zero_point };
            let unit = QParams { scale: 1.0, zero_point: 3 };
            let sum = reference::add([x, x], [params, params], unit, Levels::I8);
            assert_eq!(sum, (2.0 * exact).round_ties_even() as i32 + 3);
            let _ = reference::quantize(x as f32, unit, Levels::U8, Rounding::HalfEven, false, 0);
        }
    }
}
