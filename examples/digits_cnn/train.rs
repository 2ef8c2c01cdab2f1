//! Training: stochastic gradient descent with momentum, its rate falling along a cosine.

use std::f64::consts::PI;

use anyhow::Result;
use indicatif::ProgressBar;
use rand::{RngExt, rngs::StdRng, seq::SliceRandom};

use crate::model::Model;

/// Images that are trained on at a time.
const BATCH: usize = 32;

/// Images of equal size, with labels.
#[derive(Clone, Copy)]
pub struct Images<'a> {
    pub pixels: &'a [f32],
    pub labels: &'a [u8],
}

/// How long and how fast to train.
#[derive(Clone, Copy)]
pub struct Schedule {
    pub epochs: usize,
    /// Of the first step.
    pub rate: f64,
    pub decay: f32,
}

/// Changes the parameters of the model; the bar counts batches. Gives the mean loss of the last epoch.
pub fn train(
    model: &mut Model,
    images: Images,
    schedule: Schedule,
    random: &mut StdRng,
    bar: &ProgressBar,
) -> Result<f64> {
    let count = images.labels.len();
    let size = images.pixels.len() / count;
    let steps = schedule.epochs * count.div_ceil(BATCH);
    let mut order: Vec<usize> = (0..count).collect();
    let (mut step, mut mean) = (0, 0.0);
    for _ in 0..schedule.epochs {
        order.shuffle(random);
        let mut sum = 0.0;
        for batch in order.chunks(BATCH) {
            let mut pixels = Vec::with_capacity(batch.len() * size);
            for i in batch {
                let [down, right] = [(); 2].map(|()| random.random_range(-1..=1i32) as isize);
                pixels.extend(shifted(&images.pixels[i * size..][..size], down, right));
            }
            let labels: Vec<u8> = batch.iter().map(|&i| images.labels[i]).collect();
            sum += model.gradients(&pixels, &labels)? * batch.len() as f64;
            let rate = schedule.rate * 0.5 * (1.0 + (PI * step as f64 / steps as f64).cos());
            let params = model.layers.iter_mut().flat_map(|layer| layer.params());
            params.for_each(|param| param.step(rate as f32, schedule.decay));
            step += 1;
            bar.inc(1);
        }
        mean = sum / count as f64;
        bar.set_message(format!("loss {mean:.4}"));
    }
    Ok(mean)
}

/// Batches of all epochs, for the length of a bar.
pub fn batches(images: Images, epochs: usize) -> u64 {
    (epochs * images.labels.len().div_ceil(BATCH)) as u64
}

/// A square image moved by some pixels; what comes in is blank.
fn shifted(image: &[f32], down: isize, right: isize) -> Vec<f32> {
    let side = image.len().isqrt() as isize;
    let pixel = |i: isize| {
        let (row, col) = (i / side - down, i % side - right);
        if (0..side).contains(&row) && (0..side).contains(&col) {
            image[(row * side + col) as usize]
        } else {
            0.0
        }
    };
    (0..image.len() as isize).map(pixel).collect()
}
