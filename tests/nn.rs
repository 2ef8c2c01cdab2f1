//! Layers against plain f64 networks, with tolerances derived from quantization steps, and to the bit against the scalar
//! reference.
mod common;
mod nn {
    pub mod recurrent;
}

use common::{Random, kernels};
use i8gemm::{
    Error, Kernel, Lhs, MatMut, MatRef, Output, Rhs,
    nn::{DynamicConfig, Embedding, Gru, Layer, Linear, Lstm, LstmState, RecurrentWeights, Sequence},
    quant::{Levels, QParams, Rounding},
    reference,
};

/// What the polynomials may be wrong by.
const GATE_ERROR: f64 = 5e-7;

fn reals(random: &mut Random, len: usize, magnitude: f32) -> Vec<f32> {
    (0..len).map(|_| (random.range(-1_000_000, 1_000_000) as f32) * 1e-6 * magnitude).collect()
}

/// Narrow symmetric i8 weights, out x in, with the scale of each row.
struct Quantized {
    values: Vec<i8>,
    scales: Vec<f32>,
}

fn quantize_weights(w: &[f32], n: usize, per_tensor: bool) -> Quantized {
    let k = w.len() / n;
    let scale = |w: &[f32]| match w.iter().fold(0.0f32, |a, w| a.max(w.abs())) / 127.0 {
        scale if scale >= f32::MIN_POSITIVE => scale,
        _ => 1.0,
    };
    let scales: Vec<f32> = w.chunks(k).map(|row| scale(if per_tensor { w } else { row })).collect();
    let values = w.iter().enumerate().map(|(i, &w)| {
        let params = QParams { scale: scales[i / k], zero_point: 0 };
        reference::quantize(w, params, Levels::I8.narrow(), Rounding::HalfEven, false, 0) as i8
    });
    Quantized { values: values.collect(), scales }
}

/// Scale and zero point of activations, by ONNX's definition.
fn activation_params(x: &[f32]) -> QParams {
    let (min, max) = x.iter().fold((0.0f32, 0.0f32), |(a, b), &x| (a.min(x), b.max(x)));
    let scale = (max - min) / 255.0;
    let scale = if scale >= f32::MIN_POSITIVE { scale } else { 1.0 };
    QParams { scale, zero_point: (-(min / scale).round_ties_even() as i32).clamp(0, 255) }
}

/// `x W^T + bias` by quantization and the reference product.
fn project(x: &[f32], m: usize, w: &Quantized, bias: Option<&[f32]>, per_tensor: bool) -> Vec<f32> {
    let (k, n) = (x.len() / m, w.scales.len());
    let params: Vec<QParams> =
        x.chunks(k).map(|row| activation_params(if per_tensor { x } else { row })).collect();
    let q: Vec<u8> = x
        .iter()
        .enumerate()
        .map(|(i, &x)| reference::quantize(x, params[i / k], Levels::U8, Rounding::HalfEven, false, 0) as u8)
        .collect();
    let (scales, zeros): (Vec<_>, Vec<_>) = params.iter().map(|p| (p.scale, p.zero_point)).unzip();
    let lhs = Lhs::new(MatRef::row_major(&q, m, k).unwrap()).scales(&scales).zero_points(&zeros);
    let output = Output::f32(&w.scales);
    let output = if let Some(bias) = bias { output.bias_f32(bias) } else { output };
    let mut out = vec![0.0; m * n];
    let rhs = Rhs::new(MatRef::col_major(&w.values, k, n).unwrap());
    reference::gemm(lhs, rhs, &output, MatMut::row_major(&mut out, m, n).unwrap()).unwrap();
    out
}

/// A value and how wrong a quantized computation of it may be.
#[derive(Clone, Copy)]
struct Bounded(f64, f64);

