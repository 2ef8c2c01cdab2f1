//! Static layers: `cargo bench --bench conv [-- NAME]`.
//!
//! A 3 x 3 convolution beside the product it comes to; layers of one row and their owned product beside a borrowed one that is kept;
//! and layers and blocks of networks beside the same in f32 (with matrixmultiply for the products; `cargo xtask bench` has the
//! faster gemm). Each is measured in turn with its opponent, and the medians of the ratios are printed.

use bench_support::{layers, median, now};
use i8gemm::{
    Gemm, Kernel, Lhs, MatMut, MatRef, Output, PackedRhs, Product,
    nn::{Conv2d, DepthwiseConv2d, Filters, Images, Layer, Nhwc, StaticConfig, StaticLinear, Window},
    quant::QParams,
};

/// Pairs of measurements.
const PAIRS: usize = 101;

/// Seconds of a measurement, at least.
const SAMPLE: f64 = 2e-3;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    println!("one core, u8 x i8 -> u8, one scale for each channel; medians of {PAIRS} pairs\n");
    println!(
        "{:<14} {:<32} {:>9}  {:<22} {:>9} {:>6}",
        "kernel", "layer", "GMAC/s", "beside", "GMAC/s", "ratio"
    );
    for kernel in Kernel::available() {
        let ring = Ring { kernel, wanted: &wanted };
        for (inputs, outputs) in [(64, 1024), (256, 1024), (384, 1536), (1024, 1024)] {
            ring.one_row(inputs, outputs);
        }
        ring.conv(56, 64, 64);
        ring.conv(14, 256, 256);
        ring.depthwise(112, 32, 1);
        ring.depthwise(14, 512, 1);
        ring.depthwise(112, 64, 2);
        ring.block(112, 32, 64);
        ring.block(14, 512, 512);
    }
}

struct Ring<'a> {
    kernel: Kernel,
    wanted: &'a [String],
}

