//! Layers against plain f64 networks, with tolerances derived from quantization steps, and to the bit against the scalar
//! reference.
mod common;

use common::{Random, kernels};
use i8gemm::{
    Error, Kernel, Lhs, MatMut, MatRef, Output, Rhs,
    nn::{Config, Embedding, Gru, Linear, Lstm, LstmState, RecurrentWeights},
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
                let mut config = Config::default().kernel(kernel);
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
        let result = Linear::with_config(weights, None, Config::default().kernel(kernel));
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

/// The f32 parameters of a layer and direction.
struct Params {
    inputs: usize,
    w_ih: Vec<f32>,
    w_hh: Vec<f32>,
    b_ih: Option<Vec<f32>>,
    b_hh: Option<Vec<f32>>,
}

impl Params {
    fn random(random: &mut Random, gates: usize, inputs: usize, hidden: usize, biases: bool) -> Self {
        let rows = gates * hidden;
        let scale = 1.0 / (hidden as f32).sqrt();
        Self {
            inputs,
            w_ih: reals(random, rows * inputs, scale),
            w_hh: reals(random, rows * hidden, scale),
            b_ih: biases.then(|| reals(random, rows, scale)),
            b_hh: biases.then(|| reals(random, rows, scale)),
        }
    }

    fn view(&self, gates: usize, hidden: usize) -> RecurrentWeights<'_> {
        RecurrentWeights {
            input: MatRef::row_major(&self.w_ih, gates * hidden, self.inputs).unwrap(),
            hidden: MatRef::row_major(&self.w_hh, gates * hidden, hidden).unwrap(),
            input_bias: self.b_ih.as_deref(),
            hidden_bias: self.b_hh.as_deref(),
        }
    }
}

/// Shape of a recurrent network and of a call.
#[derive(Clone, Copy, Debug)]
struct Shape {
    gates: usize,
    hidden: usize,
    layers: usize,
    directions: usize,
    steps: usize,
    batch: usize,
}

/// A recurrent network over any kind of number: projects, then computes the cell.
/// Returns the output, and leaves the last states in `h` and `c`.
fn network<N: Copy>(
    s: Shape,
    params: &[Params],
    x: &[N],
    zero: N,
    [h, c]: [&mut [N]; 2],
    project: impl Fn(&Params, bool, &[N], usize) -> Vec<N>,
    cell: impl Fn(&[N], &[N], usize, N, N) -> (N, N),
) -> Vec<N> {
    let (rows, width) = (s.steps * s.batch, s.directions * s.hidden);
    let mut input = x.to_vec();
    for layer in 0..s.layers {
        let mut output = vec![zero; rows * width];
        for direction in 0..s.directions {
            let index = layer * s.directions + direction;
            let p = &params[index];
            let sums = project(p, false, &input, rows);
            let state = index * s.batch * s.hidden;
            for at in 0..s.steps {
                let t = if direction == 0 { at } else { s.steps - 1 - at };
                let recurrent = project(p, true, &h[state..][..s.batch * s.hidden], s.batch);
                for b in 0..s.batch {
                    let g = s.gates * s.hidden;
                    let (a, r) = (&sums[(t * s.batch + b) * g..][..g], &recurrent[b * g..][..g]);
                    for unit in 0..s.hidden {
                        let at = state + b * s.hidden + unit;
                        (h[at], c[at]) = cell(a, r, unit, h[at], c[at]);
                        output[(t * s.batch + b) * width + direction * s.hidden + unit] = h[at];
                    }
                }
            }
        }
        input = output;
    }
    input
}

/// A cell as the reference defines its parts, in f32.
fn cell_f32(s: Shape, a: &[f32], r: &[f32], unit: usize, h: f32, c: f32) -> (f32, f32) {
    let sum = |gate: usize| a[gate * s.hidden + unit] + r[gate * s.hidden + unit];
    if s.gates == 4 {
        let (i, f) = (reference::sigmoid(sum(0)), reference::sigmoid(sum(1)));
        let (g, o) = (reference::tanh(sum(2)), reference::sigmoid(sum(3)));
        let c = f * c + i * g;
        return (o * reference::tanh(c), c);
    }
    let (reset, z) = (reference::sigmoid(sum(0)), reference::sigmoid(sum(1)));
    let at = 2 * s.hidden + unit;
    let n = reference::tanh(a[at] + reset * r[at]);
    ((1.0 - z) * n + z * h, c)
}

