//! Reals from .npy files, a piece at a time: a file may be larger than memory.

use std::{
    fs::File,
    io::{BufReader, Read},
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};
use i8gemm::quant::NonFinite;
use npyz::{DType, Deserialize, NpyFile, NpyHeader, NpyReader, TypeChar, half::f16};
use py_literal::Value;

use crate::tensor::{Builder, Tensor};

/// Values that are observed at once.
const PIECE: usize = 1 << 16;

/// NumPy reads no header that is longer, either.
const LONGEST_HEADER: usize = 10_000;
/// Brackets inside brackets; an array of plain numbers has two, the dictionary's and the shape's.
const DEEPEST_HEADER: usize = 32;

/// The array of a file.
pub fn open(path: &Path, non_finite: NonFinite) -> Result<Tensor> {
    read(BufReader::new(File::open(path)?), non_finite)
}

/// The array, its values in the order of the file: for a distribution that of its axes makes no difference.
fn read(mut file: impl Read, non_finite: NonFinite) -> Result<Tensor> {
    let header = header(&mut file).context("not a .npy file")?;
    let npy = NpyFile::with_header(header, file);
    let mut builder = Builder::new(non_finite);
    let DType::Plain(dtype) = npy.dtype() else { bail!("a structured array; plain numbers are needed") };
    let b = &mut builder;
    match (dtype.type_char(), dtype.size_field()) {
        (TypeChar::Bool, 1) => observe(npy.data()?, |x: bool| u8::from(x).into(), b),
        (TypeChar::Int, 1) => observe(npy.data()?, |x: i8| x.into(), b),
        (TypeChar::Int, 2) => observe(npy.data()?, |x: i16| x.into(), b),
        (TypeChar::Int, 4) => observe(npy.data()?, |x: i32| x as f32, b),
        (TypeChar::Int, 8) => observe(npy.data()?, |x: i64| x as f32, b),
        (TypeChar::Uint, 1) => observe(npy.data()?, |x: u8| x.into(), b),
        (TypeChar::Uint, 2) => observe(npy.data()?, |x: u16| x.into(), b),
        (TypeChar::Uint, 4) => observe(npy.data()?, |x: u32| x as f32, b),
        (TypeChar::Uint, 8) => observe(npy.data()?, |x: u64| x as f32, b),
        (TypeChar::Float, 2) => observe(npy.data()?, f16::to_f32, b),
        (TypeChar::Float, 4) => observe(npy.data()?, |x: f32| x, b),
        (TypeChar::Float, 8) => observe(npy.data()?, |x: f64| x as f32, b),
        _ => bail!("dtype {dtype} is none of f2, f4, f8, i1 to i8, u1 to u8 and b1"),
    }?;
    builder.finish()
}

/// The header, which `npyz` is given only if it can be read in little memory, not too deep for the stack, and describes a number
/// of values that is a number.
fn header(file: &mut impl Read) -> Result<NpyHeader> {
    let mut bytes = vec![0; 8];
    file.read_exact(&mut bytes)?;
    ensure!(bytes.starts_with(b"\x93NUMPY"), "it does not begin as one");
    // Only the first version has a length of two bytes.
    let mut length = [0; 4];
    let length_bytes = if bytes[6] == 1 { 2 } else { 4 };
    file.read_exact(&mut length[..length_bytes])?;
    bytes.extend(&length[..length_bytes]);
    let (start, length) = (bytes.len(), u32::from_le_bytes(length) as usize);
    ensure!(length <= LONGEST_HEADER, "a header of {length} bytes; {LONGEST_HEADER} are the most");
    bytes.resize(start + length, 0);
    file.read_exact(&mut bytes[start..])?;
    check(&bytes[start..])?;
    Ok(NpyHeader::from_reader(&*bytes)?)
}

/// What `npyz` takes for granted.
fn check(header: &[u8]) -> Result<()> {
    let mut depth = 0usize;
    for byte in header {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        ensure!(
            depth <= DEEPEST_HEADER,
            "a header with more than {DEEPEST_HEADER} brackets inside each other"
        );
    }
    // The parser's own message repeats the header.
    let text = header.strip_suffix(b"\n").unwrap_or(header);
    let header = str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    let Some(Value::Dict(entries)) = header else {
        bail!("its header is no dictionary in Python's notation")
    };
    for (_, shape) in entries.iter().filter(|(key, _)| key.as_string().is_some_and(|key| key == "shape")) {
        let sizes = shape.as_tuple().or_else(|| shape.as_list()).into_iter().flatten();
        let sizes = sizes.filter_map(|size| u64::try_from(size.as_integer()?).ok());
        // A size of 0 makes an array empty; its other sizes are multiplied all the same, for strides.
        let count = sizes.map(|size| size.max(1)).try_fold(1, u64::checked_mul);
        ensure!(count.is_some(), "a shape of more values than can be counted");
    }
    Ok(())
}

