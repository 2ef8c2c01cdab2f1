//! What is printed.

use std::io::{self, Write};

use i8gemm::nn::Report;

/// One calibrator, 8 bits.
pub struct CalibratorRow {
    name: String,
    /// Of the integer network, in percent.
    accuracy: f64,
    /// To f32, in points.
    difference: f64,
    /// Kind and signal to noise of the layer that hurts most.
    worst: (&'static str, f64),
}

/// One width of weights. In percent.
pub struct BitsRow {
    pub bits: u32,
    /// Accuracy of the integer network quantized after training.
    pub after: f64,
    /// Accuracy in training, fake-quantized.
    pub fake: f64,
    /// Accuracy of the integer network that training gave.
    pub integer: f64,
    /// Images with the same answer of both.
    pub agreement: f64,
}

impl CalibratorRow {
    pub fn new(name: String, accuracy: f64, real: f64, report: &Report) -> Self {
        let worst = report.worst().map_or(("", f64::INFINITY), |layer| (layer.name, layer.alone_db));
        Self { name, accuracy, difference: accuracy - real, worst }
    }
}

/// The first table.
pub fn calibrators(out: &mut impl Write, real: f64, rows: &[CalibratorRow]) -> io::Result<()> {
    writeln!(out, "Quantized after training, 8 bits; f32: {real:.1} %")?;
    let [name, accuracy, difference, worst] =
        ["calibrator", "accuracy, %", "to f32", "SQNR of worst layer, dB"];
    writeln!(out, "  {name:<20}{accuracy:>12}{difference:>12}{worst:>26}")?;
    for CalibratorRow { name, accuracy, difference, worst: (layer, db) } in rows {
        writeln!(out, "  {name:<20}{accuracy:>12.1}{difference:>+12.1}{db:>12.1}, {layer}")?;
    }
    writeln!(out)
}

/// The second table.
pub fn widths(out: &mut impl Write, rows: &[BitsRow], images: usize) -> io::Result<()> {
    writeln!(out, "Weights of fewer bits; agreement on all {images} images")?;
    let mut row = |cells: [&str; 5]| {
        let [bits, after, fake, integer, agreement] = cells;
        writeln!(out, "  {bits:>4}{after:>18}{fake:>24}{integer:>24}{agreement:>14}")
    };
    row(["bits", "after training, %", "in training, fake, %", "in training, int8, %", "agreement, %"])?;
    for BitsRow { bits, after, fake, integer, agreement } in rows {
        let cells = [after, fake, integer].map(|x| format!("{x:.1}"));
        row([&bits.to_string(), &cells[0], &cells[1], &cells[2], &format!("{agreement:.2}")])?;
    }
    writeln!(out)
}

/// The class with the best score, for each image.
fn answers(scores: &[f32], classes: usize) -> impl Iterator<Item = usize> {
    scores
        .chunks_exact(classes)
        .map(|scores| (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap_or(0))
}

/// Share of images whose best score is their label, in percent.
pub fn accuracy(scores: &[f32], labels: &[u8]) -> f64 {
    let right = answers(scores, scores.len() / labels.len()).zip(labels);
    percent(right.map(|(answer, &label)| answer == usize::from(label)))
}

/// Share of images with the same best score, in percent.
pub fn agreement(a: &[f32], b: &[f32], classes: usize) -> f64 {
    percent(answers(a, classes).zip(answers(b, classes)).map(|(a, b)| a == b))
}

fn percent(outcomes: impl Iterator<Item = bool>) -> f64 {
    let (mut yes, mut count) = (0, 0);
    outcomes.for_each(|outcome| (yes, count) = (yes + u32::from(outcome), count + 1));
    100.0 * f64::from(yes) / f64::from(count)
}