/// A cell in f64, with bounds of its error: sigmoid is no steeper than 1/4, tanh than 1.
fn cell_bounded(
    s: Shape,
    a: &[Bounded],
    r: &[Bounded],
    unit: usize,
    h: Bounded,
    c: Bounded,
) -> (Bounded, Bounded) {
    let at = |gate: usize| gate * s.hidden + unit;
    let sigmoid = |gate: usize| {
        let (a, r) = (a[at(gate)], r[at(gate)]);
        Bounded(1.0 / (1.0 + (-(a.0 + r.0)).exp()), (a.1 + r.1) / 4.0 + GATE_ERROR)
    };
    let tanh = |x: Bounded| Bounded(x.0.tanh(), x.1 + GATE_ERROR);
    // |xy - x'y'| <= |x - x'| |y| + |x'| |y - y'|.
    let times = |x: Bounded, y: Bounded| Bounded(x.0 * y.0, x.1 * y.0.abs() + (x.0.abs() + x.1) * y.1);
    let plus = |x: Bounded, y: Bounded| Bounded(x.0 + y.0, x.1 + y.1 + 1e-6);
    if s.gates == 4 {
        let g = tanh(plus(a[at(2)], r[at(2)]));
        let c = plus(times(sigmoid(1), c), times(sigmoid(0), g));
        return (times(sigmoid(3), tanh(c)), c);
    }
    let z = sigmoid(1);
    let n = tanh(plus(a[at(2)], times(sigmoid(0), r[at(2)])));
    (plus(times(Bounded(1.0 - z.0, z.1), n), times(z, h)), c)
}

fn recurrent(gates: usize) -> Result<(), Error> {
    for kernel in kernels() {
        // The same draws for each kernel: the bound of `useful` fits these, and CPUs differ in how many kernels they have.
        let mut random = Random(gates as u64);
        for (inputs, hidden, layers, directions, steps, batch, biases, tensor) in [
            (1, 1, 1, 1, 1, 1, true, false),
            (7, 5, 1, 1, 4, 3, true, false),
            (4, 16, 2, 1, 3, 1, false, false),
            (9, 19, 1, 2, 3, 2, true, false),
            (6, 33, 3, 2, 2, 2, true, false),
            (40, 8, 2, 2, 3, 5, true, true),
        ] {
            let s = Shape { gates, hidden, layers, directions, steps, batch };
            let params: Vec<Params> = (0..layers * directions)
                .map(|i| {
                    let inputs = if i < directions { inputs } else { directions * hidden };
                    Params::random(&mut random, gates, inputs, hidden, biases)
                })
                .collect();
            let views: Vec<_> = params.iter().map(|p| p.view(gates, hidden)).collect();
            let (rows, width) = (steps * batch, directions * hidden);
            let x = reals(&mut random, rows * inputs, 2.0);
            let state = layers * directions * batch * hidden;
            let (h0, c0) = (reals(&mut random, state, 0.9), reals(&mut random, state, 1.5));
            let mut config = Config::default().kernel(kernel);
            if tensor {
                config = config.per_tensor_activations().per_tensor_weights();
            }

            let (mut h, mut c, mut y) = (h0.clone(), c0.clone(), vec![0.0; rows * width]);
            let view = MatRef::row_major(&x, rows, inputs)?;
            let out = MatMut::row_major(&mut y, rows, width)?;
            if gates == 4 {
                let layer = Lstm::with_config(&views, directions == 2, config)?;
                assert_eq!((layer.outputs(), layer.state_len(batch)?), (width, state));
                let mut scratch = vec![0xAA; layer.workspace_size(steps, batch)?];
                layer.forward(view, out, batch, LstmState { h: &mut h, c: &mut c }, &mut scratch)?;
            } else {
                let layer = Gru::with_config(&views, directions == 2, config)?;
                assert_eq!((layer.outputs(), layer.state_len(batch)?), (width, state));
                let mut scratch = vec![0xAA; layer.workspace_size(steps, batch)?];
                layer.forward(view, out, batch, &mut h, &mut scratch)?;
            }

            let (mut eh, mut ec) = (h0.clone(), c0.clone());
            let expected = network(
                s,
                &params,
                &x,
                0.0,
                [&mut eh, &mut ec],
                |p, hidden, x, m| {
                    let (w, b) = if hidden { (&p.w_hh, &p.b_hh) } else { (&p.w_ih, &p.b_ih) };
                    project(x, m, &quantize_weights(w, gates * s.hidden, tensor), b.as_deref(), tensor)
                },
                |a, r, unit, h, c| cell_f32(s, a, r, unit, h, c),
            );
            assert_eq!((y.clone(), h.clone(), c.clone()), (expected, eh, ec), "{kernel}: {s:?}");
            if tensor {
                continue;
            }

            let bounded = |v: &[f32]| -> Vec<_> { v.iter().map(|&v| Bounded(v.into(), 0.0)).collect() };
            let (mut bh, mut bc) = (bounded(&h0), bounded(&c0));
            let exact = network(
                s,
                &params,
                &bounded(&x),
                Bounded(0.0, 0.0),
                [&mut bh, &mut bc],
                |p, hidden, x, m| {
                    let (w, b) = if hidden { (&p.w_hh, &p.b_hh) } else { (&p.w_ih, &p.b_ih) };
                    let rows = x.chunks(x.len() / m);
                    rows.flat_map(|x| project_bounded(x, w, gates * s.hidden, b.as_deref())).collect()
                },
                |a, r, unit, h, c| cell_bounded(s, a, r, unit, h, c),
            );
            // Bounds grow with every layer; those of one layer have to be tight.
            let useful = if layers == 1 { 0.2 } else { f64::INFINITY };
            assert_within("output", &y, &exact, useful);
            assert_within("h", &h, &bh, useful);
            let largest = y.iter().zip(&exact).map(|(&y, e)| (f64::from(y) - e.0).abs()).fold(0.0, f64::max);
            assert!(largest <= 0.03, "{kernel}: {s:?}: off by {largest}");
            if gates == 4 {
                assert_within("c", &c, &bc, f64::INFINITY);
            }
        }
    }
    Ok(())
}

