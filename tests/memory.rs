//! A want of memory is an error and never ends the program: an allocator refuses every allocation of every function in turn.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    ptr::null_mut,
};

use i8gemm::{
    Error, Gemm, Kernel, MatMut, MatRef, Output, PackedRhs, Product, Rhs, Workspace,
    nn::{
        Activation, AveragePool, BatchNorm, Conv2d, DepthwiseConv2d, DynamicConfig, Embedding, Filters, Gru,
        Layer, Linear, Lstm, Network, NetworkConfig, Nhwc, Node, RecurrentWeights, StaticConfig,
        StaticLinear, Weights, Window,
    },
    quant::{
        Calibrator, Codebook, DynamicBuffers, DynamicQuantizer, Grouping, Histogram, Levels, MinMax,
        Observer, ParamList, PerChannel, QParams, Scheme,
    },
};

/// What is refused on this thread.
#[derive(Clone, Copy)]
enum Refuse {
    Nothing,
    /// More bytes than this.
    Above(usize),
    /// The allocation of this number, from 0.
    Nth(usize),
}

thread_local! {
    static REFUSE: Cell<Refuse> = const { Cell::new(Refuse::Nothing) };
    /// Allocations smaller than this are neither counted nor refused.
    static LEAST: Cell<usize> = const { Cell::new(0) };
    /// Allocations so far, and their bytes.
    static SEEN: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

struct Refusing;

impl Refusing {
    /// Counts an allocation.
    fn allows(size: usize) -> bool {
        if size < LEAST.get() {
            return true;
        }
        let (count, bytes) = SEEN.get();
        SEEN.set((count + 1, bytes.saturating_add(size)));
        match REFUSE.get() {
            Refuse::Nothing => true,
            Refuse::Above(limit) => size <= limit,
            Refuse::Nth(number) => count != number,
        }
    }
}

// SAFETY: the system's allocator, or null, which the trait allows.
unsafe impl GlobalAlloc for Refusing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        if Self::allows(layout.size()) { unsafe { System.alloc(layout) } } else { null_mut() }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        if Self::allows(layout.size()) { unsafe { System.alloc_zeroed(layout) } } else { null_mut() }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's.
        if Self::allows(size) { unsafe { System.realloc(ptr, layout, size) } } else { null_mut() }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Refusing = Refusing;

/// What a call gives, and how many allocations and bytes it asked for, while some are refused.
fn refusing<T>(refuse: Refuse, call: impl FnOnce() -> T) -> (T, (usize, usize)) {
    SEEN.set((0, 0));
    REFUSE.set(refuse);
    let result = call();
    REFUSE.set(Refuse::Nothing);
    (result, SEEN.get())
}

/// Calls a function that allocates once for each of its allocations, which is refused, and with all of them refused: each is an
/// error that `is_expected`.
fn every_allocation<T, E: std::fmt::Debug>(
    name: &str,
    is_expected: impl Fn(&E) -> bool,
    mut call: impl FnMut() -> Result<T, E>,
) {
    // The choice is made once for all, and would be counted.
    Kernel::best().unwrap();
    let (result, (count, bytes)) = refusing(Refuse::Nothing, &mut call);
    drop(result.unwrap_or_else(|error| panic!("{name}: {error:?}")));
    assert!(count > 0, "{name} allocates nothing");
    let failing = (0..count).map(Refuse::Nth);
    for refuse in failing.chain([Refuse::Above(0), Refuse::Above(bytes / count / 2)]) {
        let (result, _) = refusing(refuse, &mut call);
        match result {
            Err(error) => assert!(is_expected(&error), "{name}: {error:?}"),
            Ok(_) => panic!("{name}: no error where one of {count} allocations was refused"),
        }
    }
}

/// As [`every_allocation`], of functions with this crate's errors.
fn refused<T>(name: &str, call: impl FnMut() -> Result<T, Error>) {
    every_allocation(name, |error| matches!(error, Error::SizeOverflow { .. }), call);
}

fn wave(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i as f32 * 0.7).sin()).collect()
}

