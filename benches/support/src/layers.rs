//! Convolutional layers in f32, as well as they can be had from a product and plain loops: what the integers have to beat.
//!
//! Images are padded beforehand, which costs nothing here, and what comes after a product (bias, activation) is left out.

/// `c = a b`, row-major, M x K by K x N.
pub type Product = fn((usize, usize, usize), a: &[f32], b: &[f32], c: &mut [f32]);

/// 3 x 3 by 3 x 3 taps on a `size` x `size` image of `inputs` channels, by patches and a product.
pub struct Conv3x3 {
    pub product: Product,
    pub size: usize,
    pub inputs: usize,
    pub outputs: usize,
    image: Vec<f32>,
    patches: Vec<f32>,
    weights: Vec<f32>,
    out: Vec<f32>,
}

impl Conv3x3 {
    pub fn new(product: Product, size: usize, inputs: usize, outputs: usize) -> Self {
        Self {
            product,
            size,
            inputs,
            outputs,
            image: values((size + 2) * (size + 2) * inputs),
            patches: vec![0.0; size * size * 9 * inputs],
            weights: values(9 * inputs * outputs),
            out: vec![0.0; size * size * outputs],
        }
    }

    pub fn run(&mut self) {
        let (size, run) = (self.size, 3 * self.inputs);
        for (place, patch) in self.patches.chunks_exact_mut(3 * run).enumerate() {
            for (u, row) in patch.chunks_exact_mut(run).enumerate() {
                let pixel = (place / size + u) * (size + 2) + place % size;
                row.copy_from_slice(&self.image[pixel * self.inputs..][..run]);
            }
        }
        let shape = (size * size, 9 * self.inputs, self.outputs);
        (self.product)(shape, &self.patches, &self.weights, &mut self.out);
    }
}

/// A depthwise layer of 3 x 3 taps, bias and ReLU6, and a product of 1 x 1 filters behind it: the block of a MobileNet.
pub struct Block {
    pub product: Product,
    pub size: usize,
    pub inputs: usize,
    /// 0 for the depthwise layer alone.
    pub outputs: usize,
    image: Vec<f32>,
    filters: Vec<f32>,
    bias: Vec<f32>,
    between: Vec<f32>,
    weights: Vec<f32>,
    out: Vec<f32>,
}

impl Block {
    pub fn new(product: Product, size: usize, inputs: usize, outputs: usize) -> Self {
        assert!(inputs.is_multiple_of(LANES));
        Self {
            product,
            size,
            inputs,
            outputs,
            image: values((size + 2) * (size + 2) * inputs),
            filters: values(9 * inputs),
            bias: values(inputs),
            between: vec![0.0; size * size * inputs],
            weights: values(inputs * outputs),
            out: vec![0.0; size * size * outputs],
        }
    }

    pub fn run(&mut self) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the CPU has the features.
            unsafe { self.depthwise_fma() };
            return self.pointwise();
        }
        self.depthwise();
        self.pointwise();
    }

    /// Four pixels by two vectors of channels at a time, in registers over all taps.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn depthwise_fma(&mut self) {
        use core::arch::x86_64::*;
        let (size, channels) = (self.size, self.inputs);
        let (image, filters, bias) = (self.image.as_ptr(), self.filters.as_ptr(), self.bias.as_ptr());
        let (low, high) = (_mm256_setzero_ps(), _mm256_set1_ps(6.0));
        for (y, out) in self.between.chunks_exact_mut(size * channels).enumerate() {
            for c in (0..channels).step_by(LANES) {
                for x in (0..size).step_by(PIXELS) {
                    // The last pixels overlap those before.
                    let x = x.min(size - PIXELS);
                    // SAFETY: pixels `x .. x + PIXELS` of row `y` and their neighbours lie inside the padded image, and channels
                    // `c .. c + LANES` inside a pixel.
                    unsafe {
                        let mut sums = [[0, 8].map(|i| _mm256_loadu_ps(bias.add(c + i))); PIXELS];
                        for tap in 0..9 {
                            let filter = [0, 8].map(|i| _mm256_loadu_ps(filters.add(tap * channels + c + i)));
                            let pixel = image.add(((y + tap / 3) * (size + 2) + x + tap % 3) * channels + c);
                            for (p, sums) in sums.iter_mut().enumerate() {
                                let value = pixel.add(p * channels);
                                sums[0] = _mm256_fmadd_ps(_mm256_loadu_ps(value), filter[0], sums[0]);
                                sums[1] = _mm256_fmadd_ps(_mm256_loadu_ps(value.add(8)), filter[1], sums[1]);
                            }
                        }
                        for (p, sums) in sums.iter().enumerate() {
                            let to = out.as_mut_ptr().add((x + p) * channels + c);
                            for (i, &sum) in sums.iter().enumerate() {
                                _mm256_storeu_ps(to.add(8 * i), _mm256_min_ps(_mm256_max_ps(sum, low), high));
                            }
                        }
                    }
                }
            }
        }
    }

    /// The same in whatever vectors the compiler has.
    fn depthwise(&mut self) {
        let (size, channels) = (self.size, self.inputs);
        for (place, out) in self.between.chunks_exact_mut(channels).enumerate() {
            out.copy_from_slice(&self.bias);
            for (tap, filter) in self.filters.chunks_exact(channels).enumerate() {
                let pixel = (place / size + tap / 3) * (size + 2) + place % size + tap % 3;
                let image = &self.image[pixel * channels..][..channels];
                for ((out, x), w) in out.iter_mut().zip(image).zip(filter) {
                    *out += x * w;
                }
            }
            out.iter_mut().for_each(|value| *value = value.clamp(0.0, 6.0));
        }
    }

    fn pointwise(&mut self) {
        if self.outputs > 0 {
            let shape = (self.size * self.size, self.inputs, self.outputs);
            (self.product)(shape, &self.between, &self.weights, &mut self.out);
        }
    }
}

/// Channels of a tile: two vectors.
const LANES: usize = 16;
/// Pixels of a tile.
#[cfg(target_arch = "x86_64")]
const PIXELS: usize = 4;

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i.wrapping_mul(2_654_435_761) >> 7) as i8) as f32 / 128.0).collect()
}
