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
        self.depthwise(|a, b, c| a * b + c);
        self.pointwise();
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn depthwise_fma(&mut self) {
        self.depthwise(f32::mul_add);
    }

    /// Four pixels by two vectors of channels at a time, in registers over all taps.
    #[inline(always)]
    fn depthwise(&mut self, multiply_add: impl Fn(f32, f32, f32) -> f32) {
        let (size, channels) = (self.size, self.inputs);
        for (y, out) in self.between.chunks_exact_mut(size * channels).enumerate() {
            for c in (0..channels).step_by(LANES) {
                let bias: [f32; LANES] = self.bias[c..][..LANES].try_into().unwrap();
                let mut x = 0;
                while x < size {
                    let mut sums = [bias; PIXELS];
                    // The last pixels overlap those before.
                    let first = x.min(size - PIXELS);
                    for u in 0..3 {
                        for v in 0..3 {
                            let filter: [f32; LANES] =
                                self.filters[(3 * u + v) * channels + c..][..LANES].try_into().unwrap();
                            let pixel = ((y + u) * (size + 2) + first + v) * channels + c;
                            let image = &self.image[pixel..][..(PIXELS - 1) * channels + LANES];
                            for (p, sums) in sums.iter_mut().enumerate() {
                                let values: [f32; LANES] = image[p * channels..][..LANES].try_into().unwrap();
                                for i in 0..LANES {
                                    sums[i] = multiply_add(values[i], filter[i], sums[i]);
                                }
                            }
                        }
                    }
                    for (p, sums) in sums.iter().enumerate() {
                        let out = &mut out[(first + p) * channels + c..][..LANES];
                        for i in 0..LANES {
                            out[i] = sums[i].max(0.0).min(6.0);
                        }
                    }
                    x += PIXELS;
                }
            }
        }
    }

    fn pointwise(&mut self) {
        if self.outputs > 0 {
            let shape = (self.size * self.size, self.inputs, self.outputs);
            (self.product)(shape, &self.between, &self.weights, &mut self.out);
        }
    }
}

/// Channels of a tile.
const LANES: usize = 16;
/// Pixels of a tile.
const PIXELS: usize = 4;

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i.wrapping_mul(2_654_435_761) >> 7) as i8) as f32 / 128.0).collect()
}
