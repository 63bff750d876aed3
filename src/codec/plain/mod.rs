//! The codec for numbers, strings and what is made of them.

mod numbers;
mod parts;
pub(super) mod sequences;

#[cfg(doc)]
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    time::Duration,
};

use super::{Codec, CodecError};

/// The codec for every type that is [`PlainBytes`]: numbers, strings, tuples, arrays and the like, in an order of bytes
/// that is the same on every machine and in every version of this library.
///
/// Every value has exactly one row of bytes, and every row of bytes that [`decode`](Codec::decode) accepts is that of the
/// value which it returns. So it is as good for keys as for values, as long as the type's own `Eq` compares all that is
/// stored (which it does for every type of the table below but the floats, which have no `Eq`).
///
/// # The bytes
///
/// | type | bytes | fingerprint |
/// | --- | --- | --- |
/// | `u8` to `u128`, `i8` to `i128` | little-endian, as wide as the type | `u8`, … |
/// | `usize`, `isize` | those of `u64`, `i64` | `u64`, `i64` |
/// | `f32`, `f64` | those of their bit patterns (`to_bits`) | `f32`, `f64` |
/// | `bool` | one byte: 0 or 1 | `bool` |
/// | `char` | its number, as a `u32` | `char` |
/// | `()` | none | `()` |
/// | `[T; N]` | its elements, one after another | `[u32; 4]` |
/// | tuples of 1 to 8 | their parts, one after another | `(u32, str)`, `(u32,)` |
/// | `Option<T>` | a byte 0; or a byte 1 and the value | `Option<u32>` |
/// | `String`, `Box<str>`, `Arc<str>` | a length in bytes, and the UTF-8 | `str` |
/// | `Vec<T>`, `Box<[T]>`, `Arc<[T]>` | a count, and the elements | `[u8]`, `[(u32, str)]` |
/// | [`Duration`] | whole seconds as a `u64`, nanoseconds as a `u32` | `Duration` |
/// | [`Ipv4Addr`], [`Ipv6Addr`] | 4 or 16 octets, as they are written | `Ipv4Addr`, … |
/// | [`SocketAddrV4`] | the address, the port as a `u16` | `SocketAddrV4` |
/// | [`SocketAddrV6`] | the same, then flow information and scope as `u32` | `SocketAddrV6` |
/// | [`IpAddr`], [`SocketAddr`] | a byte 4 or 6, and that kind's bytes | `IpAddr`, … |
///
/// A length or count is a `u32`. One that does not fit (from 4,294,967,295 on) is the four bytes `ff ff ff ff` and a
/// `u64`.
///
/// **What comes last needs no length**, since it ends where the bytes end. So a length or count is left out:
///
/// - of a `String` (or `Vec`, …) that is the whole value: the bytes of a `String` are just its UTF-8, and those of a
///   `Vec<u8>` just its elements,
/// - of the last part of a tuple, and of the value in an `Option`, if that tuple or `Option` itself comes last,
/// - but not of an element of an array or a `Vec`, be it the last one, and not of a `Vec` whose elements differ in
///   length, such as `Vec<String>`: it always has its count.
///
/// A `Vec` of elements that have no bytes at all, such as `Vec<()>`, is refused by the compiler: nothing in the file
/// would back its count.
///
/// ```compile_fail
/// use writeback::codec::{Codec, Plain};
///
/// let nothings = vec![(), ()];
/// let _ = Plain.encode(&nothings, &mut Vec::new()); // Store `nothings.len() as u64` instead.
/// ```
///
/// # Example
///
/// ```
/// use writeback::codec::{Codec, Plain};
///
/// let mut bytes = Vec::new();
/// Plain.encode(&(7_u32, "seven".to_owned()), &mut bytes)?;
/// assert_eq!(bytes, *b"\x07\0\0\0seven");
///
/// let back: (u32, String) = Plain.decode(&bytes)?;
/// assert_eq!(back, (7, "seven".to_owned()));
/// assert_eq!(Codec::<(u32, String)>::fingerprint(&Plain), "(u32, str)");
/// # Ok::<(), writeback::codec::CodecError>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Plain;

impl<T: PlainBytes> Codec<T> for Plain {
    #[inline]
    fn encode(&self, value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        value.write_last(out);
        Ok(())
    }

    #[inline]
    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError> {
        T::read_last(bytes)
    }

    fn fingerprint(&self) -> String {
        T::name()
    }
}

