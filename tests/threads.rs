//! The same bits for every number of threads, and executors that misbehave.

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Fill, Matrix, Order, Random, kernels};
use i8gemm::{
    Error, Executor, Gemm, Lhs, MatMut, MatRef, Output, PackedRhs, Product, Rhs, Sequential,
    nn::{
        Activation, Conv2d, DepthwiseConv2d, Filters, Gru, Images, Layer, Linear, Lstm, LstmState, Network,
        NetworkConfig, Nhwc, Node, RecurrentWeights, Sequence, StaticConfig, StaticLinear, Weights, Window,
    },
    quant::{MinMax, QParams},
};

/// As many threads as it says, each call on one of its own.
struct Threads(usize);

impl Executor for Threads {
    fn threads(&self) -> usize {
        self.0
    }

    fn run(&self, count: usize, task: &(dyn Fn() + Sync)) {
        std::thread::scope(|scope| (0..count).for_each(|_| drop(scope.spawn(task))));
    }

    /// Small products have several parts, too.
    fn min_cycles(&self) -> usize {
        1 << 9
    }
}

/// Calls once, or too often: all outputs must be right all the same.
struct Careless {
    threads: usize,
    calls: usize,
}

impl Executor for Careless {
    fn threads(&self) -> usize {
        self.threads
    }

    fn run(&self, _count: usize, task: &(dyn Fn() + Sync)) {
        std::thread::scope(|scope| (0..self.calls).for_each(|_| drop(scope.spawn(task))));
    }

    /// Small products have several parts, too.
    fn min_cycles(&self) -> usize {
        1 << 9
    }
}

#[test]
fn the_same_bits_for_every_number_of_threads() {
    let mut random = Random(3);
    for kernel in kernels() {
        // The last three are of so few rows and columns that K is cut.
        for (m, k, n) in [
            (1, 600, 500),
            (2, 900, 333),
            (65, 300, 70),
            (301, 129, 47),
            (5, 70, 1000),
            (1, 8192, 64),
            (8, 4099, 17),
            (3, 5000, 1),
        ] {
            let x = Matrix::<u8>::random(&mut random, Fill::Uniform, m, k, Order::RowMajor);
            let w = Matrix::<i8>::random(&mut random, Fill::Uniform, k, n, Order::ColMajor);
            let scales: Vec<f32> = (0..n).map(|_| random.scale()).collect();
            let zeros: Vec<i32> = (0..n).map(|_| random.range(-128, 127)).collect();
            let row_zeros: Vec<i32> = (0..m).map(|_| random.range(0, 255)).collect();
            let row_scales: Vec<f32> = (0..m).map(|_| random.scale()).collect();
            let weights = PackedRhs::pack_for(kernel, Rhs::new(w.view()).zero_points(&zeros)).unwrap();
            let gemm = Gemm::new(&weights, Output::f32(&scales)).unwrap();
            let lhs = Lhs::new(x.view()).zero_points(&row_zeros).scales(&row_scales);

            let run = |executor: &dyn Fn(Lhs<u8>, MatMut<f32>)| {
                let mut y = vec![f32::NAN; m * n];
                executor(lhs, MatMut::row_major(&mut y, m, n).unwrap());
                y.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            };
            macro_rules! on {
                ($executor:expr) => {
                    run(&|lhs, out| {
                        let size = gemm.workspace_size_with(m, &$executor).unwrap();
                        gemm.run_with(&$executor, lhs, out, &mut vec![0; size]).unwrap();
                    })
                };
            }
            let expected = on!(Sequential);
            for threads in [0, 1, 2, 3, 4, 7, 16] {
                assert_eq!(on!(Threads(threads)), expected, "{kernel}: {m}x{k}x{n} on {threads} threads");
            }
            for calls in [0, 1, 9] {
                assert_eq!(on!(Careless { threads: 4, calls }), expected, "{kernel}: {calls} calls");
            }
            #[cfg(feature = "rayon")]
            assert_eq!(on!(i8gemm::Rayon), expected, "{kernel}: rayon");
        }
    }
}

