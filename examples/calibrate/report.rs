//! One table for each width: what every method chose, and what it costs.

use std::fmt;

use i8gemm::{
    Error,
    quant::{Calibrator, Histogram, Interval, Levels, QParams, Quality, Scheme},
};

pub struct Table {
    pub title: String,
    pub rows: Vec<Row>,
}

/// What a method chose.
pub struct Row {
    pub method: Calibrator,
    /// Widened as the scheme has it: what lies outside is clipped.
    pub range: Interval,
    pub params: QParams,
    pub quality: Quality,
    /// No other method has less noise, to the hundredth of a decibel that is printed.
    pub best: bool,
}

impl Table {
    /// Every method in turn, announced before it runs.
    pub fn new(
        histogram: &Histogram,
        bits: u32,
        scheme: Scheme,
        methods: &[Calibrator],
        mut announce: impl FnMut(Calibrator),
    ) -> Result<Self, Error> {
        let (levels, name) = match scheme {
            Scheme::Affine => (Levels::unsigned(bits)?, "affine"),
            Scheme::Symmetric => (Levels::signed(bits)?, "symmetric"),
        };
        let rows = methods.iter().map(|&method| {
            announce(method);
            let range = histogram.calibrate(method, levels, scheme)?.widened(scheme);
            let params = QParams::new(levels, scheme, range)?;
            Ok(Row { method, range, params, quality: histogram.quality(params, levels)?, best: false })
        });
        let mut rows = rows.collect::<Result<Vec<_>, Error>>()?;
        let most = rows.iter().map(|row| row.quality.sqnr_db).fold(f64::NEG_INFINITY, f64::max);
        rows.iter_mut().for_each(|row| row.best = row.quality.sqnr_db >= most - 0.005);
        Ok(Self { title: format!("{bits} bits, {name}, {}..={}", levels.min(), levels.max()), rows })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [min, max, scale, zero] = ["min", "max", "scale", "zero point"];
        write!(f, "  {:<24}{min:>11}{max:>11}{scale:>12}{zero:>12}", self.title)?;
        writeln!(f, "{:>10}{:>11}", "SQNR, dB", "clipped, %")?;
        for Row { method, range, params, quality, best } in &self.rows {
            let (min, max, scale) = (short(range.min), short(range.max), short(params.scale));
            write!(f, "  {method:<24}{min:>11}{max:>11}{scale:>12}{:>12}", params.zero_point)?;
            let mark = if *best { "  best" } else { "" };
            writeln!(f, "{:>10.2}{:>11.3}{mark}", quality.sqnr_db, 100.0 * quality.clipped)?;
        }
        Ok(())
    }
}

/// Five digits, whatever the magnitude.
pub fn short(x: impl Into<f64>) -> String {
    let x = x.into();
    if x == 0.0 {
        // Without a sign.
        return "0.0000".into();
    }
    match x.abs().log10().floor() as i32 {
        exponent @ -4..=5 => format!("{x:.*}", (4 - exponent).max(0) as usize),
        _ => format!("{x:.4e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_magnitude() {
        let numbers = [0.0, -0.0, 1.0, -12.3456, 123_456.7, 0.000_123_456, 1e-6, -3.4e38].map(short);
        let expected =
            ["0.0000", "0.0000", "1.0000", "-12.346", "123457", "0.00012346", "1.0000e-6", "-3.4000e38"];
        assert_eq!(numbers, expected);
    }
}
