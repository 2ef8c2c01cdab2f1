//! Packed weights as bytes.
//!
//! Behind what every header begins with ([`super`]):
//!
//! ```text
//!  16   kernel                    its name and zeros, 24 bytes
//!  40   nr, kr                    u16 each: columns of a panel, depth of a step
//!  44   sums                      u8: 1 if the kernel's sums lack something of each column, else 0
//!  45   bits                      u8: of a weight
//!  46   zero points               u8: 1 if some are not 0 as the kernel sees them
//!  47   groups                    u8: 1 if groups of K have scales
//!  48   K, N, group               u64 each: shape; rows of K that are summed together
//!  72   length of the content     u64
//!  80   CRC-32 of the content     u32
//! 128   content                   constants of columns, then panels, as packed weights have them in memory
//! ```

#[cfg(feature = "alloc")]
use super::super::{
    Rhs,
    pack::{Line, fill, parts_of},
};
use super::{
    super::{
        PackedRhs,
        pack::PackedBytes,
        parts::{ALIGN, Described, Parts},
    },
    Fields, HEADER, PACKED_RHS,
};
use crate::{
    Error, Kernel,
    check::check_len,
    error::{KernelName, StoredError},
    kernels::{self, EndGroups, SumOffset, weights},
};
#[cfg(feature = "alloc")]
use crate::{Operand, memory};

const NAME: usize = 24;

/// A header, read or to be written.
struct Header {
    kernel: [u8; NAME],
    nr: u16,
    kr: u16,
    late_sums: bool,
    bits: u8,
    zero_points: bool,
    grouped: bool,
    k: u64,
    n: u64,
    group: u64,
    length: u64,
    content_sum: u32,
}

impl Header {
    fn of(described: &Described, name: &str, content: &[u8], content_sum: u32) -> Self {
        let mut kernel = [0; NAME];
        kernel[..name.len()].copy_from_slice(name.as_bytes());
        Self {
            kernel,
            nr: described.nr as u16,
            kr: described.kr as u16,
            late_sums: described.offset != SumOffset::None,
            bits: described.format.bits as u8,
            zero_points: described.has_zero,
            grouped: described.grouped,
            k: described.k as u64,
            n: described.n as u64,
            group: described.group_size as u64,
            length: content.len() as u64,
            content_sum,
        }
    }

    fn write(&self, to: &mut [u8; HEADER]) {
        let mut fields = Fields::start(to, PACKED_RHS);
        fields.put(self.kernel);
        fields.put(self.nr.to_le_bytes());
        fields.put(self.kr.to_le_bytes());
        fields.put([self.late_sums.into(), self.bits, self.zero_points.into(), self.grouped.into()]);
        fields.put(self.k.to_le_bytes());
        fields.put(self.n.to_le_bytes());
        fields.put(self.group.to_le_bytes());
        fields.put(self.length.to_le_bytes());
        fields.put(self.content_sum.to_le_bytes());
        fields.seal();
    }

    /// The header of some bytes, and the content behind it.
    fn read(bytes: &[u8]) -> Result<(Self, &[u8]), StoredError> {
        let (mut fields, content) = Fields::unseal(bytes, PACKED_RHS)?;
        let kernel = fields.take();
        let [nr, kr] = [fields.take(), fields.take()].map(u16::from_le_bytes);
        let [late_sums, bits, zero_points, grouped] = fields.take();
        let [k, n, group, length] = [(); 4].map(|()| u64::from_le_bytes(fields.take()));
        let content_sum = u32::from_le_bytes(fields.take());
        if content.len() as u64 != length {
            let expected = (HEADER as u64).saturating_add(length);
            return Err(StoredError::Length { expected, actual: bytes.len() });
        }
        let plain = [late_sums, zero_points, grouped].iter().all(|&flag| flag <= 1) && fields.rest_is_zero();
        let [late_sums, zero_points, grouped] = [late_sums, zero_points, grouped].map(|flag| flag != 0);
        let header =
            Self { kernel, nr, kr, late_sums, bits, zero_points, grouped, k, n, group, length, content_sum };
        if plain { Ok((header, content)) } else { Err(StoredError::Layout { kernel: header.kernel_name() }) }
    }

