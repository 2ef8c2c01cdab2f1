//! Sizes as large as numbers go: an error or a result, soon, and never a panic, an abort, or work without data.
// Where an address has 32 bits, there may be memory for what is refused here.
#![cfg(target_pointer_width = "64")]

mod common;

use common::{Threads, soon};
use i8gemm::{
    Error, Gemm, Kernel, MatMut, MatRef, Output, PackedRhs, Rhs, Workspace,
    nn::{
        Activation, Add, AveragePool, Conv2d, DepthwiseConv2d, DynamicConfig, Embedding, Filters, Gru,
        Images, Layer, Linear, Lstm, MaxPool, Network, NetworkConfig, Nhwc, Node, RecurrentWeights,
        StaticConfig, StaticLinear, Weights, Window,
    },
    quant::{
        DynamicBuffers, DynamicQuantizer, Grouping, Histogram, Levels, MinMax, ParamList, PerChannel,
        QParams, Quantizer, Scheme,
    },
    reference,
};

/// Far more than memory, and not so much that its product with a few bytes overflows.
const HUGE: usize = 1 << 60;
const UNIT: QParams = QParams { scale: 1.0, zero_point: 0 };

/// An error that names a size.
#[track_caller]
fn too_large<T>(result: Result<T, Error>) {
    match result {
        Err(Error::SizeOverflow { .. }) => {}
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("no error"),
    }
}

/// No rows, or no columns, or one value for all.
fn views<T: Copy>(one: &[T; 1]) -> [MatRef<'_, T>; 6] {
    [
        MatRef::row_major(&[], HUGE, 0).unwrap(),
        MatRef::row_major(&[], 0, HUGE).unwrap(),
        MatRef::new(&[], HUGE, 0, 5, 1).unwrap(),
        MatRef::new(one, HUGE, 1, 0, 1).unwrap(),
        MatRef::new(one, 1, HUGE, 1, 0).unwrap(),
        MatRef::new(one, HUGE, 1 << 14, 0, 0).unwrap(),
    ]
}

