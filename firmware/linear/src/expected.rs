//! What the layer should give: its definition in plain loops, every value an i64, nothing of the library used.

use i8gemm::FixedRounding;

use crate::{INPUTS, Layer};

/// Output `j` of a row.
pub fn output(layer: &Layer, rounding: FixedRounding, row: &[i8], j: usize) -> i8 {
    let mut sum = i64::from(layer.bias[j]);
    for (&x, &w) in row.iter().zip(&layer.weights[j * INPUTS..]) {
        sum += (i64::from(x) - i64::from(layer.input_zero)) * i64::from(w);
    }
    let (multiplier, right) = (i64::from(layer.multipliers[j]), -layer.shifts[j]);
    let scaled = if rounding == FixedRounding::Double {
        // To nearest twice: by 2^31 with ties up, then by 2^right with ties away from zero.
        let high = (sum * multiplier + (1 << 30)) >> 31;
        let half = 1 << (right - 1);
        if high < 0 { -((half - high) >> right) } else { (high + half) >> right }
    } else {
        // To nearest once, ties up.
        (sum * multiplier + (1 << (30 + right))) >> (31 + right)
    };
    (scaled + i64::from(layer.output_zero)).clamp(-128, 127) as i8
}