    fn kernel_name(&self) -> KernelName {
        let len = self.kernel.iter().position(|&byte| byte == 0).unwrap_or(NAME);
        KernelName::new(core::str::from_utf8(&self.kernel[..len]).unwrap_or("?"))
    }
}

impl<'a> PackedRhs<'a> {
    /// Weights that [`PackedRhs::to_bytes`] or [`PackedRhs::store`] wrote, where they lie: in a mapped file, in flash memory, in an aligned
    /// buffer. Nothing is copied. Every byte is read once, to see that it is as it was written.
    ///
    /// `bytes` begin at a multiple of 64 and are all that was written, no more; files are on every machine alike, but constants are
    /// little-endian, and cannot be used where they lie on another one: [`PackedRhs::copied_from_bytes`].
    ///
    /// ```
    /// use i8gemm::{Gemm, MatMut, MatRef, Output, PackedRhs};
    /// # fn main() -> Result<(), i8gemm::Error> {
    /// #[repr(align(64))]
    /// struct Aligned([u8; 1024]);
    /// let weights = PackedRhs::pack(MatRef::row_major(&[1i8, -2, 3, 4, -5, 6], 3, 2)?)?; // K = 3, N = 2
    /// let mut file = Aligned([0; 1024]);
    /// let file = &mut file.0[..weights.stored_size()];
    /// weights.store(file)?;
    ///
    /// let opened = PackedRhs::from_bytes(file)?;
    /// let mut y = [0i32; 2];
    /// Gemm::new(&opened, Output::i32())?
    ///     .apply(MatRef::row_major(&[1i8, 1, 1], 1, 3)?, MatMut::row_major(&mut y, 1, 2)?)?;
    /// assert_eq!(y, [-1, 8]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Stored`], with what is wrong with the bytes; [`Error::UnknownKernel`] or [`Error::KernelUnavailable`] if they are for a kernel
    /// that this build or this CPU has not.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, Error> {
        Self::open(bytes, true)
    }

    /// As [`PackedRhs::from_bytes`], without reading the content, in no time however long it is. What it reads is checked, and nothing
    /// unsafe comes of a content that was damaged: the product is another.
    ///
    /// ```
    /// # use i8gemm::{MatRef, PackedRhs};
    /// # fn main() -> Result<(), i8gemm::Error> {
    /// # let stored = PackedRhs::pack(MatRef::row_major(&[1i8, 2], 2, 1)?)?.to_bytes()?;
    /// # let mut lines = vec![[0u64; 8]; stored.len() / 64 + 2]; // aligned below
    /// # let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut lines);
    /// # let start = bytes.as_ptr().align_offset(64);
    /// # bytes[start..][..stored.len()].copy_from_slice(&stored);
    /// # let mapped = &bytes[start..][..stored.len()];
    /// let weights = PackedRhs::from_unverified_bytes(mapped)?;
    /// assert_eq!((weights.k(), weights.n()), (2, 1));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`PackedRhs::from_bytes`], but for a content that is not as it was written.
    pub fn from_unverified_bytes(bytes: &'a [u8]) -> Result<Self, Error> {
        Self::open(bytes, false)
    }

    fn open(bytes: &'a [u8], verify: bool) -> Result<Self, Error> {
        let (header, content) = Header::read(bytes).map_err(Error::Stored)?;
        let (described, kernel) = header.described()?;
        let parts = described.parts_of(&header)?;
        if content.as_ptr().align_offset(ALIGN) != 0 {
            return Err(Error::Stored(StoredError::Misaligned { alignment: ALIGN }));
        }
        if cfg!(target_endian = "big") {
            return Err(Error::Stored(StoredError::ByteOrder));
        }
        header.verify(content, verify)?;
        Ok(Self::assemble(PackedBytes::Borrowed(content), parts, kernel, described))
    }

    /// Bytes that [`PackedRhs::store`] writes.
    #[must_use]
    pub fn stored_size(&self) -> usize {
        HEADER + self.bytes()
    }

    /// Writes the weights as bytes, [`PackedRhs::stored_size`] of them, that [`PackedRhs::from_bytes`] opens on every machine whose CPU has
    /// the kernel.
    ///
    /// # Errors
    /// [`Error::Length`].
    pub fn store(&self, to: &mut [u8]) -> Result<(), Error> {
        check_len("stored rhs", to.len(), self.stored_size())?;
        write(self.described(), self.parts(), self.kernel().name(), self.data(), to);
        Ok(())
    }
}