/// K in parts of several threads, with every output, operand order and stride, and what outputs held before.
#[test]
fn sums_of_parts_of_k_become_any_output() -> Result<(), Error> {
    let mut random = Random(11);
    let (m, k, n) = (3, 4133, 19);
    for kernel in kernels() {
        let x = Matrix::<i8>::random(&mut random, Fill::Uniform, m, k, Order::ColMajor);
        let w = Matrix::<u8>::random(&mut random, Fill::Uniform, k, n, Order::RowMajor);
        let scales: Vec<f32> = (0..n).map(|_| 1e-4 * random.scale()).collect();
        let fixed: Vec<_> =
            scales.iter().map(|&scale| i8gemm::FixedPoint::from_scale(scale.into()).unwrap()).collect();
        let bias: Vec<i32> = (0..n).map(|_| random.range(-1000, 1000)).collect();
        let zeros: Vec<i32> = (0..n).map(|_| random.range(0, 255)).collect();
        let row_zeros: Vec<i32> = (0..m).map(|_| random.range(-128, 127)).collect();
        let weights = PackedRhs::pack_for(kernel, Rhs::new(w.view()).zero_points(&zeros))?;
        let lhs = Lhs::new(x.view()).zero_points(&row_zeros);
        macro_rules! same {
            ($output:expr, $type:ty) => {
                let gemm = Gemm::new(&weights, $output)?;
                let run = |threads: usize| -> Result<Vec<$type>, Error> {
                    // Column-major, and not empty before.
                    let mut y: Vec<$type> = (0..m * n).map(|i| i as $type).collect();
                    let executor = Threads(threads);
                    let mut scratch = vec![0; gemm.workspace_size_with(m, &executor)?];
                    gemm.run_with(&executor, lhs, MatMut::col_major(&mut y, m, n)?, &mut scratch)?;
                    Ok(y)
                };
                let expected = run(1)?;
                for threads in [2, 3, 8] {
                    assert_eq!(run(threads)?, expected, "{kernel}: {} on {threads}", stringify!($output));
                }
            };
        }
        same!(Output::i32(), i32);
        same!(Output::i32().bias(&bias).accumulate(), i32);
        same!(Output::f32(&scales).bias(&bias), f32);
        same!(Output::<i8>::requantize(&scales, 3).bias(&bias), i8);
        same!(Output::<u8>::requantize_fixed(&fixed, i8gemm::FixedRounding::Double, 3).bias(&bias), u8);
    }
    Ok(())
}

/// A workspace is as large as the parts that there is work for, not as the threads that there are; it serves fewer rows and fewer
/// threads, whichever way those are cut.
#[test]
fn a_workspace_has_room_for_the_parts_there_can_be() -> Result<(), Error> {
    let (k, n) = (512, 600);
    let (x, w) = (vec![1u8; 200 * k], vec![1i8; k * n]);
    for kernel in kernels() {
        let weights = PackedRhs::pack_for(kernel, MatRef::row_major(&w, k, n)?)?;
        let gemm = Gemm::new(&weights, Output::i32())?;
        for m in [1, 2, 64, 200] {
            for threads in [100_000, usize::MAX] {
                let size = gemm.workspace_size_with(m, &common::Threads(threads))?;
                // No more than a part for each 2^9 cycles, in which every kernel does two multiply-adds or more.
                let most = m * n * k / (2 << 9);
                assert!(size <= gemm.workspace_size(m)? * most, "{kernel}: {size} bytes for {m} rows");
                assert_eq!(size, gemm.workspace_size_with(m, &common::Threads(most))?, "{kernel}");
                let mut scratch = vec![0; size];
                for (rows, threads) in
                    [(m, threads), (m.div_ceil(2), threads), (m, 5), (m / 3, 7), (1, threads)]
                {
                    let mut y = vec![0; rows * n];
                    let lhs = MatRef::row_major(&x[..rows * k], rows, k)?;
                    gemm.run_with(
                        &common::Threads(threads),
                        lhs,
                        MatMut::row_major(&mut y, rows, n)?,
                        &mut scratch,
                    )?;
                    assert!(y.iter().all(|&y| y == k as i32));
                }
            }
        }
    }
    Ok(())
}

