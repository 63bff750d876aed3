//! The plain codec: any bytes decode or are refused, and what decodes is encoded as the same bytes again.
//!
//! `cargo fuzz run -s none codec fuzz/corpus/codec fuzz/seeds/codec`, after `mkdir -p fuzz/corpus/codec`.

#![no_main]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use libfuzzer_sys::fuzz_target;
use writeback::{Codec, Plain, PlainBytes};

fn round<T: PlainBytes>(bytes: &[u8]) {
    let Ok(value) = <Plain as Codec<T>>::decode(&Plain, bytes) else { return };
    let mut again = b"before".to_vec();
    Plain.encode(&value, &mut again).expect("what was decoded can be encoded");
    assert_eq!(&again[..6], b"before");
    assert_eq!(&again[6..], bytes, "{}", <Plain as Codec<T>>::fingerprint(&Plain));
}

fuzz_target!(|input: (u8, &[u8])| {
    let (kind, bytes) = input;
    match kind % 16 {
        0 => round::<u64>(bytes),
        1 => round::<i128>(bytes),
        2 => round::<f64>(bytes),
        3 => round::<(bool, char, ())>(bytes),
        4 => round::<String>(bytes),
        5 => round::<Vec<u8>>(bytes),
        6 => round::<Vec<String>>(bytes),
        7 => round::<Option<Vec<(u8, String)>>>(bytes),
        8 => round::<(u32, String, Option<String>)>(bytes),
        9 => round::<[Option<u16>; 3]>(bytes),
        10 => round::<Vec<Vec<Vec<u8>>>>(bytes),
        11 => round::<Duration>(bytes),
        12 => round::<(SocketAddr, u8)>(bytes),
        13 => round::<(Arc<str>, Box<[u32]>)>(bytes),
        14 => round::<Vec<(Option<bool>, [u8; 3])>>(bytes),
        _ => round::<(usize, isize, Vec<f32>)>(bytes),
    }
});