#[cfg(feature = "alloc")]
impl PackedRhs<'static> {
    /// As [`PackedRhs::from_bytes`], copied: the bytes may lie anywhere, and need not stay.
    ///
    /// ```
    /// use i8gemm::{MatRef, PackedRhs};
    /// # fn main() -> Result<(), i8gemm::Error> {
    /// let weights = PackedRhs::pack(MatRef::row_major(&[1i8, -2, 3, 4, -5, 6], 3, 2)?)?; // K = 3, N = 2
    /// let file = weights.to_bytes()?; // std::fs::write, std::fs::read
    /// let opened = PackedRhs::copied_from_bytes(&file)?;
    /// assert_eq!((opened.kernel(), opened.k(), opened.n()), (weights.kernel(), 3, 2));
    ///
    /// let damaged = PackedRhs::copied_from_bytes(&file[..file.len() - 1]).unwrap_err();
    /// assert!(damaged.to_string().contains("bytes long"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`PackedRhs::from_bytes`]; [`Error::SizeOverflow`] when there is no memory for them.
    pub fn copied_from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let (header, content) = Header::read(bytes).map_err(Error::Stored)?;
        let (described, kernel) = header.described()?;
        let parts = described.parts_of(&header)?;
        header.verify(content, true)?;
        let mut lines = Line::zeroed("packed rhs", described.k, described.n, content.len())?;
        let copy: &mut [u8] = &mut bytemuck::cast_slice_mut(&mut lines)[..content.len()];
        copy.copy_from_slice(content);
        in_this_order(&mut copy[..parts.panels]);
        Ok(Self::assemble(PackedBytes::Owned(lines), parts, kernel, described))
    }
}

#[cfg(feature = "alloc")]
impl PackedRhs<'_> {
    /// The weights as bytes, as [`PackedRhs::store`] writes them.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] when there is no memory for them.
    pub fn to_bytes(&self) -> Result<alloc::vec::Vec<u8>, Error> {
        let mut bytes = memory::zeroed("stored rhs", self.stored_size(), 1)?;
        self.store(&mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(feature = "alloc")]
impl PackedRhs<'_> {
    /// Packs weights for a kernel of any target, be it this one's or not, as bytes: a phone's, packed where they are made. They are those
    /// that the kernel itself packs.
    ///
    /// ```
    /// use i8gemm::{MatRef, PackedRhs};
    /// let weights = MatRef::row_major(&[1i8, -2, 3, 4, -5, 6], 3, 2)?; // K = 3, N = 2
    /// let file = PackedRhs::bytes_for("neon_i8mm", weights)?;
    /// # let (elsewhere, opened) = (!cfg!(target_arch = "aarch64"), PackedRhs::copied_from_bytes(&file));
    /// # assert!(!elsewhere || matches!(opened, Err(i8gemm::Error::KernelUnavailable { .. })));
    /// # Ok::<(), i8gemm::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`PackedRhs::pack_for`], but that the kernel need not be available; [`Error::UnknownKernel`] if there is none of that name.
    pub fn bytes_for<'r, T: Operand>(
        kernel: &str,
        rhs: impl Into<Rhs<'r, T>>,
    ) -> Result<alloc::vec::Vec<u8>, Error> {
        let rhs = rhs.into();
        let unknown = Error::UnknownKernel { name: KernelName::new(kernel), from_environment: false };
        let info = Kernel::catalog().iter().find(|info| info.name == kernel).ok_or(unknown)?;
        if let Some(kernel) = Kernel::available().find(|kernel| kernel.name() == info.name) {
            return PackedRhs::pack_for(kernel, rhs)?.to_bytes();
        }
        let kernel = kernels::Kernel::packing_as(info).ok_or(unknown)?;
        rhs.check()?;
        let described = Described::new(&rhs, &kernel);
        let parts = parts_of(&rhs, &described)?;
        let missing = Error::SizeOverflow { what: "packed rhs", rows: described.k, cols: described.n };
        let size = parts.end.checked_add(HEADER).ok_or(missing)?;
        rhs.check_values()?;
        let mut lines = Line::zeroed("packed rhs", described.k, described.n, parts.end)?;
        let content: &mut [u8] = &mut bytemuck::cast_slice_mut(&mut lines)[..parts.end];
        fill(&kernel, &rhs, &parts, content);
        let mut bytes = memory::zeroed("packed rhs", size, 1)?;
        write(&described, &parts, info.name, content, &mut bytes);
        Ok(bytes)
    }
}