#[test]
fn weights() {
    soon(|| {
        for kernel in Kernel::available() {
            // K x N: no depth, and one value for all.
            too_large(PackedRhs::pack_for(kernel, MatRef::<i8>::row_major(&[], 0, HUGE).unwrap()));
            for (k, n) in [(1, HUGE), (1 << 14, HUGE), (1 << 10, HUGE >> 10)] {
                too_large(PackedRhs::pack_for(kernel, MatRef::new(&[1u8], k, n, 0, 0).unwrap()));
            }
            // Weights of few bits are looked at one by one, but not before there is room for them.
            let endless = Rhs::new(MatRef::new(&[1i8], 30_000, HUGE, 0, 0).unwrap()).four_bits();
            too_large(PackedRhs::pack_for(kernel, endless));
            let endless = Rhs::new(MatRef::new(&[1i8], 30_000, 1 << 30, 0, 0).unwrap()).four_bits();
            let mut buffer = [0; 64];
            let refused = PackedRhs::pack_into(kernel, &endless, &mut buffer);
            assert!(matches!(refused, Err(Error::BufferTooSmall { .. })));
            // No columns, as deep as numbers go: what follows from the depth overflows nowhere.
            for k in [HUGE, 2 * HUGE, 8 * HUGE, usize::MAX - 70, usize::MAX] {
                let rhs = Rhs::new(MatRef::<i8>::row_major(&[], k, 0).unwrap()).allow_wrapping();
                let Ok(weights) = PackedRhs::pack_for(kernel, rhs) else { continue };
                let gemm = Gemm::new(&weights, Output::i32()).unwrap();
                let _ = (gemm.workspace_size(1), gemm.workspace_size(HUGE));
                let lhs = MatRef::new(&[1u8], HUGE, k, 0, 0).unwrap();
                let _ = gemm.run(lhs, MatMut::row_major(&mut [], HUGE, 0).unwrap(), &mut []);
            }
        }
        let real = views(&[0.5f32]);
        for config in [DynamicConfig::default(), DynamicConfig::default().per_tensor_weights()] {
            too_large(Linear::with_config(real[0], None, config));
            too_large(Linear::with_config(real[5], None, config));
            for weights in real {
                // As many inputs as numbers go are none of a matrix without rows.
                let _ = Linear::with_config(weights, None, config).map(|linear| linear.workspace_size(HUGE));
            }
            for bits in [4, 8] {
                for table in &real[..3] {
                    too_large(Embedding::with_config(*table, bits, config));
                }
                too_large(Embedding::with_config(real[5], bits, config));
            }
            for (gates, kind) in [(4, "LSTM"), (3, "GRU")] {
                let layer = |inputs: usize, hidden: usize| {
                    RecurrentWeights::new(
                        MatRef::new(&[0.5], gates * hidden, inputs, 0, 0).unwrap(),
                        MatRef::new(&[0.5], gates * hidden, hidden, 0, 0).unwrap(),
                    )
                };
                for (inputs, hidden) in [(0, HUGE / 16), (HUGE / 4, 1), (1, HUGE / 16), (1, HUGE)] {
                    let weights = [layer(inputs, hidden)];
                    let error = match kind {
                        "LSTM" => Lstm::with_config(&weights, false, config).map(drop),
                        _ => Gru::with_config(&weights, false, config).map(drop),
                    };
                    assert!(error.is_err(), "{kind} of {inputs} inputs and {hidden} units");
                }
            }
        }
        let config = StaticConfig::<u8>::new(UNIT, UNIT);
        for config in [config, config.per_tensor_weights(), config.weight_scales(0.5)] {
            too_large(StaticLinear::<u8, u8>::new(real[0], None, config));
            too_large(StaticLinear::<u8, u8>::new(real[5], None, config));
        }
        too_large(StaticLinear::<u8, u8>::from_quantized(views(&[1i8])[0], 0.5, None, config));
        too_large(StaticLinear::<u8, u8>::from_quantized(views(&[1i8])[5], 0.5, None, config));
        for bytes in [HUGE * 8, usize::MAX] {
            too_large(Workspace::with_size(bytes));
            too_large(Workspace::default().grow(bytes));
        }
    });
}