const HALF: QParams = QParams { scale: 0.5, zero_point: 3 };
const UNIT: QParams = QParams { scale: 1.0, zero_point: 128 };

#[test]
fn products() {
    let w: Vec<u8> = (0..70 * 21).map(|i| (i * 37) as u8).collect();
    let rhs = Rhs::new(MatRef::row_major(&w, 70, 21).unwrap()).zero_point(9);
    let x = [7u8; 3 * 70];
    refused("Workspace::with_size", || Workspace::with_size(1000));
    refused("Workspace::grow", || Workspace::default().grow(1));
    refused("PackedRhs::pack", || PackedRhs::pack(rhs));
    for kernel in Kernel::available() {
        refused("PackedRhs::pack_for", || PackedRhs::pack_for(kernel, rhs));
        let weights = PackedRhs::pack_for(kernel, rhs).unwrap();
        let scales = [0.5; 21];
        refused("Product::new", || Product::new(PackedRhs::pack_for(kernel, rhs)?, Output::f32(&scales)));
        let product = Product::new(weights.clone(), Output::i32()).unwrap();
        refused("Product::with_output", || {
            product.with_output(Output::<i8>::requantize(&scales, 0).bias(&[1; 21]))
        });
        refused("Product::workspace", || product.workspace(3));
        let gemm = Gemm::new(&weights, Output::i32()).unwrap();
        refused("Gemm::workspace", || gemm.workspace(3));
        let mut y = [0; 3 * 21];
        refused("Gemm::apply", || {
            gemm.apply(MatRef::row_major(&x, 3, 70)?, MatMut::row_major(&mut y, 3, 21)?)
        });
    }
    // A workspace that did not grow serves as before.
    let mut scratch = Workspace::with_size(100).unwrap();
    let (result, _) = refusing(Refuse::Above(1000), || scratch.grow(1 << 20));
    assert!(result.is_err() && scratch.len() >= 100);
}

#[test]
fn quantizers() {
    let x = wave(6 * 50);
    let matrix = MatRef::row_major(&x, 6, 50).unwrap();
    for quantizer in [DynamicQuantizer::per_row(), DynamicQuantizer::per_tensor()] {
        refused("DynamicQuantizer::quantize", || {
            let mut buffers = DynamicBuffers::<u8>::default();
            quantizer.quantize(matrix, &mut buffers).map(drop)
        });
        refused("DynamicQuantizer::quantize of more than before", || {
            let mut buffers = DynamicBuffers::<i8>::default();
            quantizer.quantize(matrix.submatrix(0..1, 0..3)?, &mut buffers)?;
            quantizer.quantize(matrix, &mut buffers).map(drop)
        });
    }
    let groups = Grouping::per_group(&[6, 50], 1, 10).unwrap();
    refused("ParamList::fit", || ParamList::fit(groups, Levels::I8, Scheme::Affine, &x));
    refused("Codebook::scales", || Codebook::scales(groups, &x));
    refused("Codebook::fit", || Codebook::fit(&x));
}

