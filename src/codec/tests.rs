use std::{
    fmt::Debug,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    sync::Arc,
    time::Duration,
};

use super::{
    Codec, CodecError, Plain, PlainBytes,
    plain::sequences::{read_length, write_length},
};

fn bytes<T>(codec: &impl Codec<T>, value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    codec.encode(value, &mut out).expect("encodes");
    out
}

fn decode<T: PlainBytes>(bytes: &[u8]) -> Result<T, CodecError> {
    Plain.decode(bytes)
}

fn invalid<T: PlainBytes + Debug>(bytes: &[u8]) {
    let answer = decode::<T>(bytes);
    assert!(matches!(answer, Err(CodecError::Invalid { .. })), "{bytes:x?} as {}: {answer:?}", T::name());
}

/// Everything that holds for every value: alone, after other bytes, and inside other types.
fn trip<T: PlainBytes + PartialEq + Debug + Clone>(value: T) {
    alone(&value);
    alone(&(value.clone(), 0x5a_u8));
    alone(&(0x5a_u8, value.clone()));
    alone(&(value.clone(), value.clone(), value.clone()));
    alone(&(value.clone(),));
    alone(&Some(value.clone()));
    alone(&(Some(value.clone()), None::<T>));
    alone(&None::<T>);
    alone(&[value.clone(), value.clone()]);
    alone(&(Some(value.clone()), [Some(value)], true));
}

/// The same, inside lists, for which a type needs to have bytes.
fn trip_in_lists<T: PlainBytes + PartialEq + Debug + Clone>(value: T) {
    trip(value.clone());
    for count in 0..4 {
        let list = vec![value.clone(); count];
        alone(&(list.clone(), list.clone()));
        alone(&vec![list.clone(); count]);
        alone::<Box<[T]>>(&list.clone().into());
        alone::<Arc<[T]>>(&list.clone().into());
        alone(&Some(list.clone()));
        alone(&list);
    }
}

fn alone<T: PlainBytes + PartialEq + Debug>(value: &T) {
    let name = T::name();
    let mut out = vec![1, 2, 3];
    Plain.encode(value, &mut out).expect("encodes");
    assert_eq!(out[..3], [1, 2, 3], "{name}: only appends");
    let out = &out[3..];
    assert_eq!(decode::<T>(out).as_ref(), Ok(value), "{name}");

    let mut nested = Vec::new();
    value.write(&mut nested);
    if let Some(length) = T::FIXED {
        assert_eq!((out.len(), nested.len()), (length, length), "{name}");
    }
    // The nested form ends by itself, whatever follows, and is never satisfied with less.
    let length = nested.len();
    nested.extend([0xff; 9]);
    let mut rest = &nested[..];
    assert_eq!(T::read(&mut rest).as_ref(), Ok(value), "{name}");
    assert_eq!(rest, [0xff; 9], "{name}");
    for cut in 0..length {
        assert_eq!(T::read(&mut &nested[..cut]), Err(CodecError::Truncated), "{name} cut to {cut}");
    }

    // The last form may be a value of its own when cut, but never the same one, and never left over.
    for cut in 0..out.len() {
        assert_ne!(decode::<T>(&out[..cut]).as_ref(), Ok(value), "{name} cut to {cut}");
    }
    let longer = [out, &[0x31]].concat();
    assert_ne!(decode::<T>(&longer).as_ref(), Ok(value), "{name} with a byte more");
    if T::FIXED.is_some() {
        assert_eq!(decode::<T>(&longer), Err(CodecError::TooLong { left: 1 }), "{name}");
    }
}

