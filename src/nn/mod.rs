//! Layers: compositions of the product and of quantization, for a network trained in f32.
//!
//! *Dynamic* quantization needs no data: activations come and leave as f32, and each is measured as it comes. *Static*
//! quantization knows the range of every activation before: calibration has seen some data, or training has learned it. Then
//! whatever flows between layers is i8 or u8. [`Network`] does that to a network as a whole.
//!
//! # Dynamic
//!
//! Weights become narrow symmetric i8 when a layer is made, one scale for each output channel, and are packed once.
//! On the way in each row of activations becomes u8 with a scale and zero point of its own
//! ([`DynamicQuantizer`](crate::quant::DynamicQuantizer)). The product is exact, so every kernel gives the same bits.
//!
//! *Batch*: rows that do not know of each other. *Sequence* ([`Sequence`]): T steps, one after the other; its matrix has T * batch rows,
//! row `t * batch + b`: PyTorch's (T, batch, features) with the first two axes as one. *State*: what a recurrent layer carries
//! from one step to the next. *Hidden size*: units of a recurrent layer.
//!
//! | | weights, as PyTorch lays them out | computes |
//! |---|---|---|
//! | [`Linear`] | out x in | `x W^T + bias` |
//! | [`Lstm`] | 4H x in, 4H x H, gates i, f, g, o | layers of long short-term memory, in one or both directions |
//! | [`Gru`] | 3H x in, 3H x H, gates r, z, n | layers of gated recurrent units, in one or both directions |
//! | [`Embedding`] | rows x features | rows of a table of 8 or 4 bits, as f32 |
//! | [`fold_batch_norm`] | output channels first | the layer before it and the normalization as one layer |
//!
//! # Static
//!
//! Images are NHWC ([`Images`], of a shape [`Nhwc`]); weights keep PyTorch's order. [`StaticConfig`] holds the scales and zero points of a layer's input and
//! output, and how its weights are quantized: to 8, 4 or 2 bits, with a scale for each output channel, for all, or with scales
//! that are given.
//!
//! | | computes |
//! |---|---|
//! | [`Conv2d`] | convolutions, in groups or not |
//! | [`DepthwiseConv2d`] | convolutions of each channel by itself |
//! | [`StaticLinear`] | `x W^T + bias` |
//! | [`Add`] | the sum of two tensors with scales of their own |
//! | [`AveragePool`], [`MaxPool`] | the average and the largest of pixels |
//! | [`Network`] | all of them: built in f32, observed, calibrated, converted to a [`QuantizedNetwork`], compared in a [`Report`] |
//!
//! # From files
//!
//! With the feature `safetensors`, `Tensors` makes dynamically quantized layers of the tensors in a file, by the names that PyTorch
//! gives them.
//!
//! # Everywhere
//!
//! [`Layer`] is how a layer is run: `forward` in scratch that [`workspace`](Layer::workspace) makes, `forward_with` on the threads of an
//! [`Executor`](crate::Executor), `apply` without further ado. Import it with the layers.

mod dynamic;
mod layer;
mod network;
mod quantized;
mod scratch;
#[cfg(feature = "safetensors")]
mod tensors;

#[cfg(feature = "safetensors")]
pub use tensors::{LoadError, Tensor, Tensors};
pub use {
    crate::image::{Images, Nhwc, Window},
    dynamic::{
        DynamicConfig, Embedding, Gru, Linear, Lstm, LstmState, Recurrent, RecurrentWeights, Sequence,
    },
    layer::Layer,
    network::{
        Activation, BatchNorm, Calibration, LayerReport, Network, NetworkConfig, Node, NodeParams,
        QuantizedNetwork, Report, Weights, fold_batch_norm,
    },
    quantized::{
        Activated, Add, AveragePool, Conv2d, DepthwiseConv2d, Filters, MaxPool, StaticConfig, StaticLinear,
    },
};

/// What the layers' tests share that show that parameters are checked when a layer is made, and not again by every call.
#[cfg(test)]
mod trust {
    use core::fmt::Debug;

    use crate::{Error, quant::QParams};

    pub const UNIT: QParams = QParams { scale: 1.0, zero_point: 0 };

    /// `forward` of a layer of three outputs, of which each is 127 for the input; but the sign of the last scale has been turned since
    /// the layer was made. No check lets that pass, so a layer that still computes has made none.
    pub fn check<T: From<i8> + Copy + PartialEq + Debug>(
        forward: impl FnOnce(&mut [T]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut y = [0, 0, 0].map(T::from);
        forward(&mut y)?;
        assert_eq!(y, [127, 127, -127].map(T::from));
        Ok(())
    }
}
