//! What has a known number of parts: tuples, arrays, options, and types that are stored as one of those.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    time::Duration,
};

use super::{CodecError, PlainBytes, ended};

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
