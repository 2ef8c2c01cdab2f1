//! Whole networks: f32 against plain f64, integers against a composition of the reference's functions, bit for bit, and what
//! calibration, conversion and reports promise.

mod common;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use common::{Random, kernels};
use i8gemm::{
    Error, Lhs, MatMut, MatRef, Output, OutputElement, Rhs,
    nn::{
        Activation, BatchNorm, Filters, Network, NetworkConfig, Nhwc, Node, NodeParams, QuantizedNetwork,
        Weights, Window,
    },
    quant::{Calibrator, Histogram, Levels, MinMax, MovingAverage, NonFinite, Observer, QParams, Rounding},
    reference,
};

/// The system's allocator, which counts the calls of each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Size, stride and padding of a square window.
#[derive(Clone, Copy)]
struct Square(usize, usize, usize);

impl Square {
    fn window(self) -> Window {
        Window::new(self.0, self.0).stride(self.1, self.1).padding(self.2, self.2)
    }

    fn places(self, len: usize) -> usize {
        (len + 2 * self.2 - self.0) / self.1 + 1
    }
}

/// A layer as the tests see it, for three interpreters: the crate's builder, plain f64, and the reference in integers.
enum Kind {
    Conv { outputs: usize, groups: usize, square: Square },
    Linear { outputs: usize },
    Add,
    Average { square: Square, include: bool },
    Global,
    Max { square: Square },
    Flatten,
}

struct Layer {
    kind: Kind,
    inputs: [usize; 2],
    activation: Activation,
    weights: Vec<f32>,
    bias: Vec<f32>,
    /// Mean, variance, gamma, beta.
    norm: Option<[Vec<f32>; 4]>,
}

fn reals(random: &mut Random, len: usize, magnitude: f32) -> Vec<f32> {
    (0..len).map(|_| random.range(-1_000_000, 1_000_000) as f32 * 1e-6 * magnitude).collect()
}

/// Every kind of layer: a stem with batch normalization, a depthwise and a grouped branch that meet, both kinds of pool, and
/// two ends, flattened and averaged, that meet again.
fn layers(random: &mut Random) -> Vec<Layer> {
    use Activation::{None as Plain, Relu, Relu6};
    let conv = |outputs, groups, square| Kind::Conv { outputs, groups, square };
    let all: [(Kind, [usize; 2], Activation, usize); 11] = [
        (conv(4, 1, Square(3, 1, 1)), [0; 2], Relu, 3 * 9), // 1: 6 x 5 x 4
        (conv(4, 4, Square(3, 2, 1)), [1; 2], Relu6, 9),    // 2: 3 x 3 x 4
        (conv(4, 2, Square(1, 2, 0)), [1; 2], Plain, 2),    // 3: 3 x 3 x 4
        (Kind::Add, [2, 3], Relu, 0),                       // 4
        (Kind::Max { square: Square(2, 1, 1) }, [4; 2], Plain, 0), // 5: 4 x 4 x 4
        (Kind::Average { square: Square(3, 2, 1), include: false }, [5; 2], Plain, 0), // 6: 2 x 2 x 4
        (Kind::Flatten, [6; 2], Plain, 0),                  // 7: 16
        (Kind::Linear { outputs: 5 }, [7; 2], Relu6, 16),   // 8
        (Kind::Global, [5; 2], Plain, 0),                   // 9: 4, of a node that is used before
        (Kind::Linear { outputs: 5 }, [9; 2], Plain, 4),    // 10
        (Kind::Add, [10, 8], Plain, 0),                     // 11
    ];
    let mut layers: Vec<Layer> = all
        .into_iter()
        .enumerate()
        .map(|(i, (kind, inputs, activation, size))| {
            let outputs = match kind {
                Kind::Conv { outputs, .. } | Kind::Linear { outputs } => outputs,
                _ => 0,
            };
            let weights = reals(random, outputs * size, 2.0 / (size as f32).sqrt().max(1.0));
            // Layers without a bias among them.
            let bias = reals(random, if i % 3 == 2 { 0 } else { outputs }, 0.5);
            Layer { kind, inputs, activation, weights, bias, norm: None }
        })
        .collect();
    let positive = |values: Vec<f32>| values.into_iter().map(|v| v.abs() + 0.1).collect();
    layers[0].norm = Some([
        reals(random, 4, 0.5),
        positive(reals(random, 4, 1.0)),
        positive(reals(random, 4, 1.0)),
        reals(random, 4, 0.5),
    ]);
    layers.push(Layer {
        kind: Kind::Linear { outputs: 3 },
        inputs: [11; 2],
        activation: Plain,
        weights: reals(random, 15, 1.0),
        bias: reals(random, 3, 1.0),
        norm: None,
    });
    layers
}

