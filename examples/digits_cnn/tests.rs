//! The backward pass against finite differences, and integers against fake quantization, on a model that learns in a moment.

use anyhow::Result;
use i8gemm::{
    nn::NodeParams,
    quant::{Levels, MinMax},
};
use i8gemm_examples::digits::{self, Digits};
use indicatif::ProgressBar;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    learned::Learned,
    model::Model,
    ops::cross_entropy,
    quantize,
    report::agreement,
    train::{Images, Schedule, train},
};

/// The gradient of every parameter of the model is that of its loss.
fn check_gradients(model: &Model, x: &[f32], labels: &[u8]) -> Result<()> {
    let mut random = StdRng::seed_from_u64(7);
    let mut model = model.clone();
    // With summands of 0, factors have no gradient: the next normalization takes them out.
    let params = model.layers.iter_mut().flat_map(|layer| layer.params());
    params.for_each(|param| param.values.iter_mut().for_each(|v| *v += random.random_range(-0.2..0.2)));
    model.gradients(x, labels)?;
    for layer in 0..model.layers.len() {
        for index in 0..model.layers[layer].params().len() {
            let gradient = model.layers[layer].params()[index].gradient.clone();
            check_gradient(&model, (layer, index), &gradient, (x, labels), &mut random)?;
        }
    }
    Ok(())
}

/// The loss along a direction changes as the gradient of a parameter says: along the gradient itself, and along random
/// directions, to which a wrong component anywhere adds.
fn check_gradient(
    model: &Model,
    (layer, index): (usize, usize),
    gradient: &[f32],
    (x, labels): (&[f32], &[u8]),
    random: &mut StdRng,
) -> Result<()> {
    let norm = gradient.iter().map(|g| f64::from(g * g)).sum::<f64>().sqrt();
    assert!(norm > 1e-4, "layer {layer}, parameter {index}: gradient of {norm}");
    let one = 1.0 / (gradient.len() as f64).sqrt();
    for attempt in 0..3 {
        let (direction, slope): (Vec<f64>, f64) = if attempt == 0 {
            (gradient.iter().map(|g| f64::from(*g) / norm).collect(), norm)
        } else {
            (gradient.iter().map(|_| if random.random() { one } else { -one }).collect(), norm * one)
        };
        // Small, because of the kinks of ReLU and pool; large enough for the loss to change in spite of rounding.
        let step = 5e-5 / slope;
        let mut moved = model.clone();
        let mut loss = |step: f64| -> Result<f64> {
            let values = &mut moved.layers[layer].params()[index].values;
            values.iter_mut().zip(&direction).for_each(|(v, d)| *v = (f64::from(*v) + step * d) as f32);
            Ok(cross_entropy(&moved.scores(x)?, labels).0)
        };
        let (below, here, above) = (loss(-step)?, loss(step)?, loss(step)?);
        let expected: f64 = gradient.iter().zip(&direction).map(|(g, d)| f64::from(*g) * d).sum();
        // A kink may lie on one side.
        let measured = [(above - here) / step, (here - below) / step];
        assert!(
            measured.iter().any(|measured| (measured - expected).abs() < 0.05 * slope),
            "layer {layer}, parameter {index}, {attempt}: {measured:?} and {expected} of {norm}"
        );
    }
    Ok(())
}

/// A narrow model, and its images.
fn small(digits: &Digits, count: usize) -> (Model, Images<'_>) {
    let model = Model::new(8, [4, 8, 8], 10, &mut StdRng::seed_from_u64(3));
    (model, Images { pixels: &digits.pixels[..count * crate::SIZE], labels: &digits.labels[..count] })
}

/// Images without ties: blank pixels are all alike, and among equals the largest of a pool has a kink.
fn noisy(pixels: &[f32]) -> Vec<f32> {
    let mut random = StdRng::seed_from_u64(4);
    pixels.iter().map(|x| x + random.random_range(0.0..0.1)).collect()
}

#[test]
fn gradients_are_those_of_finite_differences() -> Result<()> {
    let digits = digits::digits();
    let (model, Images { pixels, labels }) = small(&digits, 12);
    check_gradients(&model, &noisy(pixels), labels)?;
    check_gradients(&model.folded()?, &noisy(pixels), labels)
}

/// Of the logarithm of a scale, with the integers `q` as they are, the loss has the gradient `sum of dy * q * S`. A learned step
/// size gets `sum of dy * (q - w / S) * S` of the weights that are not clipped: what is missing is `sum of dw * w`.
#[test]
fn scales_have_the_gradient_of_a_learned_step_size() -> Result<()> {
    let digits = digits::digits();
    let (model, Images { pixels, labels }) = small(&digits, 12);
    let (mut model, x, levels) = (model.folded()?, noisy(pixels), Levels::signed(2)?);
    for layer in &mut model.layers {
        let scales = vec![0.3; layer.shape.outputs];
        layer.learned = Some(Learned::new(levels, &scales, None));
    }
    model.gradients(&x, labels)?;
    for index in 0..model.layers.len() {
        let size = model.layers[index].shape.size();
        let [weights, _, scales] = &model.layers[index].params()[..] else { panic!("weights, bias, scales") };
        let terms: Vec<f32> = weights.gradient.iter().zip(&weights.values).map(|(dw, w)| dw * w).collect();
        let missing = terms.chunks_exact(size).map(|terms| terms.iter().sum::<f32>());
        let gradient: Vec<f32> = scales.gradient.iter().zip(missing).map(|(a, b)| a + b).collect();
        check_gradient(&model, (index, 2), &gradient, (&x, labels), &mut StdRng::seed_from_u64(7))?;
    }
    Ok(())
}

/// Trains for a moment, with batch normalization and then with fake quantization: integers answer as the latter does.
#[test]
fn integers_answer_as_fake_quantization_does() -> Result<()> {
    let digits = digits::digits();
    let (mut model, images) = small(&digits, 160);
    let (mut random, bar) = (StdRng::seed_from_u64(5), ProgressBar::hidden());
    let schedule = |epochs, rate| Schedule { epochs, rate, decay: 0.0 };
    let first = model.gradients(images.pixels, images.labels)?;
    let last = train(&mut model, images, schedule(4, 0.05), &mut random, &bar)?;
    assert!(last < 0.75 * first, "a loss of {first} became {last}");

    let (network, nodes) = model.network()?;
    let folded = model.folded()?;
    let (a, b) = (folded.scores(images.pixels)?, network.forward(images.pixels)?);
    let most = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(most < 1e-3, "scores differ by {most}: the network is not the model");

    let params: Vec<NodeParams> = quantize::calibrate(&network, images.pixels, &MinMax::new())?;
    for bits in [8, 2] {
        let mut model = quantize::prepared(&folded, &params, &nodes, Levels::signed(bits)?)?;
        let before = model.clone().gradients(images.pixels, images.labels)?;
        train(&mut model, images, schedule(1, 0.01), &mut random, &bar)?;
        let after = model.clone().gradients(images.pixels, images.labels)?;
        assert!(after < before, "{bits} bits: a loss of {before} became {after}");
        let others = &digits.pixels[..400 * crate::SIZE];
        let fake = model.scores(others)?;
        let integer = quantize::scores(&quantize::converted(&model)?, others)?;
        let same = agreement(&fake, &integer, 10);
        assert!(same >= crate::AGREEMENT, "{bits} bits: {same} % of answers are the same");
    }
    Ok(())
}
