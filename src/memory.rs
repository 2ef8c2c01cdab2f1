//! Memory whose size a caller or a file decides: tried, and an [`Error::SizeOverflow`] where there is not as much. What is allocated
//! in another way is short, or no larger than something that is there already: a `Clone`, the text of messages and reports, a name
//! that a file's tensor is looked up by, what the system says of the CPU and the environment. So is what other crates take: the names
//! and shapes in a file's header, and a box for each part of a product that rayon runs.

use alloc::vec::Vec;

use bytemuck::Zeroable;

use crate::Error;

/// No values yet, and room for `rows * cols`.
pub(crate) fn room<T>(what: &'static str, rows: usize, cols: usize) -> Result<Vec<T>, Error> {
    let overflow = Error::SizeOverflow { what, rows, cols };
    let mut values = Vec::new();
    values.try_reserve_exact(rows.checked_mul(cols).ok_or(overflow)?).map_err(|_| overflow)?;
    Ok(values)
}

/// `rows * cols` zeros, which operating systems give without writing them.
pub(crate) fn zeroed<T: Zeroable>(what: &'static str, rows: usize, cols: usize) -> Result<Vec<T>, Error> {
    let overflow = Error::SizeOverflow { what, rows, cols };
    let len = rows.checked_mul(cols).ok_or(overflow)?;
    bytemuck::allocation::try_zeroed_vec(len).map_err(|()| overflow)
}

/// Makes a buffer hold `rows * cols` values, whichever: what it held is left over or lost. As it was after an error.
pub(crate) fn resize<T: Zeroable>(
    what: &'static str,
    buffer: &mut Vec<T>,
    rows: usize,
    cols: usize,
) -> Result<(), Error> {
    let len = rows.checked_mul(cols).ok_or(Error::SizeOverflow { what, rows, cols })?;
    if len > buffer.capacity() {
        *buffer = zeroed(what, rows, cols)?;
    } else {
        buffer.resize_with(len, T::zeroed);
    }
    Ok(())
}

/// As many copies of a value.
pub(crate) fn filled<T: Copy>(what: &'static str, value: T, count: usize) -> Result<Vec<T>, Error> {
    let mut values = room(what, count, 1)?;
    values.resize(count, value);
    Ok(values)
}

/// A copy of a slice.
pub(crate) fn copied<T: Copy>(what: &'static str, values: &[T]) -> Result<Vec<T>, Error> {
    let mut copy = room(what, values.len(), 1)?;
    copy.extend_from_slice(values);
    Ok(copy)
}

/// The values of an iterator.
pub(crate) fn collected<T>(
    what: &'static str,
    values: impl ExactSizeIterator<Item = T>,
) -> Result<Vec<T>, Error> {
    let mut all = room(what, values.len(), 1)?;
    all.extend(values);
    Ok(all)
}

/// The values of an iterator, or its first error.
pub(crate) fn try_collected<T>(
    what: &'static str,
    values: impl ExactSizeIterator<Item = Result<T, Error>>,
) -> Result<Vec<T>, Error> {
    let mut all = room(what, values.len(), 1)?;
    for value in values {
        all.push(value?);
    }
    Ok(all)
}

/// Appends a value.
pub(crate) fn push<T>(what: &'static str, values: &mut Vec<T>, value: T) -> Result<(), Error> {
    let overflow = Error::SizeOverflow { what, rows: values.len(), cols: 1 };
    values.try_reserve(1).map_err(|_| overflow)?;
    values.push(value);
    Ok(())
}