/// A type that [`Plain`] can store. [`Plain`]'s own documentation has the types that this library knows.
///
/// # For a struct of your own
///
/// Write the fields one after another and read them in the same order:
///
/// ```
/// use writeback::codec::{Codec, CodecError, Plain, PlainBytes};
///
/// #[derive(Debug, PartialEq)]
/// struct User {
///     id: u64,
///     name: String,
///     born: Option<u16>,
/// }
///
/// impl PlainBytes for User {
///     const FIXED: Option<usize> = None;
///
///     fn write(&self, out: &mut Vec<u8>) {
///         self.id.write(out);
///         self.name.write(out);
///         self.born.write(out);
///     }
///
///     fn read(bytes: &mut &[u8]) -> Result<Self, CodecError> {
///         Ok(User {
///             id: u64::read(bytes)?,
///             name: String::read(bytes)?,
///             born: Option::read(bytes)?,
///         })
///     }
///
///     fn name() -> String {
///         "User(u64, str, Option<u16>)".to_owned()
///     }
/// }
///
/// let user = User { id: 1, name: "Ada".to_owned(), born: Some(1815) };
/// let mut bytes = Vec::new();
/// Plain.encode(&user, &mut bytes)?;
/// assert_eq!(Plain.decode(&bytes), Ok(user));
/// assert_eq!(Plain.decode(&bytes[1..]), Err::<User, _>(CodecError::Truncated));
/// # Ok::<(), CodecError>(())
/// ```
///
/// [`Codec`] says what else is asked of a type that is used as a key.
pub trait PlainBytes: Sized {
    /// How many bytes [`write`](PlainBytes::write) appends, if that is the same for every value; otherwise `None`.
    ///
    /// It must be right, and a type with `None` must always write at least one byte: a `Vec` checks its count against
    /// the bytes that are there by this. Where it is wrong, values that were written are rejected when they are read.
    const FIXED: Option<usize>;

    /// Appends the bytes of this value in a form that ends by itself: whatever follows, [`read`](PlainBytes::read) finds
    /// the end.
    fn write(&self, out: &mut Vec<u8>);

    /// Takes from the front of `bytes` what [`write`](PlainBytes::write) has written, and leaves the rest.
    ///
    /// The bytes come from a file, so this must not panic on any of them. A type that contains itself, such as a tree,
    /// must give up at some depth, or the stack overflows.
    ///
    /// # Errors
    ///
    /// When no value's bytes stand there. `bytes` is then somewhere in between.
    fn read(bytes: &mut &[u8]) -> Result<Self, CodecError>;

    /// The name of the byte format, for [`Codec::fingerprint`]. Types whose bytes differ need different names, and a type
    /// whose bytes change needs a new one; listing the fields' types, as in `User(u64, str)`, does both.
    fn name() -> String;

    /// Appends the bytes of a value that nothing follows, so that it may leave out how long it is. Types that know their
    /// length anyway leave this as it is.
    #[inline]
    fn write_last(&self, out: &mut Vec<u8>) {
        self.write(out);
    }

    /// Reads from all of `bytes` what [`write_last`](PlainBytes::write_last) has written. Whoever overrides one of the
    /// two overrides both.
    ///
    /// # Errors
    ///
    /// When `bytes` are not those of one value, with nothing left over.
    #[inline]
    fn read_last(mut bytes: &[u8]) -> Result<Self, CodecError> {
        let value = Self::read(&mut bytes)?;
        ended(bytes)?;
        Ok(value)
    }

    /// [`write`](PlainBytes::write) for each of `values`. There to be faster for some types; the bytes must be the same.
    #[inline]
    fn write_slice(values: &[Self], out: &mut Vec<u8>) {
        for value in values {
            value.write(out);
        }
    }

    /// [`read`](PlainBytes::read), `count` times. There to be faster for some types.
    ///
    /// # Errors
    ///
    /// Those of [`read`](PlainBytes::read).
    #[inline]
    fn read_vec(bytes: &mut &[u8], count: usize) -> Result<Vec<Self>, CodecError> {
        // The count is only a claim until the elements have been read, and they may be larger in memory than in the
        // file: no more is reserved up front than there are bytes.
        let mut values = Vec::with_capacity(count.min(bytes.len() / size_of::<Self>().max(1)));
        for _ in 0..count {
            values.push(Self::read(bytes)?);
        }
        Ok(values)
    }

    /// [`read`](PlainBytes::read), `N` times. There to be faster for some types.
    ///
    /// # Errors
    ///
    /// Those of [`read`](PlainBytes::read).
    #[inline]
    fn read_array<const N: usize>(bytes: &mut &[u8]) -> Result<[Self; N], CodecError> {
        let mut values = Vec::with_capacity(N);
        for _ in 0..N {
            values.push(Self::read(bytes)?);
        }
        values.try_into().map_err(|_| CodecError::Truncated)
    }
}

/// That nothing is left over.
#[inline]
fn ended(bytes: &[u8]) -> Result<(), CodecError> {
    match bytes.len() {
        0 => Ok(()),
        left => Err(CodecError::TooLong { left }),
    }
}

/// The next `count` bytes.
#[inline]
fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Result<&'a [u8], CodecError> {
    bytes.split_off(..count).ok_or(CodecError::Truncated)
}

/// The next `N` bytes.
#[inline]
fn take_array<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], CodecError> {
    let (taken, rest) = bytes.split_first_chunk().ok_or(CodecError::Truncated)?;
    *bytes = rest;
    Ok(*taken)
}
