//! Loss on a text, and text by a model.

use std::time::Instant;

use anyhow::Result;
use i8gemm_examples::language_model::{float::exp, model::Model};
use indicatif::{ProgressBar, ProgressStyle};
use pulp::Arch;
use rand::{
    Rng,
    distr::{Distribution, weighted::WeightedIndex},
};

/// Words of a sequence; the state goes from one to the next.
const STEPS: usize = 30;

/// How a model did on a text.
#[derive(Clone, Copy, Default)]
pub struct Score {
    /// Nats per word.
    pub loss: f64,
    pub seconds: f64,
    /// Over the first model: the median of the sequences' ratios.
    pub speed_up: f64,
}

/// Both models read the text, in turn for each sequence because the machine may be busy with other things.
pub fn measure(mut models: [&mut dyn Model; 2], text: &[u32]) -> Result<[Score; 2]> {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} words, {elapsed}, {eta} to go")?;
    let count = text.len() - 1;
    let bar = ProgressBar::new(count as u64).with_style(style);
    let words = models[0].words();
    let mut scores = vec![0.0; STEPS * words];
    let (mut results, mut ratios) = ([Score::default(); 2], Vec::new());
    for start in (0..count).step_by(STEPS) {
        let steps = STEPS.min(count - start);
        let scores = &mut scores[..steps * words];
        let mut times = [0.0; 2];
        for (at, model) in models.iter_mut().enumerate() {
            let begun = Instant::now();
            model.forward(&text[start..][..steps], scores)?;
            times[at] = begun.elapsed().as_secs_f64();
            results[at].seconds += times[at];
            let next = &text[start + 1..];
            let losses = scores.chunks_exact_mut(words).zip(next).map(|(scores, &word)| loss(scores, word));
            results[at].loss += losses.sum::<f64>() / count as f64;
        }
        ratios.push(times[0] / times[1]);
        bar.inc(steps as u64);
    }
    bar.finish_and_clear();
    results[0].speed_up = 1.0;
    results[1].speed_up = median(&mut ratios);
    Ok(results)
}

/// The middle one; sorts the values.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Minus the logarithm of a word's probability, in nats; leaves probabilities in place of the scores, up to a factor.
pub fn loss(scores: &mut [f32], word: u32) -> f64 {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let score = scores[word as usize] - largest;
    weigh(scores, largest, 1.0);
    scores.iter().map(|&p| f64::from(p)).sum::<f64>().ln() - f64::from(score)
}

/// `exp((score - largest) / temperature)`.
fn weigh(scores: &mut [f32], largest: f32, temperature: f32) {
    Arch::new().dispatch(|| scores.iter_mut().for_each(|s| *s = exp((*s - largest) / temperature)));
}

/// Words drawn from what the model predicts; its state is what it has read last. Unknown words are not drawn.
pub fn write(
    model: &mut dyn Model,
    count: usize,
    temperature: f32,
    random: &mut impl Rng,
) -> Result<Vec<u32>> {
    let mut scores = vec![0.0; model.words()];
    // The end of a line comes before the first word of the next.
    let mut ids = vec![1];
    for _ in 0..count {
        model.forward(&ids[ids.len() - 1..], &mut scores)?;
        let known = &mut scores[1..];
        let largest = known.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        weigh(known, largest, temperature);
        ids.push(1 + WeightedIndex::new(&*known)?.sample(random) as u32);
    }
    ids.remove(0);
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::StdRng};

    /// Finds the unknown word likeliest by far, and the third likelier than the others.
    struct Unsure;

    impl Model for Unsure {
        fn forward(&mut self, _ids: &[u32], scores: &mut [f32]) -> Result<()> {
            scores.copy_from_slice(&[50.0, 1.0, 1.5, 2.0]);
            Ok(())
        }

        fn words(&self) -> usize {
            4
        }

        fn bytes(&self) -> usize {
            0
        }
    }

    #[test]
    fn the_likeliest_known_word_is_written_when_it_is_cold() {
        let words = write(&mut Unsure, 20, 0.001, &mut StdRng::seed_from_u64(1)).unwrap();
        assert_eq!(words, [3; 20]);
    }
}
