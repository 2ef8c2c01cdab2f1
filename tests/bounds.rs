//! No kernel reads or writes outside the slices it was given: every buffer ends at a page that may not be touched.
#![cfg(unix)]

mod common;

use common::{Fill, Random, WIDTHS, bytes, kernels, stored};
use i8gemm::{
    FixedPoint, FixedRounding, Gemm, Kernel, Lhs, MatMut, MatRef, Operand, Output, OutputElement, PackedRhs,
    Rhs,
    nn::{
        Add, AveragePool, Conv2d, DepthwiseConv2d, Filters, Images, Layer, MaxPool, Nhwc, StaticConfig,
        Window,
    },
    quant::{DynamicQuantizer, Grouping, Levels, QParams, Quantizer, Requantizer, Rounding},
    reference,
};

/// Memory between two protected pages; slices are handed out at its very end or its very start.
struct Guarded {
    base: *mut u8,
    page: usize,
    usable: usize,
}

impl Guarded {
    fn new(bytes: usize) -> Self {
        // SAFETY: asks for the page size.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap();
        let usable = bytes.max(1).next_multiple_of(page);
        // SAFETY: a fresh private mapping; then the first and the last page lose every right.
        unsafe {
            let (flags, rights) =
                (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, libc::PROT_READ | libc::PROT_WRITE);
            let base = libc::mmap(std::ptr::null_mut(), usable + 2 * page, rights, flags, -1, 0);
            assert_ne!(base, libc::MAP_FAILED, "no memory");
            assert_eq!(libc::mprotect(base, page, libc::PROT_NONE), 0);
            assert_eq!(libc::mprotect(base.cast::<u8>().add(page + usable).cast(), page, libc::PROT_NONE), 0);
            Self { base: base.cast(), page, usable }
        }
    }

    /// `len` elements that end (`at_end`) or begin at a protected page; `T` is aligned by its own size.
    fn slice<T: bytemuck::Pod>(&mut self, len: usize, at_end: bool) -> &mut [T] {
        let offset = if at_end { self.usable - len * size_of::<T>() } else { 0 };
        // SAFETY: inside the usable pages, which are zeroed memory, borrowed from self.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(self.page + offset).cast(), len) }
    }

    fn filled<T: bytemuck::Pod>(&mut self, values: &[T], at_end: bool) -> &mut [T] {
        let slice = self.slice(values.len(), at_end);
        slice.copy_from_slice(values);
        slice
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, whole.
        unsafe { libc::munmap(self.base.cast(), self.usable + 2 * self.page) };
    }
}

