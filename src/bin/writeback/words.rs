//! The words of a text: `[a-z]+('[a-z]+)?` in the lower-cased text, so that anyone can check with `grep`.

/// The longest word that is taken for one; a run of letters beyond it is not text.
pub(crate) const LONGEST: usize = 65_536;

/// A tokeniser that is fed a text in pieces of any size.
#[derive(Debug, Default)]
pub(crate) struct Words {
    word: String,
    state: State,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    /// Between words.
    #[default]
    Between,
    /// Behind at least one letter.
    Letters,
    /// Behind letters and an apostrophe that belongs to the word only if a letter follows.
    Apostrophe,
    /// Behind the apostrophe's letters; another apostrophe ends the word.
    Suffix,
}

/// A run of more than [`LONGEST`] letters.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Words {
    /// Takes the next piece of the text and hands each word that ends in it to `emit`.
    pub(crate) fn feed(&mut self, text: &[u8], mut emit: impl FnMut(String)) -> Result<(), TooLong> {
        for &byte in text {
            self.state = match (self.state, byte) {
                (State::Between | State::Letters, b'A'..=b'Z' | b'a'..=b'z') => {
                    self.push(byte)?;
                    State::Letters
                }
                (State::Apostrophe, b'A'..=b'Z' | b'a'..=b'z') => {
                    self.word.push('\'');
                    self.push(byte)?;
                    State::Suffix
                }
                (State::Suffix, b'A'..=b'Z' | b'a'..=b'z') => {
                    self.push(byte)?;
                    State::Suffix
                }
                (State::Letters, b'\'') => State::Apostrophe,
                (State::Between, _) => State::Between,
                (_, _) => {
                    emit(std::mem::take(&mut self.word));
                    State::Between
                }
            };
        }
        Ok(())
    }

    /// The text ends here, and with it a word that was not yet complete.
    pub(crate) fn finish(self) -> Option<String> {
        (!self.word.is_empty()).then_some(self.word)
    }

    fn push(&mut self, letter: u8) -> Result<(), TooLong> {
        if self.word.len() >= LONGEST {
            return Err(TooLong);
        }
        self.word.push(char::from(letter.to_ascii_lowercase()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of `text` when it comes in pieces of `size` bytes.
    fn words(text: &[u8], size: usize) -> Vec<String> {
        let mut found = Vec::new();
        let mut words = Words::default();
        for piece in text.chunks(size) {
            words.feed(piece, |word| found.push(word)).expect("short words");
        }
        found.extend(words.finish());
        found
    }

    #[test]
    fn a_word_is_letters_with_at_most_one_apostrophe_inside() {
        let cases: [(&str, &[&str]); 12] = [
            ("", &[]),
            ("And God said, Let there be light", &["and", "god", "said", "let", "there", "be", "light"]),
            ("don't", &["don't"]),
            ("don't't", &["don't", "t"]),
            ("rock'n'roll", &["rock'n", "roll"]),
            ("'tis the dogs' bone'", &["tis", "the", "dogs", "bone"]),
            ("a''b", &["a", "b"]),
            ("''", &[]),
            ("x1y 2nd", &["x", "y", "nd"]),
            ("caf\u{e9} \u{c4}rger", &["caf", "rger"]),
            ("it\u{2019}s", &["it", "s"]),
            ("end'", &["end"]),
        ];
        for (text, expected) in cases {
            for size in [1, 2, 3, 1_000] {
                assert_eq!(words(text.as_bytes(), size), expected, "{text:?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn bytes_that_are_not_text_are_separators() {
        assert_eq!(words(b"a\0b\xffc\r\nd", 1), ["a", "b", "c", "d"]);
    }

    #[test]
    fn an_endless_run_of_letters_is_refused() {
        let mut words = Words::default();
        assert_eq!(words.feed(&vec![b'a'; LONGEST], drop), Ok(()));
        assert_eq!(words.feed(b"a", drop), Err(TooLong));
    }
}