#[test]
fn observers() {
    let (few, many) = (wave(1000), wave(70_000));
    let observed = |values: &[f32]| {
        let mut histogram = Histogram::new(Calibrator::MinMax);
        histogram.observe(values)?;
        histogram.observe(&[0.25, 0.5])?;
        Ok(histogram)
    };
    let kinds = [observed(&few).unwrap(), observed(&many).unwrap()];
    for values in [&few, &many] {
        refused("Histogram::observe", || observed(values));
    }
    for histogram in &kinds {
        refused("Histogram::try_clone", || histogram.try_clone());
        refused("Histogram::counts", || histogram.counts(10));
        refused("Histogram::quality", || histogram.quality(HALF, Levels::U8));
        for method in Calibrator::ALL {
            // Few levels, for the search of least squared error takes as many times longer as there are more.
            let nibble = Levels::signed(4).unwrap().narrow();
            for (levels, scheme) in [(nibble, Scheme::Symmetric), (nibble, Scheme::Affine)] {
                refused("Histogram::calibrate", || histogram.calibrate(method, levels, scheme));
            }
        }
        for other in &kinds {
            refused("Histogram::merge", || {
                let mut histogram = histogram.try_clone()?;
                histogram.merge(other)
            });
        }
        refused("PerChannel", || {
            let mut channels = PerChannel::new(histogram.try_clone()?, 3, 2)?;
            channels.observe(&few[..600])?;
            let mut other = PerChannel::new(histogram.try_clone()?, 3, 2)?;
            other.merge(&channels)?;
            other.params(Levels::U8, Scheme::Affine)
        });
    }
    // What was not taken in has changed nothing.
    let mut histogram = observed(&few).unwrap();
    let before = histogram.clone();
    for values in [&few[..], &many] {
        assert!(refusing(Refuse::Above(0), || histogram.observe(values)).0.is_err());
        assert_eq!(histogram, before);
    }
}

/// Every target of a static layer, with biases of every kind.
fn static_layers<T>(name: &str, mut make: impl FnMut(usize, Option<&[f32]>) -> Result<T, Error>) {
    let bias = wave(8);
    for target in 0..4 {
        refused(name, || make(target, None));
        refused(name, || make(target, Some(&bias)));
    }
}

