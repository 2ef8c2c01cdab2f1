//! What is packed, as bytes: what a file, a mapped file or a flash memory holds.
//!
//! Each begins with a header of 128 bytes, so that what is behind it is as aligned as the whole. All numbers are little-endian:
//!
//! ```text
//!   0   89 69 38 67 65 6d 6d 0a   a byte that no text has, "i8gemm", a line feed
//!   8   version                   u32: 1
//!  12   what it is                u32: 1, packed rhs; 2, a product
//!  16   fields of its own, then zeros
//! 124   CRC-32 of what is above   u32
//! ```

#[cfg(feature = "alloc")]
mod product;
mod rhs;

use crate::error::StoredError;

const MAGIC: [u8; 8] = *b"\x89i8gemm\n";
const VERSION: u32 = 1;

const PACKED_RHS: u32 = 1;
#[cfg(feature = "alloc")]
const PRODUCT: u32 = 2;

/// Bytes of a header.
const HEADER: usize = 128;
/// Where its checksum is.
const SUM: usize = HEADER - 4;

/// A header that is read or written one field after another.
struct Fields<B> {
    header: B,
    at: usize,
}

impl<'a> Fields<&'a mut [u8; HEADER]> {
    /// A header of something, whose own fields follow.
    fn start(header: &'a mut [u8; HEADER], what: u32) -> Self {
        header.fill(0);
        let mut fields = Self { header, at: 0 };
        fields.put(MAGIC);
        fields.put(VERSION.to_le_bytes());
        fields.put(what.to_le_bytes());
        fields
    }

    fn put<const L: usize>(&mut self, field: [u8; L]) {
        self.header[self.at..][..L].copy_from_slice(&field);
        self.at += L;
    }

    /// After the last field.
    fn seal(self) {
        debug_assert!(self.at <= SUM, "fields have room");
        let sum = crc32fast::hash(&self.header[..SUM]);
        self.header[SUM..].copy_from_slice(&sum.to_le_bytes());
    }
}

impl<'a> Fields<&'a [u8; HEADER]> {
    /// The own fields of something's header, and what is behind it.
    fn unseal(bytes: &'a [u8], what: u32) -> Result<(Self, &'a [u8]), StoredError> {
        if !bytes.starts_with(&MAGIC[..bytes.len().min(MAGIC.len())]) {
            return Err(StoredError::Unknown);
        }
        let truncated = StoredError::Length { expected: HEADER as u64, actual: bytes.len() };
        let (header, content) = bytes.split_first_chunk::<HEADER>().ok_or(truncated)?;
        let mut fields = Self { header, at: MAGIC.len() };
        // Of another version nothing else is known.
        let version = u32::from_le_bytes(fields.take());
        if version != VERSION {
            return Err(StoredError::Version { found: version, known: VERSION });
        }
        let sum = Self { header, at: SUM }.take();
        if crc32fast::hash(&header[..SUM]) != u32::from_le_bytes(sum) {
            return Err(StoredError::Checksum { what: "header" });
        }
        if u32::from_le_bytes(fields.take()) != what {
            return Err(StoredError::Kind);
        }
        Ok((fields, content))
    }

    fn take<const L: usize>(&mut self) -> [u8; L] {
        let mut field = [0; L];
        field.copy_from_slice(&self.header[self.at..][..L]);
        self.at += L;
        field
    }

    /// Nothing is behind the fields that were taken.
    fn rest_is_zero(&self) -> bool {
        self.header[self.at..SUM].iter().all(|&byte| byte == 0)
    }
}
