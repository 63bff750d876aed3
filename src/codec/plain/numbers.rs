//! Numbers, and what is stored like one.

use super::{CodecError, PlainBytes, take, take_array};

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

            #[inline]
            fn read_array<const N: usize>(bytes: &mut &[u8]) -> Result<[Self; N], CodecError> {
                let mut values = [Self::default(); N];
                for value in &mut values {
                    *value = Self::read(bytes)?;
                }
                Ok(values)
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

            #[inline]
            fn read_array<const N: usize>(bytes: &mut &[u8]) -> Result<[Self; N], CodecError> {
                let mut values = [Self::default(); N];
                for value in &mut values {
                    *value = Self::read(bytes)?;
                }
                Ok(values)
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
