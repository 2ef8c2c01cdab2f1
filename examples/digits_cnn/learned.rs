//! The scales and zero points of a layer, learned together with its weights.
//!
//! Forward, weights and outputs are fake-quantized; backward, gradients pass where nothing was clipped, and scales get theirs.
//! What is learned of a scale is its logarithm (S. Jain et al. 2019): a step of training then changes scales of every size, for 8
//! bits or for 2, by a like share of themselves, and none falls to 0.

use anyhow::Result;
use i8gemm::{
    nn::NodeParams,
    quant::{Grouping, Levels, QParams, fake::FakeQuantizer},
};

use crate::{layer::Shape, param::Param};

/// What a layer learns of its quantization.
#[derive(Clone)]
pub struct Learned {
    /// Of the weights: symmetric, without the smallest value.
    levels: Levels,
    /// Logarithms, one for each output channel.
    scales: Param,
    /// Of the outputs, as u8, unless the layer is the last, whose outputs are real.
    output: Option<Output>,
}

#[derive(Clone)]
struct Output {
    /// A logarithm.
    scale: Param,
    /// Learned as a real number and used rounded. Behind a ReLU, which leaves nothing below 0, it stays where it was.
    zero_point: Param,
}

impl Learned {
    /// Beginning with what calibration found.
    pub fn new(levels: Levels, scales: &[f32], output: Option<QParams>) -> Self {
        let logarithms = |scales: &[f32]| Param::new(scales.iter().map(|scale| scale.ln()).collect());
        let output = output.map(|QParams { scale, zero_point }| Output {
            scale: logarithms(&[scale]),
            zero_point: Param::new(vec![zero_point as f32]),
        });
        Self { levels: levels.narrow(), scales: logarithms(scales), output }
    }

    /// For [`Network::convert`](i8gemm::nn::Network::convert).
    pub fn node_params(&self) -> NodeParams {
        // Real outputs have no use for any.
        let output = self.output.as_ref().map_or(QParams { scale: 1.0, zero_point: 0 }, Output::params);
        let mut params = NodeParams::new(output);
        params.weight_scales = Some(self.scales());
        params.weight_levels = Some(self.levels);
        params
    }

    fn scales(&self) -> Vec<f32> {
        self.scales.values.iter().map(|scale| scale.exp()).collect()
    }

    fn quantizer<'a>(&self, shape: &Shape, scales: &'a [f32]) -> Result<FakeQuantizer<'a>> {
        let channels = Grouping::per_channel(&[shape.outputs, shape.size()], 0)?;
        Ok(FakeQuantizer::new(channels, scales, 0).levels(self.levels))
    }

    pub fn weights(&self, shape: &Shape, weights: &[f32]) -> Result<Vec<f32>> {
        forward(self.quantizer(shape, &self.scales())?, weights)
    }

    pub fn outputs(&self, y: &[f32]) -> Result<Vec<f32>> {
        self.output.as_ref().map_or_else(|| Ok(y.to_vec()), |output| forward(output.quantizer(), y))
    }

    /// The gradient of the weights from that of the fake-quantized ones.
    pub fn weights_backward(&mut self, shape: &Shape, weights: &[f32], dy: &[f32]) -> Result<Vec<f32>> {
        let scales = self.scales();
        let (mut dx, mut dscales) = (vec![0.0; dy.len()], vec![0.0; scales.len()]);
        let quantizer = self.quantizer(shape, &scales)?;
        quantizer.backward_learnable(weights, dy, &mut dx, &mut dscales, &mut [])?;
        self.scales.gradient =
            dscales.iter().zip(&scales).map(|(gradient, scale)| gradient * scale).collect();
        Ok(dx)
    }

    /// The gradient of the outputs from that of the fake-quantized ones.
    pub fn outputs_backward(&mut self, y: &[f32], dy: &[f32]) -> Result<Vec<f32>> {
        let Some(output) = &mut self.output else { return Ok(dy.to_vec()) };
        let mut dx = vec![0.0; dy.len()];
        let (quantizer, scale) = (output.quantizer(), output.params().scale);
        let (dscale, dzero) = (&mut output.scale.gradient, &mut output.zero_point.gradient);
        quantizer.backward_learnable(y, dy, &mut dx, dscale, dzero)?;
        dscale[0] *= scale;
        Ok(dx)
    }

    pub fn params(&mut self) -> Vec<&mut Param> {
        let mut params = vec![&mut self.scales];
        if let Some(output) = &mut self.output {
            params.extend([&mut output.scale, &mut output.zero_point]);
        }
        params
    }
}

impl Output {
    fn params(&self) -> QParams {
        // `as` saturates.
        let zero_point = i32::from(self.zero_point.values[0].round_ties_even() as u8);
        QParams { scale: self.scale.values[0].exp(), zero_point }
    }

    fn quantizer(&self) -> FakeQuantizer<'static> {
        let QParams { scale, zero_point } = self.params();
        FakeQuantizer::new(Grouping::per_tensor(), scale, zero_point).levels(Levels::U8)
    }
}

fn forward(quantizer: FakeQuantizer, x: &[f32]) -> Result<Vec<f32>> {
    let (mut y, mut mask) = (vec![0.0; x.len()], vec![0; x.len().div_ceil(8)]);
    quantizer.forward(x, &mut y, &mut mask)?;
    Ok(y)
}
