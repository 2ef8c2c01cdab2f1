//! Packed weights as bytes: written and opened again, for every kernel of every target, and never opened if a byte is missing or another.

mod common;

use common::{Fill, Matrix, Order, Random, WIDTHS, bytes, kernels, stored};
use i8gemm::{
    ElementType, Error, FixedPoint, FixedRounding, Gemm, Kernel, Lhs, MatMut, MatRef, Operand, Output,
    PackedRhs, Product, Rhs, StoredError,
};

/// Bytes that begin at a multiple of 64, and some behind.
struct Aligned {
    lines: Vec<[u64; 8]>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn new(bytes: &[u8]) -> Self {
        let mut lines = vec![[0u64; 8]; bytes.len() / 64 + 2];
        let all: &mut [u8] = bytemuck::cast_slice_mut(&mut lines);
        let start = all.as_ptr().align_offset(64);
        all[start..][..bytes.len()].copy_from_slice(bytes);
        Self { lines, start, len: bytes.len() }
    }

    fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.lines)[self.start..][..self.len]
    }
}

/// The product of some rows by those weights.
fn product(weights: &PackedRhs) -> Vec<i32> {
    let (m, n) = (3, weights.n());
    let x: Vec<u8> = bytes(&mut Random(7), Fill::Extremes, m * weights.k());
    let mut y = vec![0; m * n];
    let lhs = Lhs::new(MatRef::row_major(&x, m, weights.k()).unwrap()).zero_point(200);
    Gemm::new(weights, Output::i32()).unwrap().apply(lhs, MatMut::row_major(&mut y, m, n).unwrap()).unwrap();
    y
}

/// Weights of so many bits, with a zero point for each column.
fn with_weights<T: Operand, R>(bits: u32, (k, n): (usize, usize), each: impl Fn(Rhs<T>) -> R) -> R {
    let mut random = Random((1000 * k + 10 * n) as u64 + u64::from(bits));
    let mut w = Matrix::<T>::random(&mut random, Fill::Uniform, k, n, Order::ColMajor);
    for value in &mut w.data {
        let byte: u8 = bytemuck::cast(*value);
        *value =
            bytemuck::cast(if T::MIN == 0 { byte >> (8 - bits) } else { (byte as i8 >> (8 - bits)) as u8 });
    }
    let least = if T::MIN == 0 { 0 } else { -(1 << (bits - 1)) };
    let zeros: Vec<i32> = (0..n).map(|_| random.range(least, least + (1 << bits) - 1)).collect();
    each(stored(Rhs::new(w.view()).zero_points(&zeros), bits))
}

#[test]
fn opened_weights_are_the_weights() {
    for kernel in kernels() {
        for bits in [8].into_iter().chain(WIDTHS) {
            for shape in [(0, 5), (5, 0), (1, 1), (67, 33), (200, 129)] {
                let check = |rhs: PackedRhs| {
                    let file = rhs.to_bytes().unwrap();
                    assert_eq!(file.len(), rhs.stored_size());
                    let aligned = Aligned::new(&file);
                    if cfg!(target_endian = "little") {
                        for opened in [PackedRhs::from_bytes, PackedRhs::from_unverified_bytes] {
                            assert_eq!(product(&opened(aligned.bytes()).unwrap()), product(&rhs), "{kernel}");
                        }
                    }
                    let copy = PackedRhs::copied_from_bytes(&file).unwrap();
                    assert_eq!((copy.kernel(), copy.k(), copy.n()), (kernel, shape.0, shape.1));
                    assert_eq!(product(&copy), product(&rhs), "{kernel}, {bits} bits, {shape:?}");
                    assert_eq!(copy.to_bytes().unwrap(), file);
                };
                with_weights::<i8, _>(bits, shape, |rhs| check(PackedRhs::pack_for(kernel, rhs).unwrap()));
                with_weights::<u8, _>(bits, shape, |rhs| check(PackedRhs::pack_for(kernel, rhs).unwrap()));
            }
        }
    }
}