/// `x W^T + bias` in f64, with the error that rounding weights and activations by half a step brings on top of theirs.
fn project_bounded(x: &[Bounded], w: &[f32], n: usize, bias: Option<&[f32]>) -> Vec<Bounded> {
    let k = w.len() / n;
    let spread = |at: fn(f64, f64) -> f64| x.iter().map(|x| at(x.0, x.1)).fold(0.0, f64::max);
    let step = (spread(|v, e| v + e).max(0.0) + spread(|v, e| e - v).max(0.0)) / 255.0;
    (0..n)
        .map(|col| {
            let w = &w[col * k..][..k];
            let weight_step = w.iter().fold(0.0f64, |a, &w| a.max(f64::from(w).abs())) / 127.0;
            let (mut sum, mut error) = (0.0, 1e-5);
            for (x, &w) in x.iter().zip(w) {
                // A value at the end of the range may be off by a whole step, for the zero point is rounded.
                let (w, dx, dw) = (f64::from(w), x.1 + step, weight_step / 2.0);
                sum += x.0 * w;
                error += dx * w.abs() + dw * x.0.abs() + dx * dw;
            }
            Bounded(sum + f64::from(bias.map_or(0.0, |b| b[col])), error)
        })
        .collect()
}

fn assert_within(what: &str, actual: &[f32], expected: &[Bounded], useful: f64) {
    assert_eq!(actual.len(), expected.len());
    for (i, (&a, e)) in actual.iter().zip(expected).enumerate() {
        assert!((f64::from(a) - e.0).abs() <= e.1, "{what}: value {i}: {a} is not {} +- {}", e.0, e.1);
        assert!(e.1 <= useful, "{what}: value {i}: a tolerance of {} says nothing", e.1);
    }
}

#[test]
fn gates_are_as_accurate_as_documented() {
    let (mut tanh, mut sigmoid) = (0.0f64, 0.0f64);
    let mut check = |x: f32| {
        let exact = f64::from(x);
        tanh = tanh.max((f64::from(reference::tanh(x)) - exact.tanh()).abs());
        sigmoid = sigmoid.max((f64::from(reference::sigmoid(x)) - 1.0 / (1.0 + (-exact).exp())).abs());
        assert!(reference::tanh(x).abs() <= 1.0 && (0.0..=1.0).contains(&reference::sigmoid(x)));
        assert_eq!(reference::tanh(-x), -reference::tanh(x));
    };
    for i in -2_000_000..=2_000_000 {
        check(i as f32 * 1e-5);
    }
    // Every binade, and what no binade has.
    for bits in (0..=f32::INFINITY.to_bits()).step_by(99_991) {
        check(f32::from_bits(bits));
    }
    // Where the search through every f32 found tanh worst, 4.49e-7.
    check(5.900_549_4);
    check(f32::INFINITY);
    println!("largest error: tanh {tanh:e}, sigmoid {sigmoid:e}");
    assert!(tanh <= 5e-7 && sigmoid <= 3e-7, "tanh {tanh:e}, sigmoid {sigmoid:e}");
    assert_eq!((reference::tanh(f32::NAN), reference::sigmoid(f32::NAN)), (0.0, 0.5));
}

