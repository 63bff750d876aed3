//! The codec for whatever `serde` can take apart and put together.

use ::serde::{Serialize, de::DeserializeOwned};
use postcard::ser_flavors::Flavor;

use super::{Codec, CodecError};

/// The codec for every type that `serde` can serialize and deserialize, in the compact binary format of the crate
/// [`postcard`].
///
/// # The fingerprint
///
/// `serde` does not tell what a type looks like, so the fingerprint is `postcard:` and the type's name with its path,
/// such as `postcard:my_crate::User` (of [`std::any::type_name`]). This has consequences:
///
/// - A type that is **renamed, or moved** to another module or crate, no longer opens the journals written under its old
///   name. Let the old program flush and close its cache first, or keep the old name in a codec of your own (below).
/// - A type whose **fields change** keeps its name, and so its fingerprint: the journal is opened, and old records fail to
///   decode or, worse, decode to something else. Rename the type when its fields change, or count a version in a codec of
///   your own.
/// - The compiler does not promise that a type's name is written the same way for ever; a new compiler may act like a
///   rename.
///
/// A codec of your own that has a stable fingerprint is short:
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use writeback::codec::{Codec, CodecError, Postcard};
///
/// #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// struct User {
///     id: u64,
///     name: String,
/// }
///
/// struct UserCodec;
///
/// impl Codec<User> for UserCodec {
///     fn encode(&self, value: &User, out: &mut Vec<u8>) -> Result<(), CodecError> {
///         Postcard.encode(value, out)
///     }
///
///     fn decode(&self, bytes: &[u8]) -> Result<User, CodecError> {
///         Postcard.decode(bytes)
///     }
///
///     fn fingerprint(&self) -> String {
///         "user, version 1".to_owned()
///     }
/// }
///
/// let user = User { id: 1, name: "Ada".to_owned() };
/// let mut bytes = Vec::new();
/// UserCodec.encode(&user, &mut bytes)?;
/// assert_eq!(bytes, *b"\x01\x03Ada");
/// assert_eq!(UserCodec.decode(&bytes)?, user);
/// # Ok::<(), CodecError>(())
/// ```
///
/// # For keys
///
/// Equal keys must have equal bytes. That holds for types that derive both `Eq` and `Serialize`, unless they hold a
/// `HashMap` or `HashSet` (which are written in no certain order; use the `BTree` ones), or leave fields out by
/// `#[serde(skip)]`.
///
/// Types that need a self-describing format, by `#[serde(flatten)]`, `#[serde(untagged)]` or `#[serde(tag = "…")]`, can
/// be encoded at most, never decoded; with `#[serde(skip_serializing_if = "…")]` the bytes decode to something else.
///
/// A list of elements that have no bytes, such as `Vec<()>`, is best stored as a number: when the file is damaged, its
/// count could be any, and decoding counts up to it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Postcard;

impl<T: Serialize + DeserializeOwned> Codec<T> for Postcard {
    fn encode(&self, value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        postcard::serialize_with_flavor(value, Append(out)).map_err(|error| {
            CodecError::Custom(format!(
                "postcard cannot encode a {}: {error}; write a codec for it, or change its Serialize",
                std::any::type_name::<T>()
            ))
        })
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError> {
        let (value, rest) = postcard::take_from_bytes(bytes).map_err(|error| why(&error))?;
        match rest.len() {
            0 => Ok(value),
            left => Err(CodecError::TooLong { left }),
        }
    }

    fn fingerprint(&self) -> String {
        format!("postcard:{}", std::any::type_name::<T>())
    }
}

/// `postcard`'s reason, in this library's words.
fn why(error: &postcard::Error) -> CodecError {
    use postcard::Error;
    let what = match error {
        Error::DeserializeUnexpectedEnd => return CodecError::Truncated,
        Error::DeserializeBadVarint => "a number that is too long",
        Error::DeserializeBadBool => "a bool that is neither 0 nor 1",
        Error::DeserializeBadChar => "a char that Unicode does not have",
        Error::DeserializeBadUtf8 => "text that is not UTF-8",
        Error::DeserializeBadOption => "an Option that begins with neither 0 nor 1",
        Error::DeserializeBadEnum => "a variant with too large a number",
        // What the type itself did not like; postcard does not keep the message.
        Error::SerdeDeCustom => "a value that its type does not accept",
        other => {
            return CodecError::Custom(format!(
                "postcard cannot decode the value: {other}; read it with the codec that wrote it"
            ));
        }
    };
    CodecError::Invalid { what }
}

/// Lets `postcard` append to a buffer that already holds something.
struct Append<'a>(&'a mut Vec<u8>);

impl Flavor for Append<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}
