//! One linear layer, 64 to 64, i8 to i8, requantized in integers, on a Cortex-M without an allocator.
//!
//! `cargo xtask test --only firmware` runs it on an emulated Cortex-M4. It compares every output with plain loops in i64, prints how
//! much stack the layer took, and fails if an output differs. Its size is what a firmware pays that wants one layer.
#![no_std]
#![no_main]

mod expected;
mod stack;

use core::panic::PanicInfo;

use cortex_m_rt::entry;
use i8gemm::{Error, FixedPoint, FixedRounding, Gemm, Kernel, Lhs, MatMut, MatRef, Output, PackedRhs, Rhs};
use semihosting::{println, process};

const INPUTS: usize = 64;
const OUTPUTS: usize = 64;
/// Whole tiles and one row that is left, whatever the tile of the kernel.
const ROWS: usize = 13;

/// All that a layer is made of, where firmware has it: in flash.
struct Layer {
    /// A row for each output.
    weights: [i8; OUTPUTS * INPUTS],
    bias: [i32; OUTPUTS],
    multipliers: [i32; OUTPUTS],
    shifts: [i32; OUTPUTS],
    input_zero: i32,
    output_zero: i32,
}

static LAYER: Layer = Layer::new();

impl Layer {
    /// Every output is clamped now and then. One in four, of weights from -1 to 1 and a scale of 1/8, often lies half between two
    /// integers, where ways to round differ.
    const fn new() -> Self {
        let mut weights = random(1);
        let mut bias = [0; OUTPUTS];
        let mut multipliers = [1 << 30; OUTPUTS];
        let mut shifts = [-2; OUTPUTS];
        let mut i = 0;
        while i < weights.len() {
            let j = i / INPUTS;
            if j.is_multiple_of(4) {
                weights[i] %= 2;
            } else {
                bias[j] = weights[i] as i32 * 500;
                multipliers[j] = (1 << 30) + j as i32 * 17_000_003;
                shifts[j] = -9;
            }
            i += 1;
        }
        Self { weights, bias, multipliers, shifts, input_zero: -3, output_zero: 5 }
    }
}

static INPUT: [i8; ROWS * INPUTS] = random(3);

/// Any i8, one in four of them -128 or 127.
const fn random<const LEN: usize>(seed: u32) -> [i8; LEN] {
    let mut values = [0; LEN];
    let mut state = seed;
    let mut i = 0;
    while i < LEN {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        values[i] = match (state >> 12) % 8 {
            0 => i8::MIN,
            1 => i8::MAX,
            _ => (state >> 24) as i8,
        };
        i += 1;
    }
    values
}

/// Memory that the layer is lent: none of it is on the stack.
struct Buffers {
    packed: [u8; 5 * 1024],
    scratch: [u8; 2 * 1024],
    y: [i8; ROWS * OUTPUTS],
}

#[entry]
fn main() -> ! {
    static mut BUFFERS: Buffers =
        Buffers { packed: [0; 5 * 1024], scratch: [0; 2 * 1024], y: [0; ROWS * OUTPUTS] };
    end(check(BUFFERS).unwrap_or_else(|_| {
        // Naming the error would take as much flash as the layer.
        println!("the layer was refused");
        false
    }))
}

/// Compares every output of a row alone and of all rows, in both ways to round; whether all are right. Prints what it found.
fn check(buffers: &mut Buffers) -> Result<bool, Error> {
    let (mut outputs, mut wrong, mut stack) = (0, 0, Stack::default());
    for rounding in [FixedRounding::Single, FixedRounding::Double] {
        for rows in [1, ROWS] {
            let x = &INPUT[..rows * INPUTS];
            stack.deepen(&linear(&LAYER, rounding, x, buffers)?);
            for (i, row) in x.chunks_exact(INPUTS).enumerate() {
                for j in 0..OUTPUTS {
                    wrong +=
                        usize::from(buffers.y[i * OUTPUTS + j] != expected::output(&LAYER, rounding, row, j));
                }
            }
            outputs += rows * OUTPUTS;
        }
    }
    println!("kernel {}, outputs {outputs}, wrong {wrong}", Kernel::best()?.name());
    println!("bytes of stack: pack {}, describe {}, run {}", stack.pack, stack.describe, stack.run);
    Ok(wrong == 0)
}

/// Bytes of stack that the three steps took at most.
#[derive(Default)]
struct Stack {
    pack: usize,
    describe: usize,
    run: usize,
}

impl Stack {
    fn deepen(&mut self, other: &Self) {
        self.pack = self.pack.max(other.pack);
        self.describe = self.describe.max(other.describe);
        self.run = self.run.max(other.run);
    }
}

/// The layer as firmware calls it: packed, described, run.
fn linear(layer: &Layer, rounding: FixedRounding, x: &[i8], buffers: &mut Buffers) -> Result<Stack, Error> {
    let rows = x.len() / INPUTS;
    let mut multipliers = [FixedPoint::new(0, 0)?; OUTPUTS];
    for (j, multiplier) in multipliers.iter_mut().enumerate() {
        *multiplier = FixedPoint::new(layer.multipliers[j], layer.shifts[j])?;
    }
    let y = &mut buffers.y[..rows * OUTPUTS];
    let (pack, packed) = stack::measure(|| {
        let weights = MatRef::row_major(&layer.weights, OUTPUTS, INPUTS)?.transpose();
        PackedRhs::pack_into(Kernel::best()?, &Rhs::new(weights), &mut buffers.packed)
    });
    let packed = packed?;
    let (describe, gemm) = stack::measure(|| {
        let output = Output::requantize_fixed(&multipliers, rounding, layer.output_zero);
        Gemm::new(&packed, output.bias(&layer.bias))
    });
    let gemm = gemm?;
    let (run, done) = stack::measure(|| {
        let lhs = Lhs::new(MatRef::row_major(x, rows, INPUTS)?).zero_point(layer.input_zero);
        gemm.run(lhs, MatMut::row_major(y, rows, OUTPUTS)?, &mut buffers.scratch)
    });
    done?;
    Ok(Stack { pack, describe, run })
}

/// Ends the emulator.
fn end(passed: bool) -> ! {
    process::exit(if passed { 0 } else { 1 })
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    // Without the message: whoever formats it pays for every type that a message may hold.
    if let Some(location) = info.location() {
        println!("panicked at {}:{}", location.file(), location.line());
    }
    end(false)
}