#[test]
fn layers_too() -> Result<(), Error> {
    // Large enough for several parts, in the recurrent products too.
    let (inputs, hidden, steps) = (64, 256, 3);
    let mut random = Random(5);
    let mut reals =
        |len: usize| -> Vec<f32> { (0..len).map(|_| random.range(-1000, 1000) as f32 * 1e-4).collect() };
    let (w_ih, w_hh) = (reals(4 * hidden * inputs), reals(4 * hidden * hidden));
    let (x, bias) = (reals(steps * inputs), reals(4 * hidden));
    let weights = |gates: usize| -> Result<_, Error> {
        Ok([RecurrentWeights::new(
            MatRef::row_major(&w_ih[..gates * hidden * inputs], gates * hidden, inputs)?,
            MatRef::row_major(&w_hh[..gates * hidden * hidden], gates * hidden, hidden)?,
        )
        .biases(None, Some(&bias[..gates * hidden]))])
    };
    let (lstm, gru) = (Lstm::new(&weights(4)?, false)?, Gru::new(&weights(3)?, false)?);
    let linear = Linear::new(MatRef::row_major(&w_ih, 4 * hidden, inputs)?, Some(&bias))?;
    let x = MatRef::row_major(&x, steps, inputs)?;
    // All that the layers compute, as bits.
    macro_rules! on {
        ($executor:expr) => {{
            let executor = $executor;
            let (mut a, mut b) = (vec![0.0; steps * hidden], vec![0.0; steps * hidden]);
            let (mut h, mut c, mut g) = (vec![0.1; hidden], vec![0.2; hidden], vec![0.3; hidden]);
            let mut y = vec![0.0; steps * 4 * hidden];

            let mut scratch = vec![0; lstm.workspace_size_with((steps, 1), &executor)?];
            let out = MatMut::row_major(&mut a, steps, hidden)?;
            lstm.forward_with(
                &executor,
                Sequence::new(x, 1)?,
                (out, LstmState { h: &mut h, c: &mut c }),
                &mut scratch,
            )?;
            let mut scratch = vec![0; gru.workspace_size_with((steps, 1), &executor)?];
            gru.forward_with(
                &executor,
                Sequence::new(x, 1)?,
                (MatMut::row_major(&mut b, steps, hidden)?, &mut g),
                &mut scratch,
            )?;
            let mut scratch = vec![0; linear.workspace_size_with(steps, &executor)?];
            linear.forward_with(&executor, x, MatMut::row_major(&mut y, steps, 4 * hidden)?, &mut scratch)?;
            [a, h, c, b, g, y].concat().into_iter().map(f32::to_bits).collect::<Vec<_>>()
        }};
    }
    let expected = on!(Sequential);
    assert!(expected.iter().any(|&bits| bits != 0));
    assert_eq!(on!(Threads(4)), expected);
    assert_eq!(on!(Careless { threads: 3, calls: 9 }), expected);
    Ok(())
}

/// Three threads, and how often they were called.
#[derive(Default)]
struct Counting(AtomicUsize);

impl Executor for Counting {
    fn threads(&self) -> usize {
        3
    }

    fn run(&self, count: usize, task: &(dyn Fn() + Sync)) {
        self.0.fetch_add(1, Ordering::Relaxed);
        Threads(3).run(count, task);
    }

    /// Small products have several parts, too.
    fn min_cycles(&self) -> usize {
        1 << 9
    }
}