const INPUT: Nhwc = Nhwc::new(1, 6, 5, 3);

fn build(layers: &[Layer]) -> Result<(Network, Vec<Node>), Error> {
    let mut network = Network::new(INPUT.height, INPUT.width, INPUT.channels)?;
    let mut nodes = vec![Node::INPUT];
    for layer in layers {
        let Layer { kind, inputs: [a, b], activation, weights, bias, norm } = layer;
        let (a, b, activation) = (nodes[*a], nodes[*b], *activation);
        let mut weights = Weights::new(weights);
        if !bias.is_empty() {
            weights = weights.bias(bias);
        }
        if let Some([mean, variance, gamma, beta]) = norm {
            weights = weights.batch_norm(BatchNorm { mean, variance, gamma, beta, epsilon: 1e-5 });
        }
        nodes.push(match *kind {
            Kind::Conv { outputs, groups, square } => {
                let filters =
                    Filters::new(network.shape(a)?.channels, outputs, square.window()).groups(groups);
                network.conv2d(a, filters, weights, activation)?
            }
            Kind::Linear { outputs } => network.linear(a, outputs, weights, activation)?,
            Kind::Add => network.add(a, b, activation)?,
            Kind::Average { square, include } => network.average_pool(a, square.window(), include)?,
            Kind::Global => network.global_average_pool(a)?,
            Kind::Max { square } => network.max_pool(a, square.window())?,
            Kind::Flatten => network.flatten(a)?,
        });
    }
    Ok((network, nodes))
}

/// Images of f64, one after the other.
#[derive(Clone)]
struct Image {
    shape: Nhwc,
    data: Vec<f64>,
}

impl Image {
    /// 0 outside.
    fn get(&self, n: usize, y: isize, x: isize, c: usize) -> Option<f64> {
        let Nhwc { height, width, channels, .. } = self.shape;
        let inside = (0..height as isize).contains(&y) && (0..width as isize).contains(&x);
        inside.then(|| self.data[((n * height + y as usize) * width + x as usize) * channels + c])
    }

    fn map(shape: Nhwc, of: impl Fn(usize, usize, usize, usize) -> f64) -> Self {
        let mut data = Vec::new();
        for n in 0..shape.batch {
            for y in 0..shape.height {
                for x in 0..shape.width {
                    data.extend((0..shape.channels).map(|c| of(n, y, x, c)));
                }
            }
        }
        Self { shape, data }
    }

    /// Pixels under a place of the window, with the taps they are under.
    fn taps(&self, square: Square, [n, y, x]: [usize; 3], c: usize) -> Vec<(usize, f64)> {
        let Square(size, stride, padding) = square;
        let at = |place: usize, tap: usize| (place * stride + tap) as isize - padding as isize;
        (0..size * size)
            .filter_map(|tap| Some((tap, self.get(n, at(y, tap / size), at(x, tap % size), c)?)))
            .collect()
    }

    fn pooled(&self, square: Square, channels: usize) -> Nhwc {
        let Nhwc { batch, height, width, .. } = self.shape;
        Nhwc::new(batch, square.places(height), square.places(width), channels)
    }
}

