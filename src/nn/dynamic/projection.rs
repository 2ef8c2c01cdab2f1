//! The product of a layer with f32 weights: quantized, packed, with their scales and bias.

use super::DynamicConfig;
use crate::{
    Broadcast, Error, MatRef, Output, PackedRhs, Product,
    check::{check_depth, check_len},
    memory,
    quant::{Grouping, Levels, ParamList, Scheme},
};

/// The product of `x W^T + bias`, from f32 weights, out x in, and a bias in f32. The scale of the activations is left to them.
pub(super) fn projection(
    weights: MatRef<f32>,
    bias: Option<&[f32]>,
    config: &DynamicConfig,
) -> Result<Product, Error> {
    let (n, k) = (weights.rows(), weights.cols());
    check_depth(k)?;
    if let Some(bias) = bias {
        check_len("bias", bias.len(), n)?;
    }
    let real = weights.copied("weights")?;
    let levels = Levels::I8.narrow();
    let grouping =
        if config.tensor_weights { Grouping::per_tensor() } else { Grouping::per_channel(&[n, k], 0)? };
    let params = ParamList::fit(grouping, levels, Scheme::Symmetric, &real).map_err(|error| match error {
        Error::NonFinite { index, value, .. } => Error::NonFinite { what: "weight", index, value },
        other => other,
    })?;
    let mut quantized = memory::zeroed::<i8>("weights", n, k)?;
    params.quantizer(grouping).levels(levels).quantize(&real, &mut quantized)?;
    let rhs = MatRef::row_major(&quantized, n, k)?.transpose();
    let weights = PackedRhs::pack_for(config.chosen_kernel()?, rhs)?;
    let output = Output::f32(Broadcast::of(&params.scales));
    Product::new(weights, bias.map_or(output, |bias| output.bias_f32(bias)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Lhs, MatMut, nn::trust};

    /// [`Linear`](crate::nn::Linear), [`Lstm`](crate::nn::Lstm) and [`Gru`](crate::nn::Gru) have their products from here.
    #[test]
    fn calls_trust_what_was_checked() -> Result<(), Error> {
        let weights = MatRef::row_major(&[127.0; 3], 3, 1)?;
        let product = projection(weights, None, &DynamicConfig::default())?.spoiled()?;
        let lhs = Lhs::new(MatRef::row_major(&[1i8], 1, 1)?);
        trust::check::<f32>(|y| product.apply(lhs, MatMut::row_major(y, 1, 3)?))
    }
}