#[test]
fn groups_keep_their_scales() {
    let (m, n) = (2, 21);
    for kernel in kernels() {
        for (k, size) in [(128, 64), (100, 64), (40, 64), (0, 64)] {
            let x: Vec<i8> = bytes(&mut Random(3), Fill::Uniform, m * k);
            let scales: Vec<f32> = (0..k.div_ceil(size) * n).map(|i| 0.01 * i as f32 - 0.2).collect();
            let [before, after] = with_weights::<i8, _>(4, (k, n), |rhs| {
                let packed = PackedRhs::pack_for(kernel, rhs.groups(size, &scales)).unwrap();
                let opened = PackedRhs::copied_from_bytes(&packed.to_bytes().unwrap()).unwrap();
                [packed, opened].map(|weights| {
                    assert_eq!(
                        Product::new(weights.clone(), Output::i32()).unwrap_err(),
                        Error::GroupedOutput
                    );
                    let mut y = vec![0.0f32; m * n];
                    let out = MatMut::row_major(&mut y, m, n).unwrap();
                    let product = Product::new(weights, Output::f32(0.5)).unwrap();
                    product.apply(MatRef::row_major(&x, m, k).unwrap(), out).unwrap();
                    y.iter().map(|y| y.to_bits()).collect::<Vec<_>>()
                })
            });
            assert_eq!(before, after, "{kernel}: K = {k}");
        }
    }
}

/// Whatever target packs: the same bytes as where the kernel runs.
#[test]
fn every_kernels_weights_can_be_packed_here() {
    let rhs = |each: &dyn Fn(Rhs<u8>)| with_weights::<u8, _>(8, (75, 37), each);
    for info in Kernel::catalog() {
        rhs(&|rhs| {
            let file = PackedRhs::bytes_for(info.name, rhs).unwrap();
            match Kernel::by_name(info.name) {
                Ok(kernel) => assert_eq!(PackedRhs::pack_for(kernel, rhs).unwrap().to_bytes().unwrap(), file),
                Err(unavailable) => assert_eq!(PackedRhs::copied_from_bytes(&file).unwrap_err(), unavailable),
            }
        });
    }
    rhs(&|rhs| assert!(matches!(PackedRhs::bytes_for("abacus", rhs), Err(Error::UnknownKernel { .. }))));
    let wrong = Rhs::new(MatRef::row_major(&[8i8], 1, 1).unwrap()).four_bits();
    assert!(matches!(PackedRhs::bytes_for("neon", wrong), Err(Error::Weight { .. })));
}

/// A file of every kernel, written by the first version: what was written once is opened for ever. The bytes of a kernel's file must not
/// change unless the version does.
#[test]
fn files_of_the_first_version_open() {
    let golden: serde_json::Value = serde_json::from_str(include_str!("golden/stored.json")).unwrap();
    let mut opened = 0;
    for (name, hex) in golden.as_object().unwrap() {
        let hex = hex.as_str().unwrap();
        let file: Vec<u8> =
            (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..][..2], 16).unwrap()).collect();
        let w: Vec<i8> = (0..21).map(|i| (i * 37 % 251) as u8 as i8).collect();
        let rhs = Rhs::new(MatRef::row_major(&w, 7, 3).unwrap()).zero_points(&[1, 0, -5]);
        assert_eq!(PackedRhs::bytes_for(name, rhs).unwrap(), file, "{name}");
        if Kernel::by_name(name).is_ok() {
            let weights = PackedRhs::copied_from_bytes(&file).unwrap();
            assert_eq!(product(&weights), product(&PackedRhs::pack_for(weights.kernel(), rhs).unwrap()));
            opened += 1;
        }
    }
    assert!(opened > 0);
}