#[test]
fn layers() {
    let (w, bias) = (wave(8 * 9), wave(8));
    let matrix = MatRef::row_major(&w, 8, 9).unwrap();
    for config in
        [DynamicConfig::default(), DynamicConfig::default().per_tensor_weights().per_tensor_activations()]
    {
        refused("Linear::with_config", || {
            let linear = Linear::with_config(matrix, Some(&bias), config)?;
            linear.workspace(2)
        });
        for bits in [4, 8] {
            refused("Embedding::with_config", || Embedding::with_config(matrix, bits, config));
            let none = MatRef::row_major(&[], 8, 0).unwrap();
            refused("Embedding::with_config of no features", || Embedding::with_config(none, bits, config));
        }
        let recurrent = |gates: usize| {
            RecurrentWeights::new(
                MatRef::row_major(&w[..gates * 2 * 5], gates * 2, 5).unwrap(),
                MatRef::row_major(&w[..gates * 4], gates * 2, 2).unwrap(),
            )
            .biases(Some(&bias[..gates * 2]), None)
        };
        refused("Lstm::with_config", || {
            Lstm::with_config(&[recurrent(4); 2], true, config)?.workspace((3, 2))
        });
        refused("Gru::with_config", || Gru::with_config(&[recurrent(3)], false, config)?.workspace((3, 2)));
    }

    let quantized: Vec<i8> = (0..8 * 9).map(|i| i as i8 - 30).collect();
    let image = Nhwc::new(1, 5, 5, 8);
    let bytes = StaticConfig::<u8>::new(HALF, UNIT);
    static_layers("StaticLinear::new", |target, bias| match target {
        0 => StaticLinear::<u8, u8>::new(matrix, bias, bytes)?.workspace(2),
        1 => StaticLinear::<u8, u8>::new(matrix, bias, bytes.float_bias().per_tensor_weights())?.workspace(2),
        2 => StaticLinear::<u8, f32>::new(matrix, bias, StaticConfig::<f32>::real(HALF))?.workspace(2),
        _ => StaticLinear::<u8, i32>::new(matrix, bias, StaticConfig::<i32>::sums(HALF))?.workspace(2),
    });
    refused("StaticLinear::from_quantized", || {
        let weights = MatRef::row_major(&quantized, 8, 9)?;
        StaticLinear::<u8, u8>::from_quantized(weights, &[0.5; 8], Some(&[1; 8]), bytes)
    });
    let filters = Filters::new(8, 8, Window::new(3, 3)).groups(8);
    static_layers("Conv2d::new", |target, bias| match target {
        0 => Conv2d::<u8, u8>::new(filters, &w, bias, bytes)?.workspace(image),
        1 => Conv2d::<u8, u8>::new(filters, &w, bias, bytes.weight_scales(&[0.1; 8]))?.workspace(image),
        2 => Conv2d::<u8, f32>::new(filters, &w, bias, StaticConfig::<f32>::real(HALF))?.workspace(image),
        _ => Conv2d::<u8, i32>::new(filters, &w, bias, StaticConfig::<i32>::sums(HALF))?.workspace(image),
    });
    refused("Conv2d::from_quantized", || {
        Conv2d::<u8, u8>::from_quantized(filters, &quantized, 0.5, Some(&[1; 8]), bytes)
    });
    // Channels for the form that multiplies two rows at a time, and two output channels of each input channel.
    let wide = wave(64 * 9);
    let depthwise = Filters::depthwise(64, Window::new(3, 3).padding(1, 1));
    for kernel in Kernel::available() {
        refused("DepthwiseConv2d::new", || {
            DepthwiseConv2d::<u8, u8>::new(depthwise, &wide, Some(&wide[..64]), bytes.kernel(kernel))
        });
    }
    let twice = Filters::new(4, 8, Window::new(3, 3)).groups(4);
    static_layers("DepthwiseConv2d::new", |target, bias| {
        let (bytes, image) = (StaticConfig::<u8>::new(HALF, UNIT), Nhwc::new(1, 5, 5, 4));
        let bytes = if target % 2 == 0 { bytes } else { bytes.float_bias() };
        DepthwiseConv2d::<u8, u8>::new(twice, &w, bias, bytes)?.workspace(image)
    });
    refused("DepthwiseConv2d::from_quantized", || {
        DepthwiseConv2d::<u8, u8>::from_quantized(twice, &quantized, &[0.5; 8], Some(&[1; 8]), bytes)
    });
    let pool = AveragePool::<u8, u8>::new(Window::new(2, 2), StaticConfig::<u8>::new(HALF, HALF)).unwrap();
    refused("AveragePool::workspace", || pool.workspace(image));
}

/// All kinds of nodes.
fn network() -> Result<Network, Error> {
    let (w, ones) = ([0.25; 4 * 9], [1.0; 4]);
    let norm = BatchNorm { mean: &[0.0; 4], variance: &ones, gamma: &ones, beta: &[0.5; 4], epsilon: 1e-5 };
    let padded = Window::new(3, 3).padding(1, 1);
    let mut network = Network::new(4, 4, 1)?;
    let dense = Filters::new(1, 4, padded);
    let stem = network.conv2d(Node::INPUT, dense, Weights::new(&w).batch_norm(norm), Activation::Relu)?;
    let body = network.conv2d(stem, Filters::depthwise(4, padded), Weights::new(&w), Activation::Relu6)?;
    let sum = network.add(stem, body, Activation::None)?;
    let largest = network.max_pool(sum, Window::new(2, 2))?;
    let average = network.average_pool(largest, Window::new(2, 2), true)?;
    let flat = network.flatten(average)?;
    let scores = Weights::new(&w[..32]).bias(&[0.5, 0.25]).flattened_nchw();
    let scores = network.linear(flat, 2, scores, Activation::None)?;
    let mean = network.global_average_pool(scores)?;
    network.linear(mean, 1, Weights::new(&[1.0, -1.0]), Activation::None)?;
    Ok(network)
}

