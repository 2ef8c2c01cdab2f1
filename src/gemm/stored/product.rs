//! Products as bytes.
//!
//! Behind what every header begins with ([`super`]):
//!
//! ```text
//!  16   element                   u8: outputs are i32, f32, i8, u8
//!  17   output                    u8: i32, f32, requantized, in integers rounded once, twice
//!  18   bias                      u8: none, i32, f32
//!  19   accumulates               u8: 1 if outputs are added to what is there
//!  20   zero point                i32, 0 where outputs have none
//!  24   least, largest            the output's clamp: i32 or f32 each, 0 for i32
//!  32   scales                    u64: how many scales or multipliers there are
//!  40   length of the parameters  u64
//!  48   length of the weights     u64
//!  56   CRC-32 of the parameters  u32
//! 128   parameters                scales (f32) or multipliers (i32) and their shifts (i32), bias; zeros up to a multiple of 64, so
//!                                 that the weights are as aligned as the whole
//!       weights                   packed rhs, with their header
//! ```

use alloc::vec::Vec;

use super::{
    super::{Byte, Finish, Kind, PackedRhs, Product, output::Bias, owned::OwnedFinish, parts::ALIGN},
    Fields, HEADER, PRODUCT,
};
use crate::{
    ElementType, Error, FixedPoint, FixedRounding,
    error::StoredError,
    kernels::{self, EndByte, EndF32, EndF32Added, EndFixed, EndI32, Id, Multiply},
    memory,
};

const ELEMENTS: [ElementType; 4] = [ElementType::I32, ElementType::F32, ElementType::I8, ElementType::U8];

/// A header, read or to be written.
struct Header {
    element: u8,
    output: u8,
    bias: u8,
    accumulates: u8,
    zero_point: i32,
    clamp: [u32; 2],
    scales: u64,
    parameters: u64,
    weights: u64,
    sum: u32,
}

impl Header {
    fn write(&self, to: &mut [u8; HEADER]) {
        let mut fields = Fields::start(to, PRODUCT);
        fields.put([self.element, self.output, self.bias, self.accumulates]);
        fields.put(self.zero_point.to_le_bytes());
        for bound in self.clamp {
            fields.put(bound.to_le_bytes());
        }
        for size in [self.scales, self.parameters, self.weights] {
            fields.put(size.to_le_bytes());
        }
        fields.put(self.sum.to_le_bytes());
        fields.seal();
    }

    /// The header of a product, its parameters, and its weights.
    fn read(bytes: &[u8]) -> Result<(Self, &[u8], &[u8]), StoredError> {
        let (mut fields, content) = Fields::unseal(bytes, PRODUCT)?;
        let [element, output, bias, accumulates] = fields.take();
        let zero_point = i32::from_le_bytes(fields.take());
        let clamp = [(); 2].map(|()| u32::from_le_bytes(fields.take()));
        let [scales, parameters, weights] = [(); 3].map(|()| u64::from_le_bytes(fields.take()));
        let sum = u32::from_le_bytes(fields.take());
        if !fields.rest_is_zero() {
            return Err(StoredError::Output);
        }
        let length = parameters.checked_add(weights);
        if length != Some(content.len() as u64) {
            let expected = length.unwrap_or(u64::MAX).saturating_add(HEADER as u64);
            return Err(StoredError::Length { expected, actual: bytes.len() });
        }
        // No longer than the content.
        let (of_output, of_weights) = content.split_at(parameters as usize);
        if crc32fast::hash(of_output) != sum {
            return Err(StoredError::Checksum { what: "scales and bias" });
        }
        let header =
            Self { element, output, bias, accumulates, zero_point, clamp, scales, parameters, weights, sum };
        Ok((header, of_output, of_weights))
    }

    fn of(finish: &Finish, element: ElementType) -> Self {
        let index = ELEMENTS.iter().position(|&other| other == element).unwrap_or(0);
        let byte = |to: &Byte| (to.zero_point, [to.min, to.max].map(|bound| bound as u32));
        let (output, accumulates, (zero_point, clamp)) = match &finish.kind {
            Kind::I32 { accumulate } => (0, *accumulate, (0, [0, 0])),
            Kind::F32 { min, max, accumulate, .. } => (1, *accumulate, (0, [min, max].map(|b| b.to_bits()))),
            Kind::HalfEven { to, .. } => (2, false, byte(to)),
            Kind::Fixed { rounding: FixedRounding::Single, to, .. } => (3, false, byte(to)),
            Kind::Fixed { rounding: FixedRounding::Double, to, .. } => (4, false, byte(to)),
        };
        let scales = finish.kind.parameters(|s| s.as_slice().len(), |m| m.as_slice().len()).unwrap_or(0);
        Self {
            element: index as u8,
            output,
            bias: match finish.bias {
                Bias::None => 0,
                Bias::I32(_) => 1,
                Bias::F32(_) => 2,
            },
            accumulates: accumulates.into(),
            zero_point,
            clamp,
            scales: scales as u64,
            parameters: 0,
            weights: 0,
            sum: 0,
        }
    }