/// Every node in f64, normalization as a step of its own.
fn plain(layers: &[Layer], x: &[f32]) -> Vec<Image> {
    let batch = x.len() / INPUT.elements().unwrap();
    let data = x.iter().map(|&x| x.into()).collect();
    let mut nodes = vec![Image { shape: Nhwc { batch, ..INPUT }, data }];
    for layer in layers {
        let [a, b] = layer.inputs.map(|i| &nodes[i]);
        let weight = |i: usize| f64::from(layer.weights[i]);
        let bias = |o: usize| layer.bias.get(o).map_or(0.0, |&b| f64::from(b));
        let Nhwc { batch, height, width, channels } = a.shape;
        let mut out = match layer.kind {
            Kind::Conv { outputs, groups, square } => {
                let (depth, taps) = (channels / groups, square.0 * square.0);
                Image::map(a.pooled(square, outputs), |n, y, x, o| {
                    let first = o / (outputs / groups) * depth;
                    let sum = |c: usize| -> f64 {
                        let taps_of = a.taps(square, [n, y, x], first + c);
                        taps_of.iter().map(|&(tap, x)| x * weight((o * depth + c) * taps + tap)).sum()
                    };
                    bias(o) + (0..depth).map(sum).sum::<f64>()
                })
            }
            Kind::Linear { outputs } => Image::map(Nhwc::new(batch, 1, 1, outputs), |n, _, _, o| {
                bias(o)
                    + (0..channels).map(|c| a.data[n * channels + c] * weight(o * channels + c)).sum::<f64>()
            }),
            Kind::Add => {
                Image { shape: a.shape, data: a.data.iter().zip(&b.data).map(|(a, b)| a + b).collect() }
            }
            Kind::Average { square, include } => Image::map(a.pooled(square, channels), |n, y, x, c| {
                let taps = a.taps(square, [n, y, x], c);
                let count = if include { square.0 * square.0 } else { taps.len() };
                taps.iter().map(|(_, x)| x).sum::<f64>() / count as f64
            }),
            Kind::Global => Image::map(Nhwc::new(batch, 1, 1, channels), |n, _, _, c| {
                let pixels = (0..height * width).map(|p| a.data[(n * height * width + p) * channels + c]);
                pixels.sum::<f64>() / (height * width) as f64
            }),
            Kind::Max { square } => Image::map(a.pooled(square, channels), |n, y, x, c| {
                a.taps(square, [n, y, x], c).iter().map(|(_, x)| *x).fold(f64::NEG_INFINITY, f64::max)
            }),
            Kind::Flatten => {
                Image { shape: Nhwc::new(batch, 1, 1, height * width * channels), data: a.data.clone() }
            }
        };
        if let Some([mean, variance, gamma, beta]) = &layer.norm {
            let count = out.shape.channels;
            for (i, x) in out.data.iter_mut().enumerate() {
                let [m, v, g, b] = [mean, variance, gamma, beta].map(|p| f64::from(p[i % count]));
                *x = (*x - m) / (v + f64::from(1e-5f32)).sqrt() * g + b;
            }
        }
        let (low, high) = match layer.activation {
            Activation::None => (f64::NEG_INFINITY, f64::INFINITY),
            Activation::Relu => (0.0, f64::INFINITY),
            Activation::Relu6 => (0.0, 6.0),
        };
        out.data.iter_mut().for_each(|x| *x = x.clamp(low, high));
        nodes.push(out);
    }
    nodes
}

#[test]
fn f32_is_the_network_that_was_described() -> Result<(), Error> {
    let mut random = Random(11);
    let layers = layers(&mut random);
    let (network, nodes) = build(&layers)?;
    let x = reals(&mut random, 3 * network.inputs(), 1.5);
    let (actual, expected) = (network.activations(&x)?, plain(&layers, &x));
    assert_eq!((actual.len(), network.nodes().len(), network.outputs()), (nodes.len(), nodes.len(), 3));
    for (node, (actual, expected)) in nodes.iter().zip(actual.iter().zip(&expected)) {
        assert_eq!(Nhwc { batch: 3, ..network.shape(*node)? }, expected.shape);
        assert_eq!(actual.len(), expected.data.len());
        for (a, e) in actual.iter().zip(&expected.data) {
            assert!(
                (f64::from(*a) - e).abs() <= 1e-5 * (1.0 + e.abs()),
                "node {}: {a}, not {e}",
                node.index()
            );
        }
        // Activations that clamp everything, or nothing, would test little.
        let distinct = actual.iter().filter(|&&a| a != 0.0 && a != 6.0).count();
        assert!(3 * distinct > actual.len(), "node {}: {distinct} of {}", node.index(), actual.len());
    }
    assert_eq!(network.forward(&x)?, actual[nodes.len() - 1]);
    assert_eq!(network.forward(&[])?, []);
    Ok(())
}

/// Every node in integers, by the reference's functions alone; the last one's sums as reals.
struct Reference<'a> {
    layers: &'a [Layer],
    params: &'a [NodeParams],
    levels: Levels,
    per_tensor: bool,
}