#[test]
fn every_kind_comes_back() {
    macro_rules! integers {
        ($($integer:ident)*) => {$(
            trip_in_lists($integer::MIN);
            trip_in_lists($integer::MAX);
            trip_in_lists::<$integer>(0x5a);
        )*};
    }
    integers!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize);
    for float in [0.0, -0.0, 1.5, f64::MIN, f64::MAX, f64::EPSILON, f64::INFINITY, f64::NEG_INFINITY] {
        trip_in_lists(float);
        trip_in_lists(float as f32);
    }
    trip_in_lists(true);
    trip_in_lists(false);
    for character in ['\0', 'a', 'ß', '\u{d7ff}', '\u{e000}', '🦀', char::MAX] {
        trip_in_lists(character);
    }
    trip(());
    trip([(); 3]);
    trip::<[String; 0]>([]);
    trip_in_lists([[1_u16, 2], [3, 4], [5, 6]]);
    trip_in_lists(*b"sixteen bytes ok");
    for text in ["", "a", "grüße", "\0\0\0\0", "a rather longer text, of more than a few bytes"] {
        trip_in_lists(text.to_owned());
        trip_in_lists::<Box<str>>(text.into());
        trip_in_lists::<Arc<str>>(text.into());
        trip_in_lists(text.as_bytes().to_vec());
        trip_in_lists((text.to_owned(), text.to_owned()));
    }
    trip_in_lists((1_u8, 2_u16, 3_u32, 4_u64, 5_i8, 6_i16, 7_i32, "eight".to_owned()));
    trip_in_lists((1_u8, 2_u16, 3_u32, "four".to_owned(), 5_i8, 6_i16, 7_i32));
    trip_in_lists((1_u8, 2_u16, 3_u32, 4_u64, 5_i8, 6_i16));
    trip_in_lists(Some(Some(Some("deep".to_owned()))));
    trip_in_lists(Some(()));
    for duration in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
        trip_in_lists(duration);
    }
    let v6 = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 443, 0x0102_0304, 7);
    let v4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 80);
    trip_in_lists(v4);
    trip_in_lists(v6);
    trip_in_lists(*v4.ip());
    trip_in_lists(*v6.ip());
    trip_in_lists(IpAddr::V4(*v4.ip()));
    trip_in_lists(IpAddr::V6(*v6.ip()));
    trip_in_lists(SocketAddr::V4(v4));
    trip_in_lists(SocketAddr::V6(v6));
}

#[test]
fn bit_patterns_of_floats_survive() {
    for bits in [0x7ff8_0000_0000_0001_u64, 0xfff8_dead_beef_0000, (-0.0_f64).to_bits()] {
        let back: f64 = decode(&bytes(&Plain, &f64::from_bits(bits))).expect("decodes");
        assert_eq!(back.to_bits(), bits);
    }
}