    /// The output of a product of `n` columns, from parameters that need not be those of any.
    fn output(&self, parameters: &[u8], n: usize) -> Result<Opened, Error> {
        let wrong = Error::Stored(StoredError::Output);
        let element = *ELEMENTS.get(usize::from(self.element)).ok_or(wrong)?;
        let accumulate = self.accumulates == 1;
        if self.accumulates > 1 || accumulate && self.output > 1 {
            return Err(wrong);
        }
        let mut words = Words(parameters);
        let to = self.byte(element);
        let (kind, product): (_, fn(Id) -> Multiply) = match (self.output, element, to) {
            (0, ElementType::I32, _) if self.scales == 0 => {
                (Kind::I32 { accumulate }, kernels::multiply::<EndI32>)
            }
            (1, ElementType::F32, _) => {
                let [min, max] = self.clamp.map(f32::from_bits);
                let product: fn(Id) -> Multiply =
                    if accumulate { kernels::multiply::<EndF32Added> } else { kernels::multiply::<EndF32> };
                (
                    Kind::F32 { scales: words.reals("output scales", self.scales)?, min, max, accumulate },
                    product,
                )
            }
            (2, _, Some(to)) => {
                let scales = words.reals("output scales", self.scales)?;
                (Kind::HalfEven { scales, to }, kernels::multiply::<EndByte>)
            }
            (3 | 4, _, Some(to)) => {
                let rounding = if self.output == 3 { FixedRounding::Single } else { FixedRounding::Double };
                let multipliers = words.multipliers(self.scales)?;
                (Kind::Fixed { multipliers, rounding, to }, kernels::multiply::<EndFixed>)
            }
            _ => return Err(wrong),
        };
        let bias = match self.bias {
            0 => Bias::None,
            1 => Bias::I32(words.integers("bias", n as u64)?),
            2 => Bias::F32(words.reals("bias", n as u64)?),
            _ => return Err(wrong),
        };
        // Nothing else is there.
        if words.0.len() >= ALIGN || words.0.iter().any(|&byte| byte != 0) {
            return Err(wrong);
        }
        Ok(Opened { finish: OwnedFinish::new(kind, bias, n)?, product, element })
    }

    /// Zero point and clamp of an output of bytes.
    fn byte(&self, element: ElementType) -> Option<Byte> {
        let mut to = match element {
            ElementType::I8 => Byte::of::<i8>(self.zero_point),
            ElementType::U8 => Byte::of::<u8>(self.zero_point),
            ElementType::I32 | ElementType::F32 => return None,
        };
        [to.min, to.max] = self.clamp.map(|bound| bound as i32);
        Some(to)
    }
}

/// An output that was read.
struct Opened {
    finish: OwnedFinish,
    /// The kernels' product for it.
    product: fn(Id) -> Multiply,
    element: ElementType,
}

/// Parameters that have not been read: words of 4 bytes.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    /// The next words, if there are as many, made values of.
    fn take<const L: usize, T>(
        &mut self,
        what: &'static str,
        count: u64,
        value: impl Fn([[u8; 4]; L]) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        let bytes = usize::try_from(count).ok().and_then(|count| count.checked_mul(4 * L));
        let split = bytes.and_then(|bytes| self.0.split_at_checked(bytes));
        let (taken, rest) = split.ok_or(Error::Stored(StoredError::Output))?;
        self.0 = rest;
        let word = |bytes: &[u8], i: usize| [0, 1, 2, 3].map(|byte| bytes[4 * i + byte]);
        let values = taken.chunks_exact(4 * L).map(|bytes| value(core::array::from_fn(|i| word(bytes, i))));
        memory::try_collected(what, values)
    }

    fn reals(&mut self, what: &'static str, count: u64) -> Result<Vec<f32>, Error> {
        self.take(what, count, |[word]| Ok(f32::from_le_bytes(word)))
    }

    fn integers(&mut self, what: &'static str, count: u64) -> Result<Vec<i32>, Error> {
        self.take(what, count, |[word]| Ok(i32::from_le_bytes(word)))
    }

    fn multipliers(&mut self, count: u64) -> Result<Vec<FixedPoint>, Error> {
        self.take("output multipliers", count, |[multiplier, shift]| {
            FixedPoint::new(i32::from_le_bytes(multiplier), i32::from_le_bytes(shift))
        })
    }
}

