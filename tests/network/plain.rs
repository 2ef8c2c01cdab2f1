//! The network in f64, as plainly as it can be said.

use i8gemm::nn::{Activation, Nhwc};

use super::described::{INPUT, Kind, Layer, Square};

/// Images of f64, one after the other.
#[derive(Clone)]
pub struct Image {
    pub shape: Nhwc,
    pub data: Vec<f64>,
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
pub fn plain(layers: &[Layer], x: &[f32]) -> Vec<Image> {
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
            other => panic!("the plain network has no {other:?}"),
        };
        out.data.iter_mut().for_each(|x| *x = x.clamp(low, high));
        nodes.push(out);
    }
    nodes
}