#[test]
fn the_bytes_are_the_documented_ones() {
    assert_eq!(bytes(&Plain, &0x0102_0304_0506_0708_u64), [8, 7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(bytes(&Plain, &-2_i16), [0xfe, 0xff]);
    assert_eq!(bytes(&Plain, &1_usize), [1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes(&Plain, &-1_isize), [0xff; 8]);
    assert_eq!(bytes(&Plain, &1.0_f32), [0, 0, 0x80, 0x3f]);
    assert_eq!(bytes(&Plain, &true), [1]);
    assert_eq!(bytes(&Plain, &'🦀'), [0x80, 0xf9, 0x01, 0]);
    assert_eq!(bytes(&Plain, &()), []);
    assert_eq!(bytes(&Plain, &[0x0102_u16, 0x0304]), [2, 1, 4, 3]);
    assert_eq!(bytes(&Plain, &Duration::new(1, 2)), [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0]);
    assert_eq!(bytes(&Plain, &IpAddr::from([127, 0, 0, 1])), [4, 127, 0, 0, 1]);
    assert_eq!(bytes(&Plain, &SocketAddrV4::new([127, 0, 0, 1].into(), 0x0102)), [127, 0, 0, 1, 2, 1]);

    // Last: no length. Before something else: a length.
    let hi = "hi".to_owned();
    assert_eq!(bytes(&Plain, &hi), b"hi");
    assert_eq!(bytes(&Plain, &(hi.clone(),)), b"hi");
    assert_eq!(bytes(&Plain, &Some(hi.clone())), b"\x01hi");
    assert_eq!(bytes(&Plain, &None::<String>), b"\0");
    assert_eq!(bytes(&Plain, &(7_u8, hi.clone())), b"\x07hi");
    assert_eq!(bytes(&Plain, &(hi.clone(), 7_u8)), b"\x02\0\0\0hi\x07");
    assert_eq!(bytes(&Plain, &(hi.clone(), (hi.clone(), hi.clone()))), b"\x02\0\0\0hi\x02\0\0\0hihi");
    assert_eq!(bytes(&Plain, &((hi.clone(), hi.clone()), ())), b"\x02\0\0\0hi\x02\0\0\0hi");
    assert_eq!(bytes(&Plain, &[hi.clone(), hi.clone()]), b"\x02\0\0\0hi\x02\0\0\0hi");
    assert_eq!(bytes(&Plain, &vec![hi.clone()]), b"\x01\0\0\0\x02\0\0\0hi");
    assert_eq!(bytes(&Plain, &b"raw\0".to_vec()), b"raw\0");
    assert_eq!(bytes(&Plain, &vec![0x0102_u16, 0x0304]), [2, 1, 4, 3]);
    assert_eq!(bytes(&Plain, &(vec![0x0102_u16, 0x0304], ())), [2, 0, 0, 0, 2, 1, 4, 3]);
    assert_eq!(bytes(&Plain, &vec![vec![1_u8], vec![]]), [2, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0]);
}

#[test]
fn parts_do_not_run_into_each_other() {
    let split = |a: &str, b: &str, c: &str| bytes(&Plain, &(a.to_owned(), b.to_owned(), c.to_owned()));
    let mut all: Vec<_> =
        [("ab", "c", ""), ("a", "bc", ""), ("a", "b", "c"), ("", "", "abc"), ("abc", "", "")]
            .map(|(a, b, c)| split(a, b, c))
            .into();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 5);
}

#[test]
fn lengths_that_do_not_fit_in_32_bits() {
    let written = |length| {
        let mut out = Vec::new();
        write_length(length, &mut out);
        out
    };
    assert_eq!(written(0xffff_fffe), [0xfe, 0xff, 0xff, 0xff]);
    assert_eq!(written(0xffff_ffff), [255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0]);
    for length in [0, 1, 0xffff_fffe, 0xffff_ffff, usize::MAX] {
        assert_eq!(read_length(&mut &written(length)[..]), Ok(length));
    }
    let padded = [255, 255, 255, 255, 1, 0, 0, 0, 0, 0, 0, 0];
    assert!(matches!(read_length(&mut &padded[..]), Err(CodecError::Invalid { .. })));
}

#[test]
fn what_is_no_value_is_rejected() {
    invalid::<bool>(&[2]);
    invalid::<bool>(&[0xff]);
    invalid::<Option<u8>>(&[2, 0]);
    invalid::<char>(&0xd800_u32.to_le_bytes());
    invalid::<char>(&0x11_0000_u32.to_le_bytes());
    invalid::<String>(&[0xff]);
    invalid::<Arc<str>>(&[0xc3]);
    invalid::<(String, u8)>(&[1, 0, 0, 0, 0xff, 0]);
    invalid::<Duration>(&[0, 0, 0, 0, 0, 0, 0, 0, 0x00, 0xca, 0x9a, 0x3b]);
    invalid::<IpAddr>(&[5, 127, 0, 0, 1]);

    assert_eq!(decode::<u64>(&[0; 7]), Err(CodecError::Truncated));
    assert_eq!(decode::<u64>(&[0; 9]), Err(CodecError::TooLong { left: 1 }));
    assert_eq!(decode::<()>(&[0; 2]), Err(CodecError::TooLong { left: 2 }));
    assert_eq!(decode::<Option<u8>>(&[]), Err(CodecError::Truncated));
    assert_eq!(decode::<Option<u8>>(&[0, 0]), Err(CodecError::TooLong { left: 1 }));
    assert_eq!(decode::<Vec<u32>>(&[0; 7]), Err(CodecError::Truncated));
    assert_eq!(decode::<Vec<String>>(&[0; 5]), Err(CodecError::TooLong { left: 1 }));
    assert_eq!(decode::<[u8; 4]>(&[0; 5]), Err(CodecError::TooLong { left: 1 }));
    assert_eq!(decode::<[String; 2]>(&[0; 7]), Err(CodecError::Truncated));
}

#[test]
fn a_false_length_reserves_nothing() {
    /// Small in the file and large in memory.
    type Large = Option<[u64; 1 << 10]>;
    let long = [[0xff; 4].as_slice(), &u64::MAX.to_le_bytes(), &[0; 4]].concat();
    let short = [[0xfe, 0xff, 0xff, 0xff].as_slice(), &[0; 4]].concat();
    for claim in [&long, &short] {
        assert_eq!(decode::<Vec<Large>>(claim), Err(CodecError::Truncated));
        assert_eq!(decode::<Vec<String>>(claim), Err(CodecError::Truncated));
        assert_eq!(decode::<(Vec<u64>, u8)>(claim), Err(CodecError::Truncated));
        assert_eq!(decode::<(Vec<u8>, u8)>(claim), Err(CodecError::Truncated));
        assert_eq!(decode::<(String, u8)>(claim), Err(CodecError::Truncated));
    }
    // Also where it is not checked before: the reservation itself is bounded by the bytes that there are.
    assert_eq!(u64::read_vec(&mut &[0; 12][..], usize::MAX), Err(CodecError::Truncated));
}

/// Any bytes: no panic, and whatever is accepted is exactly what that value is encoded to.
fn never_panics<T: PlainBytes>(input: &[u8]) {
    if let Ok(value) = decode::<T>(input) {
        assert_eq!(bytes(&Plain, &value), input, "{}", T::name());
    }
    let mut rest = input;
    if let Ok(value) = T::read(&mut rest) {
        let mut out = Vec::new();
        value.write(&mut out);
        assert_eq!(out, input[..input.len() - rest.len()], "{}", T::name());
    }
}

fn never_panics_as_anything(input: &[u8]) {
    never_panics::<u8>(input);
    never_panics::<u128>(input);
    never_panics::<usize>(input);
    never_panics::<f32>(input);
    never_panics::<bool>(input);
    never_panics::<char>(input);
    never_panics::<()>(input);
    never_panics::<[u8; 2]>(input);
    never_panics::<[bool; 3]>(input);
    never_panics::<[Vec<u8>; 2]>(input);
    never_panics::<String>(input);
    never_panics::<Vec<u8>>(input);
    never_panics::<Vec<u16>>(input);
    never_panics::<Vec<bool>>(input);
    never_panics::<Box<[Option<u8>]>>(input);
    never_panics::<Arc<[String]>>(input);
    never_panics::<Vec<Vec<Vec<char>>>>(input);
    never_panics::<(u16, String)>(input);
    never_panics::<(String, Option<String>)>(input);
    never_panics::<(Vec<(bool, String)>, Option<Vec<u8>>)>(input);
    never_panics::<Option<Option<()>>>(input);
    never_panics::<Duration>(input);
    never_panics::<SocketAddr>(input);
}

#[test]
fn no_bytes_make_it_panic() {
    never_panics_as_anything(&[]);
    for a in 0..=255 {
        never_panics_as_anything(&[a]);
        for b in 0..=255 {
            never_panics_as_anything(&[a, b]);
        }
    }
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 16
    };
    for _ in 0..20_000 {
        // Mostly small bytes, so that tags and lengths are often right and the rest is reached.
        let length = random() % 40;
        let input: Vec<u8> = (0..length)
            .map(|_| match random() % 8 {
                0 => random() as u8,
                1 => 255,
                2 => (random() % 8) as u8,
                3 => 1,
                _ => 0,
            })
            .collect();
        never_panics_as_anything(&input);
    }
}

#[test]
fn a_type_of_ones_own() {
    #[derive(Debug, Clone, PartialEq)]
    struct Point {
        x: i32,
        y: i32,
    }

    impl PlainBytes for Point {
        const FIXED: Option<usize> = Some(8);

        fn write(&self, out: &mut Vec<u8>) {
            self.x.write(out);
            self.y.write(out);
        }

        fn read(bytes: &mut &[u8]) -> Result<Self, CodecError> {
            Ok(Self { x: i32::read(bytes)?, y: i32::read(bytes)? })
        }

        fn name() -> String {
            "Point(i32, i32)".to_owned()
        }
    }

    trip_in_lists(Point { x: -1, y: 2 });
    assert_eq!(Codec::<Vec<Point>>::fingerprint(&Plain), "[Point(i32, i32)]");
    assert_eq!(decode::<Vec<Point>>(&[0; 12]), Err(CodecError::Truncated));
}

#[test]
fn a_wrong_length_is_found_when_it_is_read() {
    /// Claims one byte and writes two.
    #[derive(Debug, PartialEq)]
    struct Liar;

    impl PlainBytes for Liar {
        const FIXED: Option<usize> = Some(1);

        fn write(&self, out: &mut Vec<u8>) {
            out.extend([1, 2]);
        }

        fn read(bytes: &mut &[u8]) -> Result<Self, CodecError> {
            <[u8; 2]>::read(bytes).map(|_| Self)
        }

        fn name() -> String {
            "Liar".to_owned()
        }
    }

    assert_eq!(decode::<Vec<Liar>>(&bytes(&Plain, &vec![Liar, Liar])), Err(CodecError::Truncated));
}

#[test]
fn fingerprints_are_the_documented_ones_and_differ() {
    let mut names = Vec::new();
    macro_rules! named {
        ($($type:ty: $name:literal;)*) => {$(
            assert_eq!(Codec::<$type>::fingerprint(&Plain), $name);
            names.push($name);
        )*};
    }
    named! {
        u8: "u8"; u16: "u16"; u32: "u32"; u64: "u64"; u128: "u128";
        i8: "i8"; i16: "i16"; i32: "i32"; i64: "i64"; i128: "i128";
        f32: "f32"; f64: "f64"; bool: "bool"; char: "char"; (): "()";
        [u8; 16]: "[u8; 16]"; [u8; 15]: "[u8; 15]"; [[u8; 2]; 8]: "[[u8; 2]; 8]";
        String: "str"; Vec<u8>: "[u8]"; Vec<Vec<u8>>: "[[u8]]"; Vec<(u32, String)>: "[(u32, str)]";
        (u32,): "(u32,)"; (u32, String): "(u32, str)"; (String, u32): "(str, u32)";
        ((u32, u32), u32): "((u32, u32), u32)"; (u32, (u32, u32)): "(u32, (u32, u32))";
        (u32, u32, u32): "(u32, u32, u32)";
        (u8, u8, u8, u8, u8, u8, u8, u8): "(u8, u8, u8, u8, u8, u8, u8, u8)";
        Option<u32>: "Option<u32>"; Option<Option<u32>>: "Option<Option<u32>>";
        Duration: "Duration"; Ipv4Addr: "Ipv4Addr"; Ipv6Addr: "Ipv6Addr"; IpAddr: "IpAddr";
        SocketAddrV4: "SocketAddrV4"; SocketAddrV6: "SocketAddrV6"; SocketAddr: "SocketAddr";
    }
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);

    // The same bytes, so the same name: one may be exchanged for the other.
    assert_eq!((usize::name(), isize::name()), (u64::name(), i64::name()));
    assert_eq!((<Box<str>>::name(), <Arc<str>>::name()), (String::name(), String::name()));
    assert_eq!((<Box<[u8]>>::name(), <Arc<[u8]>>::name()), (<Vec<u8>>::name(), <Vec<u8>>::name()));
}

