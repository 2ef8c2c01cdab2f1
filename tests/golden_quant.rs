//! Quantization against PyTorch and ONNX Runtime: their answers, read from `tests/golden/` when the tests run. Other files of
//! the same form may be put in their place.

mod answers;
mod common;

use std::collections::HashMap;

use answers::cases;
use common::kernels;
use i8gemm::{
    MatRef, Operand,
    quant::{
        Calibrator, DynamicQuantizer, Grouping, Histogram, Interval, Levels, MinMax, MovingAverage, Observer,
        PerChannel, QParams, Quantizer, Rounding, Scheme, fake::FakeQuantizer,
    },
    reference,
};
use serde::Deserialize;

/// Levels of a type's name.
fn levels(dtype: &str) -> Levels {
    match dtype {
        "i8" => Levels::I8,
        "u8" => Levels::U8,
        other => panic!("unknown type {other}"),
    }
}

fn scheme(name: &str) -> Scheme {
    match name {
        "affine" => Scheme::Affine,
        "symmetric" => Scheme::Symmetric,
        other => panic!("unknown scheme {other}"),
    }
}

#[derive(Deserialize)]
struct Params {
    min: f32,
    max: f32,
    dtype: String,
    scheme: String,
    qmin: i32,
    qmax: i32,
    scale: f32,
    zero_point: i32,
}

#[test]
fn golden_qparams_torch() {
    for case in cases::<Params>("qparams_torch.json") {
        let levels = levels(&case.dtype);
        assert_eq!((levels.min(), levels.max()), (case.qmin, case.qmax));
        let range = Interval { min: case.min, max: case.max };
        let expected = QParams { scale: case.scale, zero_point: case.zero_point };
        let what = format!("{range:?}, {}, {}", case.dtype, case.scheme);
        let params = QParams::with_eps(levels, scheme(&case.scheme), range, f32::EPSILON).unwrap();
        assert_eq!(params, expected, "{what}");
        // Where PyTorch's floor has nothing to do, it is one definition; below, steps are as small as the range asks for.
        let params = QParams::new(levels, scheme(&case.scheme), range).unwrap();
        if case.scale > f32::EPSILON {
            assert_eq!(params, expected, "{what}");
        } else {
            assert!(params.scale < f32::EPSILON || range.max_abs() == 0.0, "{what}: {params:?}");
        }
    }
}

#[derive(Deserialize)]
struct Quantize {
    dtype: String,
    scale: f32,
    zero_point: i32,
    x: Vec<f64>,
    torch: Vec<i32>,
    onnx: Vec<i32>,
}

fn check_quantize<T: Operand>(case: &Quantize) {
    let params = QParams { scale: case.scale, zero_point: case.zero_point };
    // Beyond f32 a number of the file is infinite.
    let x: Vec<f32> = case.x.iter().map(|&x| x as f32).collect();
    let levels = Levels::of::<T>();
    for kernel in kernels() {
        for (reciprocal, answers) in [(false, &case.onnx), (true, &case.torch)] {
            let quantizer = Quantizer::<T>::per_tensor(params).kernel(kernel);
            let quantizer = if reciprocal { quantizer.reciprocal() } else { quantizer };
            let mut q = vec![bytemuck::cast::<u8, T>(0); x.len()];
            quantizer.quantize(&x, &mut q).unwrap();
            for (i, (q, &x)) in q.iter().zip(&x).enumerate() {
                let steps = if reciprocal { x * (1.0 / case.scale) } else { x / case.scale };
                // PyTorch converts to i32 before it clamps: what does not fit wraps, in ways that depend on the place of
                // the value in the slice. Here it saturates.
                let expected = match steps {
                    _ if steps.abs() < 2e9 => answers[i],
                    _ if steps > 0.0 => levels.max(),
                    _ => levels.min(),
                };
                assert_eq!(q.widen(), expected, "{kernel}: {x} / {}, reciprocal: {reciprocal}", case.scale);
                let by_reference = reference::quantize(x, params, levels, Rounding::HalfEven, reciprocal, i);
                assert_eq!(by_reference, expected);
            }
        }
    }
}

#[test]
fn golden_quantize() {
    for case in cases::<Quantize>("quantize.json") {
        match &*case.dtype {
            "i8" => check_quantize::<i8>(&case),
            "u8" => check_quantize::<u8>(&case),
            other => panic!("unknown type {other}"),
        }
    }
}

#[derive(Deserialize)]
struct Dynamic {
    x: Vec<f32>,
    y: Vec<u8>,
    scale: f32,
    zero_point: i32,
}