impl Reference<'_> {
    fn run(&self, x: &[f32]) -> (Vec<Vec<u8>>, Vec<f32>) {
        let batch = x.len() / INPUT.elements().unwrap();
        let mut shapes = vec![Nhwc { batch, ..INPUT }];
        let mut params = vec![self.params[0].output];
        let quantize =
            |&x: &f32| reference::quantize(x, params[0], Levels::U8, Rounding::HalfEven, false, 0) as u8;
        let mut nodes: Vec<Vec<u8>> = vec![x.iter().map(quantize).collect()];
        for (index, layer) in self.layers.iter().enumerate() {
            let [i, j] = layer.inputs;
            let (a, shape, of) = (&nodes[i], shapes[i], params[i]);
            let to = self.params[index + 1].output;
            let low = if layer.activation == Activation::None { 0 } else { to.zero_point };
            let six = to.zero_point + (6.0 / to.scale).round_ties_even() as i32;
            let high = if layer.activation == Activation::Relu6 { six.min(255) } else { 255 };
            let window = |square: Square| square.window();
            let (mut y, mut out, mut p) = (Vec::new(), shape, to);
            let mut resize = |places: (usize, usize), channels: usize| {
                out = Nhwc::new(shape.batch, places.0, places.1, channels);
                vec![0u8; out.elements().unwrap()]
            };
            let places = |square: Square| (square.places(shape.height), square.places(shape.width));
            match layer.kind {
                Kind::Conv { outputs, groups, square } => {
                    let (w, scales, bias) = self.weights(index, outputs, of.scale);
                    let combined: Vec<f32> = scales.iter().map(|s| s / to.scale).collect();
                    let output =
                        Output::<u8>::requantize(&combined, to.zero_point).clamp(low, high).bias(&bias);
                    let filters = Filters::new(shape.channels, outputs, window(square)).groups(groups);
                    y = resize(places(square), outputs);
                    reference::conv2d(a, shape, of.zero_point, &w, &filters, &output, &mut y).unwrap();
                }
                Kind::Linear { outputs } => {
                    let (w, scales, bias) = self.weights(index, outputs, of.scale);
                    if index + 1 == self.layers.len() {
                        let output = Output::f32(&scales).bias(&bias);
                        let scores = linear(a, shape, of, &w, &output, outputs);
                        return (nodes, scores);
                    }
                    let combined: Vec<f32> = scales.iter().map(|s| s / to.scale).collect();
                    let output =
                        Output::<u8>::requantize(&combined, to.zero_point).clamp(low, high).bias(&bias);
                    resize((1, 1), outputs);
                    y = linear(a, shape, of, &w, &output, outputs);
                }
                Kind::Add => {
                    let sum = |(&a, &b): (&u8, &u8)| {
                        let inputs = [params[i], params[j]];
                        let sum = reference::add([a.into(), b.into()], inputs, to, Levels::U8);
                        sum.clamp(low, high) as u8
                    };
                    y.extend(a.iter().zip(&nodes[j]).map(sum));
                }
                Kind::Average { square, include } => {
                    y = resize(places(square), shape.channels);
                    reference::average_pool(a, shape, &window(square), include, [of, to], &mut y).unwrap();
                }
                Kind::Global => {
                    y = resize((1, 1), shape.channels);
                    let whole = Window::new(shape.height, shape.width);
                    reference::average_pool(a, shape, &whole, true, [of, to], &mut y).unwrap();
                }
                Kind::Max { square } => {
                    y = resize(places(square), shape.channels);
                    reference::max_pool(a, shape, &window(square), &mut y).unwrap();
                    p = of;
                }
                Kind::Flatten => {
                    resize((1, 1), shape.height * shape.width * shape.channels);
                    y.clone_from(a);
                    p = of;
                }
            }
            nodes.push(y);
            shapes.push(out);
            params.push(p);
        }
        unreachable!("the last layer is linear");
    }

    /// Weights, scales of the sums (input scale * weight scale), and biases in units of them, one for each output.
    fn weights(&self, index: usize, outputs: usize, input_scale: f32) -> (Vec<i8>, Vec<f32>, Vec<i32>) {
        let (mut real, mut bias) = (self.layers[index].weights.clone(), self.layers[index].bias.clone());
        bias.resize(outputs, 0.0);
        let size = real.len() / outputs;
        if let Some([mean, variance, gamma, beta]) = &self.layers[index].norm {
            for o in 0..outputs {
                let spread = (f64::from(variance[o]) + f64::from(1e-5f32)).sqrt();
                let factor = f64::from(gamma[o]) / spread;
                real[o * size..][..size].iter_mut().for_each(|w| *w = (f64::from(*w) * factor) as f32);
                bias[o] = ((f64::from(bias[o]) - f64::from(mean[o])) * factor + f64::from(beta[o])) as f32;
            }
        }
        let NodeParams { weight_scales, weight_levels, .. } = &self.params[index + 1];
        let levels = weight_levels.unwrap_or(self.levels).narrow();
        let fit = |w: &[f32]| {
            let most = w.iter().fold(0.0f32, |most, w| most.max(w.abs()));
            (most / levels.max() as f32).max(f32::EPSILON)
        };
        let scale = |o: usize| match weight_scales.as_deref() {
            Some([scale]) => *scale,
            Some(scales) => scales[o],
            None if self.per_tensor => fit(&real),
            None => fit(&real[o * size..][..size]),
        };
        let quantize = |(i, &w): (usize, &f32)| {
            let params = QParams { scale: scale(i / size), zero_point: 0 };
            reference::quantize(w, params, levels, Rounding::HalfEven, false, 0) as i8
        };
        let quantized = real.iter().enumerate().map(quantize).collect();
        let sums: Vec<f32> = (0..outputs).map(|o| input_scale * scale(o)).collect();
        let steps = |(b, s): (&f32, &f32)| (f64::from(*b) / f64::from(*s)).round_ties_even() as i32;
        let bias = bias.iter().zip(&sums).map(steps).collect();
        (quantized, sums, bias)
    }
}