#[test]
fn what_is_missing_or_another_is_an_error() {
    let file = with_weights::<i8, _>(8, (40, 19), |rhs| PackedRhs::pack(rhs).unwrap().to_bytes().unwrap());
    let refused = |bytes: &[u8]| {
        let aligned = Aligned::new(bytes);
        let [first, second] = [PackedRhs::copied_from_bytes(bytes), PackedRhs::from_bytes(aligned.bytes())];
        (first.expect_err("copied"), second.expect_err("opened"))
    };
    for len in 0..file.len() {
        let (error, _) = refused(&file[..len]);
        assert!(
            matches!(error, Error::Stored(StoredError::Length { actual, .. }) if actual == len),
            "{error}"
        );
        PackedRhs::from_unverified_bytes(Aligned::new(&file[..len]).bytes()).expect_err("unverified");
    }
    let mut longer = file.clone();
    longer.push(0);
    assert!(matches!(refused(&longer).0, Error::Stored(StoredError::Length { .. })));

    let mut random = Random(99);
    for flip in 0..10_000 {
        let mut damaged = file.clone();
        // Every byte of the header, then any.
        let at = if flip < 1024 { flip / 8 } else { random.below(file.len()) };
        damaged[at] ^= if flip < 1024 { 1 << (flip % 8) } else { 1 + random.below(255) as u8 };
        refused(&damaged);
        // What isn't verified is opened with a damaged content, and multiplied.
        let aligned = Aligned::new(&damaged);
        match PackedRhs::from_unverified_bytes(aligned.bytes()) {
            Ok(weights) if at >= 128 => drop(product(&weights)),
            Ok(_) => panic!("a damaged header was opened: byte {at}"),
            Err(error) => assert!(at < 128 || cfg!(target_endian = "big"), "byte {at}: {error}"),
        }
    }
    let text = refused(b"{\"weights\": []}").0;
    assert_eq!(text, Error::Stored(StoredError::Unknown));
    assert_eq!(text.to_string(), "stored bytes: they are not weights of this crate");
}

/// Headers whose checksum is right and whose sizes are not: nothing is allocated, nothing overflows.
#[test]
fn hostile_sizes_are_errors() {
    let file = with_weights::<i8, _>(8, (40, 19), |rhs| PackedRhs::pack(rhs).unwrap().to_bytes().unwrap());
    let sizes = [0, 1, 63, u64::from(u32::MAX), 1 << 40, i64::MAX as u64, u64::MAX];
    for field in [48, 56, 64, 72] {
        for size in sizes {
            for other in sizes {
                let mut hostile = file.clone();
                hostile[field..][..8].copy_from_slice(&size.to_le_bytes());
                let next = if field == 72 { 48 } else { field + 8 };
                hostile[next..][..8].copy_from_slice(&other.to_le_bytes());
                reseal(&mut hostile);
                PackedRhs::copied_from_bytes(&hostile).expect_err("copied");
                PackedRhs::from_unverified_bytes(Aligned::new(&hostile).bytes()).expect_err("unverified");
            }
        }
    }
    // Other panels, other bits, other flags, a version to come.
    for (at, byte) in [(40, 99), (42, 99), (44, 9), (45, 3), (46, 9), (47, 9), (8, 2)] {
        let mut hostile = file.clone();
        hostile[at] = byte;
        reseal(&mut hostile);
        let error = PackedRhs::copied_from_bytes(&hostile).expect_err("copied");
        assert_eq!(
            matches!(error, Error::Stored(StoredError::Version { found: 2, known: 1 })),
            at == 8,
            "{error}"
        );
    }
    let mut elsewhere = file;
    elsewhere[16..40].fill(0);
    elsewhere[16..22].copy_from_slice(b"abacus");
    reseal(&mut elsewhere);
    assert!(matches!(PackedRhs::copied_from_bytes(&elsewhere), Err(Error::UnknownKernel { .. })));
}

