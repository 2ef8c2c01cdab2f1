//! Whole networks: f32 against plain f64, integers against a composition of the reference's functions, bit for bit, and what
//! calibration, conversion and reports promise.

mod common;
mod network {
    pub mod described;
    pub mod integers;
    pub mod plain;
}

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use common::{Random, kernels};
use i8gemm::{
    Error, Executor,
    nn::{
        Activation, Filters, Layer as _, Network, NetworkConfig, Nhwc, Node, NodeParams, QuantizedNetwork,
        Weights, Window,
    },
    quant::{Calibrator, Histogram, Levels, MinMax, MovingAverage, NonFinite, Observer, QParams},
};
use network::described::{build, layers, reals};
use network::integers::Reference;
use network::plain::plain;

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

/// Work in three parts, one after the other.
struct Three;

impl Executor for Three {
    fn threads(&self) -> usize {
        3
    }

    fn run(&self, count: usize, task: &(dyn Fn() + Sync)) {
        (0..count).for_each(|_| task());
    }

    /// Small products have several parts, too.
    fn min_cycles(&self) -> usize {
        1 << 9
    }
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
    assert!(network.forward(&[])?.is_empty());
    Ok(())
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
    let mut calibration = network.calibrate(&MinMax::new()).unwrap();
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
            let (mut y, mut scratch) = (vec![0.0; 9], vec![0; quantized.workspace_size_with(3, &Three)?]);
            quantized.forward_with(&Three, &x, &mut y, &mut scratch)?;
            assert_eq!(y, scores, "{kernel}, in parts");
            // One example at a time, and none.
            assert_eq!(forward(&quantized, &x[..network.inputs()]), scores[..3], "{kernel}");
            assert!(forward(&quantized, &[]).is_empty());
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
    assert_eq!(worse.worst().map(|layer| layer.node), Some(nodes[8]), "{worse}");
    // As a table: a heading, and a line for each node.
    assert_eq!(worse.to_string().lines().count(), nodes.len() + 1);
    Ok(())
}

#[test]
fn every_calibrator() -> Result<(), Error> {
    fn db(network: &Network, x: &[f32], observer: &(impl Observer + Clone)) -> Result<f64, Error> {
        let mut calibration = network.calibrate(observer)?;
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
    // Those that search take their time where an emulator runs them, and are tested by themselves in `observers.rs`.
    let emulated = std::env::var_os("I8GEMM_KERNEL").is_some() || cfg!(not(target_arch = "x86_64"));
    let methods = if emulated { &Calibrator::ALL[..3] } else { &Calibrator::ALL[..] };
    for &calibrator in methods {
        found.push(db(&network, &x, &Histogram::new(calibrator))?);
    }
    println!("{found:?}");
    // TensorRT's form is for continuous data, much of it: of few values it may keep little.
    let low = |&(i, db): &(usize, f64)| db < if i == 7 { 0.0 } else { 15.0 };
    assert_eq!(found.iter().copied().enumerate().find(low), None, "{found:?}");
    assert!((found[0] - found[2]).abs() < 1e-9, "minimum and maximum, found in two ways: {found:?}");

    // Batches of any size give the same.
    let mut calibration = network.calibrate(&MinMax::new())?;
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
    let mut calibration = network.calibrate(&MinMax::new())?;
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
    let mut loud = other.calibrate(&MinMax::new())?;
    assert!(matches!(loud.observe(&[3e38]), Err(Error::NonFinite { what: "output of a node", .. })));
    assert_eq!(loud.params().unwrap_err(), Error::NothingObserved);
    bad[7] = f32::INFINITY;
    network.calibrate(&MinMax::new().non_finite(NonFinite::Ignore))?.observe(&bad)?;

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

/// PyTorch flattens channel by channel.
#[test]
fn weights_behind_a_flattened_image() -> Result<(), Error> {
    let mut random = Random(15);
    let weights = reals(&mut random, 4 * 30, 1.0);
    let x = reals(&mut random, 30, 1.0);
    // Flattening again changes nothing.
    for times in 1..=2 {
        let mut network = Network::new(2, 3, 5)?;
        let flat = (0..times).try_fold(Node::INPUT, |node, _| network.flatten(node))?;
        network.linear(flat, 4, Weights::new(&weights).flattened_nchw(), Activation::None)?;
        for (o, y) in network.forward(&x)?.iter().enumerate() {
            let term = |(c, p): (usize, usize)| x[p * 5 + c] * weights[o * 30 + c * 6 + p];
            let sum: f32 = (0..5).flat_map(|c| (0..6).map(move |p| (c, p))).map(term).sum();
            assert!((y - sum).abs() < 1e-5, "{y}, not {sum}");
        }
    }
    Ok(())
}

/// Networks whose last node gives integers, and one of no layers at all.
#[test]
fn ends_of_every_kind() -> Result<(), Error> {
    let x: Vec<f32> = (0..12).map(|i| (i as f32 * 0.9).sin()).collect();
    type End = fn(&mut Network) -> Result<Node, Error>;
    let ends: [End; 5] = [
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