#[test]
fn networks() {
    refused("Network", network);
    let (network, x) = (network().unwrap(), wave(16 * 3));
    refused("Network::forward", || network.forward(&x));
    refused("Network::activations", || network.activations(&x));
    let histogram = Histogram::new(Calibrator::Percentile(99.0));
    refused("Network::calibrate", || network.calibrate(&MinMax::new()).map(drop));
    refused("Calibration", || {
        let mut calibration = network.calibrate(&histogram)?;
        calibration.observe(&x)?;
        calibration.params()
    });
    let mut calibration = network.calibrate(&MinMax::new()).unwrap();
    calibration.observe(&x).unwrap();
    refused("Calibration::convert", || calibration.convert(NetworkConfig::default()));
    let quantized = calibration.convert(NetworkConfig::default()).unwrap();
    refused("QuantizedNetwork::workspace", || quantized.workspace(3));
    refused("QuantizedNetwork::report", || quantized.report(&network, &x));
}

#[cfg(feature = "safetensors")]
mod files {
    use i8gemm::nn::{LoadError, Tensors};
    use safetensors::{Dtype, tensor::TensorView};

    use super::*;

    fn is_memory(error: &LoadError) -> bool {
        let (LoadError::Memory { error, .. } | LoadError::Layer { error, .. }) = error else { return false };
        matches!(error, Error::SizeOverflow { .. })
    }

    #[test]
    fn layers_of_files() {
        let values: Vec<u8> = wave(128 * 32).iter().flat_map(|x| x.to_le_bytes()).collect();
        let tensors =
            [("x.weight", 128), ("x.weight_ih_l0", 128), ("x.weight_hh_l0", 128), ("y.weight_ih_l0", 96)];
        let tensors = tensors.into_iter().chain([("y.weight_hh_l0", 96)]).map(|(name, rows)| {
            (name, TensorView::new(Dtype::F32, vec![rows, 32], &values[..rows * 32 * 4]).unwrap())
        });
        let file = safetensors::serialize(tensors, None).unwrap();
        // What the names take is not tried: it is not more than the file.
        LEAST.set(2048);
        let (tensors, config) = (Tensors::new(&file).unwrap(), DynamicConfig::default());
        every_allocation("Tensors::get", is_memory, || tensors.get("x.weight"));
        every_allocation("Tensors::linear", is_memory, || tensors.linear("x", config));
        every_allocation("Tensors::embedding", is_memory, || tensors.embedding("x", 8, config));
        every_allocation("Tensors::lstm", is_memory, || tensors.lstm("x", config));
        every_allocation("Tensors::gru", is_memory, || tensors.gru("y", config));
        LEAST.set(0);
    }

    /// A file without values whose header says that one axis of a tensor is as long as numbers go.
    #[test]
    fn a_small_file_costs_little() {
        for axis in [1u64 << 28, 1 << 31, 1 << 50] {
            for shape in [format!("[0,{axis}]"), format!("[{axis},0]"), format!("[{axis},0,1]")] {
                let tensor =
                    |name| format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[0,0]}}"#);
                for names in [["weight", "bias"], ["weight_ih_l0", "weight_hh_l0"]] {
                    let header = format!("{{{}}}", names.map(tensor).join(","));
                    let mut file = (header.len() as u64).to_le_bytes().to_vec();
                    file.extend(header.as_bytes());
                    let load = || {
                        // Where an address has 32 bits a longer axis is no number.
                        let Ok(tensors) = Tensors::new(&file) else { return };
                        let config = DynamicConfig::default();
                        for config in [config, config.per_tensor_weights()] {
                            assert!(tensors.linear("", config).is_err());
                            assert!(tensors.lstm("", config).is_err());
                            assert!(tensors.gru("", config).is_err());
                            for bits in [4, 8] {
                                assert!(tensors.embedding("", bits, config).is_err());
                            }
                        }
                    };
                    let (_, (_, bytes)) = refusing(Refuse::Above(1 << 16), load);
                    assert!(bytes < 1 << 18, "{header}: {bytes} bytes");
                }
            }
        }
    }
}