#[test]
fn a_codec_can_be_chosen_at_run_time() {
    let codec: Box<dyn Codec<u64>> = Box::new(Plain);
    let mut out = Vec::new();
    codec.encode(&7, &mut out).expect("encodes");
    assert_eq!(codec.decode(&out), Ok(7));
}

#[test]
fn errors_say_what_to_do() {
    assert_eq!(
        CodecError::Invalid { what: "text that is not UTF-8" }.to_string(),
        "the bytes hold text that is not UTF-8: they are damaged, or written by another codec; \
         read them with the codec that wrote them"
    );
    assert!(CodecError::TooLong { left: 3 }.to_string().starts_with("3 bytes are left over after the value"));
    assert_eq!(CodecError::custom(7), CodecError::Custom("7".to_owned()));
}

#[cfg(feature = "serde")]
mod postcard {
    use std::collections::BTreeMap;

    use ::serde::{Deserialize, Deserializer, Serialize, de::Error as _};

    use super::{Codec, CodecError, bytes};
    use crate::codec::Postcard;

    type Value = (u32, Option<String>, BTreeMap<i8, Vec<bool>>, char, f64);

    fn value() -> Value {
        (300, Some("text".to_owned()), [(-1, vec![true, false])].into(), '🦀', 0.5)
    }

