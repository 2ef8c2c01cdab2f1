//! Weights of any magnitude keep their bits: what 8 bits keep of 256 weights near 1 they keep of the same weights near 1e-30, at
//! every door where scales come from data. (One file, though a long one: the doors share their weights and their measure.)

mod common;

use common::{Random, kernels};
use i8gemm::{
    Error, MatMut, MatRef, Operand,
    nn::{
        Activation, Conv2d, DepthwiseConv2d, DynamicConfig, Embedding, Filters, Gru, Images, Layer, Linear,
        Lstm, LstmState, Network, NetworkConfig, Nhwc, Node, NodeParams, RecurrentWeights, Sequence,
        StaticConfig, StaticLinear, Weights, Window,
    },
    quant::{
        Calibrator, Codebook, Grouping, Histogram, Interval, Levels, MinMax, MovingAverage, NonFinite,
        Observer, ParamList, PerChannel, QParams, Quantizer, Scheme, Ternary, binary_weights,
        fake::{FakeQuantizer, lsq_scale},
        ternary_weights,
    },
};

/// Output channels, and weights of each.
const N: usize = 16;
const K: usize = 16;

const MAGNITUDES: [f32; 9] = [1e-2, 1e-4, 1e-6, 1e-7, 1e-8, 1e-12, 1e-20, 1e-26, 1e-30];

const SCHEMES: [Scheme; 2] = [Scheme::Affine, Scheme::Symmetric];

/// Weights near 1, half of them negative.
fn weights() -> Vec<f32> {
    let mut random = Random(20);
    (0..N * K).map(|_| random.range(-1_000_000, 1_000_000) as f32 * 1e-6).collect()
}

/// Signal to quantization noise in dB.
fn sqnr(exact: &[f32], actual: &[f32]) -> f64 {
    assert_eq!(exact.len(), actual.len());
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
    let signal = squares(&mut exact.iter().map(|&x| x.into()));
    let noise = squares(&mut exact.iter().zip(actual).map(|(&x, &y)| f64::from(x) - f64::from(y)));
    10.0 * (signal / noise).log10()
}

/// `kept` gives back what quantization leaves of weights. At magnitude 1 that is `least` dB or more, and 0.1 dB less at most at all
/// others.
fn check(what: &str, least: f64, kept: impl Fn(&[f32]) -> Result<Vec<f32>, Error>) {
    let near_one = weights();
    let at = |magnitude: f32| {
        let weights: Vec<f32> = near_one.iter().map(|w| w * magnitude).collect();
        sqnr(&weights, &kept(&weights).unwrap_or_else(|error| panic!("{what}, {magnitude:e}: {error}")))
    };
    let best = at(1.0);
    assert!(best >= least, "{what}: {best} dB");
    for magnitude in MAGNITUDES {
        let sqnr = at(magnitude);
        assert!(sqnr >= best - 0.1, "{what}, {magnitude:e}: {sqnr} dB, near 1: {best} dB");
    }
}

/// What 8 bits leave at least; 4 bits.
const EIGHT: f64 = 45.0;
const FOUR: f64 = 20.0;

