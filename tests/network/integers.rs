//! The network in integers, composed of the reference's functions.

use i8gemm::{
    Lhs, MatMut, MatRef, Output, OutputElement, Rhs,
    nn::{Activation, Filters, Nhwc, NodeParams, Window},
    quant::{Levels, QParams, Rounding},
    reference,
};

use super::described::{INPUT, Kind, Layer, Square};
use crate::common::keeps_f32;

/// Every node in integers, by the reference's functions alone; the last one's sums as reals.
pub struct Reference<'a> {
    pub layers: &'a [Layer],
    pub params: &'a [NodeParams],
    pub levels: Levels,
    pub per_tensor: bool,
}

impl Reference<'_> {
    pub fn run(&self, x: &[f32]) -> (Vec<Vec<u8>>, Vec<f32>) {
        let batch = x.len() / INPUT.elements().unwrap();
        let mut shapes = vec![Nhwc { batch, ..INPUT }];
        let mut params = vec![self.params[0].output];
        let quantize =
            |&x: &f32| reference::quantize(x, params[0], Levels::U8, Rounding::HalfEven, false, 0) as u8;
        let mut nodes: Vec<Vec<u8>> = vec![x.iter().map(quantize).collect()];
        for (index, layer) in self.layers.iter().enumerate() {
            let [i, j] = layer.inputs;
            let (a, shape, of) = (&nodes[i], shapes[i], params[i]);
            let to = self.params[index + 1].output;
            let low = if layer.activation == Activation::None { 0 } else { to.zero_point };
            let six = to.zero_point + (6.0 / to.scale).round_ties_even() as i32;
            let high = if layer.activation == Activation::Relu6 { six.min(255) } else { 255 };
            let window = |square: Square| square.window();
            let (mut y, mut out, mut p) = (Vec::new(), shape, to);
            let mut resize = |places: (usize, usize), channels: usize| {
                out = Nhwc::new(shape.batch, places.0, places.1, channels);
                vec![0u8; out.elements().unwrap()]
            };
            let places = |square: Square| (square.places(shape.height), square.places(shape.width));
            match layer.kind {
                Kind::Conv { outputs, groups, square } => {
                    let (w, scales, bias) = self.weights(index, outputs, of.scale, Some(to.scale));
                    let combined: Vec<f32> = scales.iter().map(|s| s / to.scale).collect();
                    let output = Output::<u8>::requantize(&combined, to.zero_point).clamp(low, high);
                    let output = match &bias {
                        Bias::Steps(bias) => output.bias(bias),
                        Bias::Real(bias) => output.bias_f32(bias),
                    };
                    let filters = Filters::new(shape.channels, outputs, window(square)).groups(groups);
                    y = resize(places(square), outputs);
                    reference::conv2d(a, shape, of.zero_point, &w, &filters, &output, &mut y).unwrap();
                }
                Kind::Linear { outputs } => {
                    if index + 1 == self.layers.len() {
                        let (w, scales, bias) = self.weights(index, outputs, of.scale, None);
                        let output = match &bias {
                            Bias::Steps(bias) => Output::f32(&scales).bias(bias),
                            Bias::Real(bias) => Output::f32(&scales).bias_f32(bias),
                        };
                        let scores = linear(a, shape, of, &w, &output, outputs);
                        return (nodes, scores);
                    }
                    let (w, scales, bias) = self.weights(index, outputs, of.scale, Some(to.scale));
                    let combined: Vec<f32> = scales.iter().map(|s| s / to.scale).collect();
                    let output = Output::<u8>::requantize(&combined, to.zero_point).clamp(low, high);
                    let output = match &bias {
                        Bias::Steps(bias) => output.bias(bias),
                        Bias::Real(bias) => output.bias_f32(bias),
                    };
                    resize((1, 1), outputs);
                    y = linear(a, shape, of, &w, &output, outputs);
                }
                Kind::Add => {
                    let sum = |(&a, &b): (&u8, &u8)| {
                        let inputs = [params[i], params[j]];
                        let sum = reference::add([a.into(), b.into()], inputs, to, Levels::U8);
                        sum.clamp(low, high) as u8
                    };
                    y.extend(a.iter().zip(&nodes[j]).map(sum));
                }
                Kind::Average { square, include } => {
                    y = resize(places(square), shape.channels);
                    reference::average_pool(a, shape, &window(square), include, [of, to], &mut y).unwrap();
                }
                Kind::Global => {
                    y = resize((1, 1), shape.channels);
                    let whole = Window::new(shape.height, shape.width);
                    reference::average_pool(a, shape, &whole, true, [of, to], &mut y).unwrap();
                }
                Kind::Max { square } => {
                    y = resize(places(square), shape.channels);
                    reference::max_pool(a, shape, &window(square), &mut y).unwrap();
                    p = of;
                }
                Kind::Flatten => {
                    resize((1, 1), shape.height * shape.width * shape.channels);
                    y.clone_from(a);
                    p = of;
                }
            }
            nodes.push(y);
            shapes.push(out);
            params.push(p);
        }
        unreachable!("the last layer is linear");
    }

    /// Weights, scales of the sums (input scale * weight scale), and biases in units of them or of the output, one for each output.
    fn weights(
        &self,
        index: usize,
        outputs: usize,
        input_scale: f32,
        output_scale: Option<f32>,
    ) -> (Vec<i8>, Vec<f32>, Bias) {
        let (mut real, mut bias) = (self.layers[index].weights.clone(), self.layers[index].bias.clone());
        bias.resize(outputs, 0.0);
        let size = real.len() / outputs;
        if let Some([mean, variance, gamma, beta]) = &self.layers[index].norm {
            for o in 0..outputs {
                let spread = (f64::from(variance[o]) + f64::from(1e-5f32)).sqrt();
                let factor = f64::from(gamma[o]) / spread;
                real[o * size..][..size].iter_mut().for_each(|w| *w = (f64::from(*w) * factor) as f32);
                bias[o] = ((f64::from(bias[o]) - f64::from(mean[o])) * factor + f64::from(beta[o])) as f32;
            }
        }
        let NodeParams { weight_scales, weight_levels, .. } = &self.params[index + 1];
        let levels = weight_levels.unwrap_or(self.levels).narrow();
        let fit = |w: &[f32]| {
            let most = w.iter().fold(0.0f32, |most, w| most.max(w.abs()));
            if most > 0.0 { most / levels.max() as f32 } else { 1.0 }
        };
        let scale = |o: usize| match weight_scales.as_deref() {
            Some([scale]) => *scale,
            Some(scales) => scales[o],
            None if self.per_tensor => fit(&real),
            None => fit(&real[o * size..][..size]),
        };
        let quantize = |(i, &w): (usize, &f32)| {
            let params = QParams { scale: scale(i / size), zero_point: 0 };
            reference::quantize(w, params, levels, Rounding::HalfEven, false, 0) as i8
        };
        let quantized = real.iter().enumerate().map(quantize).collect();
        let sums: Vec<f32> = (0..outputs).map(|o| input_scale * scale(o)).collect();
        let steps = |(b, s): (&f32, &f32)| (f64::from(*b) / f64::from(*s)).round_ties_even() as i32;
        let real = |b: &f32| (f64::from(*b) / f64::from(output_scale.unwrap_or(1.0))) as f32;
        let bias = if keeps_f32(&bias, &sums, output_scale) {
            Bias::Real(bias.iter().map(real).collect())
        } else {
            Bias::Steps(bias.iter().zip(&sums).map(steps).collect())
        };
        (quantized, sums, bias)
    }
}

enum Bias {
    Steps(Vec<i32>),
    Real(Vec<f32>),
}

fn linear<T: OutputElement>(
    x: &[u8],
    shape: Nhwc,
    params: QParams,
    w: &[i8],
    output: &Output<T>,
    outputs: usize,
) -> Vec<T> {
    let (m, k) = (shape.batch, shape.channels);
    let mut y = vec![T::from_i32(0); m * outputs];
    let lhs = Lhs::new(MatRef::row_major(x, m, k).unwrap()).zero_point(params.zero_point);
    let rhs = Rhs::new(MatRef::col_major(w, k, outputs).unwrap());
    reference::gemm(lhs, rhs, output, MatMut::row_major(&mut y, m, outputs).unwrap()).unwrap();
    y
}