#[test]
fn golden_dynamic_quantize_linear() {
    for case in cases::<Dynamic>("dynamic_quantize_linear.json") {
        for kernel in kernels() {
            let len = case.x.len();
            let (mut y, mut scale, mut zero_point, mut sum) = (vec![0u8; len], [0.0], [0], [0]);
            let x = MatRef::row_major(&case.x, 1, len).unwrap();
            let quantizer = DynamicQuantizer::per_tensor().kernel(kernel);
            quantizer.quantize_into(x, &mut y, &mut scale, &mut zero_point, &mut sum).unwrap();
            assert_eq!((scale, zero_point), ([case.scale], [case.zero_point]), "{kernel}");
            assert_eq!(y, case.y, "{kernel}");
            assert_eq!(sum[0], case.y.iter().map(|&y| i32::from(y)).sum::<i32>(), "{kernel}");
        }
    }
}

/// What is neither integer nor one rounding agrees to this share.
const TOLERANCE: f64 = 1e-6;

fn close(actual: f32, expected: f64) -> bool {
    (f64::from(actual) - expected).abs() <= TOLERANCE * expected.abs()
}

#[derive(Deserialize)]
struct Observers {
    batches: Vec<Vec<f32>>,
    results: HashMap<String, Observed>,
    per_channel_12x500_i8_symmetric: PerChannelParams,
}

#[derive(Deserialize)]
struct Observed {
    scale: f32,
    zero_point: i32,
    min: f64,
    max: f64,
}

#[derive(Deserialize)]
struct PerChannelParams {
    scale: Vec<f32>,
    zero_point: Vec<i32>,
}

#[test]
fn golden_observers_torch() {
    for case in cases::<Observers>("observers_torch.json") {
        let mut minmax = MinMax::new();
        let mut average = MovingAverage::default();
        let mut histogram = Histogram::new(Calibrator::HistogramL2);
        for batch in &case.batches {
            minmax.observe_batch(batch).unwrap();
            average.observe_batch(batch).unwrap();
            histogram.observe_batch(batch).unwrap();
        }
        for (name, expected) in &case.results {
            let parts: Vec<&str> = name.split('/').collect();
            let [method, dtype, scheme_name] = parts[..] else { panic!("{name} is not method/type/scheme") };
            let (levels, scheme) = (levels(dtype), scheme(scheme_name));
            match method {
                "minmax" => {
                    let range = minmax.range(levels, scheme).unwrap();
                    assert_eq!((range.min.into(), range.max.into()), (expected.min, expected.max), "{name}");
                    let params = minmax.qparams_with_eps(levels, scheme, f32::EPSILON).unwrap();
                    assert_eq!(
                        (params.scale, params.zero_point),
                        (expected.scale, expected.zero_point),
                        "{name}"
                    );
                }
                "moving_average" => {
                    let range = average.range(levels, scheme).unwrap();
                    assert!(
                        close(range.min, expected.min) && close(range.max, expected.max),
                        "{name}: {range:?}"
                    );
                    let params = average.qparams_with_eps(levels, scheme, f32::EPSILON).unwrap();
                    assert!(close(params.scale, expected.scale.into()), "{name}: {params:?}");
                    assert_eq!(params.zero_point, expected.zero_point, "{name}");
                }
                "histogram_l2" => {
                    // One bin of the range, which a scale has one part in `steps` of; symmetric ranges have two ends.
                    let all = histogram.observed().unwrap();
                    let bin = f64::from(all.max - all.min) / 2048.0;
                    let ends = if scheme == Scheme::Affine { 1.0 } else { 2.0 };
                    let params = histogram.qparams_with_eps(levels, scheme, f32::EPSILON).unwrap();
                    let off = f64::from(params.scale - expected.scale).abs() * f64::from(levels.steps());
                    // A zero point moves with the lower end.
                    let slack = (bin / f64::from(expected.scale)).ceil() as i32;
                    let same = off <= ends * bin * (1.0 + TOLERANCE)
                        && (params.zero_point - expected.zero_point).abs() <= slack;
                    // PyTorch moves its bins, roughly, when a batch is wider than those before; ours are exact however the
                    // data comes. Where that leads elsewhere, the error that both estimate and minimise must be no larger.
                    let theirs = QParams { scale: expected.scale, zero_point: expected.zero_point };
                    let error = |params| histogram.quality(params, levels).unwrap().mse;
                    assert!(
                        same || error(params) <= 1.02 * error(theirs),
                        "{name}: {params:?}, {off} of {bin}"
                    );
                }
                other => panic!("unknown observer {other}"),
            }
        }
        let all: Vec<f32> = case.batches.concat();
        let expected = &case.per_channel_12x500_i8_symmetric;
        let mut channels = PerChannel::new(MinMax::new(), 12, 500).unwrap();
        channels.observe(&all).unwrap();
        let params = channels.params_with_eps(Levels::I8, Scheme::Symmetric, f32::EPSILON).unwrap();
        assert_eq!((&params.scales, &params.zero_points), (&expected.scale, &expected.zero_point));
    }
}

#[derive(Deserialize)]
struct Calibrated {
    x: Vec<f32>,
    kl_tensorrt_amax: f64,
    mse_grid: MseGrid,
    #[serde(flatten)]
    onnx_runtime: HashMap<String, [f64; 2]>,
}

#[derive(Deserialize)]
struct MseGrid {
    best_amax: f64,
    best_mse: f64,
}

