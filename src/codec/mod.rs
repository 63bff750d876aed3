//! How keys and values become bytes, and bytes become keys and values again.
//!
//! The journal stores bytes, so a cache that has one needs a [`Codec`] for its keys and one for its values. [`Plain`] is
//! the one to begin with: it stores numbers, strings, tuples and the like in a fixed, documented order of bytes, and
//! takes structs of your own by [`PlainBytes`]. With the feature `serde`, `Postcard` takes whatever `serde` can.

use std::fmt;

use thiserror::Error;

mod plain;
#[cfg(feature = "serde")]
mod serde;

pub use self::plain::{Plain, PlainBytes};
#[cfg(feature = "serde")]
#[cfg_attr(docsrs, doc(cfg(feature = "serde")))]
pub use self::serde::Postcard;

#[cfg(all(test, not(crossbeam_loom)))]
mod tests;

/// Turns values of type `T` into bytes and back.
///
/// A codec is asked from many threads at once, and what it has written may be read by a later process: its bytes must
/// depend on the value alone, never on an address, the machine, or the time.
///
/// # For keys
///
/// The journal tells keys apart by their bytes, so a codec for keys has two more duties:
///
/// - Keys that are equal (`Eq`) must yield equal bytes. A key that holds a `HashSet`, which has no order, or a key whose
///   `Eq` leaves some field out, cannot be encoded field by field.
/// - Equal bytes must mean equal keys. A codec that leaves out a part that `Eq` compares would let one key's value come
///   back as another's.
///
/// Codecs for values are free of both.
///
/// # Example
///
/// A codec that stores a colour as its three bytes:
///
/// ```
/// use writeback::codec::{Codec, CodecError};
///
/// #[derive(Debug, PartialEq)]
/// struct Colour {
///     red: u8,
///     green: u8,
///     blue: u8,
/// }
///
/// struct Rgb;
///
/// impl Codec<Colour> for Rgb {
///     fn encode(&self, value: &Colour, out: &mut Vec<u8>) -> Result<(), CodecError> {
///         out.extend_from_slice(&[value.red, value.green, value.blue]);
///         Ok(())
///     }
///
///     fn decode(&self, bytes: &[u8]) -> Result<Colour, CodecError> {
///         match *bytes {
///             [red, green, blue] => Ok(Colour { red, green, blue }),
///             [_, _, _, ref rest @ ..] => Err(CodecError::TooLong { left: rest.len() }),
///             _ => Err(CodecError::Truncated),
///         }
///     }
///
///     fn fingerprint(&self) -> String {
///         "rgb".to_owned()
///     }
/// }
///
/// let mut bytes = Vec::new();
/// Rgb.encode(&Colour { red: 1, green: 2, blue: 3 }, &mut bytes)?;
/// assert_eq!(bytes, [1, 2, 3]);
/// assert_eq!(Rgb.decode(&bytes)?, Colour { red: 1, green: 2, blue: 3 });
/// assert_eq!(Rgb.decode(&[1, 2]), Err(CodecError::Truncated));
/// # Ok::<(), CodecError>(())
/// ```
pub trait Codec<T>: Send + Sync + 'static {
    /// Appends the bytes of `value` to `out`. What is already in `out` is another's: it must be neither changed nor
    /// removed.
    ///
    /// # Errors
    ///
    /// When the value cannot be stored. What was appended until then has no meaning, and the caller cuts it off again.
    fn encode(&self, value: &T, out: &mut Vec<u8>) -> Result<(), CodecError>;

    /// The value whose bytes are all of `bytes`, with nothing left over.
    ///
    /// # Errors
    ///
    /// When `bytes` are not what [`encode`](Codec::encode) appends for some value. The bytes come from a file, so this
    /// must not panic on any of them, and must not reserve memory for a length before it knows that so many bytes are
    /// there.
    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError>;

    /// A short and stable name of the byte format, such as `u64`, `(u32, str)` or `[u8; 16]`.
    ///
    /// It is stored in the journal, and a journal is only opened by a codec with the same fingerprint. Two codecs whose
    /// bytes differ must therefore have different fingerprints, and a codec whose bytes change must change its
    /// fingerprint. Keep it well below 400 bytes: the journal cuts off the rest.
    fn fingerprint(&self) -> String;
}

/// Why a value could not be turned into bytes, or bytes into a value.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The bytes end before the value does.
    #[error(
        "the bytes end before the value does: they were cut off, or written by another codec; \
         read them with the codec that wrote them"
    )]
    Truncated,

    /// The value ends before the bytes do.
    #[error(
        "{left} bytes are left over after the value: they were written by another codec, or for another type; \
         read them with the codec that wrote them"
    )]
    TooLong {
        /// How many bytes are left over.
        left: usize,
    },

    /// The bytes stand for no value of this type.
    #[error(
        "the bytes hold {what}: they are damaged, or written by another codec; \
         read them with the codec that wrote them"
    )]
    Invalid {
        /// What was found, such as "a bool that is neither 0 nor 1".
        what: &'static str,
    },

    /// What a codec that is not of this library had to say.
    #[error("{0}")]
    Custom(String),
}

impl CodecError {
    /// An error of a codec of your own. The message should say what happened and what to do about it.
    ///
    /// ```
    /// use writeback::codec::CodecError;
    ///
    /// let error = CodecError::custom(format_args!("{} is no known version: upgrade this program", 7));
    /// assert_eq!(error.to_string(), "7 is no known version: upgrade this program");
    /// ```
    pub fn custom(message: impl fmt::Display) -> Self {
        Self::Custom(message.to_string())
    }
}