#[test]
fn activations() {
    soon(|| {
        let mut buffers = DynamicBuffers::<u8>::default();
        for quantizer in [DynamicQuantizer::per_row(), DynamicQuantizer::per_tensor()] {
            for rows in [HUGE, 8 * HUGE, usize::MAX] {
                too_large(quantizer.quantize(MatRef::<f32>::row_major(&[], rows, 0).unwrap(), &mut buffers));
                too_large(quantizer.quantize(MatRef::new(&[1.0f32], rows, 1, 0, 1).unwrap(), &mut buffers));
                too_large(
                    quantizer.quantize(MatRef::new(&[1.0f32], 1 << 14, rows, 0, 0).unwrap(), &mut buffers),
                );
            }
            // Rows without values are not looked at: as many as there is memory for, and their result is used.
            let rows = 1 << 26;
            let lhs =
                quantizer.quantize(MatRef::<f32>::new(&[], rows, 0, 7, 1).unwrap(), &mut buffers).unwrap();
            let weights = PackedRhs::pack(MatRef::<i8>::row_major(&[], 0, 0).unwrap()).unwrap();
            let out = MatMut::row_major(&mut [], rows, 0).unwrap();
            Gemm::new(&weights, Output::f32(0.5)).unwrap().run(lhs, out, &mut []).unwrap();
        }
        let weights = PackedRhs::pack(MatRef::<i8>::row_major(&[], 0, 3).unwrap()).unwrap();
        let gemm = Gemm::new(&weights, Output::f32(0.5).bias_f32(&[1.0, 2.0, 3.0])).unwrap();
        let (mut buffers, mut y) = (DynamicBuffers::<u8>::default(), [0.0; 6]);
        let none = MatRef::<f32>::row_major(&[], 2, 0).unwrap();
        let lhs = DynamicQuantizer::per_row().quantize(none, &mut buffers).unwrap();
        gemm.apply(lhs, MatMut::row_major(&mut y, 2, 3).unwrap()).unwrap();
        assert_eq!(y, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
    });
}

#[test]
fn products_without_elements() {
    soon(|| {
        let (x, w) = ([1u8; 3], [1i8; 3]);
        for (m, n) in [(HUGE, 0), (usize::MAX, 0), (0, HUGE), (0, usize::MAX)] {
            // Rows and columns that repeat, and those that are empty.
            for k in [0, 3] {
                let lhs = MatRef::new(&x, m, k, 0, 1).unwrap();
                let rhs = MatRef::new(&w, k, n, 1, 0).unwrap();
                let out = || MatMut::<i32>::row_major(&mut [], m, n).unwrap();
                reference::gemm(lhs, rhs, &Output::i32(), out()).unwrap();
                if n == 0 {
                    let weights = PackedRhs::pack(rhs).unwrap();
                    Gemm::new(&weights, Output::i32()).unwrap().run(lhs, out(), &mut []).unwrap();
                }
            }
        }
        let linear = Linear::new(MatRef::row_major(&[], 0, 3).unwrap(), None).unwrap();
        let x = MatRef::new(&[0.5f32; 3], HUGE, 3, 0, 1).unwrap();
        let out = MatMut::row_major(&mut [], HUGE, 0).unwrap();
        assert!(linear.forward(x, out, &mut []).is_err());
    });
}

/// Images without elements: no image, no rows, no columns, no channels.
const EMPTY: [Nhwc; 5] = [
    Nhwc::new(0, HUGE, 1, 1),
    Nhwc::new(0, 1, HUGE, 1),
    Nhwc::new(0, 1 << 30, 1 << 30, 1),
    Nhwc::new(1, HUGE, 0, 1),
    Nhwc::new(1, 0, HUGE, 1),
];

const WINDOWS: [Window; 6] = [
    Window::new(1, 1),
    Window::new(2, 2).padding(1, 1),
    Window::new(3, 3).padding(1, 1).stride(2, 2),
    Window::new(3, 3).padding(HUGE, HUGE),
    Window::new(2, 2).dilation(HUGE, HUGE).padding(HUGE, HUGE),
    Window::new(1, 1).stride(HUGE / 2, HUGE / 2).padding(1, 1),
];

#[test]
fn images_without_elements() {
    for (shape, window) in EMPTY.into_iter().flat_map(|shape| WINDOWS.map(|window| (shape, window))) {
        soon(move || {
            let config = StaticConfig::<u8>::new(UNIT, UNIT);
            let filters = Filters::new(1, 1, window);
            let len = window.output_size(shape.height, shape.width).ok().and_then(|(height, width)| {
                Nhwc::new(shape.batch, height, width, 1).elements().ok().filter(|&len| len < 1 << 20)
            });
            let mut y = vec![7u8; len.unwrap_or(0)];
            let taps = window.size().0 * window.size().1;
            let (weights, x) = (vec![0.5; taps], [0u8; 0]);
            let images = Images::new(&x, shape);

            let largest = MaxPool::new(window).unwrap();
            assert_eq!(
                images.and_then(|x| largest.forward(x, &mut y, &mut [])).is_ok(),
                largest.output_shape(shape).is_ok() && len.is_some()
            );
            let average = AveragePool::<u8, u8>::new(window, config).unwrap();
            for pool in [average, AveragePool::global(config).unwrap()] {
                if let Ok(mut scratch) = pool.workspace(shape) {
                    let _ = images.and_then(|x| pool.forward(x, &mut y, &mut scratch));
                }
            }
            let conv = Conv2d::<u8, u8>::new(filters, &weights, None, config).unwrap();
            if let Ok(mut scratch) = conv.workspace(shape) {
                let _ = images.and_then(|x| conv.forward(x, &mut y, &mut scratch));
            }
            let depthwise = DepthwiseConv2d::<u8, u8>::new(filters, &weights, None, config).unwrap();
            if let Ok(mut scratch) = depthwise.workspace(shape) {
                let _ = images.and_then(|x| depthwise.forward(x, &mut y, &mut scratch));
            }
            let _ = reference::max_pool(&x, shape, &window, &mut y);
            let _ = reference::average_pool(&x, shape, &window, true, [UNIT; 2], &mut y);
            let values = vec![1i8; taps];
            let _ =
                reference::conv2d(&x, shape, 0, &values, &filters, &Output::<u8>::requantize(1.0, 0), &mut y);
            let _ = window.same(shape.height, shape.width);
        });
    }
    // Channels that no image has.
    soon(|| {
        for shape in [Nhwc::new(1, HUGE, 1, 0), Nhwc::new(HUGE, 1, 1, 0)] {
            for window in WINDOWS {
                let pool = MaxPool::<u8>::new(window).unwrap();
                let _ = Images::new(&[], shape).and_then(|x| pool.forward(x, &mut [], &mut []));
            }
        }
        // A window of more taps than a sum holds, on an image of one pixel.
        let (shape, size) = (Nhwc::new(1, 1, 1, 1), 1 << 30);
        let large = Window::new(size, size).padding(size / 2, size / 2);
        let no_sum = Error::WindowTooLarge { rows: size, cols: size, max: i32::MAX as usize / 255 };
        let config = StaticConfig::<u8>::new(UNIT, UNIT);
        assert_eq!(AveragePool::<u8, u8>::new(large, config).unwrap_err(), no_sum);
        let averages = reference::average_pool(&[1u8], shape, &large, true, [UNIT; 2], &mut [0u8; 4]);
        assert_eq!(averages, Err(no_sum));
        let (mut y, mut expected) = ([0; 4], [1; 4]);
        MaxPool::new(large).unwrap().forward(Images::new(&[1u8], shape).unwrap(), &mut y, &mut []).unwrap();
        assert_eq!(y, expected);
        expected.fill(0);
        reference::max_pool(&[1u8], shape, &large, &mut expected).unwrap();
        assert_eq!(y, expected);
    });
}

/// Windows of millions of taps, all but one in the padding: as many steps as there are pixels.
#[test]
fn pools_of_padding() {
    const TAPS: usize = 1 << 22;
    let shape = Nhwc::new(1, 1, 1, 1);
    for (rows, columns) in [(1, TAPS), (TAPS, 1)] {
        let window = Window::new(rows, columns).padding(rows - 1, columns - 1);
        soon(move || {
            let mut y = vec![0u8; TAPS];
            let is = |expected: u8, result: Result<Nhwc, Error>, y: &mut [u8]| {
                assert_eq!(result, Ok(Nhwc::new(1, rows, columns, 1)));
                assert!(y.iter().all(|&y| y == expected));
                y.fill(77);
            };
            let result =
                MaxPool::new(window).unwrap().forward(Images::new(&[9], shape).unwrap(), &mut y, &mut []);
            is(9, result, &mut y);
            let result = reference::max_pool(&[9u8], shape, &window, &mut y);
            is(9, result, &mut y);
            let average = AveragePool::<u8, u8>::new(window, StaticConfig::new(UNIT, UNIT)).unwrap();
            for (pool, count_padding) in [(average, true), (average.exclude_padding(), false)] {
                let expected = if count_padding { 0 } else { 9 };
                let mut scratch = pool.workspace(shape).unwrap();
                let result = pool.forward(Images::new(&[9], shape).unwrap(), &mut y, &mut scratch);
                is(expected, result, &mut y);
                let result =
                    reference::average_pool(&[9u8], shape, &window, count_padding, [UNIT; 2], &mut y);
                is(expected, result, &mut y);
            }
        });
        soon(move || {
            let mut network = Network::new(1, 1, 1).unwrap();
            network.max_pool(Node::INPUT, window).unwrap();
            network.average_pool(Node::INPUT, window, false).unwrap();
            let weights = vec![0.5; TAPS];
            let filters = Filters::new(1, 1, window);
            network.conv2d(Node::INPUT, filters, Weights::new(&weights), Activation::None).unwrap();
            for (y, expected) in network.activations(&[3.0]).unwrap()[1..].iter().zip([3.0, 3.0, 1.5]) {
                assert!(y.len() == TAPS && y.iter().all(|&y| y == expected));
            }
        });
    }
}

/// The places of the window on an image without elements are found by arithmetic: an error or a shape, as for a small image.
#[test]
fn pools_of_no_images() {
    soon(|| {
        let pool = MaxPool::<u8>::new(Window::new(2, 1).padding(1, 0)).unwrap();
        let out = Nhwc::new(0, HUGE + 1, 1, 1);
        let none = Images::new(&[], Nhwc::new(0, HUGE, 1, 1)).unwrap();
        assert_eq!(pool.forward(none, &mut [], &mut []), Ok(out));
        let apart = MaxPool::<u8>::new(Window::new(2, 1).dilation(HUGE, 1).padding(HUGE / 2, 0)).unwrap();
        assert!(matches!(
            apart.output_shape(Nhwc::new(0, HUGE / 2, 1, 1)),
            Err(Error::EmptyWindow { what: "rows", .. }) | Err(Error::Window { .. })
        ));
    });
}

#[test]
fn networks() {
    soon(|| {
        let pixels = 1 << 56;
        for window in [Window::new(2, 1), Window::new(2, 1).padding(1, 0), Window::new(1, 1)] {
            let mut network = Network::new(pixels, 1, 1).unwrap();
            let pool = network.max_pool(Node::INPUT, window).unwrap();
            let pool = network.average_pool(pool, window, false).unwrap();
            let weights = Weights::new(&[0.5]);
            let filters = Filters::new(1, 1, Window::new(1, 1));
            network.conv2d(pool, filters, weights, Activation::Relu).unwrap();
            let error = network.global_average_pool(pool).unwrap_err();
            assert!(matches!(error, Error::WindowTooLarge { .. }), "{error}");
            // No example is a whole number of them.
            assert_eq!(network.forward(&[]), Ok(vec![]));
            assert!(network.forward(&[1.0]).is_err());
            let mut calibration = network.calibrate(&MinMax::new()).unwrap();
            calibration.observe(&[]).unwrap();
            let params = vec![i8gemm::nn::NodeParams::new(UNIT); network.nodes().len()];
            let quantized = network.convert(&params, NetworkConfig::default()).unwrap();
            let mut scratch = quantized.workspace(0).unwrap();
            quantized.forward(&[], &mut [], &mut scratch).unwrap();
            for batch in [1 << 7, HUGE, usize::MAX] {
                too_large(quantized.workspace_size(batch));
            }
            too_large(quantized.workspace(1));
        }
        assert!(Network::new(HUGE, HUGE, 1).is_err());
    });
}

/// No workspace is asked for that no slice can be.
#[test]
fn workspaces_are_at_most_as_large_as_a_slice() {
    let largest = isize::MAX as usize;
    let (w, real) = ([1i8; 64 * 64], [0.5f32; 64 * 64]);
    for kernel in Kernel::available() {
        let weights = PackedRhs::pack_for(kernel, MatRef::row_major(&w, 64, 64).unwrap()).unwrap();
        let gemm = Gemm::new(&weights, Output::i32()).unwrap();
        // There is no work for as many threads, but in products that no memory holds either.
        let parts = gemm.workspace_size_with(usize::MAX, &Threads(usize::MAX)).unwrap_err();
        let bytes = gemm.workspace_size(usize::MAX).unwrap() - 63;
        let Error::SizeOverflow { what: "workspace, threads x bytes", rows, cols } = parts else {
            panic!("{parts}")
        };
        assert!(cols == bytes && rows > 4 && rows < usize::MAX / (1 << 9), "{parts}");
        // A call cuts its work in no more parts than it is worth, however many threads there are.
        let (x, mut y) = ([1u8; 64 * 64], [0; 64 * 64]);
        let mut scratch = Workspace::with_size(gemm.workspace_size_with(64, &Threads(256)).unwrap()).unwrap();
        let lhs = MatRef::row_major(&x, 64, 64).unwrap();
        let out = MatMut::row_major(&mut y, 64, 64).unwrap();
        gemm.run_with(&Threads(usize::MAX), lhs, out, &mut scratch).unwrap();
        assert_eq!(y, [64; 64 * 64]);

        let config = DynamicConfig::default().kernel(kernel);
        let linear = Linear::with_config(MatRef::row_major(&real, 64, 64).unwrap(), None, config).unwrap();
        too_large(linear.workspace_size(largest / 64 + 1));
        let layer = RecurrentWeights::new(
            MatRef::row_major(&real[..4], 4, 1).unwrap(),
            MatRef::row_major(&real[..4], 4, 1).unwrap(),
        );
        let lstm = Lstm::with_config(&[layer], false, config).unwrap();
        for (steps, batch) in [(largest / 16, 1), (1, largest / 16), (HUGE, HUGE)] {
            too_large(lstm.workspace_size((steps, batch)));
            too_large(lstm.workspace((steps, batch)));
        }
        let config = StaticConfig::<u8>::new(UNIT, UNIT).kernel(kernel);
        let filters = Filters::new(64, 1, Window::new(1, 1));
        let conv = Conv2d::<u8, u8>::new(filters, &real[..64], None, config).unwrap();
        too_large(conv.output_shape(Nhwc::new(1, HUGE, 64, 64)));
    }
}

#[test]
fn parameters() {
    soon(|| {
        too_large(ParamList::fit(
            Grouping::per_channel(&[HUGE, 0], 0).unwrap(),
            Levels::I8,
            Scheme::Affine,
            &[],
        ));
        too_large(PerChannel::new(MinMax::new(), HUGE, 1));
        too_large(PerChannel::new(Histogram::new(i8gemm::quant::Calibrator::Mse), HUGE / 16, 1));
        too_large(Grouping::per_channel(&[HUGE, 0, HUGE], 1));
        let mut few = PerChannel::new(MinMax::new(), 2, HUGE).unwrap();
        few.observe(&[]).unwrap();
        assert!(few.observe(&[1.0]).is_err());
        // Groups of a shape without elements.
        for shape in [[0, HUGE], [HUGE, 0]] {
            for axis in [0, 1] {
                for grouping in [
                    Grouping::per_channel(&shape, axis).unwrap(),
                    Grouping::per_group(&shape, axis, 3).unwrap(),
                    Grouping::per_group(&shape, axis, usize::MAX).unwrap(),
                ] {
                    Quantizer::<i8>::new(grouping, 1.0, 0).quantize::<f32>(&[], &mut []).unwrap();
                    Quantizer::<i8>::new(grouping, 1.0, 0).dequantize(&[], &mut []).unwrap();
                }
            }
        }
        let add = Add::<u8, u8>::new(UNIT, StaticConfig::new(UNIT, UNIT)).unwrap();
        add.forward(&[], &[], &mut []).unwrap();
        let table = Embedding::new(MatRef::row_major(&[], 0, 3).unwrap()).unwrap();
        table.lookup(&[], MatMut::row_major(&mut [], 0, 3).unwrap()).unwrap();
        // Rows without values cost what their scales take, which nobody reads.
        let rows = Embedding::new(MatRef::row_major(&[], 1 << 26, 0).unwrap()).unwrap();
        assert_eq!((rows.rows(), rows.features()), (1 << 26, 0));
        rows.lookup(&[1 << 25], MatMut::row_major(&mut [], 1, 0).unwrap()).unwrap();
        assert!(rows.lookup(&[1 << 26], MatMut::row_major(&mut [], 1, 0).unwrap()).is_err());
    });
}