    #[test]
    fn comes_back() {
        let mut out = vec![1, 2, 3];
        Postcard.encode(&value(), &mut out).expect("encodes");
        assert_eq!(out[..3], [1, 2, 3], "only appends");
        assert_eq!(Postcard.decode(&out[3..]), Ok(value()));
        assert_eq!(bytes(&Postcard, &("hi".to_owned(), 300_u32)), b"\x02hi\xac\x02");
    }

    #[test]
    fn rejects_other_bytes() {
        let out = bytes(&Postcard, &value());
        for cut in 0..out.len() {
            assert_eq!(Codec::<Value>::decode(&Postcard, &out[..cut]), Err(CodecError::Truncated));
        }
        let longer = [&out[..], &[0, 0]].concat();
        assert_eq!(Codec::<Value>::decode(&Postcard, &longer), Err(CodecError::TooLong { left: 2 }));
        let invalid = |answer: Result<(), CodecError>| {
            assert!(matches!(answer, Err(CodecError::Invalid { .. })), "{answer:?}");
        };
        invalid(Postcard.decode(&[2]).map(|_: bool| ()));
        invalid(Postcard.decode(&[2]).map(|_: Option<u8>| ()));
        invalid(Postcard.decode(&[1, 0xff]).map(|_: String| ()));
        invalid(Postcard.decode(&[1, 0xff]).map(|_: char| ()));
        invalid(Postcard.decode(&[0xff; 9]).map(|_: u16| ()));
    }

