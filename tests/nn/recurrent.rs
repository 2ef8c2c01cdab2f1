//! LSTM and GRU: several layers, both directions, sequences in parts.

use crate::*;

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
        RecurrentWeights::new(
            MatRef::row_major(&self.w_ih, gates * hidden, self.inputs).unwrap(),
            MatRef::row_major(&self.w_hh, gates * hidden, hidden).unwrap(),
        )
        .biases(self.b_ih.as_deref(), self.b_hh.as_deref())
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
            let mut config = DynamicConfig::default().kernel(kernel);
            if tensor {
                config = config.per_tensor_activations().per_tensor_weights();
            }

            let (mut h, mut c, mut y) = (h0.clone(), c0.clone(), vec![0.0; rows * width]);
            let view = MatRef::row_major(&x, rows, inputs)?;
            let out = MatMut::row_major(&mut y, rows, width)?;
            if gates == 4 {
                let layer = Lstm::with_config(&views, directions == 2, config)?;
                assert_eq!((layer.outputs(), layer.state_len(batch)?), (width, state));
                let mut scratch = vec![0xAA; layer.workspace_size((steps, batch))?];
                layer.forward(
                    Sequence::new(view, batch)?,
                    (out, LstmState { h: &mut h, c: &mut c }),
                    &mut scratch,
                )?;
            } else {
                let layer = Gru::with_config(&views, directions == 2, config)?;
                assert_eq!((layer.outputs(), layer.state_len(batch)?), (width, state));
                let mut scratch = vec![0xAA; layer.workspace_size((steps, batch))?];
                layer.forward(Sequence::new(view, batch)?, (out, &mut h), &mut scratch)?;
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
        let mut scratch = lstm.workspace((steps, batch))?;
        let mut at = 0;
        for &part in parts {
            let rows = at * batch..(at + part) * batch;
            let x = MatRef::row_major(&x, steps * batch, inputs)?.submatrix(rows.clone(), 0..inputs)?;
            let out = MatMut::col_major(&mut y, steps * batch, hidden)?.submatrix(rows, 0..hidden)?;
            lstm.forward(Sequence::new(x, batch)?, (out, LstmState { h: &mut h, c: &mut c }), &mut scratch)?;
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
    assert!(matches!(lstm.workspace((usize::MAX >> 8, batch)), Err(Error::SizeOverflow { .. })));
    assert!(matches!(Lstm::new(&[], false), Err(Error::Zero { .. })));
    assert!(matches!(Lstm::new(&[view], true), Err(Error::Shape { .. })));
    assert!(matches!(Lstm::new(&[view, view], false), Err(Error::Shape { .. })));
    assert!(matches!(Gru::new(&[view], false), Err(Error::Shape { .. })));
    let empty = RecurrentWeights::new(MatRef::row_major(&[], 0, inputs)?, MatRef::row_major(&[], 0, 0)?);
    assert!(matches!(Lstm::new(&[empty], false), Err(Error::Zero { .. })));
    let short_bias = view.biases(Some(&[0.0; 3]), None);
    assert!(matches!(Lstm::new(&[short_bias], false), Err(Error::Length { .. })));
    let mut nan = p.w_hh.clone();
    nan[7] = f32::NAN;
    let nan = RecurrentWeights::new(view.input, MatRef::row_major(&nan, 4 * hidden, hidden)?);
    assert!(matches!(Lstm::new(&[nan], false), Err(Error::NonFinite { index: 7, .. })));

    let rows = steps * batch;
    let len = lstm.state_len(batch)?;
    let x = reals(&mut random, rows * inputs, 1.0);
    let run = |x: &[f32], rows: usize, batch, h: &[f32], c: &[f32], bytes: usize| {
        let mut out = vec![7.0; rows * hidden];
        let (mut new_h, mut new_c) = (h.to_vec(), c.to_vec());
        let result = lstm.forward(
            Sequence::new(MatRef::row_major(x, rows, x.len() / rows.max(1)).unwrap(), batch)?,
            (MatMut::row_major(&mut out, rows, hidden).unwrap(), LstmState { h: &mut new_h, c: &mut new_c }),
            &mut vec![0; bytes],
        );
        if result.is_err() {
            assert!(out.iter().all(|&y| y == 7.0), "nothing is written");
            let same = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same(h, &new_h) && same(c, &new_c), "nothing is written");
        }
        result
    };
    let bytes = lstm.workspace_size((steps, batch))?;
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
    assert!(lstm.workspace_size((usize::MAX, 2)).is_err() && lstm.state_len(usize::MAX).is_err());
    Ok(())
}