#[test]
fn lstm() -> Result<(), Error> {
    recurrent(4)
}

#[test]
fn gru() -> Result<(), Error> {
    recurrent(3)
}

#[test]
fn a_sequence_in_parts_is_the_same() -> Result<(), Error> {
    let mut random = Random(9);
    let (inputs, hidden, steps, batch) = (5, 6, 7, 2);
    let p = Params::random(&mut random, 4, inputs, hidden, true);
    let lstm = Lstm::new(&[p.view(4, hidden)], false)?;
    let x = reals(&mut random, steps * batch * inputs, 1.0);
    let run = |parts: &[usize]| -> Result<_, Error> {
        let (mut h, mut c) = (vec![0.0; batch * hidden], vec![0.0; batch * hidden]);
        let mut y = vec![0.0; steps * batch * hidden];
        // One workspace serves shorter sequences too; the output may have any strides.
        let mut scratch = lstm.workspace(steps, batch)?;
        let mut at = 0;
        for &part in parts {
            let rows = at * batch..(at + part) * batch;
            let x = MatRef::row_major(&x, steps * batch, inputs)?.submatrix(rows.clone(), 0..inputs)?;
            let out = MatMut::col_major(&mut y, steps * batch, hidden)?.submatrix(rows, 0..hidden)?;
            lstm.forward(x, out, batch, LstmState { h: &mut h, c: &mut c }, &mut scratch)?;
            at += part;
        }
        Ok((y, h, c))
    };
    let whole = run(&[steps])?;
    assert_eq!(whole, run(&[1, 0, 4, 2])?);
    assert_eq!(whole, run(&[1; 7])?);
    Ok(())
}