/// The bytes of an output's parameters.
fn parameters(finish: &Finish) -> Result<Vec<u8>, Error> {
    let of_scales = |values: &[f32]| 4 * values.len();
    let scales = finish.kind.parameters(|s| of_scales(s.as_slice()), |m| 8 * m.as_slice().len());
    let bias = match finish.bias {
        Bias::None => 0,
        Bias::I32(bias) => size_of_val(bias),
        Bias::F32(bias) => size_of_val(bias),
    };
    let len = scales.unwrap_or(0) + bias;
    let mut bytes = memory::room("stored output", len.next_multiple_of(ALIGN), 1)?;
    let mut put = |word: [u8; 4]| bytes.extend_from_slice(&word);
    match &finish.kind {
        Kind::I32 { .. } => {}
        Kind::F32 { scales, .. } | Kind::HalfEven { scales, .. } => {
            scales.as_slice().iter().for_each(|scale| put(scale.to_le_bytes()));
        }
        Kind::Fixed { multipliers, .. } => {
            for fixed in multipliers.as_slice() {
                put(fixed.multiplier().to_le_bytes());
                put(fixed.shift().to_le_bytes());
            }
        }
    }
    match finish.bias {
        Bias::None => {}
        Bias::I32(bias) => bias.iter().for_each(|b| put(b.to_le_bytes())),
        Bias::F32(bias) => bias.iter().for_each(|b| put(b.to_le_bytes())),
    }
    bytes.resize(len.next_multiple_of(ALIGN), 0);
    Ok(bytes)
}

impl Product {
    /// The product as bytes: its output, then its weights.
    ///
    /// ```
    /// use i8gemm::{ElementType, MatMut, MatRef, Output, PackedRhs, Product};
    /// # fn main() -> Result<(), i8gemm::Error> {
    /// let weights = PackedRhs::pack(MatRef::row_major(&[1i8, -2, 3, 4, -5, 6], 3, 2)?)?; // K = 3, N = 2
    /// let product = Product::new(weights, Output::<u8>::requantize(&[0.5, 0.25], 10).bias(&[4, -4]))?;
    /// let file = product.to_bytes()?; // std::fs::write, std::fs::read
    ///
    /// let opened = Product::copied_from_bytes(&file)?;
    /// assert_eq!(opened.output_type(), ElementType::U8);
    /// let mut y = [0u8; 2];
    /// opened.apply(MatRef::row_major(&[2i8, 1, 0], 1, 3)?, MatMut::row_major(&mut y, 1, 2)?)?;
    /// assert_eq!(y, [14, 9]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] when there is no memory for them.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let finish = self.finish();
        let parameters = parameters(&finish)?;
        let weights = self.weights().stored_size();
        let header = Header {
            parameters: parameters.len() as u64,
            weights: weights as u64,
            sum: crc32fast::hash(&parameters),
            ..Header::of(&finish, self.output_type())
        };
        let start = HEADER + parameters.len();
        let mut bytes: Vec<u8> = memory::zeroed("stored product", start + weights, 1)?;
        if let Some((to, rest)) = bytes.split_first_chunk_mut::<HEADER>() {
            header.write(to);
            rest[..parameters.len()].copy_from_slice(&parameters);
        }
        self.weights().store(&mut bytes[start..])?;
        Ok(bytes)
    }

    /// A product that [`Product::to_bytes`] wrote, copied: the bytes may lie anywhere, and need not stay.
    ///
    /// # Errors
    /// [`Error::Stored`], with what is wrong with the bytes, or what is wrong with the output that they describe, as [`Product::new`] says
    /// it; [`Error::UnknownKernel`] or [`Error::KernelUnavailable`] if they are for a kernel that this build or this CPU has not;
    /// [`Error::SizeOverflow`] when there is no memory for them.
    pub fn copied_from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        Self::opened(bytes, PackedRhs::copied_from_bytes)
    }

    /// As [`Product::copied_from_bytes`], but that weights stay where they lie, for as long as the program runs: in flash memory, in a file
    /// that was mapped for good. `bytes` begin at a multiple of 64, as for [`PackedRhs::from_bytes`].
    ///
    /// # Errors
    /// As [`Product::copied_from_bytes`].
    pub fn from_static_bytes(bytes: &'static [u8]) -> Result<Self, Error> {
        Self::opened(bytes, PackedRhs::from_bytes)
    }

    fn opened<'b>(
        bytes: &'b [u8],
        weights: impl Fn(&'b [u8]) -> Result<PackedRhs<'static>, Error>,
    ) -> Result<Self, Error> {
        let (header, parameters, stored) = Header::read(bytes).map_err(Error::Stored)?;
        let weights = weights(stored)?;
        let Opened { finish, product, element } = header.output(parameters, weights.n())?;
        let multiply = weights.product(product, &finish.view())?;
        Self::assemble(weights, finish, multiply, element)
    }
}