#[test]
fn golden_calibrators() {
    for case in cases::<Calibrated>("calibrators.json") {
        let mut histogram = Histogram::new(Calibrator::MinMax);
        histogram.observe(&case.x).unwrap();
        let amax = histogram.observed().unwrap().max_abs();
        let symmetric = |method| histogram.calibrate(method, Levels::I8.narrow(), Scheme::Symmetric).unwrap();

        let bin = f64::from(amax) / 2048.0;
        let kl = f64::from(symmetric(Calibrator::KlTensorRt).max_abs());
        assert!((kl - case.kl_tensorrt_amax).abs() <= bin, "{kl}, {}", case.kl_tensorrt_amax);

        let mse = symmetric(Calibrator::Mse);
        assert!(close(mse.max_abs(), case.mse_grid.best_amax), "{mse:?}, {}", case.mse_grid.best_amax);
        let params = QParams::symmetric(Levels::I8.narrow(), mse.max_abs()).unwrap();
        let quality = histogram.quality(params, Levels::I8.narrow()).unwrap();
        assert!((quality.mse / case.mse_grid.best_mse - 1.0).abs() < TOLERANCE, "{quality:?}");

        for (name, expected) in &case.onnx_runtime {
            // ort_percentile_99.9_sym, ort_entropy_asym
            let rest = name.strip_prefix("ort_").unwrap_or_else(|| panic!("unknown result {name}"));
            let (method, scheme) = rest.rsplit_once('_').unwrap();
            let scheme = match scheme {
                "sym" => Scheme::Symmetric,
                "asym" => Scheme::Affine,
                other => panic!("unknown scheme {other}"),
            };
            let (method, tolerance) = match method.strip_prefix("percentile_") {
                Some(percent) => (Calibrator::Percentile(percent.parse().unwrap()), 0.0),
                None => (Calibrator::KlOnnxRuntime, 2.0 * bin),
            };
            let range = histogram.calibrate(method, Levels::I8, scheme).unwrap();
            for (actual, expected) in [(range.min, expected[0]), (range.max, expected[1])] {
                let off = (f64::from(actual) - expected).abs();
                assert!(off <= tolerance || close(actual, expected), "{name}: {range:?}, {expected:?}");
            }
        }
    }
}

#[derive(Deserialize)]
struct Fake {
    x: Vec<f32>,
    dy: Vec<f32>,
    scale: f32,
    zero_point: i32,
    y: Vec<f32>,
    dx: Vec<f32>,
    learnable_dx: Vec<f32>,
    learnable_dscale: f64,
    learnable_dzero_point: f64,
}

#[test]
fn golden_fake_quantize() {
    for case in cases::<Fake>("fake_quantize.json") {
        let len = case.x.len();
        let (mut y, mut mask, mut dx) = (vec![0.0; len], vec![0; len.div_ceil(8)], vec![0.0; len]);
        let quantizer = FakeQuantizer::new(Grouping::per_tensor(), case.scale, case.zero_point).reciprocal();
        quantizer.forward(&case.x, &mut y, &mut mask).unwrap();
        quantizer.backward(&case.dy, &mask, &mut dx).unwrap();
        assert_eq!((&y, &dx), (&case.y, &case.dx));

        // PyTorch's learnable backward pass rounds its zero point by cutting Z + 0.5 to an integer, which makes Z + 1 of a
        // negative Z: its gradients are those of that zero point. Its sums are f32.
        let zero_point = (case.zero_point as f32 + 0.5) as i32;
        let quantizer = FakeQuantizer::new(Grouping::per_tensor(), case.scale, zero_point).reciprocal();
        let (mut ds, mut dz) = ([0.0], [0.0]);
        quantizer.backward_learnable(&case.x, &case.dy, &mut dx, &mut ds, &mut dz).unwrap();
        // And it adds Z before it rounds, so that its gradients at ties may be those of the level beside.
        let tie = |x: f32| ((x / case.scale).fract().abs() - 0.5).abs() < 1e-4;
        let apart = |i: &usize| dx[*i] != case.learnable_dx[*i] && !tie(case.x[*i]);
        assert_eq!((0..len).find(apart), None);
        let sum = |take: &dyn Fn(f32) -> bool| -> f64 {
            let taken = case.x.iter().zip(&case.dy).filter(|(x, _)| take(**x));
            taken.map(|(_, dy)| f64::from(dy.abs())).sum()
        };
        let (sizes, ties) = (sum(&|_| true), sum(&tie));
        let (largest, scale) =
            (f64::from(127 - zero_point).max(f64::from(zero_point + 128)), f64::from(case.scale));
        assert!(
            (f64::from(ds[0]) - case.learnable_dscale).abs() <= (TOLERANCE * sizes + ties) * largest,
            "{ds:?}"
        );
        assert!(
            (f64::from(dz[0]) - case.learnable_dzero_point).abs() <= (TOLERANCE * sizes + ties) * scale,
            "{dz:?}"
        );
    }
}