fn linear<T: OutputElement>(
    x: &[u8],
    shape: Nhwc,
    params: QParams,
    w: &[i8],
    output: &Output<T>,
    outputs: usize,
) -> Vec<T> {
    let (m, k) = (shape.batch, shape.channels);
    let mut y = vec![T::from_i32(0); m * outputs];
    let lhs = Lhs::new(MatRef::row_major(x, m, k).unwrap()).zero_point(params.zero_point);
    let rhs = Rhs::new(MatRef::col_major(w, k, outputs).unwrap());
    reference::gemm(lhs, rhs, output, MatMut::row_major(&mut y, m, outputs).unwrap()).unwrap();
    y
}

fn forward(quantized: &QuantizedNetwork, x: &[f32]) -> Vec<f32> {
    let batch = x.len() / quantized.inputs();
    let mut y = vec![f32::NAN; batch * quantized.outputs()];
    let mut scratch = vec![0xA5; quantized.workspace_size(batch).unwrap()];
    let before = ALLOCATIONS.get();
    quantized.forward(x, &mut y, &mut scratch).unwrap();
    assert_eq!(ALLOCATIONS.get(), before, "forward allocates");
    y
}

fn calibrated(network: &Network, x: &[f32]) -> Vec<NodeParams> {
    let mut calibration = network.calibrate(&MinMax::new());
    calibration.observe(x).unwrap();
    calibration.params().unwrap()
}