#[test]
fn recurrent_errors() -> Result<(), Error> {
    let mut random = Random(10);
    let (inputs, hidden, steps, batch) = (5, 6, 3, 2);
    let p = Params::random(&mut random, 4, inputs, hidden, true);
    let second = Params::random(&mut random, 4, hidden, hidden, true);
    let view = p.view(4, hidden);
    let lstm = Lstm::new(&[view, second.view(4, hidden)], false)?;

    // More than there is memory, or than a size can say.
    assert!(matches!(lstm.workspace(usize::MAX >> 8, batch), Err(Error::SizeOverflow { .. })));
    assert!(matches!(Lstm::new(&[], false), Err(Error::Zero { .. })));
    assert!(matches!(Lstm::new(&[view], true), Err(Error::Shape { .. })));
    assert!(matches!(Lstm::new(&[view, view], false), Err(Error::Shape { .. })));
    assert!(matches!(Gru::new(&[view], false), Err(Error::Shape { .. })));
    let empty = RecurrentWeights {
        input: MatRef::row_major(&[], 0, inputs)?,
        hidden: MatRef::row_major(&[], 0, 0)?,
        input_bias: None,
        hidden_bias: None,
    };
    assert!(matches!(Lstm::new(&[empty], false), Err(Error::Zero { .. })));
    let short_bias = RecurrentWeights { input_bias: Some(&[0.0; 3]), ..view };
    assert!(matches!(Lstm::new(&[short_bias], false), Err(Error::Length { .. })));
    let mut nan = p.w_hh.clone();
    nan[7] = f32::NAN;
    let nan = RecurrentWeights { hidden: MatRef::row_major(&nan, 4 * hidden, hidden)?, ..view };
    assert!(matches!(Lstm::new(&[nan], false), Err(Error::NonFinite { index: 7, .. })));

    let rows = steps * batch;
    let len = lstm.state_len(batch)?;
    let x = reals(&mut random, rows * inputs, 1.0);
    let run = |x: &[f32], rows: usize, batch, h: &[f32], c: &[f32], bytes: usize| {
        let mut out = vec![7.0; rows * hidden];
        let (mut new_h, mut new_c) = (h.to_vec(), c.to_vec());
        let result = lstm.forward(
            MatRef::row_major(x, rows, x.len() / rows.max(1)).unwrap(),
            MatMut::row_major(&mut out, rows, hidden).unwrap(),
            batch,
            LstmState { h: &mut new_h, c: &mut new_c },
            &mut vec![0; bytes],
        );
        if result.is_err() {
            assert!(out.iter().all(|&y| y == 7.0), "nothing is written");
            let same = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same(h, &new_h) && same(c, &new_c), "nothing is written");
        }
        result
    };
    let bytes = lstm.workspace_size(steps, batch)?;
    let state = vec![0.5; len];
    run(&x, rows, batch, &state, &state, bytes)?;
    let short = run(&x, rows, batch, &state, &state, bytes - 1);
    assert!(matches!(short, Err(Error::BufferTooSmall { .. })));
    let odd = run(&x[..5 * inputs], 5, batch, &state, &state, bytes);
    assert!(matches!(odd, Err(Error::Shape { .. })));
    let no_batch = run(&x, rows, 0, &[], &[], bytes);
    assert!(matches!(no_batch, Err(Error::Shape { .. })));
    assert!(matches!(run(&x, rows, batch, &state[1..], &state, bytes), Err(Error::Length { .. })));
    assert!(matches!(run(&x, rows, batch, &state, &state[1..], bytes), Err(Error::Length { .. })));
    let narrow = run(&x[..rows * 4], rows, batch, &state, &state, bytes);
    assert!(matches!(narrow, Err(Error::Shape { .. })));
    for bad in [f32::NAN, f32::INFINITY] {
        let mut wrong = state.clone();
        wrong[3] = bad;
        let error = run(&x, rows, batch, &wrong, &state, bytes);
        assert!(matches!(error, Err(Error::NonFinite { what: "state h", index: 3, .. })));
        let error = run(&x, rows, batch, &state, &wrong, bytes);
        assert!(matches!(error, Err(Error::NonFinite { what: "state c", index: 3, .. })));
        let mut wrong = x.clone();
        wrong[rows * inputs - 1] = bad;
        let error = run(&wrong, rows, batch, &state, &state, bytes);
        assert!(matches!(error, Err(Error::NonFinite { .. })));
    }
    assert!(lstm.workspace_size(usize::MAX, 2).is_err() && lstm.state_len(usize::MAX).is_err());
    Ok(())
}

#[test]
fn embedding() -> Result<(), Error> {
    let mut random = Random(11);
    for kernel in kernels() {
        for (rows, features) in [(1, 1), (5, 7), (3, 64), (4, 515)] {
            for (bits, largest) in [(8, 127.0f32), (4, 7.0)] {
                let table = reals(&mut random, rows * features, 2.0);
                let config = Config::default().kernel(kernel);
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
    assert!(matches!(Embedding::with_config(view, 5, Config::default()), Err(Error::Bits { bits: 5 })));
    let nan = [0.0, 1.0, f32::NAN, 0.0];
    let error = Embedding::new(MatRef::row_major(&nan, 2, 2)?);
    assert!(matches!(error, Err(Error::NonFinite { index: 2, .. })));
    Ok(())
}
