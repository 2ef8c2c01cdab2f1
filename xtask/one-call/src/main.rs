//! A product of i8 matrices, computed as often as asked. Weights are packed once, as users do.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use i8gemm::{Gemm, Kernel, Lhs, MatMut, MatRef, Output, OutputElement, PackedRhs};

#[derive(Parser)]
struct Args {
    kernel: String,
    m: usize,
    k: usize,
    n: usize,
    /// `i8`, with bias, scales and a zero point, or `i32`
    output: String,
    calls: u32,
}

fn main() -> ExitCode {
    program::main(chosen)
}

fn chosen(args: &Args) -> Result<()> {
    match args.output.as_str() {
        "i8" => {
            let (scales, bias) = (vec![0.01; args.n], vec![7; args.n]);
            run(args, Output::<i8>::requantize(&scales, 3).bias(&bias))
        }
        "i32" => run(args, Output::i32()),
        other => anyhow::bail!("no output of type {other}"),
    }
}

fn run<T: OutputElement + Default + Copy>(args: &Args, output: Output<T>) -> Result<()> {
    let Args { m, k, n, .. } = *args;
    let sizes = [m.checked_mul(k), k.checked_mul(n), m.checked_mul(n)];
    let [Some(_), Some(_), Some(_)] = sizes else { anyhow::bail!("{m} x {k} x {n} is too large") };
    let values =
        |len: usize| (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) as i8).collect::<Vec<_>>();
    let (x, w) = (values(m * k), values(k * n));
    let weights = PackedRhs::pack_for(Kernel::by_name(&args.kernel)?, MatRef::row_major(&w, k, n)?)?;
    let gemm = Gemm::new(&weights, output)?;
    let mut scratch = gemm.workspace(m)?;
    let mut out = vec![T::default(); m * n];
    for _ in 0..args.calls {
        let lhs = Lhs::new(MatRef::row_major(&x, m, k)?).zero_point(7);
        gemm.run(lhs, MatMut::row_major(&mut out, m, n)?, &mut scratch)?;
    }
    std::hint::black_box(out);
    Ok(())
}
