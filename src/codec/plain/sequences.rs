//! What has any number of elements: lists and strings, and the length that is written before them.

use std::sync::Arc;

use super::{CodecError, PlainBytes, ended, take};

/// What stands where a length does not fit in 32 bits; the length follows, in 64.
const LONG: u32 = u32::MAX;

/// A length or count of something that does not come last.
#[inline]
pub(in crate::codec) fn write_length(length: usize, out: &mut Vec<u8>) {
    match u32::try_from(length) {
        Ok(length) if length != LONG => length.write(out),
        _ => {
            LONG.write(out);
            length.write(out);
        }
    }
}

/// What [`write_length`] has written.
#[inline]
pub(in crate::codec) fn read_length(bytes: &mut &[u8]) -> Result<usize, CodecError> {
    let short = u32::read(bytes)?;
    let long = if short == LONG { u64::read(bytes)? } else { return in_memory(short.into()) };
    if long < LONG.into() {
        // Accepted, a value would have two rows of bytes.
        return Err(CodecError::Invalid { what: "a short length in the form of a long one" });
    }
    in_memory(long)
}

fn in_memory(length: u64) -> Result<usize, CodecError> {
    // No memory of this machine holds so many bytes, so they cannot be there.
    usize::try_from(length).map_err(|_| CodecError::Truncated)
}

/// The elements of a `Vec`, `Box<[T]>` or `Arc<[T]>`.
struct Elements<T>(std::marker::PhantomData<T>);

impl<T: PlainBytes> Elements<T> {
    /// How long each element is, if that is known. Zero is refused: a damaged count could then be anything, and the loop
    /// over it would take forever.
    const EACH: Option<usize> = {
        assert!(
            !matches!(T::FIXED, Some(0)),
            "elements of a Vec, Box<[T]> or Arc<[T]> must have at least one byte: store how many there are instead"
        );
        T::FIXED
    };

    #[inline]
    fn write(values: &[T], out: &mut Vec<u8>) {
        // Only so that the compiler looks at it here, too.
        let _ = Self::EACH;
        write_length(values.len(), out);
        T::write_slice(values, out);
    }

    #[inline]
    fn read(bytes: &mut &[u8]) -> Result<Vec<T>, CodecError> {
        let count = read_length(bytes)?;
        if count > bytes.len() / Self::EACH.unwrap_or(1) {
            return Err(CodecError::Truncated);
        }
        T::read_vec(bytes, count)
    }

    #[inline]
    fn write_last(values: &[T], out: &mut Vec<u8>) {
        match Self::EACH {
            Some(_) => T::write_slice(values, out),
            None => Self::write(values, out),
        }
    }

    #[inline]
    fn read_last(mut bytes: &[u8]) -> Result<Vec<T>, CodecError> {
        let values = match Self::EACH {
            Some(each) if !bytes.len().is_multiple_of(each) => return Err(CodecError::Truncated),
            Some(each) => {
                let count = bytes.len() / each;
                T::read_vec(&mut bytes, count)?
            }
            None => Self::read(&mut bytes)?,
        };
        ended(bytes)?;
        Ok(values)
    }
}

macro_rules! lists {
    ($($list:ty)*) => {$(
        impl<T: PlainBytes> PlainBytes for $list {
            const FIXED: Option<usize> = None;

            #[inline]
            fn write(&self, out: &mut Vec<u8>) {
                Elements::write(self, out);
            }

            #[inline]
            fn read(bytes: &mut &[u8]) -> Result<Self, CodecError> {
                Elements::read(bytes).map(Self::from)
            }

            #[inline]
            fn write_last(&self, out: &mut Vec<u8>) {
                Elements::write_last(self, out);
            }

            #[inline]
            fn read_last(bytes: &[u8]) -> Result<Self, CodecError> {
                Elements::read_last(bytes).map(Self::from)
            }

            fn name() -> String {
                format!("[{}]", T::name())
            }
        }
    )*};
}

lists!(Vec<T> Box<[T]> Arc<[T]>);

/// The text that is all of `bytes`.
#[inline]
fn text(bytes: &[u8]) -> Result<&str, CodecError> {
    std::str::from_utf8(bytes).map_err(|_| CodecError::Invalid { what: "text that is not UTF-8" })
}

macro_rules! strings {
    ($($string:ty)*) => {$(
        impl PlainBytes for $string {
            const FIXED: Option<usize> = None;

            #[inline]
            fn write(&self, out: &mut Vec<u8>) {
                Elements::write(self.as_bytes(), out);
            }

            #[inline]
            fn read(bytes: &mut &[u8]) -> Result<Self, CodecError> {
                let length = read_length(bytes)?;
                text(take(bytes, length)?).map(Self::from)
            }

            #[inline]
            fn write_last(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(self.as_bytes());
            }

            #[inline]
            fn read_last(bytes: &[u8]) -> Result<Self, CodecError> {
                text(bytes).map(Self::from)
            }

            fn name() -> String {
                "str".to_owned()
            }
        }
    )*};
}

strings!(String Box<str> Arc<str>);
