//! Defects that other libraries have or had, each a test of ours.

mod common;

use common::{Fill, Matrix, Order, Random, bytes, compare, kernels};
use i8gemm::{Gemm, Kernel, Lhs, MatMut, MatRef, Operand, Output, OutputElement, PackedRhs, Rhs, Workspace};

/// M x N sums by `Gemm::apply` on a kernel.
fn product<A: Operand, B: Operand, T: OutputElement>(
    kernel: Kernel,
    lhs: Lhs<A>,
    m: usize,
    rhs: Rhs<B>,
    output: Output<T>,
) -> Vec<T> {
    let weights = PackedRhs::pack_for(kernel, rhs).unwrap();
    let mut y = vec![T::from_i32(0); m * weights.n()];
    let out = MatMut::row_major(&mut y, m, weights.n()).unwrap();
    Gemm::new(&weights, output).unwrap().apply(lhs, out).unwrap();
    y
}

/// 1: the zero point of a prepacked operand was silently ignored.
#[test]
fn defect_1_zero_point_of_packed_weights_counts() {
    let (x, w) = ([1u8, 2, 3, 4], [2i8, 3, 4, 5]);
    for kernel in kernels() {
        let lhs = Lhs::new(MatRef::row_major(&x, 2, 2).unwrap());
        let rhs = Rhs::new(MatRef::row_major(&w, 2, 2).unwrap());
        assert_eq!(product(kernel, lhs, 2, rhs, Output::i32()), [10, 13, 22, 29], "{kernel}");
        assert_eq!(product(kernel, lhs, 2, rhs.zero_point(1), Output::i32()), [7, 10, 15, 22], "{kernel}");
        assert_eq!(product(kernel, lhs.zero_point(1), 2, rhs, Output::i32()), [4, 5, 16, 21], "{kernel}");
    }
}

/// 2: one row took a path with other arithmetic (saturating sums; a strided rhs off by 128 times the sum of lhs).
#[test]
fn defect_2_one_row_has_the_bits_of_many() {
    let mut random = Random(2);
    for kernel in kernels() {
        for order in [Order::RowMajor, Order::ColMajor, Order::Strided] {
            let (m, k, n) = (9, 259, 35);
            let x = Matrix::<i8>::random(&mut random, Fill::Extremes, m, k, Order::RowMajor);
            let w = Matrix::<u8>::random(&mut random, Fill::Extremes, k, n, order);
            let rhs = Rhs::new(w.view()).zero_point(200);
            let output = Output::f32(0.013);
            let all = product(kernel, Lhs::new(x.view()).zero_point(-77), m, rhs, output);
            for i in 0..m {
                let row = x.view().submatrix(i..i + 1, 0..k).unwrap();
                let one = product(kernel, Lhs::new(row).zero_point(-77), 1, rhs, output);
                assert_eq!(one, all[i * n..][..n], "{kernel}, {order:?}, row {i}");
            }
        }
    }
}

/// 3: sums of two products of -128 by -128 wrapped in 16 bits.
#[test]
fn defect_3_extreme_values_do_not_wrap() {
    let mut random = Random(3);
    for kernel in kernels() {
        for k in [1, 2, 3, 4, 8, 15, 16, 17, 32, 64, 100, 513] {
            let (x, w) = (vec![-128i8; 5 * k], vec![-128i8; k * 9]);
            let lhs = Lhs::new(MatRef::row_major(&x, 5, k).unwrap());
            let rhs = Rhs::new(MatRef::row_major(&w, k, 9).unwrap());
            assert_eq!(product(kernel, lhs, 5, rhs, Output::i32()), vec![16_384 * k as i32; 45], "{kernel}");
            for fill in [Fill::Extremes, Fill::Alternating] {
                let x = Matrix::<i8>::random(&mut random, fill, 5, k, Order::RowMajor);
                let w = Matrix::<i8>::random(&mut random, fill, k, 9, Order::RowMajor);
                compare(kernel, Lhs::new(x.view()), 5, Rhs::new(w.view()), 9, Output::i32(), Order::RowMajor)
                    .unwrap();
            }
        }
    }
}

/// 4: activations were read past their end. Where pages can be protected, `tests/bounds.rs` does so for every buffer; here
/// what lies behind each row must not count.
#[test]
fn defect_4_what_lies_behind_the_rows_does_not_count() {
    let mut random = Random(4);
    for kernel in kernels() {
        for k in 1..40 {
            let mut x: Vec<u8> = bytes(&mut random, Fill::Uniform, 3 * (k + 17));
            let w: Vec<i8> = bytes(&mut random, Fill::Uniform, k * 5);
            let rhs = Rhs::new(MatRef::row_major(&w, k, 5).unwrap()).zero_point(9);
            let run = |x: &[u8]| {
                let lhs = Lhs::new(MatRef::new(x, 3, k, k + 17, 1).unwrap());
                product(kernel, lhs, 3, rhs, Output::i32())
            };
            let before = run(&x);
            for row in x.chunks_mut(k + 17) {
                row[k..].iter_mut().for_each(|byte| *byte = !*byte);
            }
            assert_eq!(run(&x), before, "{kernel}, K = {k}");
        }
    }
}

/// 5: an epilogue that no test reached, because tests skipped instruction sets that were not there. A pinned run of this
/// suite must have its kernel.
#[test]
fn defect_5_a_pinned_run_has_its_kernel() {
    let kernels = kernels();
    assert!(!kernels.is_empty());
    let pin = std::env::var("I8GEMM_KERNEL").unwrap_or_default();
    if !pin.is_empty() {
        assert_eq!(kernels.iter().map(|k| k.name()).collect::<Vec<_>>(), [pin.as_str()]);
    }
}