    #[test]
    fn what_serde_refuses_is_an_error() {
        #[derive(Debug, PartialEq, Serialize)]
        struct Even(u32);

        impl<'de> Deserialize<'de> for Even {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let number = u32::deserialize(deserializer)?;
                if number.is_multiple_of(2) { Ok(Self(number)) } else { Err(D::Error::custom("odd")) }
            }
        }

        assert_eq!(Postcard.decode(&[2]), Ok(Even(2)));
        let answer: Result<Even, _> = Postcard.decode(&[3]);
        assert!(matches!(answer, Err(CodecError::Invalid { .. })), "{answer:?}");

        #[derive(Debug, Deserialize)]
        struct Unwilling;

        impl Serialize for Unwilling {
            fn serialize<S: ::serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(::serde::ser::Error::custom("no"))
            }
        }

        let answer = Postcard.encode(&Unwilling, &mut Vec::new());
        assert!(matches!(&answer, Err(CodecError::Custom(why)) if why.contains("Unwilling")), "{answer:?}");
    }

    #[test]
    fn no_bytes_make_it_panic() {
        for a in 0..=255_u8 {
            for b in 0..=255_u8 {
                for c in [0, 1, 127, 128, 255] {
                    let _: Result<Value, _> = Postcard.decode(&[a, b, c]);
                    let _: Result<Vec<String>, _> = Postcard.decode(&[a, b, c, 255, 255, 255, 255, 255, 1]);
                }
            }
        }
    }

    #[test]
    fn the_fingerprint_has_the_type() {
        assert_eq!(Codec::<u32>::fingerprint(&Postcard), "postcard:u32");
        assert_ne!(Codec::<Value>::fingerprint(&Postcard), Codec::<u32>::fingerprint(&Postcard));
    }
}