fn groupings() -> [(&'static str, Grouping); 3] {
    [
        ("per tensor", Grouping::per_tensor()),
        ("per channel", Grouping::per_channel(&[N, K], 0).unwrap()),
        ("per group", Grouping::per_group(&[N, K], 1, 8).unwrap()),
    ]
}

/// There and back with one scale.
fn through(params: QParams, weights: &[f32]) -> Vec<f32> {
    weights.iter().map(|&w| params.dequantize(params.quantize::<i8>(w))).collect()
}

fn round_trip<T: Operand>(levels: Levels, scheme: Scheme) {
    for (name, grouping) in groupings() {
        for kernel in kernels() {
            for reciprocal in [false, true] {
                let what = format!("{name}, {scheme:?}, reciprocal: {reciprocal}, {kernel}");
                check(&what, EIGHT, |weights| {
                    let params = ParamList::fit(grouping, levels, scheme, weights)?;
                    let quantizer = params.quantizer::<T>(grouping).levels(levels).kernel(kernel);
                    let quantizer = if reciprocal { quantizer.reciprocal() } else { quantizer };
                    let (mut q, mut back) = (vec![bytemuck::cast(0u8); N * K], vec![0.0; N * K]);
                    quantizer.quantize(weights, &mut q)?;
                    quantizer.dequantize(&q, &mut back)?;
                    Ok(back)
                });
            }
        }
    }
}

#[test]
fn fitted_parameters() {
    for scheme in SCHEMES {
        round_trip::<i8>(Levels::I8, scheme);
        round_trip::<u8>(Levels::U8, scheme);
    }
    round_trip::<i8>(Levels::I8.narrow(), Scheme::Symmetric);
    check("symmetric", EIGHT, |weights| {
        let most = weights.iter().fold(0.0f32, |most, w| most.max(w.abs()));
        Ok(through(QParams::symmetric(Levels::I8.narrow(), most)?, weights))
    });
    check("affine", EIGHT, |weights| {
        let Interval { min, max } = Interval::of(weights)?;
        Ok(through(QParams::affine(Levels::I8, min, max)?, weights))
    });
}

/// PyTorch's floor costs what it costs, to those who ask for it.
#[test]
fn floor_of_pytorch() -> Result<(), Error> {
    let weights: Vec<f32> = weights().iter().map(|w| w * 1e-6).collect();
    let range = Interval::of(&weights)?;
    let floored = QParams::with_eps(Levels::I8, Scheme::Affine, range, f32::EPSILON)?;
    assert_eq!(floored.scale, f32::EPSILON);
    assert!((20.0..30.0).contains(&sqnr(&weights, &through(floored, &weights))));
    let mut observer = MinMax::new();
    observer.observe(&weights)?;
    assert_eq!(observer.qparams_with_eps(Levels::I8, Scheme::Affine, f32::EPSILON)?, floored);
    let mut channels = PerChannel::new(MinMax::new(), N, K)?;
    channels.observe(&weights)?;
    let params = channels.params_with_eps(Levels::I8, Scheme::Symmetric, f32::EPSILON)?;
    assert_eq!(params.scales, [f32::EPSILON; N]);
    Ok(())
}

fn observed<O: Observer + Clone>(what: &str, least: f64, observer: &O) {
    for scheme in SCHEMES {
        check(&format!("{what}, {scheme:?}"), least, |weights| {
            let mut observer = observer.clone();
            observer.observe_batch(weights)?;
            Ok(through(observer.qparams(Levels::I8, scheme)?, weights))
        });
    }
}

fn observed_per_channel<O: Observer + Clone>(what: &str, observer: &O) {
    check(&format!("{what}, per channel"), EIGHT, |weights| {
        let mut channels = PerChannel::new(observer.clone(), N, K)?;
        channels.observe(weights)?;
        channels.end_batch();
        let (grouping, levels) = (Grouping::per_channel(&[N, K], 0)?, Levels::I8);
        let params = channels.params(levels, Scheme::Symmetric)?;
        let (mut q, mut back) = ([0i8; N * K], vec![0.0; N * K]);
        params.quantizer(grouping).quantize(weights, &mut q)?;
        params.quantizer(grouping).dequantize(&q, &mut back)?;
        Ok(back)
    });
}

#[test]
fn observers_and_calibrators() {
    observed("MinMax", EIGHT, &MinMax::new());
    observed("MinMax that ignores", EIGHT, &MinMax::new().non_finite(NonFinite::Ignore));
    observed("MovingAverage", EIGHT, &MovingAverage::default());
    observed_per_channel("MinMax", &MinMax::new());
    observed_per_channel("MovingAverage", &MovingAverage::default());
    for calibrator in Calibrator::ALL {
        // Of few and even values, what minimizes divergence clips as it pleases.
        observed(&calibrator.to_string(), 0.0, &Histogram::new(calibrator));
    }
}

/// A histogram of more values than it keeps as they are.
#[test]
fn histograms_in_bins() {
    for calibrator in [Calibrator::MinMax, Calibrator::Percentile(99.99), Calibrator::Mse] {
        check(&format!("{calibrator}, in bins"), 40.0, |weights| {
            let mut histogram = Histogram::new(calibrator);
            for _ in 0..=(1 << 16) / weights.len() {
                histogram.observe(weights)?;
            }
            Ok(through(histogram.qparams(Levels::I8, Scheme::Symmetric)?, weights))
        });
    }
}

#[test]
fn embeddings() {
    for kernel in kernels() {
        for per_tensor in [false, true] {
            for (bits, least) in [(8, EIGHT), (4, FOUR)] {
                check(&format!("Embedding, {bits} bits, {kernel}"), least, |weights| {
                    let config = DynamicConfig::default().kernel(kernel);
                    let config = if per_tensor { config.per_tensor_weights() } else { config };
                    // A row of zeros has no say in the scale of all.
                    let table = [weights, &[0.0; K]].concat();
                    let embedding =
                        Embedding::with_config(MatRef::row_major(&table, N + 1, K)?, bits, config)?;
                    let (ids, mut out) = ((0..=N as u32).collect::<Vec<_>>(), vec![1.0; (N + 1) * K]);
                    embedding.lookup(&ids, MatMut::row_major(&mut out, N + 1, K)?)?;
                    assert_eq!(out.split_off(N * K), [0.0; K]);
                    Ok(out)
                });
            }
        }
    }
}

/// Rows that pick one weight of each output channel.
fn picks<T: Copy>(zero: T, one: T) -> Vec<T> {
    (0..K * K).map(|i| if i / K == i % K { one } else { zero }).collect()
}

fn transposed(values: &[f32]) -> Vec<f32> {
    (0..N * K).map(|i| values[i % K * N + i / K]).collect()
}

#[test]
fn dynamic_layers() {
    for kernel in kernels() {
        let per_channel = DynamicConfig::default().kernel(kernel);
        for (name, config) in [("per channel", per_channel), ("per tensor", per_channel.per_tensor_weights())]
        {
            check(&format!("Linear, {name}, {kernel}"), EIGHT, |weights| {
                let linear = Linear::with_config(MatRef::row_major(weights, N, K)?, None, config)?;
                let (x, mut y) = (picks(0.0, 1.0), [0.0; N * K]);
                let out = MatMut::row_major(&mut y, K, N)?;
                linear.apply(MatRef::row_major(&x, K, K)?, out)?;
                Ok(transposed(&y))
            });
            // The weights are those of the gate that tanh belongs to, a hundredth of them, where tanh is a line. The other gates
            // have weights of 0 and are half open: from a state of 0 the output is a quarter of the gate's sum, a GRU's half of it.
            let gates = |weights: &[f32], count: usize, at: usize| {
                let mut all = vec![0.0; count * N * K];
                all[at * N * K..][..N * K].copy_from_slice(weights);
                all
            };
            check(&format!("Lstm, {name}, {kernel}"), EIGHT, |weights| {
                let real: Vec<f32> = weights.iter().map(|w| w * 0.01).collect();
                let (input, hidden) = (gates(&real, 4, 2), vec![0.0; 4 * N * N]);
                let weights = RecurrentWeights::new(
                    MatRef::row_major(&input, 4 * N, K)?,
                    MatRef::row_major(&hidden, 4 * N, N)?,
                );
                let lstm = Lstm::with_config(&[weights], false, config)?;
                let (x, mut y) = (picks(0.0, 1.0), [0.0; N * K]);
                let (mut h, mut c) = ([0.0; N * K], [0.0; N * K]);
                let (state, out) = (LstmState { h: &mut h, c: &mut c }, MatMut::row_major(&mut y, K, N)?);
                let mut scratch = lstm.workspace((1, K))?;
                lstm.forward(Sequence::new(MatRef::row_major(&x, K, K)?, K)?, (out, state), &mut scratch)?;
                Ok(transposed(&y.map(|h| 100.0 * 4.0 * h)))
            });
            check(&format!("Gru, {name}, {kernel}"), EIGHT, |weights| {
                let real: Vec<f32> = weights.iter().map(|w| w * 0.01).collect();
                let (input, hidden) = (gates(&real, 3, 2), vec![0.0; 3 * N * N]);
                let weights = RecurrentWeights::new(
                    MatRef::row_major(&input, 3 * N, K)?,
                    MatRef::row_major(&hidden, 3 * N, N)?,
                );
                let gru = Gru::with_config(&[weights], false, config)?;
                let (x, mut y, mut h) = (picks(0.0, 1.0), [0.0; N * K], [0.0; N * K]);
                let out = MatMut::row_major(&mut y, K, N)?;
                gru.apply(Sequence::new(MatRef::row_major(&x, K, K)?, K)?, (out, &mut h))?;
                Ok(transposed(&y.map(|h| 100.0 * 2.0 * h)))
            });
        }
    }
}

const UNIT: QParams = QParams { scale: 1.0, zero_point: 0 };

/// An 8-bit output that holds the weights.
fn output(weights: &[f32]) -> Result<QParams, Error> {
    let most = weights.iter().fold(0.0f32, |most, w| most.max(w.abs()));
    QParams::symmetric(Levels::I8.narrow(), most)
}

#[test]
fn static_layers() {
    let pixels = Window::new(4, 4);
    let (dense, depthwise) = (Filters::new(1, N, pixels), Filters::depthwise(N, pixels));
    for kernel in kernels() {
        for per_tensor in [false, true] {
            let what = |layer: &str| format!("{layer}, per tensor: {per_tensor}, {kernel}");
            let real = StaticConfig::<f32>::real(UNIT).kernel(kernel);
            let real = if per_tensor { real.per_tensor_weights() } else { real };
            let bytes = |weights: &[f32]| -> Result<StaticConfig<i8>, Error> {
                let bytes = StaticConfig::new(UNIT, output(weights)?).kernel(kernel);
                Ok(if per_tensor { bytes.per_tensor_weights() } else { bytes })
            };
            let x = picks(0u8, 1);
            let rows = MatRef::row_major(&x, K, K).unwrap();
            check(&what("StaticLinear to f32"), EIGHT, |weights| {
                let linear = StaticLinear::<u8, f32>::new(MatRef::row_major(weights, N, K)?, None, real)?;
                let mut y = [0.0; N * K];
                linear.apply(rows, MatMut::row_major(&mut y, K, N)?)?;
                Ok(transposed(&y))
            });
            check(&what("StaticLinear to i8"), 40.0, |weights| {
                let matrix = MatRef::row_major(weights, N, K)?;
                let linear = StaticLinear::<u8, i8>::new(matrix, None, bytes(weights)?)?;
                let mut y = [0i8; N * K];
                linear.apply(rows, MatMut::row_major(&mut y, K, N)?)?;
                let params = output(weights)?;
                Ok(transposed(&y.map(|q| params.dequantize(q))))
            });
            // K images, of which each shows one pixel.
            let image = Nhwc::new(K, 4, 4, 1);
            check(&what("Conv2d to f32"), EIGHT, |weights| {
                let conv = Conv2d::<u8, f32>::new(dense, weights, None, real)?;
                let mut y = [0.0; N * K];
                conv.apply(Images::new(&x, image)?, &mut y)?;
                Ok(transposed(&y))
            });
            check(&what("Conv2d to i8"), 40.0, |weights| {
                let conv = Conv2d::<u8, i8>::new(dense, weights, None, bytes(weights)?)?;
                let mut y = [0i8; N * K];
                conv.apply(Images::new(&x, image)?, &mut y)?;
                let params = output(weights)?;
                Ok(transposed(&y.map(|q| params.dequantize(q))))
            });
            let image = Nhwc::new(K, 4, 4, N);
            let x: Vec<u8> = x.iter().flat_map(|&pixel| [pixel; N]).collect();
            check(&what("DepthwiseConv2d to f32"), EIGHT, |weights| {
                let conv = DepthwiseConv2d::<u8, f32>::new(depthwise, weights, None, real)?;
                let mut y = [0.0; N * K];
                conv.apply(Images::new(&x, image)?, &mut y)?;
                Ok(transposed(&y))
            });
            check(&what("DepthwiseConv2d to i8"), 40.0, |weights| {
                let conv = DepthwiseConv2d::<u8, i8>::new(depthwise, weights, None, bytes(weights)?)?;
                let mut y = [0i8; N * K];
                conv.apply(Images::new(&x, image)?, &mut y)?;
                let params = output(weights)?;
                Ok(transposed(&y.map(|q| params.dequantize(q))))
            });
        }
    }
}

/// Weights, and the activations between layers: all that calibration finds.
#[test]
fn networks() {
    let identity = picks(0.0f32, 1.0);
    for kernel in kernels() {
        for per_tensor in [false, true] {
            let config = NetworkConfig::default().kernel(kernel);
            let config = if per_tensor { config.per_tensor_weights() } else { config };
            check(&format!("Network::convert, {kernel}"), EIGHT, |weights| {
                let mut net = Network::new(1, 1, K)?;
                net.linear(Node::INPUT, N, Weights::new(weights), Activation::None)?;
                let params = vec![NodeParams::new(UNIT); 2];
                let quantized = net.convert(&params, config)?;
                let mut y = [0.0; N * K];
                quantized.apply(&identity, &mut y)?;
                Ok(transposed(&y))
            });
            check(&format!("Calibration::convert, {kernel}"), 40.0, |weights| {
                let mut net = Network::new(1, 1, K)?;
                let filters = Filters::new(K, N, Window::new(1, 1));
                let between = net.conv2d(Node::INPUT, filters, Weights::new(weights), Activation::None)?;
                net.linear(between, N, Weights::new(&identity), Activation::None)?;
                let mut calibration = net.calibrate(&MinMax::new())?;
                calibration.observe(&identity)?;
                let quantized = calibration.convert(config)?;
                let mut y = [0.0; N * K];
                quantized.apply(&identity, &mut y)?;
                Ok(transposed(&y))
            });
        }
    }
}

#[test]
fn training() {
    let levels = Levels::I8.narrow();
    for (name, grouping) in groupings() {
        for reciprocal in [false, true] {
            check(&format!("fake-quantized, {name}, reciprocal: {reciprocal}"), EIGHT, |weights| {
                let params = ParamList::fit(grouping, levels, Scheme::Symmetric, weights)?;
                let quantizer =
                    FakeQuantizer::new(grouping, &params.scales, &params.zero_points).levels(levels);
                let quantizer = if reciprocal { quantizer.reciprocal() } else { quantizer };
                let (mut y, mut mask) = (vec![0.0; N * K], [0; N * K / 8]);
                quantizer.forward(weights, &mut y, &mut mask)?;
                Ok(y)
            });
        }
    }
    check("LSQ's first scale", 20.0, |weights| {
        let params = QParams { scale: lsq_scale(weights, levels)?, zero_point: 0 };
        Ok(through(params, weights))
    });
}

#[test]
fn low_bit_weights() {
    for (name, grouping) in groupings() {
        check(&format!("NF4, {name}"), 15.0, |weights| {
            let scales = Codebook::scales(grouping, weights)?;
            let (mut codes, mut back) = ([0; N * K / 2], vec![0.0; N * K]);
            Codebook::NF4.quantize(grouping, &scales, weights, &mut codes)?;
            Codebook::NF4.dequantize(grouping, &scales, &codes, &mut back)?;
            Ok(back)
        });
    }
    check("a fitted table", FOUR, |weights| {
        let table = Codebook::fit(weights)?;
        Ok(weights.iter().map(|&w| table.entries()[usize::from(table.code(w))]).collect())
    });
    let scaled = |scale: f32, codes: &[i8]| codes.iter().map(|&q| scale * f32::from(q)).collect();
    check("binary", 4.0, |weights| {
        let mut signs = [0; N * K];
        Ok(scaled(binary_weights(weights, &mut signs)?, &signs))
    });
    for rule in [Ternary::Twn, Ternary::AbsMean] {
        check(&format!("{rule:?}"), 6.0, |weights| {
            let mut codes = [0; N * K];
            Ok(scaled(ternary_weights(rule, weights, &mut codes)?, &codes))
        });
    }
    for bits in [2, 3, 4, 5, 6, 7] {
        check(&format!("{bits} bits"), 3.0, |weights| {
            let levels = Levels::signed(bits).unwrap();
            let params = QParams::new(levels, Scheme::Affine, Interval::of(weights)?)?;
            let (mut q, mut back) = ([0i8; N * K], vec![0.0; N * K]);
            let quantizer = Quantizer::per_tensor(params).levels(levels);
            quantizer.quantize(weights, &mut q)?;
            quantizer.dequantize(&q, &mut back)?;
            Ok(back)
        });
    }
}

/// Where no normal f32 fits, scales are 1, at every door.
#[test]
fn scales_below_the_normal_f32() -> Result<(), Error> {
    let pairs = Grouping::per_group(&[6], 0, 2)?;
    let least = 127.0 * f32::MIN_POSITIVE;
    let weights = [1e-40, -1e-39, 0.0, -0.0, least, -least];
    let params = ParamList::fit(pairs, Levels::I8.narrow(), Scheme::Symmetric, &weights)?;
    assert_eq!(params.scales, [1.0, 1.0, f32::MIN_POSITIVE]);
    assert_eq!(Codebook::scales(pairs, &weights)?, [1.0, 1.0, least]);
    assert_eq!(lsq_scale(&weights[..2], Levels::I8)?, 1.0);
    Ok(())
}

/// The product of two scales may leave f32 where its quotient by a third does not.
#[test]
fn scales_that_underflow_on_the_way() -> Result<(), Error> {
    const LONG: usize = 10_000;
    let (x, weights) = ([127i8; LONG], [127i8; LONG]);
    let output = QParams { scale: 1.2e-38, zero_point: 0 };
    let input = QParams { scale: 1e-22, zero_point: 0 };
    for kernel in kernels() {
        let run = |weight_scale: f32, output: QParams| -> Result<i8, Error> {
            let config = StaticConfig::<i8>::new(input, output).kernel(kernel);
            let matrix = MatRef::row_major(&weights, 1, LONG)?;
            let linear = StaticLinear::<i8, i8>::from_quantized(matrix, weight_scale, None, config)?;
            let mut y = [0];
            let out = MatMut::row_major(&mut y, 1, 1)?;
            linear.apply(MatRef::row_major(&x, 1, LONG)?, out)?;
            Ok(y[0])
        };
        // 127 * 127 * 10,000 * 4.9e-45 / 1.2e-38 is 65.9; the nearest f32 to 4.9e-45 is 4.2e-45.
        assert_eq!(run(4.9e-23, output)?, 66, "{kernel}");
        // 1e-46 is 0 in f32.
        assert_eq!(run(1e-24, output)?, 1, "{kernel}");
        // What is nothing in steps of the output has no scale.
        let error = run(1e-24, UNIT);
        assert!(
            matches!(error, Err(Error::Scale { what: "output scale", index: 0, value: 0.0 })),
            "{kernel}"
        );
    }
    Ok(())
}

/// What the documentation says of two scales whose product nears the end of f32: a layer keeps its bits down to magnitudes of 1e-16
/// on both sides.
#[test]
fn dynamic_scales_near_the_end_of_f32() -> Result<(), Error> {
    let (x, mut y) = ([1e-16f32; K], [0.0; N]);
    for kernel in kernels() {
        let weights = weights().iter().map(|w| w * 1e-16).collect::<Vec<_>>();
        let matrix = MatRef::row_major(&weights, N, K)?;
        let linear = Linear::with_config(matrix, None, DynamicConfig::default().kernel(kernel))?;
        let out = MatMut::row_major(&mut y, 1, N)?;
        linear.apply(MatRef::row_major(&x, 1, K)?, out)?;
        let sum = |row: &[f32]| (row.iter().map(|&w| f64::from(w)).sum::<f64>() * 1e-16) as f32;
        let exact: Vec<f32> = weights.chunks(K).map(sum).collect();
        assert!(sqnr(&exact, &y) > 40.0, "{kernel}: {} dB", sqnr(&exact, &y));
    }
    Ok(())
}

/// A layer made of real weights takes any: a channel that could not move the output by anything, in weights next to nothing, is one
/// of zeros.
#[test]
fn channels_next_to_nothing() -> Result<(), Error> {
    let (input, output) = (QParams { scale: 1e-9, zero_point: 0 }, QParams { scale: 1e3, zero_point: 0 });
    let weights = [1e-35, 3e-36, 1e12, 5e11];
    for kernel in kernels() {
        for bias in [None, Some(&[2000.0, 1000.0][..])] {
            let config = StaticConfig::<i8>::new(input, output).kernel(kernel);
            let linear = StaticLinear::<i8, i8>::new(MatRef::row_major(&weights, 2, 2)?, bias, config)?;
            let mut y = [99; 2];
            let out = MatMut::row_major(&mut y, 1, 2)?;
            linear.apply(MatRef::row_major(&[100, -100], 1, 2)?, out)?;
            // 100e-9 * 5e11 is 50,000.
            assert_eq!(y, if bias.is_none() { [0, 50] } else { [2, 51] }, "{kernel}");
        }
    }
    Ok(())
}