#[test]
fn integers_are_the_reference_to_the_bit() -> Result<(), Error> {
    let mut random = Random(11);
    let layers = layers(&mut random);
    let (network, nodes) = build(&layers)?;
    let x = reals(&mut random, 3 * network.inputs(), 1.5);
    let before = ALLOCATIONS.get();
    let found = calibrated(&network, &x);
    assert!(ALLOCATIONS.get() > before, "allocations are counted");
    // What training has learned, of one kind or the other, for some of the layers.
    let mut learned = found.clone();
    learned[0].output = QParams { scale: 0.01, zero_point: 120 };
    learned[1].weight_scales = Some(vec![0.015, 0.02, 0.025, 0.03]);
    learned[2].weight_levels = Some(Levels::signed(4)?);
    learned[8].weight_scales = Some(vec![0.01]);
    learned[11].output = QParams { scale: 0.05, zero_point: 90 };

    let config = NetworkConfig::default();
    let cases = [
        (&found, config, Levels::I8, false),
        (&found, config.levels(Levels::signed(4)?).per_tensor_weights(), Levels::signed(4)?, true),
        (&found, config.levels(Levels::signed(2)?), Levels::signed(2)?, false),
        (&learned, config, Levels::I8, false),
    ];
    for (params, config, levels, per_tensor) in cases {
        let (expected, scores) = Reference { layers: &layers, params, levels, per_tensor }.run(&x);
        for kernel in kernels() {
            let quantized = network.convert(params, config.kernel(kernel))?;
            assert_eq!((quantized.kernel(), quantized.outputs()), (kernel, 3));
            assert_eq!(forward(&quantized, &x), scores, "{kernel}, {levels:?}");
            // One example at a time, and none.
            assert_eq!(forward(&quantized, &x[..network.inputs()]), scores[..3], "{kernel}");
            assert_eq!(forward(&quantized, &[]), []);
        }
        // The report is about these very integers.
        let quantized = network.convert(params, config)?;
        let report = quantized.report(&network, &x)?;
        let real = network.activations(&x)?;
        for (node, expected) in nodes.iter().zip(&expected) {
            let params = quantized.params(*node)?;
            let mut sums = (0.0, 0.0);
            for (&real, &q) in real[node.index()].iter().zip(expected) {
                let (real, q) = (f64::from(real), f64::from(params.dequantize(q)));
                sums = (sums.0 + real * real, sums.1 + (real - q) * (real - q));
            }
            let (db, layer) = (10.0 * (sums.0 / sums.1).log10(), &report.layers[node.index()]);
            assert!((layer.sqnr_db - db).abs() < 1e-6, "{db}, not {layer:?}");
            assert_eq!((layer.node, layer.shape), (*node, network.shape(*node)?));
        }
    }
    Ok(())
}

/// More bits, less noise; in every layer with weights, and in the end.
#[test]
fn reports_say_what_hurts() -> Result<(), Error> {
    let mut random = Random(12);
    let (network, nodes) = build(&layers(&mut random))?;
    let x = reals(&mut random, 16 * network.inputs(), 1.5);
    let params = calibrated(&network, &x);
    let report = |params: &[NodeParams], bits: u32| {
        let config = NetworkConfig::default().levels(Levels::signed(bits).unwrap());
        network.convert(params, config).unwrap().report(&network, &x).unwrap()
    };
    let [eight, four, two] = [8, 4, 2].map(|bits| report(&params, bits));
    println!("{eight}\n{four}\n{two}");
    for (node, layer) in nodes.iter().zip(&eight.layers) {
        if !["conv2d", "depthwise", "linear"].contains(&layer.name) {
            continue;
        }
        let at = node.index();
        let db = [&eight, &four, &two].map(|report| report.layers[at].alone_db);
        assert!(db[0] > db[1] + 6.0 && db[1] > db[2] + 3.0, "node {at}: {db:?}");
    }
    let last = nodes.len() - 1;
    let db = [&eight, &four, &two].map(|report| report.layers[last].sqnr_db);
    assert!(db[0] > 30.0 && db[0] > db[1] + 6.0 && db[1] > db[2], "{db:?}");
    // 8-bit activations: 6 dB for each bit, less what a range wider than the signal costs.
    assert!(eight.layers.iter().all(|layer| layer.alone_db > 30.0), "{eight}");
    // A layer that is made worse is the one that the report points at.
    let mut worse = params.clone();
    worse[8].weight_levels = Some(Levels::signed(2)?);
    let worse = report(&worse, 8);
    let least = worse.layers.iter().min_by(|a, b| a.alone_db.total_cmp(&b.alone_db)).unwrap();
    assert_eq!(least.node, nodes[8], "{worse}");
    // As a table: a heading, and a line for each node.
    assert_eq!(worse.to_string().lines().count(), nodes.len() + 1);
    Ok(())
}