#[test]
fn linear() -> Result<(), Error> {
    let mut random = Random(1);
    for kernel in kernels() {
        for (m, k, n) in [(1, 1, 1), (1, 64, 48), (3, 17, 5), (7, 100, 33), (20, 31, 16)] {
            for (tensor_weights, tensor_activations, with_bias) in
                [(false, false, true), (true, false, false), (false, true, true), (true, true, false)]
            {
                let (w, b) = (reals(&mut random, n * k, 0.7), reals(&mut random, n, 2.0));
                let x = reals(&mut random, m * k, 3.0);
                let bias = with_bias.then_some(&b[..]);
                let mut config = DynamicConfig::default().kernel(kernel);
                if tensor_weights {
                    config = config.per_tensor_weights();
                }
                if tensor_activations {
                    config = config.per_tensor_activations();
                }
                let layer = Linear::with_config(MatRef::row_major(&w, n, k)?, bias, config)?;
                assert_eq!((layer.inputs(), layer.outputs(), layer.kernel()), (k, n, kernel));
                let mut scratch = vec![0xAA; layer.workspace_size(m)?];
                let mut y = vec![0.0; m * n];
                layer.forward(
                    MatRef::row_major(&x, m, k)?,
                    MatMut::row_major(&mut y, m, n)?,
                    &mut scratch,
                )?;
                let q = quantize_weights(&w, n, tensor_weights);
                assert_eq!(y, project(&x, m, &q, bias, tensor_activations), "{kernel}: {m} x {k} x {n}");
                if !tensor_weights && !tensor_activations {
                    for (x, y) in x.chunks(k).zip(y.chunks(n)) {
                        let x: Vec<_> = x.iter().map(|&x| Bounded(x.into(), 0.0)).collect();
                        assert_within("linear", y, &project_bounded(&x, &w, n, bias), 3.0);
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn linear_views_and_errors() -> Result<(), Error> {
    let mut random = Random(2);
    let (m, k, n) = (3, 10, 4);
    let (w, x) = (reals(&mut random, n * k, 1.0), reals(&mut random, m * k, 1.0));
    let layer = Linear::new(MatRef::row_major(&w, n, k)?, None)?;
    let mut scratch = layer.workspace(m)?;
    let mut y = vec![0.0; m * n];
    let view = MatRef::row_major(&x, m, k)?;
    layer.forward(view, MatMut::row_major(&mut y, m, n)?, &mut scratch)?;

    // The transposed weights, input and output give the same.
    let transposed: Vec<f32> = (0..n * k).map(|i| w[i % n * k + i / n]).collect();
    let layer_t = Linear::new(MatRef::col_major(&transposed, n, k)?, None)?;
    let x_t: Vec<f32> = (0..m * k).map(|i| x[i % m * k + i / m]).collect();
    let mut y_t = vec![0.0; m * n];
    let view_t = MatRef::col_major(&x_t, m, k)?;
    layer_t.forward(view_t, MatMut::col_major(&mut y_t, m, n)?, &mut scratch)?;
    assert!((0..m * n).all(|i| y_t[i] == y[i % m * n + i / m]));

    let mut out = vec![7.0; m * n];
    let mut run = |x: MatRef<f32>, rows, cols, scratch: &mut [u8]| {
        let result =
            layer.forward(x, MatMut::row_major(&mut out[..rows * cols], rows, cols).unwrap(), scratch);
        assert!(out.iter().all(|&y| y == 7.0), "nothing is written");
        result
    };
    let mut bad = x.clone();
    bad[13] = f32::NAN;
    let nan = MatRef::row_major(&bad, m, k)?;
    assert!(matches!(run(nan, m, n, &mut scratch), Err(Error::NonFinite { index: 13, .. })));
    let narrow = MatRef::row_major(&x[..27], m, 9)?;
    assert!(matches!(run(narrow, m, n, &mut scratch), Err(Error::Shape { .. })));
    assert!(matches!(run(view, m, n - 1, &mut scratch), Err(Error::Shape { .. })));
    assert!(matches!(run(view, m - 1, n, &mut scratch), Err(Error::Shape { .. })));
    let short = layer.workspace_size(m)? - 1;
    let mut small = vec![0; short];
    assert!(matches!(run(view, m, n, &mut small), Err(Error::BufferTooSmall { .. })));
    assert!(matches!(run(view, m, n, &mut []), Err(Error::BufferTooSmall { .. })));
    assert!(layer.workspace_size(usize::MAX / 2).is_err());

    let weights = MatRef::row_major(&w, n, k)?;
    assert!(matches!(Linear::new(weights, Some(&[0.0; 3])), Err(Error::Length { .. })));
    let infinite = [0.0, f32::INFINITY, 0.0, 0.0];
    assert!(matches!(Linear::new(weights, Some(&infinite)), Err(Error::Bias { index: 1, .. })));
    let mut bad = w.clone();
    bad[5] = f32::NAN;
    let result = Linear::new(MatRef::row_major(&bad, n, k)?, None);
    assert!(matches!(result, Err(Error::NonFinite { what: "weight", index: 5, .. })));
    if let Some(kernel) = Kernel::all().find(|kernel| !kernel.is_available()) {
        let result = Linear::with_config(weights, None, DynamicConfig::default().kernel(kernel));
        assert!(matches!(result, Err(Error::KernelUnavailable { .. })));
    }
    // Nothing in, nothing out: an answer or an error, no panic.
    for (m, k, n) in [(0, 3, 2), (2, 0, 2), (2, 3, 0), (0, 0, 0)] {
        let Ok(layer) = Linear::new(MatRef::row_major(&w[..n * k], n, k)?, None) else { continue };
        let mut scratch = layer.workspace(m)?;
        let _ = layer.forward(
            MatRef::row_major(&x[..m * k], m, k)?,
            MatMut::row_major(&mut y[..m * n], m, n)?,
            &mut scratch,
        );
    }
    Ok(())
}

#[test]
fn embedding() -> Result<(), Error> {
    let mut random = Random(11);
    for kernel in kernels() {
        for (rows, features) in [(1, 1), (5, 7), (3, 64), (4, 515)] {
            for (bits, largest) in [(8, 127.0f32), (4, 7.0)] {
                let table = reals(&mut random, rows * features, 2.0);
                let config = DynamicConfig::default().kernel(kernel);
                let e = Embedding::with_config(MatRef::row_major(&table, rows, features)?, bits, config)?;
                assert_eq!((e.rows(), e.features(), e.bits()), (rows, features, bits));
                let ids: Vec<u32> = (0..6).map(|_| random.below(rows) as u32).collect();
                let mut out = vec![0.0; 6 * features];
                e.lookup(&ids, MatMut::row_major(&mut out, 6, features)?)?;
                let mut strided = vec![0.0; 6 * features];
                e.lookup(&ids, MatMut::col_major(&mut strided, 6, features)?)?;
                for (i, &id) in ids.iter().enumerate() {
                    let row = &table[id as usize * features..][..features];
                    let scale = row.iter().fold(0.0f32, |a, x| a.max(x.abs())) / largest;
                    for (col, &x) in row.iter().enumerate() {
                        let expected = (x / scale).round_ties_even() * scale;
                        assert_eq!(out[i * features + col], expected, "{kernel}: {bits} bits");
                        assert_eq!(strided[col * 6 + i], expected);
                        assert!((expected - x).abs() <= 0.5001 * scale);
                    }
                }
            }
        }
    }

    let table = [1.0f32, 2.0, -3.0, 4.0];
    let view = MatRef::row_major(&table, 2, 2)?;
    let e = Embedding::new_4bit(view)?;
    let mut out = [7.0; 4];
    let error = e.lookup(&[1, 2], MatMut::row_major(&mut out, 2, 2)?);
    assert!(matches!(error, Err(Error::Index { index: 1, value: 2, len: 2, .. })));
    let error = e.lookup(&[1], MatMut::row_major(&mut out, 2, 2)?);
    assert!(matches!(error, Err(Error::Shape { .. })));
    assert_eq!(out, [7.0; 4]);
    assert!(matches!(
        Embedding::with_config(view, 5, DynamicConfig::default()),
        Err(Error::Bits { bits: 5 })
    ));
    let nan = [0.0, 1.0, f32::NAN, 0.0];
    let error = Embedding::new(MatRef::row_major(&nan, 2, 2)?);
    assert!(matches!(error, Err(Error::NonFinite { index: 2, .. })));
    Ok(())
}