/// Products of every output: with one scale and with one for each column, with every bias that it takes.
fn products(kernel: Kernel, each: impl Fn(&str, Product)) {
    let (k, n) = (40, 19);
    let mut random = Random(5);
    let scales: Vec<f32> = (0..n).map(|_| 1e-3 * random.scale()).collect();
    let fixed: Vec<FixedPoint> = scales.iter().map(|&s| FixedPoint::from_scale(s.into()).unwrap()).collect();
    let bias: Vec<i32> = (0..n).map(|_| random.range(-5000, 5000)).collect();
    let real: Vec<f32> = bias.iter().map(|&b| b as f32 * 1e-3).collect();
    macro_rules! make {
        ($($output:expr),* $(,)?) => { $(
            let weights = with_weights::<i8, _>(8, (k, n), |rhs| PackedRhs::pack_for(kernel, rhs).unwrap());
            each(stringify!($output), Product::new(weights, $output).unwrap());
        )* };
    }
    make!(
        Output::i32(),
        Output::i32().bias(&bias).accumulate(),
        Output::f32(0.25),
        Output::f32(&scales).bias_f32(&real).clamp(-0.5, f32::INFINITY),
        Output::f32(&scales).bias(&bias).accumulate(),
        Output::<i8>::requantize(&scales, -3).bias(&bias).clamp(-100, 90),
        Output::<u8>::requantize(0.01, 7).bias_f32(&real),
        Output::<u8>::requantize_fixed(&fixed, FixedRounding::Single, 128),
        Output::<i8>::requantize_fixed(fixed[3], FixedRounding::Double, 0).bias(&bias),
    );
    let group_scales = vec![0.5f32; 2 * n];
    let weights = with_weights::<i8, _>(4, (100, n), |rhs| {
        PackedRhs::pack_for(kernel, rhs.groups(64, &group_scales)).unwrap()
    });
    each("groups", Product::new(weights, Output::f32(&scales).bias_f32(&real)).unwrap());
}

/// The outputs of a product, as bytes, onto what was there.
fn outputs(product: &Product) -> Vec<u8> {
    let (m, k, n) = (3, product.weights().k(), product.weights().n());
    let x: Vec<i8> = bytes(&mut Random(8), Fill::Extremes, m * k);
    let x = MatRef::row_major(&x, m, k).unwrap();
    macro_rules! apply {
        ($t:ty) => {{
            let mut y: Vec<$t> = (0..m * n).map(|i| i as $t).collect();
            product.apply(x, MatMut::row_major(&mut y, m, n).unwrap()).unwrap();
            bytemuck::cast_slice(&y).to_vec()
        }};
    }
    match product.output_type() {
        ElementType::I32 => apply!(i32),
        ElementType::F32 => apply!(f32),
        ElementType::I8 => apply!(i8),
        ElementType::U8 => apply!(u8),
        other => panic!("{other} is new"),
    }
}

#[test]
fn opened_products_are_the_products() {
    for kernel in kernels() {
        products(kernel, |name, product| {
            let file = product.to_bytes().unwrap();
            let opened = Product::copied_from_bytes(&file).unwrap();
            assert_eq!(opened.output_type(), product.output_type());
            assert_eq!(outputs(&opened), outputs(&product), "{kernel}: {name}");
            assert_eq!(opened.to_bytes().unwrap(), file, "{kernel}: {name}");
            if cfg!(target_endian = "little") {
                let aligned: &'static Aligned = Box::leak(Box::new(Aligned::new(&file)));
                let lying = Product::from_static_bytes(aligned.bytes()).unwrap();
                assert_eq!(outputs(&lying), outputs(&product), "{kernel}: {name}");
            }
            let kind = Error::Stored(StoredError::Kind);
            assert_eq!(PackedRhs::copied_from_bytes(&file).unwrap_err(), kind);
            let weights = product.weights().to_bytes().unwrap();
            assert_eq!(Product::copied_from_bytes(&weights).unwrap_err(), kind);
        });
    }
}

