//! Least Kullback-Leibler divergence between a histogram and what quantization makes of it, in the two forms in use.

use super::{BINS, Interval, Levels, Points};
use crate::{Error, memory};

/// The narrowest range tried, in bins.
const NARROWEST: usize = 128;

/// Levels on one side of 0: 128 of 8 bits, narrow or not.
fn half_levels(levels: Levels) -> usize {
    (levels.steps() + 2) as usize / 2
}

/// TensorRT's form: of magnitudes, bins `0..i` spread over the levels, what lies beyond added to the last.
pub fn tensor_rt(points: &Points, levels: Levels) -> Result<Interval, Error> {
    let amax = points.range.max_abs();
    let histogram = points.uniform_abs(BINS, Interval { min: 0.0, max: amax })?;
    let mut bins = memory::collected("bins", histogram.counts.iter().map(|&count| count as f64))?;
    // The peak at 0 says nothing about clipping.
    bins[0] = bins[1];
    let total: f64 = bins.iter().sum();
    if total == 0.0 {
        // Everything was in the first bin.
        return Ok(points.range);
    }
    let levels = half_levels(levels);
    let mut sums = memory::zeroed::<f64>("levels", levels, 1)?;
    let mut filled = memory::zeroed::<u32>("levels", levels, 1)?;
    let mut best = (f64::INFINITY, BINS);
    let mut inside: f64 = bins[..NARROWEST - 1].iter().sum();
    for i in NARROWEST..=BINS {
        inside += bins[i - 1];
        // Level of a bin: where its lower edge lies among `levels` equal parts of 0..i.
        let level = |bin: usize| (bin * levels / i).min(levels - 1);
        sums.fill(0.0);
        filled.fill(0);
        for (bin, &count) in bins[..i].iter().enumerate() {
            sums[level(bin)] += count;
            filled[level(bin)] += u32::from(count != 0.0);
        }
        let tail = total - inside;
        // Both distributions are normalised: P holds everything, Q only what is inside.
        let mut divergence = 0.0;
        for (bin, &count) in bins[..i].iter().enumerate() {
            let p = (count + if bin == i - 1 { tail } else { 0.0 }) / total;
            if p > 0.0 {
                let q = if count != 0.0 { sums[level(bin)] / f64::from(filled[level(bin)]) } else { 0.0 };
                divergence += p * libm::log(p / (q / inside));
            }
        }
        if divergence <= best.0 {
            best = (divergence, i);
        }
    }
    let max = histogram.edges[best.1];
    Ok(Interval { min: -max, max })
}

/// ONNX Runtime's form: a window around 0, of whose bins as many go to each level; what is left over goes to the last.
pub fn onnx_runtime(points: &Points, levels: Levels) -> Result<Interval, Error> {
    let amax = points.range.max_abs();
    let histogram = points.uniform(BINS, Interval { min: -amax, max: amax })?;
    let counts = memory::collected("bins", histogram.counts.iter().map(|&count| count as i64))?;
    let [mut p_counts, mut q_counts] = [memory::zeroed("bins", BINS, 1)?, memory::zeroed("bins", BINS, 1)?];
    let mut shares = [memory::zeroed("bins", BINS, 1)?, memory::zeroed("bins", BINS, 1)?];
    let levels = half_levels(levels);
    let zero = BINS / 2;
    let mut best: Option<(f32, usize, usize)> = None;
    for half in levels / 2..=zero {
        let (start, end) = (zero - half, (zero + half + 1).min(BINS));
        let window = &counts[start..end];
        let (p, q) = (&mut p_counts[..window.len()], &mut q_counts[..window.len()]);
        p.copy_from_slice(window);
        q.fill(0);
        let last = p.len() - 1;
        p[0] += counts[..start].iter().sum::<i64>();
        p[last] += counts[end..].iter().sum::<i64>();
        let merged = window.len() / levels;
        for level in 0..levels {
            let bins = level * merged..(level + 1) * merged;
            let mut sum: i64 = window[bins.clone()].iter().sum();
            if level == levels - 1 {
                sum += window[levels * merged..].iter().sum::<i64>();
            }
            let filled = p[bins.clone()].iter().filter(|count| **count != 0).count() as i64;
            if filled > 0 {
                // Cut to an integer, in every bin of the level; bins behind the last level stay 0.
                q[bins].fill(sum / filled);
            }
        }
        let [p_shares, q_shares] = shares.each_mut().map(|shares| &mut shares[..window.len()]);
        let divergence = if smooth(p, p_shares) && smooth(q, q_shares) {
            divergence(p_shares, q_shares)
        } else {
            f32::INFINITY
        };
        if best.is_none_or(|(least, ..)| divergence < least) {
            best = Some((divergence, start, end));
        }
    }
    match best {
        Some((_, start, end)) => Ok(Interval { min: histogram.edges[start], max: histogram.edges[end] }),
        None => Ok(points.range),
    }
}

/// Gives empty bins a little, taken from the others, in f32; `false` when all are empty.
fn smooth(counts: &[i64], smoothed: &mut [f32]) -> bool {
    const LITTLE: f64 = 1e-4;
    let empty = counts.iter().filter(|count| **count == 0).count();
    let filled = counts.len() - empty;
    if filled == 0 {
        return false;
    }
    let taken = (LITTLE * empty as f64 / filled as f64) as f32;
    for (smoothed, &count) in smoothed.iter_mut().zip(counts) {
        *smoothed = if count == 0 { LITTLE as f32 } else { count as f32 - taken };
    }
    true
}

/// Of two distributions, normalised here; the terms of the sum take the place of the first. Where several windows are about as
/// good, the original's rounding decides: shares and sums are f32, sums in NumPy's order.
fn divergence(p: &mut [f32], q: &[f32]) -> f32 {
    let (p_sum, q_sum) = (pairwise_sum(p), pairwise_sum(q));
    for (p, q) in p.iter_mut().zip(q) {
        let (share, q) = (f64::from(*p / p_sum), f64::from(q / q_sum));
        *p = (share * libm::log(share / q)) as f32;
    }
    pairwise_sum(p)
}

/// The sum as NumPy takes it: halves are summed by themselves, down to 128 values in eight chains.
fn pairwise_sum(values: &[f32]) -> f32 {
    let len = values.len();
    if len < 8 {
        return values.iter().fold(0.0, |sum, x| sum + x);
    }
    if len <= 128 {
        let (whole, rest) = values.split_at(len / 8 * 8);
        let mut chains = [0.0; 8];
        for eight in whole.chunks(8) {
            chains.iter_mut().zip(eight).for_each(|(chain, x)| *chain += x);
        }
        let [a, b, c, d, e, f, g, h] = chains;
        return rest.iter().fold(((a + b) + (c + d)) + ((e + f) + (g + h)), |sum, x| sum + x);
    }
    let half = len / 2 / 8 * 8;
    pairwise_sum(&values[..half]) + pairwise_sum(&values[half..])
}
