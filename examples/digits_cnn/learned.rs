//! The scales and zero points of a layer, learned together with its weights.
//!
//! Forward, weights and outputs are fake-quantized; backward, gradients pass where nothing was clipped, and scales get theirs
//! (learned step sizes, LSQ).

use anyhow::Result;
use i8gemm::{
    nn::NodeParams,
    quant::{
        Grouping, Levels, QParams,
        fake::{FakeQuantizer, lsq_factor},
    },
};

use crate::{layer::Shape, param::Param};

/// What a layer learns of its quantization.
#[derive(Clone)]
pub struct Learned {
    /// Of the weights: symmetric, without the smallest value.
    levels: Levels,
    /// One for each output channel.
    scales: Param,
    /// Of the outputs, as u8; none in the last layer, whose outputs are real. A zero point is learned as a real number and used
    /// rounded.
    scale: Param,
    zero_point: Param,
    quantizes_outputs: bool,
}

impl Learned {
    /// Beginning with what calibration found.
    pub fn new(levels: Levels, scales: Vec<f32>, output: QParams, hidden: bool) -> Self {
        Self {
            levels: levels.narrow(),
            scales: Param::scales(scales),
            scale: Param::scales(vec![output.scale]),
            zero_point: Param::new(vec![output.zero_point as f32]),
            quantizes_outputs: hidden,
        }
    }

    /// For [`Network::convert`](i8gemm::nn::Network::convert).
    pub fn node_params(&self) -> NodeParams {
        NodeParams {
            output: self.output(),
            weight_scales: Some(self.scales.values.clone()),
            weight_levels: Some(self.levels),
        }
    }

    fn output(&self) -> QParams {
        // `as` saturates.
        let zero_point = i32::from(self.zero_point.values[0].round_ties_even() as u8);
        QParams { scale: self.scale.values[0], zero_point }
    }

    fn weight_quantizer(&self, shape: &Shape) -> Result<FakeQuantizer<'_>> {
        let channels = Grouping::per_channel(&[shape.outputs, shape.size()], 0)?;
        let quantizer = FakeQuantizer::new(channels, &self.scales.values[..], 0).levels(self.levels);
        Ok(quantizer.gradient_factor(lsq_factor(shape.size(), self.levels)))
    }

    fn output_quantizer(&self, shape: &Shape) -> FakeQuantizer<'static> {
        let QParams { scale, zero_point } = self.output();
        let quantizer = FakeQuantizer::new(Grouping::per_tensor(), scale, zero_point).levels(Levels::U8);
        quantizer.gradient_factor(lsq_factor(shape.values(), Levels::U8))
    }

    pub fn weights(&self, shape: &Shape, weights: &[f32]) -> Result<Vec<f32>> {
        forward(self.weight_quantizer(shape)?, weights)
    }

    pub fn outputs(&self, shape: &Shape, y: &[f32]) -> Result<Vec<f32>> {
        if self.quantizes_outputs { forward(self.output_quantizer(shape), y) } else { Ok(y.to_vec()) }
    }

    /// The gradient of the weights from that of the fake-quantized ones.
    pub fn weights_backward(&mut self, shape: &Shape, weights: &[f32], dy: &[f32]) -> Result<Vec<f32>> {
        let (mut dx, mut dscales) = (vec![0.0; dy.len()], vec![0.0; shape.outputs]);
        // Symmetric: zero points stay 0.
        let mut unused = vec![0.0; shape.outputs];
        let quantizer = self.weight_quantizer(shape)?;
        quantizer.backward_learnable(weights, dy, &mut dx, &mut dscales, &mut unused)?;
        self.scales.gradient = dscales;
        Ok(dx)
    }

    /// The gradient of the outputs from that of the fake-quantized ones.
    pub fn outputs_backward(&mut self, shape: &Shape, y: &[f32], dy: &[f32]) -> Result<Vec<f32>> {
        if !self.quantizes_outputs {
            return Ok(dy.to_vec());
        }
        let mut dx = vec![0.0; dy.len()];
        let quantizer = self.output_quantizer(shape);
        let (dscale, dzero) = (&mut self.scale.gradient, &mut self.zero_point.gradient);
        quantizer.backward_learnable(y, dy, &mut dx, dscale, dzero)?;
        Ok(dx)
    }

    pub fn params(&mut self) -> [&mut Param; 3] {
        [&mut self.scales, &mut self.scale, &mut self.zero_point]
    }
}

fn forward(quantizer: FakeQuantizer, x: &[f32]) -> Result<Vec<f32>> {
    let (mut y, mut mask) = (vec![0.0; x.len()], vec![0; x.len().div_ceil(8)]);
    quantizer.forward(x, &mut y, &mut mask)?;
    Ok(y)
}