/// One product with lhs, packed rhs, workspace, parameters and out all against protected pages.
fn guarded_product<A: Operand, T: OutputElement + PartialEq + std::fmt::Debug>(
    kernel: Kernel,
    (m, k, n): (usize, usize, usize),
    output: impl for<'a> Fn(&'a [f32], &'a [i32]) -> Output<'a, T>,
    row_scales: bool,
    at_end: bool,
    bits: u32,
) {
    let mut random = Random((m * 1_000_000 + k * 1000 + n) as u64);
    let x: Vec<A> = bytes(&mut random, Fill::Uniform, m * k);
    let mut w: Vec<i8> = bytes(&mut random, Fill::Uniform, k * n);
    w.iter_mut().for_each(|w| *w >>= 8 - bits);
    let zeros: Vec<i32> = (0..n).map(|_| random.range(-128, 127) >> (8 - bits)).collect();
    let (mut gx, mut gw, mut gz) = (Guarded::new(m * k), Guarded::new(k * n), Guarded::new(4 * n));
    let (mut gs, mut gb) = (Guarded::new(4 * n), Guarded::new(4 * n));
    let x = gx.filled(&x, at_end);
    let rhs = Rhs::new(MatRef::row_major(gw.filled(&w, at_end), k, n).unwrap())
        .zero_points(gz.filled(&zeros, at_end));
    // Weights of fewer bits have groups too where outputs can be sums of them.
    let size = 128 / bits as usize;
    let group_scales: Vec<f32> = (0..k.div_ceil(size) * n).map(|_| random.scale()).collect();
    let rhs = stored(rhs, bits);
    let rhs = if bits < 8 && row_scales { rhs.groups(size, &group_scales) } else { rhs };
    let scales: Vec<f32> = (0..n).map(|_| random.scale()).collect();
    let bias: Vec<i32> = (0..n).map(|_| random.range(-9999, 9999)).collect();
    let output = output(gs.filled(&scales, at_end), gb.filled(&bias, at_end));

    let size = PackedRhs::size(kernel, &rhs).unwrap();
    let mut gp = Guarded::new(size);
    // At the end of the page the buffer is as small as its alignment allows: 64 divides the page.
    let exact = size - 63;
    let packed = PackedRhs::pack_into(kernel, &rhs, gp.slice(exact.next_multiple_of(64), at_end)).unwrap();
    let gemm = Gemm::new(&packed, output).unwrap();
    let workspace = (gemm.workspace_size(m).unwrap() - 63).next_multiple_of(64);
    let mut gws = Guarded::new(workspace);
    let mut gy = Guarded::new(m * n * size_of::<T>());

    let scales: Vec<f32> = (0..m).map(|_| random.scale()).collect();
    let lhs_zeros = vec![7; m];
    let mut lhs = Lhs::new(MatRef::row_major(&*x, m, k).unwrap()).zero_points(&lhs_zeros);
    if row_scales {
        lhs = lhs.scales(&scales);
    }
    let y = gy.slice::<T>(m * n, at_end);
    let mut expected = y.to_vec();
    gemm.run(lhs, MatMut::row_major(y, m, n).unwrap(), gws.slice(workspace, at_end)).unwrap();
    reference::gemm(lhs, rhs, &output, MatMut::row_major(&mut expected, m, n).unwrap()).unwrap();
    assert_eq!(y, expected, "{kernel}: {m}x{k}x{n}");
}

#[test]
fn buffers_that_end_at_a_protected_page() {
    for kernel in kernels() {
        let (mr, nr, kr) = kernel.tile();
        for m in [1, 2, 3, mr - 1, mr, mr + 1, 2 * mr + 1] {
            for k in [1, 2, 3, kr - 1, kr, kr + 1, 3 * kr + 1, 67, 131] {
                for n in [1, 2, nr - 1, nr, nr + 1, 4 * nr + 3] {
                    for at_end in [true, false] {
                        for bits in [8].into_iter().chain(WIDTHS) {
                            let shape = (m, k, n);
                            guarded_product::<i8, i32>(
                                kernel,
                                shape,
                                |_, _| Output::i32().accumulate(),
                                false,
                                at_end,
                                bits,
                            );
                            guarded_product::<u8, i32>(
                                kernel,
                                shape,
                                |_, b| Output::i32().bias(b),
                                false,
                                at_end,
                                bits,
                            );
                            guarded_product::<i8, f32>(
                                kernel,
                                shape,
                                |s, _| Output::f32(s),
                                true,
                                at_end,
                                bits,
                            );
                            guarded_product::<u8, u8>(
                                kernel,
                                shape,
                                |s, b| Output::requantize(s, 3).bias(b),
                                false,
                                at_end,
                                bits,
                            );
                        }
                    }
                }
            }
        }
    }
}

/// Weights in each order, larger than vectors and ragged, and packed ones, that lie against protected pages.
#[test]
fn weights_that_end_at_a_protected_page() {
    let [mut weights, mut panels] = [1 << 17, 1 << 18].map(Guarded::new);
    for kernel in kernels() {
        for k in [1, 3, 4, 5, 15, 16, 17, 32, 33, 67] {
            for n in [1, 7, 8, 9, 16, 17, 31, 32, 33, 63, 64, 65, 79, 80, 130] {
                for [k_stride, n_stride] in [[n, 1], [n + 5, 1], [1, k], [1, k + 3], [2 * n + 1, 2]] {
                    for at_end in [true, false] {
                        let last = (k - 1) * k_stride + (n - 1) * n_stride;
                        let w = &*weights.slice::<u8>(last + 1, at_end);
                        let rhs = Rhs::new(MatRef::new(w, k, n, k_stride, n_stride).unwrap());
                        for rhs in [rhs, rhs.four_bits(), rhs.two_bits()] {
                            let size = (PackedRhs::size(kernel, &rhs).unwrap() - 63).next_multiple_of(64);
                            PackedRhs::pack_into(kernel, &rhs, panels.slice(size, at_end)).unwrap();
                        }
                    }
                }
            }
        }
    }
}