#[test]
fn every_calibrator() -> Result<(), Error> {
    fn db(network: &Network, x: &[f32], observer: &(impl Observer + Clone)) -> Result<f64, Error> {
        let mut calibration = network.calibrate(observer);
        // A batch at a time, and the same as all at once but for who weighs batches.
        x.chunks(4 * network.inputs()).try_for_each(|batch| calibration.observe(batch))?;
        let report = calibration.convert(NetworkConfig::default())?.report(network, x)?;
        Ok(report.layers.last().unwrap().sqnr_db)
    }
    let mut random = Random(13);
    let mut network = Network::new(6, 5, 3)?;
    let (weights, scores) = (reals(&mut random, 54, 0.5), reals(&mut random, 4, 1.0));
    let filters = Filters::new(3, 2, Window::new(3, 3));
    let image = network.conv2d(Node::INPUT, filters, Weights::new(&weights), Activation::Relu)?;
    let mean = network.global_average_pool(image)?;
    network.linear(mean, 2, Weights::new(&scores), Activation::None)?;
    let x = reals(&mut random, 8 * network.inputs(), 1.5);
    let mut found = vec![db(&network, &x, &MinMax::new())?, db(&network, &x, &MovingAverage::new(0.5)?)?];
    // Those that search take their time where an emulator runs them, and only put together here what `observers.rs` tests.
    let methods = if cfg!(target_arch = "x86_64") { &Calibrator::ALL[..] } else { &Calibrator::ALL[..4] };
    for &calibrator in methods {
        found.push(db(&network, &x, &Histogram::new(calibrator))?);
    }
    println!("{found:?}");
    // TensorRT's form is for continuous data, much of it: of few values it may keep little.
    let low = |&(i, db): &(usize, f64)| db < if i == 7 { 0.0 } else { 15.0 };
    assert_eq!(found.iter().copied().enumerate().find(low), None, "{found:?}");
    assert!((found[0] - found[2]).abs() < 1e-9, "minimum and maximum, found in two ways: {found:?}");

    // Batches of any size give the same.
    let mut calibration = network.calibrate(&MinMax::new());
    x.chunks(network.inputs()).try_for_each(|example| calibration.observe(example))?;
    assert_eq!(calibration.params()?, calibrated(&network, &x));
    Ok(())
}

