//! One product with i32 output. Nothing else of the library is called, and so nothing else may be linked.

use i8gemm::{Error, Gemm, MatMut, MatRef, Output, PackedRhs};

fn main() -> Result<(), Error> {
    const SIZE: usize = 64;
    // Values that the compiler does not know.
    let value = std::env::args().count() as i8;
    let (x, w) = ([value; SIZE * SIZE], [value; SIZE * SIZE]);
    let weights = PackedRhs::pack(MatRef::row_major(&w, SIZE, SIZE)?)?;
    let mut y = [0; SIZE * SIZE];
    let lhs = MatRef::row_major(&x, SIZE, SIZE)?;
    Gemm::new(&weights, Output::i32())?.apply(lhs, MatMut::row_major(&mut y, SIZE, SIZE)?)?;
    println!("{}", y[0]);
    Ok(())
}