/// Quantizing, requantizing, dequantizing and finding ranges, of slices and parameters that lie against protected pages.
#[test]
fn slices_that_end_at_a_protected_page() {
    let mut random = Random(1);
    let [mut reals, mut scales, mut back] = [(); 3].map(|()| Guarded::new(4 * 300));
    let [mut zeros, mut sums, mut quantized, mut codes] = [(); 4].map(|()| Guarded::new(4 * 300));
    for kernel in kernels() {
        for len in (0..40).chain([63, 64, 65, 127, 128, 129, 300]) {
            for at_end in [true, false] {
                let x: Vec<f32> = (0..len).map(|_| random.range(-9999, 9999) as f32 * 0.01).collect();
                let each: Vec<f32> = (0..len).map(|_| random.scale()).collect();
                let offsets: Vec<i32> = (0..len).map(|_| random.range(-128, 127)).collect();
                let x = &*reals.filled(&x, at_end);
                let (each, offsets) = (&*scales.filled(&each, at_end), &*zeros.filled(&offsets, at_end));
                let q = quantized.slice::<i8>(len, at_end);
                let channels = Grouping::per_channel(&[len], 0).unwrap();
                for rounding in [Rounding::HalfEven, Rounding::Floor] {
                    let one = Quantizer::<i8>::per_tensor(QParams { scale: 0.1, zero_point: 3 });
                    one.rounding(rounding).kernel(kernel).quantize(x, q).unwrap();
                    let own = Quantizer::<i8>::new(channels, each, offsets).kernel(kernel);
                    own.rounding(rounding).quantize(x, q).unwrap();
                    own.dequantize(q, back.slice(len, at_end)).unwrap();
                }
                let values = &*sums.filled(offsets, at_end);
                Requantizer::new(channels, each, 3).kernel(kernel).requantize(values, q).unwrap();
                let fixed = FixedPoint::from_scale(0.3).unwrap();
                Requantizer::fixed(Grouping::per_tensor(), fixed, FixedRounding::Double, 3)
                    .kernel(kernel)
                    .requantize(values, q)
                    .unwrap();
                let bytes = &*codes.filled(q, at_end);
                let between = Requantizer::<i8>::new(channels, each, 3).kernel(kernel);
                between.requantize(bytes, q).unwrap();
                let (mut scale, mut zero, mut sum) = ([0.0], [0], [0]);
                DynamicQuantizer::per_row()
                    .kernel(kernel)
                    .quantize_into(MatRef::row_major(x, 1, len).unwrap(), q, &mut scale, &mut zero, &mut sum)
                    .unwrap();
            }
        }
    }
}