impl Ring<'_> {
    fn measure(
        &self,
        layer: &str,
        macs: f64,
        mut ours: impl FnMut(),
        others: &mut [(&str, &mut dyn FnMut())],
    ) {
        if !self.wanted.is_empty()
            && !self.wanted.iter().any(|w| layer.contains(w) || *w == self.kernel.name())
        {
            return;
        }
        for (name, other) in others {
            let calls = [calls(&mut ours), calls(other)];
            let (mut rates, mut peers, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..PAIRS {
                let start = now();
                (0..calls[0]).for_each(|_| ours());
                let rate = macs * calls[0] as f64 / (now() - start).as_secs_f64();
                let start = now();
                (0..calls[1]).for_each(|_| other());
                let peer = macs * calls[1] as f64 / (now() - start).as_secs_f64();
                rates.push(rate);
                peers.push(peer);
                ratios.push(rate / peer);
            }
            let [ours, peer, ratio] = [&mut rates, &mut peers, &mut ratios].map(|v| median(v));
            println!(
                "{:<14} {layer:<32} {:>9.1}  {name:<22} {:>9.1} {ratio:>6.2}",
                self.kernel.name(),
                ours / 1e9,
                peer / 1e9
            );
        }
    }

    fn config(&self) -> StaticConfig<'static, u8> {
        let (input, output) =
            (QParams { scale: 0.02, zero_point: 117 }, QParams { scale: 0.05, zero_point: 3 });
        StaticConfig::<u8>::new(input, output).relu6().kernel(self.kernel)
    }

    /// 3 x 3, beside the product of the same sizes and the f32 form.
    fn conv(&self, size: usize, inputs: usize, outputs: usize) {
        let filters = Filters::new(inputs, outputs, Window::new(3, 3).padding(1, 1));
        let conv = Conv2d::<u8, u8>::new(filters, &reals(9 * inputs * outputs), None, self.config()).unwrap();
        let shape = Nhwc::new(1, size, size, inputs);
        let x = bytes(size * size * inputs);
        let mut y = vec![0; size * size * outputs];
        let mut scratch = conv.workspace(shape).unwrap();

        let (m, k, n) = (size * size, 9 * inputs, outputs);
        let (rows, w) = (bytes(m * k), signed(k * n));
        let weights = PackedRhs::pack_for(self.kernel, MatRef::row_major(&w, k, n).unwrap()).unwrap();
        let scales = vec![1e-3; n];
        let gemm = Gemm::new(&weights, Output::<u8>::requantize(&scales, 3)).unwrap();
        let mut out = vec![0; m * n];
        let mut gemm_scratch = gemm.workspace(m).unwrap();
        let mut product = || {
            let lhs = Lhs::new(MatRef::row_major(&rows, m, k).unwrap()).zero_point(117);
            gemm.run(lhs, MatMut::row_major(&mut out, m, n).unwrap(), &mut gemm_scratch).unwrap();
        };
        let mut real = layers::Conv3x3::new(matrixmultiply_f32, size, inputs, outputs);
        self.measure(
            &format!("3x3 {size}x{size}x{inputs} -> {outputs}"),
            (m * k * n) as f64,
            || {
                conv.forward(Images::new(&x, shape).unwrap(), &mut y, &mut scratch).unwrap();
            },
            &mut [("the same product", &mut product), ("f32, matrixmultiply", &mut || real.run())],
        );
    }

    /// An owned product and a linear layer of one row, and a 1 x 1 convolution of one pixel, beside the borrowed product that all
    /// three come to.
    fn one_row(&self, inputs: usize, outputs: usize) {
        let (x, w) = (bytes(inputs), signed(inputs * outputs));
        let rhs = MatRef::row_major(&w, outputs, inputs).unwrap();
        let (layer_scales, product_scales) = (vec![1e-3; outputs], vec![0.02 * 1e-3 / 0.05; outputs]);
        let bias: Vec<i32> = signed(outputs).into_iter().map(i32::from).collect();
        let weights = PackedRhs::pack_for(self.kernel, rhs.transpose()).unwrap();
        let output = Output::<u8>::requantize(&product_scales, 3).bias(&bias).clamp(3, 123);
        let gemm = Gemm::new(&weights, output).unwrap();
        let owned = Product::new(weights.clone(), output).unwrap();
        let linear =
            StaticLinear::<u8, u8>::from_quantized(rhs, &layer_scales, Some(&bias), self.config()).unwrap();
        let filters = Filters::new(inputs, outputs, Window::new(1, 1));
        let conv =
            Conv2d::<u8, u8>::from_quantized(filters, &w, &layer_scales, Some(&bias), self.config()).unwrap();
        let pixel = Nhwc::new(1, 1, 1, inputs);
        let row = || MatRef::row_major(&x, 1, inputs).unwrap();
        let [mut y, mut kept] = [(); 2].map(|()| vec![0; outputs]);
        let mut scratch = gemm.workspace(1).unwrap();
        let mut product = |kept: &mut [u8]| {
            let out = MatMut::row_major(kept, 1, outputs).unwrap();
            gemm.run(Lhs::new(row()).zero_point(117), out, &mut scratch).unwrap();
        };
        let mut scratch = owned.workspace(1).unwrap();
        let mut by_owned = |y: &mut [u8]| {
            let out = MatMut::row_major(y, 1, outputs).unwrap();
            owned.run(Lhs::new(row()).zero_point(117), out, &mut scratch).unwrap();
        };
        let mut scratch = linear.workspace(1).unwrap();
        let mut by_linear = |y: &mut [u8]| {
            linear.forward(row(), MatMut::row_major(y, 1, outputs).unwrap(), &mut scratch).unwrap();
        };
        let mut scratch = conv.workspace(pixel).unwrap();
        let mut by_conv = |y: &mut [u8]| {
            conv.forward(Images::new(&x, pixel).unwrap(), y, &mut scratch).unwrap();
        };
        product(&mut kept);
        for layer in [&mut by_owned as &mut dyn FnMut(&mut [u8]), &mut by_linear, &mut by_conv] {
            layer(&mut y);
            assert_eq!(y, kept, "{}", self.kernel);
        }
        let macs = (inputs * outputs) as f64;
        let others: &mut [(&str, &mut dyn FnMut())] = &mut [("the kept product", &mut || product(&mut kept))];
        self.measure(&format!("owned, one row {inputs} -> {outputs}"), macs, || by_owned(&mut y), others);
        self.measure(&format!("linear, one row {inputs} -> {outputs}"), macs, || by_linear(&mut y), others);
        self.measure(&format!("1x1, one pixel {inputs} -> {outputs}"), macs, || by_conv(&mut y), others);
    }

    fn depthwise(&self, size: usize, channels: usize, stride: usize) {
        let window = Window::new(3, 3).padding(1, 1).stride(stride, stride);
        let filters = Filters::depthwise(channels, window);
        let conv =
            DepthwiseConv2d::<u8, u8>::new(filters, &reals(9 * channels), None, self.config()).unwrap();
        let shape = Nhwc::new(1, size, size, channels);
        let x = bytes(size * size * channels);
        let places = size.div_ceil(stride).pow(2);
        let mut y = vec![0; places * channels];
        let mut scratch = conv.workspace(shape).unwrap();
        // Of stride 1: the same multiply-adds on a smaller image.
        let mut real = layers::Block::new(matrixmultiply_f32, size.div_ceil(stride), channels, 0);
        self.measure(
            &format!("depthwise 3x3 {size}x{size}x{channels} / {stride}"),
            (places * 9 * channels) as f64,
            || {
                conv.forward(Images::new(&x, shape).unwrap(), &mut y, &mut scratch).unwrap();
            },
            &mut [("f32", &mut || real.run())],
        );
    }

    /// A depthwise layer and a pointwise one.
    fn block(&self, size: usize, inputs: usize, outputs: usize) {
        let depthwise = Filters::depthwise(inputs, Window::new(3, 3).padding(1, 1));
        let depthwise =
            DepthwiseConv2d::<u8, u8>::new(depthwise, &reals(9 * inputs), None, self.config()).unwrap();
        let pointwise = Filters::new(inputs, outputs, Window::new(1, 1));
        let pointwise =
            Conv2d::<u8, u8>::new(pointwise, &reals(inputs * outputs), None, self.config()).unwrap();
        let shape = Nhwc::new(1, size, size, inputs);
        let x = bytes(size * size * inputs);
        let (mut between, mut y) = (vec![0; x.len()], vec![0; size * size * outputs]);
        let mut scratch = pointwise.workspace(shape).unwrap();
        scratch.grow(depthwise.workspace_size(shape).unwrap()).unwrap();
        let mut real = layers::Block::new(matrixmultiply_f32, size, inputs, outputs);
        self.measure(
            &format!("block {size}x{size}x{inputs} -> {outputs}"),
            (size * size * inputs * (9 + outputs)) as f64,
            || {
                let shape =
                    depthwise.forward(Images::new(&x, shape).unwrap(), &mut between, &mut scratch).unwrap();
                pointwise.forward(Images::new(&between, shape).unwrap(), &mut y, &mut scratch).unwrap();
            },
            &mut [("f32, matrixmultiply", &mut || real.run())],
        );
    }
}

/// Calls that make a sample.
fn calls(work: &mut dyn FnMut()) -> usize {
    work();
    let start = now();
    work();
    (SAMPLE / (now() - start).as_secs_f64().max(1e-9)).ceil().max(1.0) as usize
}

fn signed(len: usize) -> Vec<i8> {
    (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) as i8).collect()
}

fn bytes(len: usize) -> Vec<u8> {
    signed(len).into_iter().map(|v| v as u8).collect()
}

fn reals(len: usize) -> Vec<f32> {
    signed(len).into_iter().map(|v| f32::from(v) / 128.0).collect()
}

fn matrixmultiply_f32((m, k, n): (usize, usize, usize), a: &[f32], b: &[f32], c: &mut [f32]) {
    assert!(a.len() >= m * k && b.len() >= k * n && c.len() >= m * n);
    let row = |cols: usize| cols as isize;
    // SAFETY: all three are row-major, of M x K, K x N and M x N elements.
    unsafe {
        matrixmultiply::sgemm(
            m,
            k,
            n,
            1.0,
            a.as_ptr(),
            row(k),
            1,
            b.as_ptr(),
            row(n),
            1,
            0.0,
            c.as_mut_ptr(),
            row(n),
            1,
        );
    }
}