/// 6: a newer instruction set was chosen though its kernel was slower. The order of the list is by measurement; no test
/// takes times, so what is held here is that the order is the one of the README's table.
#[test]
fn defect_6_the_order_of_kernels_is_the_measured_one() {
    let names: Vec<_> = Kernel::all().map(|kernel| kernel.name()).collect();
    let readme = include_str!("../README.md");
    let (_, table) = readme.split_once("## Kernels\n").unwrap();
    let (table, _) = table.split_once("## ").unwrap();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.split('|').map(|cell| cell.trim().trim_matches('`')).collect())
        .collect();
    let mut documented: Vec<_> = rows.iter().map(|cells| cells[1]).collect();
    assert_eq!(documented, Kernel::catalog().iter().map(|info| info.name).collect::<Vec<_>>());
    for (info, cells) in Kernel::catalog().iter().zip(&rows) {
        // What it is built on, or the kernel that it is another schedule of.
        let built_on = info.in_order_of.unwrap_or(info.instruction);
        let word =
            cells[3].split('`').find(|word| !word.is_empty() && !word.contains(' ')).unwrap_or(cells[3]);
        assert!(built_on.contains(word) || info.arch.is_none(), "{}: {word}", info.name);
    }

    let place = |name: &str| names.iter().position(|other| *other == name);
    for (i, info) in Kernel::catalog().iter().enumerate() {
        let Some(ordinary) = info.in_order_of else { continue };
        // Which of the two orders is right, `dispatch.rs` asks: of emulated machines that say which they are.
        assert_eq!(place(info.name) < place(ordinary), place("neon_a53") < place("neon"));
        if place(info.name) < place(ordinary) {
            documented.swap(i - 1, i);
        }
    }
    documented.retain(|name| names.contains(name));
    assert_eq!(names, documented);
    // Every kernel of the architecture is here, but for builds for CPUs without vectors.
    let here = |arch: Option<&str>| arch.is_none_or(|arch| arch == std::env::consts::ARCH);
    let of_arch = Kernel::catalog().iter().filter(|info| here(info.arch)).count();
    assert!([1, of_arch].contains(&names.len()), "{names:?}");
}

/// 7: an unaligned activation pointer panicked for one row.
#[test]
fn defect_7_operands_of_any_alignment() {
    let mut random = Random(7);
    let (k, n) = (70, 21);
    for kernel in kernels() {
        for start in 0..17 {
            let x: Vec<u8> = bytes(&mut random, Fill::Uniform, start + 2 * k);
            let w: Vec<i8> = bytes(&mut random, Fill::Uniform, start + k * n);
            for m in [1, 2] {
                let lhs = Lhs::new(MatRef::row_major(&x[start..start + m * k], m, k).unwrap());
                let rhs = Rhs::new(MatRef::row_major(&w[start..], k, n).unwrap());
                compare(kernel, lhs, m, rhs, n, Output::i32(), Order::RowMajor).unwrap();
            }
            // The workspace and the packed weights may begin anywhere, too.
            let rhs = Rhs::new(MatRef::row_major(&w[start..], k, n).unwrap());
            let mut buffer = vec![0; start + PackedRhs::size(kernel, &rhs).unwrap()];
            let weights = PackedRhs::pack_into(kernel, &rhs, &mut buffer[start..]).unwrap();
            let gemm = Gemm::new(&weights, Output::i32()).unwrap();
            let mut scratch = Workspace::with_size(start + gemm.workspace_size(1).unwrap()).unwrap();
            let mut y = vec![0; n];
            let lhs = MatRef::row_major(&x[..k], 1, k).unwrap();
            gemm.run(lhs, MatMut::row_major(&mut y, 1, n).unwrap(), &mut scratch[start..]).unwrap();
            assert_eq!(y, product(kernel, Lhs::new(lhs), 1, rhs, Output::i32()), "{kernel}, start {start}");
        }
    }
}

// 8, sums spilled to the stack after every multiply because of a compiler change, is a matter of the generated code: the stage
// "no spills" of `cargo xtask test` reads the disassembly of every loop that multiplies.

/// 9: i8 activations took a path 20 times slower than u8 ones. Times are for benchmarks; what is held here is that both
/// signs are one path: the same bit patterns, as i8 or as u8 with their zero points moved by 128, give the same bits.
#[test]
fn defect_9_all_signs_are_one_computation() {
    let mut random = Random(9);
    let (m, k, n) = (13, 77, 29);
    for kernel in kernels() {
        let x: Vec<i8> = bytes(&mut random, Fill::Uniform, m * k);
        let w: Vec<i8> = bytes(&mut random, Fill::Uniform, k * n);
        let flip = |v: &[i8]| -> Vec<u8> { v.iter().map(|&b| (b as u8) ^ 0x80).collect() };
        let (ux, uw) = (flip(&x), flip(&w));
        let signed = Lhs::new(MatRef::row_major(&x, m, k).unwrap()).zero_point(-3);
        let unsigned = Lhs::new(MatRef::row_major(&ux, m, k).unwrap()).zero_point(125);
        let rhs = Rhs::new(MatRef::row_major(&w, k, n).unwrap()).zero_point(5);
        let urhs = Rhs::new(MatRef::row_major(&uw, k, n).unwrap()).zero_point(133);
        let expected = product(kernel, signed, m, rhs, Output::i32());
        assert_eq!(product(kernel, unsigned, m, rhs, Output::i32()), expected, "{kernel}");
        assert_eq!(product(kernel, signed, m, urhs, Output::i32()), expected, "{kernel}");
        assert_eq!(product(kernel, unsigned, m, urhs, Output::i32()), expected, "{kernel}");
    }
}