#[test]
fn mistakes_are_errors() -> Result<(), Error> {
    let mut random = Random(14);
    let (network, nodes) = build(&layers(&mut random))?;
    let x = reals(&mut random, 2 * network.inputs(), 1.0);

    // Building: nothing is added by a call that fails.
    let mut broken = network.clone();
    let conv = |inputs| Filters::new(inputs, 2, Window::new(3, 3));
    let none = Activation::None;
    let weights = [0.5; 54];
    let new = Weights::new;
    let shape = broken.conv2d(Node::INPUT, conv(4), new(&weights), none);
    assert!(matches!(shape, Err(Error::Shape { what: "channels of the input", expected: 4, actual: 3 })));
    assert!(matches!(
        broken.conv2d(Node::INPUT, conv(3), new(&weights[1..]), none),
        Err(Error::Length { .. })
    ));
    let bias = broken.conv2d(Node::INPUT, conv(3), new(&weights).bias(&[0.0]), none);
    assert!(matches!(bias, Err(Error::Length { what: "bias", .. })));
    let nan = broken.linear(nodes[9], 1, new(&[1.0, f32::NAN, 0.0, 0.0]), none);
    assert!(matches!(nan, Err(Error::NonFinite { what: "weight", index: 1, .. })));
    assert!(matches!(broken.linear(nodes[1], 1, new(&[1.0; 4]), none), Err(Error::Shape { .. })));
    assert!(matches!(broken.add(nodes[1], nodes[2], none), Err(Error::Shape { .. })));
    let window = Window::new(9, 1);
    assert!(matches!(broken.max_pool(nodes[1], window), Err(Error::Window { what: "rows", .. })));
    let padded = Window::new(2, 2).padding(2, 2);
    assert!(matches!(broken.average_pool(nodes[1], padded, true), Err(Error::EmptyWindow { .. })));
    let mut other = Network::new(1, 1, 1)?;
    assert!(matches!(other.flatten(nodes[3]), Err(Error::Index { what: "node", value: 3, len: 1, .. })));
    assert!(matches!(Network::new(1, 0, 1), Err(Error::Zero { what: "width" })));
    assert_eq!(broken.nodes().len(), nodes.len());

    // Observing.
    let config = NetworkConfig::default();
    let mut calibration = network.calibrate(&MinMax::new());
    assert_eq!(calibration.convert(config).unwrap_err(), Error::NothingObserved);
    assert!(matches!(calibration.observe(&x[1..]), Err(Error::Shape { .. })));
    let mut bad = x.clone();
    bad[7] = f32::NAN;
    assert!(matches!(calibration.observe(&bad), Err(Error::NonFinite { index: 7, .. })));
    assert!(calibration.observers().flatten().all(|observer| observer.observed.is_none()));
    calibration.observe(&x)?;
    let params = calibration.params()?;
    calibration.observe(&x)?;
    assert_eq!(calibration.params()?, params);
    // Finite, but not for long.
    other.linear(Node::INPUT, 1, new(&[4.0]), none)?;
    let mut loud = other.calibrate(&MinMax::new());
    assert!(matches!(loud.observe(&[3e38]), Err(Error::NonFinite { what: "output of a node", .. })));
    assert_eq!(loud.params().unwrap_err(), Error::NothingObserved);
    bad[7] = f32::INFINITY;
    network.calibrate(&MinMax::new().non_finite(NonFinite::Ignore)).observe(&bad)?;

    // Converting.
    let convert = |params: &[NodeParams]| network.convert(params, config).map(|_| ());
    assert!(matches!(convert(&params[1..]), Err(Error::Length { what: "parameters of nodes", .. })));
    let with = |node: usize, change: &dyn Fn(&mut NodeParams)| {
        let mut params = params.clone();
        change(&mut params[node]);
        convert(&params)
    };
    assert!(matches!(with(0, &|p| p.output.scale = 0.0), Err(Error::Scale { .. })));
    assert!(matches!(with(4, &|p| p.output.zero_point = 256), Err(Error::ZeroPoint { .. })));
    assert!(matches!(with(1, &|p| p.weight_scales = Some(vec![0.1; 3])), Err(Error::Length { .. })));
    assert!(matches!(with(1, &|p| p.weight_scales = Some(vec![-0.1])), Err(Error::Scale { .. })));
    assert_eq!(with(5, &|p| p.output.scale = f32::NAN), Ok(()), "a max pool has no parameters of its own");

    // Running.
    let quantized = network.convert(&params, config)?;
    let size = quantized.workspace_size(2)?;
    let (mut y, mut scratch) = ([7.0; 6], vec![0; size]);
    assert!(matches!(quantized.forward(&x[1..], &mut y, &mut scratch), Err(Error::Shape { .. })));
    assert!(matches!(quantized.forward(&x, &mut y[1..], &mut scratch), Err(Error::Shape { .. })));
    let small = quantized.forward(&x, &mut y, &mut scratch[1..]);
    assert!(matches!(small, Err(Error::BufferTooSmall { .. })));
    assert_eq!(y, [7.0; 6]);
    assert!(matches!(quantized.workspace_size(usize::MAX / 8), Err(Error::SizeOverflow { .. })));
    // No more than the two largest outputs that are alive together.
    assert!(quantized.activation_bytes(1)? <= 128 + 128 + 64, "{}", quantized.activation_bytes(1)?);
    assert!(matches!(quantized.report(&other, &x), Err(Error::Length { .. })));
    bad[7] = f32::NAN;
    assert!(matches!(quantized.report(&network, &bad), Err(Error::NonFinite { index: 7, .. })));
    Ok(())
}

/// Networks whose last node gives integers, and one of no layers at all.
#[test]
fn ends_of_every_kind() -> Result<(), Error> {
    let x: Vec<f32> = (0..12).map(|i| (i as f32 * 0.9).sin()).collect();
    let ends: [fn(&mut Network) -> Result<Node, Error>; 5] = [
        |_| Ok(Node::INPUT),
        |net| net.flatten(Node::INPUT),
        |net| net.max_pool(Node::INPUT, Window::new(2, 2)),
        |net| net.add(Node::INPUT, Node::INPUT, Activation::Relu),
        |net| {
            let flat = net.flatten(Node::INPUT)?;
            net.add(flat, flat, Activation::None)
        },
    ];
    for end in ends {
        let mut network = Network::new(2, 3, 2)?;
        end(&mut network)?;
        let quantized = network.convert(&calibrated(&network, &x), NetworkConfig::default())?;
        let expected = network.forward(&x)?;
        for (a, e) in forward(&quantized, &x).iter().zip(&expected) {
            assert!((a - e).abs() < 0.02, "{a}, not {e}");
        }
    }
    Ok(())
}