fn observe<T: Deserialize, R: Read>(
    reader: NpyReader<T, R>,
    real: impl Fn(T) -> f32,
    builder: &mut Builder,
) -> Result<()> {
    let total = reader.total_len();
    let mut piece = Vec::with_capacity(PIECE);
    for (i, x) in reader.enumerate() {
        piece.push(real(x.with_context(|| format!("cannot read value {i} of {total}"))?));
        if piece.len() == PIECE {
            builder.add(&piece)?;
            piece.clear();
        }
    }
    builder.add(&piece)
}

#[cfg(test)]
mod tests {
    use npyz::{AutoSerialize, Order, WriterBuilder};

    use super::*;

    /// A file of these values, in two rows if there are any.
    fn file<T: AutoSerialize + Copy>(values: &[T], order: Order) -> Vec<u8> {
        let mut bytes = Vec::new();
        let shape = [2, values.len() as u64 / 2];
        let options = npyz::WriteOptions::new().default_dtype().order(order).shape(&shape);
        let mut writer = options.writer(&mut bytes).begin_nd().unwrap();
        writer.extend(values.iter().copied()).unwrap();
        writer.finish().unwrap();
        bytes
    }

    fn line(bytes: &[u8], non_finite: NonFinite) -> Result<String, String> {
        read(bytes, non_finite)
            .map(|tensor| tensor.named("x").to_string())
            .map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn every_type_and_order() {
        let line = |bytes: Vec<u8>| line(&bytes, NonFinite::Error);
        let expected = Ok("x: 4 values, 1.0000 to 4.0000, mean 2.5000".to_string());
        assert_eq!(line(file(&[1.0f32, 2.0, 3.0, 4.0], Order::C)), expected);
        assert_eq!(line(file(&[1.0f64, 2.0, 3.0, 4.0], Order::Fortran)), expected);
        assert_eq!(line(file(&[1.0, 2.0, 3.0, 4.0].map(f16::from_f32), Order::Fortran)), expected);
        assert_eq!(line(file(&[1i64, 2, 3, 4], Order::C)), expected);
        assert_eq!(line(file(&[1u8, 2, 3, 4], Order::C)), expected);
        let half = Ok("x: 2 values, 0.0000 to 1.0000, mean 0.50000".to_string());
        assert_eq!(line(file(&[true, false], Order::C)), half);
        // Byte order is the file's: 1 and 2 as big-endian i16.
        let mut bytes = file(&[256i16, 512], Order::C);
        let at = bytes.windows(3).position(|text| text == b"<i2").unwrap();
        bytes[at] = b'>';
        assert_eq!(line(bytes), Ok("x: 2 values, 1.0000 to 2.0000, mean 1.5000".to_string()));
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let error = |bytes: &[u8]| line(bytes, NonFinite::Error).unwrap_err();
        assert!(error(b"no numbers").starts_with("not a .npy file"));
        assert_eq!(error(&file::<f32>(&[], Order::C)), "the array is empty");
        let short = file(&[1.0f32, 2.0], Order::C);
        assert!(error(&short[..short.len() - 1]).starts_with("cannot read value 1 of 2"));
        let mut complex = file(&[1.0f64, 2.0], Order::C);
        let at = complex.windows(3).position(|text| text == b"<f8").unwrap();
        complex[at + 1] = b'c';
        assert!(error(&complex).starts_with("dtype <c8 is none of"));
    }

    #[test]
    fn what_is_not_finite() {
        let bytes = file(&[1.0, f64::NAN, 1e300, 3.0], Order::C);
        assert!(line(&bytes, NonFinite::Error).unwrap_err().starts_with("NaN at index 1 is not finite"));
        let expected = "x: 2 values, 1.0000 to 3.0000, mean 2.0000; 2 not finite, left out";
        assert_eq!(line(&bytes, NonFinite::Ignore).unwrap(), expected);
        let none = file(&[f32::NAN, f32::INFINITY], Order::C);
        let error = line(&none, NonFinite::Ignore).unwrap_err();
        assert_eq!(error, "none of the 2 values is finite");
    }
}
