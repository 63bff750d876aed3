//! Keys and values of a journal without the types of the application: read by the fingerprint of the codec `Plain`.

use std::fmt;

use serde_json::{Value as Json, json};
use writeback::PlainBytes;

/// A type that a fingerprint of `Plain` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Type {
    Unsigned(usize),
    Signed(usize),
    F32,
    F64,
    Bool,
    Char,
    Text,
    Unit,
    Option(Box<Type>),
    List(Box<Type>),
    Array(Box<Type>, usize),
    Tuple(Vec<Type>),
}

/// A value of such a type.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Unsigned(u128),
    Signed(i128),
    F32(f32),
    F64(f64),
    Bool(bool),
    Text(String),
    Bytes(Vec<u8>),
    Nothing,
    Row(Vec<Value>),
}

impl Type {
    /// The type that `name` stands for. `None`: none of these; the bytes of such a value say nothing without its codec.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let mut rest = name;
        let found = Self::read_name(&mut rest)?;
        rest.is_empty().then_some(found)
    }

    fn read_name(rest: &mut &str) -> Option<Self> {
        if take(rest, "Option<") {
            let inner = Self::read_name(rest)?;
            return take(rest, ">").then(|| Type::Option(Box::new(inner)));
        }
        if take(rest, "[") {
            let inner = Box::new(Self::read_name(rest)?);
            // Refused by the codec: nothing in the file would say how many there are.
            if inner.fixed() == Some(0) {
                return None;
            }
            if take(rest, "]") {
                return Some(Type::List(inner));
            }
            let length = rest.strip_prefix("; ")?;
            let (length, after) = length.split_once(']')?;
            *rest = after;
            return Some(Type::Array(inner, length.parse().ok()?));
        }
        if take(rest, "(") {
            let mut parts = Vec::new();
            while !take(rest, ")") {
                parts.push(Self::read_name(rest)?);
                if !rest.starts_with(')') && !take(rest, ", ") && !take(rest, ",") {
                    return None;
                }
            }
            return Some(if parts.is_empty() { Type::Unit } else { Type::Tuple(parts) });
        }
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        *rest = after;
        Some(match name {
            "u8" => Type::Unsigned(1),
            "u16" => Type::Unsigned(2),
            "u32" => Type::Unsigned(4),
            "u64" => Type::Unsigned(8),
            "u128" => Type::Unsigned(16),
            "i8" => Type::Signed(1),
            "i16" => Type::Signed(2),
            "i32" => Type::Signed(4),
            "i64" => Type::Signed(8),
            "i128" => Type::Signed(16),
            "f32" => Type::F32,
            "f64" => Type::F64,
            "bool" => Type::Bool,
            "char" => Type::Char,
            "str" => Type::Text,
            _ => return None,
        })
    }

    /// The bytes of every value, if they are equally many.
    fn fixed(&self) -> Option<usize> {
        match self {
            Type::Unsigned(bytes) | Type::Signed(bytes) => Some(*bytes),
            Type::F32 | Type::Char => Some(4),
            Type::F64 => Some(8),
            Type::Bool => Some(1),
            Type::Unit => Some(0),
            Type::Array(of, length) => of.fixed()?.checked_mul(*length),
            Type::Tuple(parts) => parts.iter().try_fold(0_usize, |sum, part| sum.checked_add(part.fixed()?)),
            Type::Text | Type::Option(_) | Type::List(_) => None,
        }
    }

    /// The value whose bytes are all of `bytes`.
    pub(crate) fn decode(&self, mut bytes: &[u8]) -> Option<Value> {
        let value = self.read(&mut bytes, true)?;
        bytes.is_empty().then_some(value)
    }

    /// A value from the front of `bytes`; `last`: nothing follows it, so that its length is left out.
    fn read(&self, bytes: &mut &[u8], last: bool) -> Option<Value> {
        Some(match self {
            Type::Unsigned(length) => Value::Unsigned(number(bytes, *length)?),
            Type::Signed(length) => {
                let unused = 128 - *length as u32 * 8;
                Value::Signed(number(bytes, *length)?.cast_signed() << unused >> unused)
            }
            Type::F32 => Value::F32(f32::read(bytes).ok()?),
            Type::F64 => Value::F64(f64::read(bytes).ok()?),
            Type::Bool => Value::Bool(bool::read(bytes).ok()?),
            Type::Char => Value::Text(char::read(bytes).ok()?.into()),
            Type::Unit => Value::Row(Vec::new()),
            Type::Text if last => Value::Text(String::read_last(std::mem::take(bytes)).ok()?),
            Type::Text => Value::Text(String::read(bytes).ok()?),
            Type::Option(of) => match u8::read(bytes).ok()? {
                0 => Value::Nothing,
                1 => of.read(bytes, last)?,
                _ => return None,
            },
            Type::List(of) if **of == Type::Unsigned(1) => Value::Bytes(if last {
                std::mem::take(bytes).to_vec()
            } else {
                Vec::<u8>::read(bytes).ok()?
            }),
            Type::List(of) => match of.fixed() {
                Some(size) if last => Self::read_row(of, bytes.len() / size, bytes)?,
                _ => {
                    let count = match u32::read(bytes).ok()? {
                        u32::MAX => usize::try_from(u64::read(bytes).ok()?).ok()?,
                        count => count as usize,
                    };
                    Self::read_row(of, count, bytes)?
                }
            },
            Type::Array(of, length) if **of == Type::Unsigned(1) => {
                Value::Bytes(bytes.split_off(..*length)?.to_vec())
            }
            Type::Array(of, length) => Self::read_row(of, *length, bytes)?,
            Type::Tuple(parts) => {
                let end = parts.len() - 1;
                let part = |(at, part): (usize, &Type)| part.read(bytes, last && at == end);
                Value::Row(parts.iter().enumerate().map(part).collect::<Option<_>>()?)
            }
        })
    }

    fn read_row(of: &Type, count: usize, bytes: &mut &[u8]) -> Option<Value> {
        // Each element has at least one byte, so a count that lies ends with the bytes.
        (0..count).map(|_| of.read(bytes, false)).collect::<Option<_>>().map(Value::Row)
    }
}

