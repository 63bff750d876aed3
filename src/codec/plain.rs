//! The codec for numbers, strings and what is made of them.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    sync::Arc,
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
        let mut failed = None;
        let values: [Option<Self>; N] = std::array::from_fn(|_| {
            if failed.is_some() {
                return None;
            }
            Self::read(bytes).map_err(|error| failed = Some(error)).ok()
        });
        match failed {
            Some(error) => Err(error),
            None => Ok(values.map(|value| value.expect("every element was read"))),
        }
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

/// What stands where a length does not fit in 32 bits; the length follows, in 64.
const LONG: u32 = u32::MAX;

/// A length or count of something that does not come last.
#[inline]
pub(super) fn write_length(length: usize, out: &mut Vec<u8>) {
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
pub(super) fn read_length(bytes: &mut &[u8]) -> Result<usize, CodecError> {
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

macro_rules! integers {
    ($($integer:ident)*) => {$(
        impl PlainBytes for $integer {
            const FIXED: Option<usize> = Some(size_of::<Self>());

            #[inline]
            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            #[inline]
            fn read(bytes: &mut &[u8]) -> Result<Self, CodecError> {
                take_array(bytes).map(Self::from_le_bytes)
            }

            fn name() -> String {
                stringify!($integer).to_owned()
            }
        }
    )*};
}

integers!(u16 u32 u64 u128 i8 i16 i32 i64 i128);

impl PlainBytes for u8 {
    const FIXED: Option<usize> = Some(1);

    #[inline]
    fn write(&self, out: &mut Vec<u8>) {
        out.push(*self);
    }

    #[inline]
    fn read(bytes: &mut &[u8]) -> Result<Self, CodecError> {
        bytes.split_off_first().copied().ok_or(CodecError::Truncated)
    }

    fn name() -> String {
        "u8".to_owned()
    }

    #[inline]
    fn write_slice(values: &[Self], out: &mut Vec<u8>) {
        out.extend_from_slice(values);
    }

    #[inline]
    fn read_vec(bytes: &mut &[u8], count: usize) -> Result<Vec<Self>, CodecError> {
        take(bytes, count).map(<[u8]>::to_vec)
    }

    #[inline]
    fn read_array<const N: usize>(bytes: &mut &[u8]) -> Result<[Self; N], CodecError> {
        take_array(bytes)
    }
}

/// Types that are stored as if they were another one, whose name they may share.
macro_rules! stored_as {
    ($($type:ident as $stored:ident named $name:literal: $to:expr, $from:expr;)*) => {$(
        impl PlainBytes for $type {
            const FIXED: Option<usize> = <$stored as PlainBytes>::FIXED;

            #[inline]
            fn write(&self, out: &mut Vec<u8>) {
                let to: fn($type) -> $stored = $to;
                to(*self).write(out);
            }

            #[inline]
            fn read(bytes: &mut &[u8]) -> Result<Self, CodecError> {
                let from: fn($stored) -> Result<$type, &'static str> = $from;
                from($stored::read(bytes)?).map_err(|what| CodecError::Invalid { what })
            }

            fn name() -> String {
                $name.to_owned()
            }
        }
    )*};
}

stored_as! {
    usize as u64 named "u64":
        |value| value as u64,
        |stored| stored.try_into().map_err(|_| "a number too large for this machine's usize");
    isize as i64 named "i64":
        |value| value as i64,
        |stored| stored.try_into().map_err(|_| "a number too large for this machine's isize");
    f32 as u32 named "f32": f32::to_bits, |stored| Ok(f32::from_bits(stored));
    f64 as u64 named "f64": f64::to_bits, |stored| Ok(f64::from_bits(stored));
    bool as u8 named "bool":
        u8::from,
        |stored| match stored {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err("a bool that is neither 0 nor 1"),
        };
    char as u32 named "char":
        u32::from,
        |stored| char::from_u32(stored).ok_or("a char that Unicode does not have");
}

/// The lengths of parts that are written one after another, if all are fixed.
const fn sum(parts: &[Option<usize>]) -> Option<usize> {
    let mut total: usize = 0;
    let mut at = 0;
    // A loop over an index: iterators cannot be used in a constant.
    while at < parts.len() {
        let Some(part) = parts[at] else { return None };
        let Some(longer) = total.checked_add(part) else { return None };
        total = longer;
        at += 1;
    }
    Some(total)
}

impl PlainBytes for () {
    const FIXED: Option<usize> = Some(0);

    #[inline]
    fn write(&self, _out: &mut Vec<u8>) {}

    #[inline]
    fn read(_bytes: &mut &[u8]) -> Result<Self, CodecError> {
        Ok(())
    }

    fn name() -> String {
        "()".to_owned()
    }
}

/// Tuples: the parts before the last one, then the last one.
macro_rules! tuples {
    ($(($($part:ident $index:tt),*; $last:ident $last_index:tt))*) => {$(
        impl<$($part: PlainBytes,)* $last: PlainBytes> PlainBytes for ($($part,)* $last,) {
            const FIXED: Option<usize> = sum(&[$($part::FIXED,)* $last::FIXED]);

            #[inline]
            fn write(&self, out: &mut Vec<u8>) {
                $(self.$index.write(out);)*
                self.$last_index.write(out);
            }

            #[inline]
            fn read(bytes: &mut &[u8]) -> Result<Self, CodecError> {
                // The parts of a tuple are evaluated from left to right.
                Ok(($($part::read(bytes)?,)* $last::read(bytes)?,))
            }

            #[inline]
            fn write_last(&self, out: &mut Vec<u8>) {
                $(self.$index.write(out);)*
                self.$last_index.write_last(out);
            }

            #[inline]
            #[allow(unused_mut)] // In the tuple of one part, nothing is taken before the last one.
            fn read_last(mut bytes: &[u8]) -> Result<Self, CodecError> {
                Ok(($($part::read(&mut bytes)?,)* $last::read_last(bytes)?,))
            }

            fn name() -> String {
                let names: &[String] = &[$($part::name(),)* $last::name()];
                match names {
                    [only] => format!("({only},)"),
                    _ => format!("({})", names.join(", ")),
                }
            }
        }
    )*};
}

tuples! {
    (; A 0)
    (A 0; B 1)
    (A 0, B 1; C 2)
    (A 0, B 1, C 2; D 3)
    (A 0, B 1, C 2, D 3; E 4)
    (A 0, B 1, C 2, D 3, E 4; F 5)
    (A 0, B 1, C 2, D 3, E 4, F 5; G 6)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6; H 7)
}

impl<T: PlainBytes, const N: usize> PlainBytes for [T; N] {
    const FIXED: Option<usize> = match T::FIXED {
        _ if N == 0 => Some(0),
        Some(each) => each.checked_mul(N),
        None => None,
    };

    #[inline]
    fn write(&self, out: &mut Vec<u8>) {
        T::write_slice(self, out);
    }

    #[inline]
    fn read(bytes: &mut &[u8]) -> Result<Self, CodecError> {
        T::read_array(bytes)
    }

    fn name() -> String {
        format!("[{}; {N}]", T::name())
    }
}

impl<T: PlainBytes> PlainBytes for Option<T> {
    const FIXED: Option<usize> = None;

    #[inline]
    fn write(&self, out: &mut Vec<u8>) {
        self.is_some().write(out);
        if let Some(value) = self {
            value.write(out);
        }
    }

    #[inline]
    fn read(bytes: &mut &[u8]) -> Result<Self, CodecError> {
        if is_some(bytes)? { T::read(bytes).map(Some) } else { Ok(None) }
    }

    #[inline]
    fn write_last(&self, out: &mut Vec<u8>) {
        self.is_some().write(out);
        if let Some(value) = self {
            value.write_last(out);
        }
    }

    #[inline]
    fn read_last(mut bytes: &[u8]) -> Result<Self, CodecError> {
        if is_some(&mut bytes)? { T::read_last(bytes).map(Some) } else { ended(bytes).map(|()| None) }
    }

    fn name() -> String {
        format!("Option<{}>", T::name())
    }
}

/// The first byte of an `Option`.
#[inline]
fn is_some(bytes: &mut &[u8]) -> Result<bool, CodecError> {
    match u8::read(bytes)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(CodecError::Invalid { what: "an Option that begins with neither 0 nor 1" }),
    }
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

/// Types that are stored as a tuple or array of their parts.
macro_rules! stored_in_parts {
    ($($type:ident as $parts:ty: $to:expr, $from:expr;)*) => {$(
        impl PlainBytes for $type {
            const FIXED: Option<usize> = <$parts as PlainBytes>::FIXED;

            #[inline]
            fn write(&self, out: &mut Vec<u8>) {
                let to: fn(&$type) -> $parts = $to;
                to(self).write(out);
            }

            #[inline]
            fn read(bytes: &mut &[u8]) -> Result<Self, CodecError> {
                let from: fn($parts) -> Result<$type, CodecError> = $from;
                from(<$parts>::read(bytes)?)
            }

            fn name() -> String {
                stringify!($type).to_owned()
            }
        }
    )*};
}

stored_in_parts! {
    Duration as (u64, u32):
        |duration| (duration.as_secs(), duration.subsec_nanos()),
        |(seconds, nanoseconds)| match nanoseconds {
            0..1_000_000_000 => Ok(Duration::new(seconds, nanoseconds)),
            _ => Err(CodecError::Invalid { what: "a Duration with a second or more in nanoseconds" }),
        };
    Ipv4Addr as [u8; 4]: Ipv4Addr::octets, |octets| Ok(octets.into());
    Ipv6Addr as [u8; 16]: Ipv6Addr::octets, |octets| Ok(octets.into());
    SocketAddrV4 as (Ipv4Addr, u16):
        |address| (*address.ip(), address.port()),
        |(ip, port)| Ok(SocketAddrV4::new(ip, port));
    SocketAddrV6 as (Ipv6Addr, u16, u32, u32):
        |address| (*address.ip(), address.port(), address.flowinfo(), address.scope_id()),
        |(ip, port, flow, scope)| Ok(SocketAddrV6::new(ip, port, flow, scope));
}

/// Addresses of either kind.
macro_rules! addresses {
    ($($address:ident: $v4:ident, $v6:ident;)*) => {$(
        impl PlainBytes for $address {
            const FIXED: Option<usize> = None;

            #[inline]
            fn write(&self, out: &mut Vec<u8>) {
                match self {
                    Self::V4(address) => {
                        out.push(4);
                        address.write(out);
                    }
                    Self::V6(address) => {
                        out.push(6);
                        address.write(out);
                    }
                }
            }

            #[inline]
            fn read(bytes: &mut &[u8]) -> Result<Self, CodecError> {
                match u8::read(bytes)? {
                    4 => $v4::read(bytes).map(Self::V4),
                    6 => $v6::read(bytes).map(Self::V6),
                    _ => Err(CodecError::Invalid { what: "an address that is of neither version 4 nor 6" }),
                }
            }

            fn name() -> String {
                stringify!($address).to_owned()
            }
        }
    )*};
}

addresses! {
    IpAddr: Ipv4Addr, Ipv6Addr;
    SocketAddr: SocketAddrV4, SocketAddrV6;
}
