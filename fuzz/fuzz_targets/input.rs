//! What the command-line tool makes of its input: words of any text in pieces of any size, and the names of types in a journal.
//!
//! `cargo fuzz run -s none input fuzz/corpus/input fuzz/seeds/input`, after `mkdir -p fuzz/corpus/input`.

#![no_main]

#[allow(dead_code, reason = "the tool uses more of it")]
#[path = "../../src/bin/writeback/journal/decode.rs"]
mod decode;
#[path = "../../src/bin/writeback/words.rs"]
mod words;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
enum Input<'a> {
    Words { text: &'a [u8], piece: u8 },
    Value { name: &'a str, bytes: &'a [u8] },
}

/// The same by hand: letters, and letters behind one apostrophe.
fn expected(text: &[u8]) -> Vec<String> {
    let letters = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
    let (mut found, mut at) = (Vec::new(), 0);
    while at < text.len() {
        let mut length = letters(&text[at..]);
        if length == 0 {
            at += 1;
            continue;
        }
        if text.get(at + length) == Some(&b'\'') {
            let suffix = letters(&text[at + length + 1..]);
            length += if suffix > 0 { suffix + 1 } else { 0 };
        }
        found.push(text[at..at + length].iter().map(|byte| char::from(byte.to_ascii_lowercase())).collect());
        at += length;
    }
    found
}

fuzz_target!(|input: Input<'_>| match input {
    Input::Words { text, piece } => {
        let (mut found, mut words) = (Vec::new(), words::Words::default());
        for piece in text.chunks(usize::from(piece).max(1)) {
            words.feed(piece, |word| found.push(word)).expect("shorter than the longest word");
        }
        found.extend(words.finish());
        assert_eq!(found, expected(text));
    }
    Input::Value { name, bytes } => {
        let of = decode::Type::parse(name);
        let shown = decode::shown(of.as_ref(), bytes);
        assert!(!shown.to_string().contains('\x1b'), "a terminal would obey this");
        drop(shown.json());
    }
});