/// Writes a header, and the content that packed weights have in memory.
fn write(described: &Described, parts: &Parts, name: &str, content: &[u8], to: &mut [u8]) {
    let Some((header, to)) = to.split_first_chunk_mut::<HEADER>() else { return };
    to.copy_from_slice(content);
    in_this_order(&mut to[..parts.panels]);
    Header::of(described, name, content, crc32fast::hash(to)).write(header);
}

/// Turns the words of constants, which are little-endian in files, to this machine's order or back.
fn in_this_order(constants: &mut [u8]) {
    if cfg!(target_endian = "big") {
        constants.chunks_exact_mut(4).for_each(<[u8]>::reverse);
    }
}

impl Header {
    /// The weights that it is of, and their kernel.
    fn described(&self) -> Result<(Described, Kernel), Error> {
        let name = self.kernel_name();
        let kernel = Kernel::by_name(name.as_str())?;
        let inconsistent = Error::Stored(StoredError::Layout { kernel: name });
        let format = weights::with_bits(self.bits.into()).ok_or(inconsistent)?;
        let [k, n, group] = [self.k, self.n, self.group].map(usize::try_from);
        let (Ok(k), Ok(n), Ok(group)) = (k, n, group) else {
            return Err(Error::SizeOverflow { what: "packed rhs", rows: usize::MAX, cols: usize::MAX });
        };
        let described = Described {
            nr: kernel.0.nr,
            kr: kernel.0.kr,
            offset: kernel.0.offset,
            format,
            k,
            n,
            group_size: group,
            grouped: self.grouped,
            has_zero: self.zero_points,
        };
        let same = (usize::from(self.nr), usize::from(self.kr)) == (described.nr, described.kr)
            && self.late_sums == (described.offset != SumOffset::None)
            && if self.grouped { described.groups_fit() } else { group == k };
        if same { Ok((described, kernel)) } else { Err(inconsistent) }
    }

    fn verify(&self, content: &[u8], verify: bool) -> Result<(), Error> {
        if verify && crc32fast::hash(content) != self.content_sum {
            return Err(Error::Stored(StoredError::Checksum { what: "content" }));
        }
        Ok(())
    }
}

impl Described {
    /// Where things lie, in a content of the length that the header has.
    fn parts_of(&self, header: &Header) -> Result<Parts, Error> {
        let product = self.grouped.then_some(kernels::multiply::<EndGroups> as _);
        let parts = Parts::new(self, product)?;
        if parts.end as u64 != header.length {
            return Err(Error::Stored(StoredError::Layout { kernel: header.kernel_name() }));
        }
        Ok(parts)
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    /// What the list says of panels, for targets whose kernels are not here, is what kernels have.
    #[test]
    fn kernels_are_as_the_list_has_them() {
        for kernel in Kernel::all() {
            let (info, table) = (kernel.0.id.info(), kernel.0);
            assert_eq!((info.panels, info.offset), ((table.nr, table.kr), table.offset), "{kernel}");
        }
        for info in Kernel::catalog() {
            assert!(kernels::Kernel::packing_as(info).is_some(), "{}: no packer for its panels", info.name);
        }
    }
}