#[test]
fn damaged_products_are_errors() {
    products(Kernel::best().unwrap(), |name, product| {
        let file = product.to_bytes().unwrap();
        let refused = |bytes: &[u8]| Product::copied_from_bytes(bytes).expect_err(name);
        for len in 0..file.len() {
            assert!(matches!(refused(&file[..len]), Error::Stored(StoredError::Length { .. })), "{len}");
        }
        let mut random = Random(6);
        for _ in 0..2000 {
            let mut damaged = file.clone();
            damaged[random.below(file.len())] ^= 1 + random.below(255) as u8;
            refused(&damaged);
        }
        // Headers that are sealed and wrong: sizes, kinds, flags; whatever opens is a product all the same.
        for at in 16..64 {
            for byte in [0, 1, 2, 3, 4, 5, 127, 128, 255] {
                let mut hostile = file.clone();
                hostile[at] = byte;
                reseal(&mut hostile);
                if let Ok(product) = Product::copied_from_bytes(&hostile) {
                    outputs(&product);
                }
            }
        }
    });
    // A scale that no product has, in parameters whose checksum is right.
    let weights = PackedRhs::pack(MatRef::row_major(&[1i8, 2], 2, 1).unwrap()).unwrap();
    let mut file = Product::new(weights, Output::f32(1.0)).unwrap().to_bytes().unwrap();
    file[128..132].copy_from_slice(&f32::NAN.to_le_bytes());
    let sum = crc(&file[128..192]);
    file[56..60].copy_from_slice(&sum.to_le_bytes());
    reseal(&mut file);
    assert!(matches!(Product::copied_from_bytes(&file), Err(Error::Scale { index: 0, .. })));
}

/// CRC-32, by its definition.
fn crc(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 };
        }
    }
    !sum
}

/// The header's checksum, made right.
fn reseal(file: &mut [u8]) {
    let sum = crc(&file[..124]);
    file[124..128].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn bytes_lie_where_they_can_be_used() {
    let weights = PackedRhs::pack(MatRef::row_major(&[1i8, 2, 3, 4], 2, 2).unwrap()).unwrap();
    let file = weights.to_bytes().unwrap();
    let mut shifted = vec![0];
    shifted.extend_from_slice(&file);
    let aligned = Aligned::new(&shifted);
    let error = PackedRhs::from_bytes(&aligned.bytes()[1..]).unwrap_err();
    assert_eq!(error, Error::Stored(StoredError::Misaligned { alignment: 64 }));
    assert_eq!(product(&PackedRhs::copied_from_bytes(&aligned.bytes()[1..]).unwrap()), product(&weights));
    assert!(matches!(weights.store(&mut vec![0; file.len() - 1]), Err(Error::Length { .. })));
}

/// Opened without a look at its content: that may lie on pages that nobody may read.
#[cfg(unix)]
#[test]
fn large_files_open_without_being_read() {
    let (k, n) = (33_000, 3_200);
    let w = [0i8; 1];
    let rhs = Rhs::new(MatRef::new(&w, k, n, 0, 0).unwrap());
    let kernel = Kernel::best().unwrap();
    let size = PackedRhs::size(kernel, &rhs).unwrap() - 63 + 128;
    // SAFETY: asks for the page size.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap();
    // SAFETY: a fresh private mapping, of which all but the first page is taken back after the header was written.
    let mapped: &mut [u8] = unsafe {
        let (flags, rights) = (
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            libc::PROT_READ | libc::PROT_WRITE,
        );
        let base = libc::mmap(std::ptr::null_mut(), size, rights, flags, -1, 0);
        assert_ne!(base, libc::MAP_FAILED, "no memory");
        std::slice::from_raw_parts_mut(base.cast(), size)
    };
    // The header of a small file with these sizes.
    let small = PackedRhs::pack(MatRef::row_major(&[0i8; 64], 8, 8).unwrap()).unwrap().to_bytes().unwrap();
    mapped[..128].copy_from_slice(&small[..128]);
    for (at, size) in [(48, k), (56, n), (64, k), (72, size - 128)] {
        mapped[at..][..8].copy_from_slice(&(size as u64).to_le_bytes());
    }
    reseal(&mut mapped[..128]);
    // SAFETY: pages of the mapping behind the first.
    let rest = unsafe { mapped.as_mut_ptr().add(page) };
    // SAFETY: as above.
    assert_eq!(unsafe { libc::mprotect(rest.cast(), size - page, libc::PROT_NONE) }, 0);
    let weights = PackedRhs::from_unverified_bytes(mapped).unwrap();
    assert_eq!((weights.k(), weights.n()), (k, n));
    assert!(weights.bytes() > 100_000_000);
    // SAFETY: the mapping, whole, of which nothing is used any more.
    unsafe { libc::munmap(mapped.as_mut_ptr().cast(), size) };
}