/// Sums and pools whose inputs and outputs lie against protected pages.
#[test]
fn layers_that_end_at_a_protected_page() {
    let mut random = Random(6);
    let [mut left, mut right, mut outputs] = [(); 3].map(|()| Guarded::new(8192));
    let mut workspace = Guarded::new(4096);
    let (half, unit) = (QParams { scale: 0.5, zero_point: 9 }, QParams { scale: 1.0, zero_point: 3 });
    let window = Window::new(2, 3).padding(1, 1);
    for kernel in kernels() {
        let config = StaticConfig::<u8>::new(half, unit).kernel(kernel);
        let add = Add::<u8, u8>::new(unit, config).unwrap();
        let (average, max) =
            (AveragePool::<u8, u8>::new(window, config).unwrap(), MaxPool::new(window).unwrap());
        for len in 0..200 {
            for at_end in [true, false] {
                let [a, b]: [Vec<u8>; 2] = [(); 2].map(|()| bytes(&mut random, Fill::Uniform, len));
                let (a, b) = (left.filled(&a, at_end), right.filled(&b, at_end));
                let y = outputs.slice::<u8>(len, at_end);
                add.forward(a, b, y).unwrap();
                for i in 0..len {
                    let values = [a[i].into(), b[i].into()];
                    let sum = reference::add(values, [half, unit], unit, Levels::U8);
                    assert_eq!(i32::from(y[i]), sum, "{kernel}: {i} of {len}");
                }
            }
        }
        for channels in [1, 3, 4, 8, 15, 16, 17, 33, 64, 70] {
            for at_end in [true, false] {
                let shape = Nhwc::new(1, 3, 4, channels);
                let x: Vec<u8> = bytes(&mut random, Fill::Uniform, shape.elements().unwrap());
                let x = &*left.filled(&x, at_end);
                let out = average.output_shape(shape).unwrap();
                let mut expected = vec![0u8; out.elements().unwrap()];
                let y = outputs.slice::<u8>(expected.len(), at_end);
                let size = average.workspace_size(shape).unwrap().next_multiple_of(64);
                average.forward(Images::new(x, shape).unwrap(), y, workspace.slice(size, at_end)).unwrap();
                reference::average_pool(x, shape, &window, true, [half, unit], &mut expected).unwrap();
                assert_eq!(y, expected, "{kernel}: average of {channels}");
                max.forward(Images::new(x, shape).unwrap(), y, &mut []).unwrap();
                reference::max_pool(x, shape, &window, &mut expected).unwrap();
                assert_eq!(y, expected, "largest of {channels}");
            }
        }
    }
}

/// Convolutions of images, outputs and scratch that lie against protected pages.
#[test]
fn images_that_end_at_a_protected_page() {
    let mut random = Random(4);
    let [mut images, mut outputs] = [(); 2].map(|()| Guarded::new(8192));
    let mut workspace = Guarded::new(1 << 18);
    let unit = QParams { scale: 1.0, zero_point: 3 };
    let three = Window::new(3, 3);
    for kernel in kernels() {
        for window in [Window::new(1, 1), three, three.padding(1, 1), three.stride(2, 2).padding(0, 1)] {
            for channels in [1, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 40, 65] {
                for at_end in [true, false] {
                    let shape = Nhwc::new(1, 4, 5, channels);
                    let filters = Filters::depthwise(channels, window);
                    let (height, width) = window.output_size(4, 5).unwrap();
                    let taps = window.size().0 * window.size().1;
                    let w: Vec<i8> = bytes(&mut random, Fill::Uniform, channels * taps);
                    let x: Vec<u8> = bytes(&mut random, Fill::Uniform, 20 * channels);
                    let x = &*images.filled(&x, at_end);
                    let len = height * width * channels;
                    let mut expected = vec![0; len];
                    let output = Output::<u8>::requantize(1.0, 3);
                    reference::conv2d(x, shape, 3, &w, &filters, &output, &mut expected).unwrap();
                    let config = StaticConfig::<u8>::new(unit, unit).kernel(kernel);
                    let layer = DepthwiseConv2d::<u8, u8>::from_quantized(filters, &w, 1.0, None, config);
                    let layer = layer.unwrap();
                    let size = layer.workspace_size(shape).unwrap();
                    let y = outputs.slice::<u8>(len, at_end);
                    layer.forward(Images::new(x, shape).unwrap(), y, workspace.slice(size, at_end)).unwrap();
                    assert_eq!(y, expected, "{kernel}: {channels} {window:?}");

                    // One filter that reads all channels: the same weights, summed over them.
                    let filters = Filters::new(channels, 1, window);
                    let mut expected = vec![0; height * width];
                    reference::conv2d(x, shape, 3, &w, &filters, &output, &mut expected).unwrap();
                    let layer = Conv2d::<u8, u8>::from_quantized(filters, &w, 1.0, None, config).unwrap();
                    let size = (layer.workspace_size(shape).unwrap() - 63).next_multiple_of(64);
                    let y = outputs.slice::<u8>(height * width, at_end);
                    layer.forward(Images::new(x, shape).unwrap(), y, workspace.slice(size, at_end)).unwrap();
                    assert_eq!(y, expected, "{kernel}: {channels} {window:?}");
                }
            }
        }
    }
}