fn take(rest: &mut &str, prefix: &str) -> bool {
    rest.strip_prefix(prefix).map(|after| *rest = after).is_some()
}

fn number(bytes: &mut &[u8], length: usize) -> Option<u128> {
    let mut all = [0; 16];
    all.get_mut(..length)?.copy_from_slice(bytes.split_off(..length)?);
    Some(u128::from_le_bytes(all))
}

/// What is known of some bytes: their value, or only themselves.
pub(crate) fn shown(of: Option<&Type>, bytes: &[u8]) -> Value {
    of.and_then(|of| of.decode(bytes)).unwrap_or_else(|| Value::Bytes(bytes.to_vec()))
}

impl Value {
    /// As JSON: numbers where they fit, byte strings in hexadecimal digits.
    pub(crate) fn json(&self) -> Json {
        match self {
            Value::Unsigned(n) => u64::try_from(*n).map_or_else(|_| json!(n.to_string()), |n| json!(n)),
            Value::Signed(n) => i64::try_from(*n).map_or_else(|_| json!(n.to_string()), |n| json!(n)),
            Value::F32(n) => json!(n),
            Value::F64(n) => json!(n),
            Value::Bool(yes) => json!(yes),
            Value::Text(text) => json!(text),
            Value::Bytes(bytes) => json!(hex(bytes)),
            Value::Nothing => Json::Null,
            Value::Row(parts) => parts.iter().map(Value::json).collect(),
        }
    }
}

/// In one line, with nothing in it that a terminal would obey.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Unsigned(n) => write!(f, "{n}"),
            Value::Signed(n) => write!(f, "{n}"),
            Value::F32(n) => write!(f, "{n}"),
            Value::F64(n) => write!(f, "{n}"),
            Value::Bool(yes) => write!(f, "{yes}"),
            Value::Text(text) => write!(f, "\"{}\"", text.escape_debug()),
            Value::Bytes(bytes) => write!(f, "0x{}", hex(bytes)),
            Value::Nothing => f.write_str("none"),
            Value::Row(parts) => {
                f.write_str("(")?;
                for (at, part) in parts.iter().enumerate() {
                    write!(f, "{}{part}", if at > 0 { ", " } else { "" })?;
                }
                f.write_str(")")
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use writeback::{Codec, Plain};

    use super::*;

    fn shows<T: PlainBytes>(value: T, text: &str) {
        let mut bytes = Vec::new();
        Plain.encode(&value, &mut bytes).expect("encodes");
        let name = Codec::<T>::fingerprint(&Plain);
        let found = Type::parse(&name).unwrap_or_else(|| panic!("no type {name}"));
        assert_eq!(found.decode(&bytes).map(|value| value.to_string()).as_deref(), Some(text), "{name}");
        // Cut short, it is no value, or another one, and never a panic.
        (0..bytes.len()).for_each(|end| drop(found.decode(&bytes[..end])));
    }

    #[test]
    fn what_plain_writes_is_read_by_its_fingerprint() {
        shows(7_u8, "7");
        shows(u128::MAX, &u128::MAX.to_string());
        shows(-1_i8, "-1");
        shows(i64::MIN, &i64::MIN.to_string());
        shows(i128::MIN, &i128::MIN.to_string());
        shows(0.5_f64, "0.5");
        shows(0.1_f32, "0.1");
        shows(true, "true");
        shows('x', "\"x\"");
        shows((), "()");
        shows("a\u{1b}[1m\"b".to_owned(), "\"a\\u{1b}[1m\\\"b\"");
        shows(vec![1_u8, 255], "0x01ff");
        shows([1_u8, 2], "0x0102");
        shows([1_u16, 2], "(1, 2)");
        shows(vec![1_u32, 2], "(1, 2)");
        shows(vec!["a".to_owned(), String::new()], "(\"a\", \"\")");
        shows((7_u32,), "(7)");
        shows(("a".to_owned(), 7_u32, "b".to_owned()), "(\"a\", 7, \"b\")");
        shows((1_u8, vec![(2_u8, 3_u8)]), "(1, ((2, 3)))");
        shows(Some(Some("a".to_owned())), "\"a\"");
        shows((None::<u8>, Some(vec![1_u8])), "(none, 0x01)");
    }

    #[test]
    fn other_names_are_no_types() {
        for name in [
            "",
            "postcard:u32",
            "User(u64, str)",
            "[u8",
            "(u8",
            "(u8 u8)",
            "u64 ",
            "[()]",
            "[u8; x]",
            "Duration",
        ] {
            assert_eq!(Type::parse(name), None, "{name}");
        }
    }

    #[test]
    fn a_count_that_lies_is_no_value() {
        let list = Type::parse("[str]").expect("a list");
        assert_eq!(list.decode(&[255; 12]), None);
        assert_eq!(list.decode(&[0, 0, 0, 1]), None);
        let array = Type::parse("[[u8; 2]; 18446744073709551615]").expect("an array");
        assert_eq!(array.decode(&[0; 12]), None);
    }
}