/// Everything that takes an executor, each large enough for several parts, as bits; `after` is called with the name of each.
fn everything(executor: &(impl Executor + ?Sized), mut after: impl FnMut(&str)) -> Result<Vec<u32>, Error> {
    let (m, k, n) = (4, 256, 512);
    let reals = |len: usize| -> Vec<f32> { (0..len).map(|i| (i as f32 * 0.7).sin() * 0.1).collect() };
    let bytes = |len: usize| -> Vec<u8> { (0..len).map(|i| (i * 37 % 251) as u8).collect() };
    let (x, x_real, w) = (bytes(m * k), reals(m * k), reals(n * k));
    let (x, x_real) = (MatRef::row_major(&x, m, k)?, MatRef::row_major(&x_real, m, k)?);
    let mut all = Vec::new();

    let signed: Vec<i8> = bytes(k * n).into_iter().map(|byte| byte as i8).collect();
    let weights = PackedRhs::pack(MatRef::row_major(&signed, k, n)?)?;
    let mut y = vec![0.0; m * n];
    let gemm = Gemm::new(&weights, Output::f32(0.01))?;
    let mut scratch = vec![0; gemm.workspace_size_with(m, executor)?];
    gemm.run_with(executor, x, MatMut::row_major(&mut y, m, n)?, &mut scratch)?;
    all.extend(y.iter().map(|y| y.to_bits()));
    after("Gemm");

    let product = Product::new(weights.clone(), Output::f32(0.02))?;
    let mut scratch = vec![0; product.workspace_size_with(m, executor)?];
    product.run_with(executor, x, MatMut::row_major(&mut y, m, n)?, &mut scratch)?;
    all.extend(y.iter().map(|y| y.to_bits()));
    after("Product");

    let linear = Linear::new(MatRef::row_major(&w, n, k)?, None)?;
    let mut scratch = vec![0; linear.workspace_size_with(m, executor)?];
    linear.forward_with(executor, x_real, MatMut::row_major(&mut y, m, n)?, &mut scratch)?;
    all.extend(y.iter().map(|y| y.to_bits()));
    after("Linear");

    let input = QParams { scale: 0.01, zero_point: 100 };
    let linear =
        StaticLinear::<u8, f32>::new(MatRef::row_major(&w, n, k)?, None, StaticConfig::<f32>::real(input))?;
    let mut scratch = vec![0; linear.workspace_size_with(m, executor)?];
    linear.forward_with(executor, x, MatMut::row_major(&mut y, m, n)?, &mut scratch)?;
    all.extend(y.iter().map(|y| y.to_bits()));
    after("StaticLinear");

    let (hidden, gates) = (128, 512);
    let cell = |gates: usize| -> Result<_, Error> {
        Ok([RecurrentWeights::new(
            MatRef::row_major(&w[..gates * k], gates, k)?,
            MatRef::row_major(&w[..gates * hidden], gates, hidden)?,
        )])
    };
    let mut y = vec![0.0; m * hidden];
    let (mut h, mut c) = (vec![0.1; hidden], vec![0.2; hidden]);
    let lstm = Lstm::new(&cell(gates)?, false)?;
    let mut scratch = vec![0; lstm.workspace_size_with((m, 1), executor)?];
    let state = LstmState { h: &mut h, c: &mut c };
    lstm.forward_with(
        executor,
        Sequence::new(x_real, 1)?,
        (MatMut::row_major(&mut y, m, hidden)?, state),
        &mut scratch,
    )?;
    all.extend(y.iter().map(|y| y.to_bits()));
    after("Lstm");

    let gru = Gru::new(&cell(3 * hidden)?, false)?;
    let mut scratch = vec![0; gru.workspace_size_with((m, 1), executor)?];
    gru.forward_with(
        executor,
        Sequence::new(x_real, 1)?,
        (MatMut::row_major(&mut y, m, hidden)?, &mut h),
        &mut scratch,
    )?;
    all.extend(y.iter().map(|y| y.to_bits()));
    after("Gru");

    let (image, three) = (Nhwc::new(1, 24, 24, 64), Window::new(3, 3).padding(1, 1));
    let x = bytes(image.elements()?);
    let mut y = vec![0; 24 * 24 * 64];
    let config = StaticConfig::<u8>::new(input, QParams { scale: 0.05, zero_point: 120 });
    let conv = Conv2d::<u8, u8>::new(Filters::new(64, 8, three), &reals(9 * 64 * 8), None, config)?;
    let mut scratch = vec![0; conv.workspace_size_with(image, executor)?];
    conv.forward_with(executor, Images::new(&x, image)?, &mut y[..24 * 24 * 8], &mut scratch)?;
    all.extend(y.iter().map(|&y| u32::from(y)));
    after("Conv2d");

    let conv = DepthwiseConv2d::<u8, u8>::new(Filters::depthwise(64, three), &reals(9 * 64), None, config)?;
    let mut scratch = vec![0; conv.workspace_size_with(image, executor)?];
    conv.forward_with(executor, Images::new(&x, image)?, &mut y, &mut scratch)?;
    all.extend(y.iter().map(|&y| u32::from(y)));
    after("DepthwiseConv2d");

    let mut net = Network::new(24, 24, 8)?;
    let weights = reals(9 * 8 * 8);
    net.conv2d(Node::INPUT, Filters::new(8, 8, three), Weights::new(&weights), Activation::Relu)?;
    let x = reals(24 * 24 * 8);
    let mut calibration = net.calibrate(&MinMax::default())?;
    calibration.observe(&x)?;
    let quantized = calibration.convert(NetworkConfig::default())?;
    let mut y = vec![0.0; 24 * 24 * 8];
    let mut scratch = vec![0; quantized.workspace_size_with(1, executor)?];
    quantized.forward_with(executor, &x, &mut y, &mut scratch)?;
    all.extend(y.iter().map(|y| y.to_bits()));
    after("QuantizedNetwork");
    Ok(all)
}

/// Chosen when the program runs, and by reference: each is an executor, and is the one that works.
#[test]
fn executors_behind_references() -> Result<(), Error> {
    let expected = everything(&Sequential, |_| ())?;
    let counting = Counting::default();
    let mut seen = 0;
    let mut rises = |name: &str| {
        let calls = counting.0.load(Ordering::Relaxed);
        assert!(calls > seen, "{name} does not run on the executor");
        seen = calls;
    };
    let dynamic: &dyn Executor = &counting;
    assert!(everything(dynamic, &mut rises)? == expected);
    assert!(everything(&dynamic, &mut rises)? == expected);
    assert!(everything(&&counting, &mut rises)? == expected);
    let boxed: Box<dyn Executor> = Box::new(Threads(2));
    assert!(everything(&*boxed, |_| ())? == expected);
    Ok(())
}
