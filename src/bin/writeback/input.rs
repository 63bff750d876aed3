//! The bytes of a file or of the standard input, decompressed when they are Zstandard.

use std::{
    fs::File,
    io::{self, Cursor, IsTerminal, Read},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{failure::Failure, format, say};

/// Where the events come from.
#[derive(Debug, Clone)]
pub(crate) enum Input {
    Stdin,
    File(PathBuf),
}

impl From<&str> for Input {
    fn from(path: &str) -> Self {
        if path == "-" { Input::Stdin } else { Input::File(path.into()) }
    }
}

impl Input {
    /// What messages call it.
    pub(crate) fn name(&self) -> String {
        match self {
            Input::Stdin => "the standard input".to_owned(),
            Input::File(path) => path.display().to_string(),
        }
    }

    /// How many bytes there are, where that is known.
    pub(crate) fn size(&self) -> Option<u64> {
        match self {
            Input::Stdin => None,
            Input::File(path) => path.metadata().ok().filter(|data| data.is_file()).map(|data| data.len()),
        }
    }

    /// Opens it. `before_read` is called before each read that may have to wait for more bytes.
    pub(crate) fn open(
        &self,
        bytes_read: Arc<AtomicU64>,
        before_read: Box<dyn Fn()>,
    ) -> Result<Source, Failure> {
        let unreadable = |source| Failure::Unreadable { input: self.name(), source };
        let inner: Box<dyn Read> = match self {
            Input::Stdin => {
                if io::stdin().is_terminal() {
                    say("reading from the terminal: end with Ctrl-D on a line of its own");
                }
                Box::new(io::stdin())
            }
            Input::File(path) => {
                let file = File::open(path).map_err(unreadable)?;
                if file.metadata().map_err(unreadable)?.is_dir() {
                    return Err(Failure::InputIsDirectory { input: self.name() });
                }
                Box::new(file)
            }
        };
        let mut tap = Tap { inner, before_read, bytes_read: Arc::clone(&bytes_read) };
        let head = read_head(&mut tap).map_err(unreadable)?;
        let compression = Compression::of(&head);
        let whole = Cursor::new(head).chain(tap);
        let reader: Box<dyn Read> = match compression {
            Compression::None => Box::new(whole),
            Compression::Zstd => Box::new(zstd::Decoder::new(whole).map_err(unreadable)?),
            Compression::Other { format, with } => {
                return Err(Failure::Compression { input: self.name(), format, with });
            }
        };
        Ok(Source {
            reader,
            bytes_read,
            name: self.name(),
            compressed: matches!(compression, Compression::Zstd),
        })
    }
}

/// An open input.
pub(crate) struct Source {
    reader: Box<dyn Read>,
    bytes_read: Arc<AtomicU64>,
    name: String,
    compressed: bool,
}

impl Source {
    /// What messages call it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Splits off the reader, and what turns its errors into sentences.
    pub(crate) fn into_parts(self) -> (Box<dyn Read>, impl Fn(io::Error) -> Failure) {
        let Source { reader, bytes_read, name: input, compressed } = self;
        let explain = move |source: io::Error| {
            let at = bytes_read.load(Ordering::Relaxed);
            match compressed {
                true => Failure::Damaged { input: input.clone(), at: format::count(at), source },
                false => Failure::Unreadable { input: input.clone(), source },
            }
        };
        (reader, explain)
    }
}

/// What the first bytes say about the rest.
enum Compression {
    None,
    Zstd,
    Other { format: &'static str, with: &'static str },
}

/// As many bytes as the longest magic number that is looked for.
const HEAD: u64 = 6;

impl Compression {
    fn of(head: &[u8]) -> Self {
        match head {
            // A frame, or a skippable frame, which the packers of seekable archives put in front.
            [0x28, 0xB5, 0x2F, 0xFD, ..] | [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..] => Compression::Zstd,
            [0x1F, 0x8B, ..] => Compression::Other { format: "gzip", with: "gzip" },
            [0xFD, b'7', b'z', b'X', b'Z', 0] => Compression::Other { format: "xz", with: "xz" },
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41] => {
                Compression::Other { format: "bzip2", with: "bzip2" }
            }
            [0x04, 0x22, 0x4D, 0x18, ..] => Compression::Other { format: "LZ4", with: "lz4" },
            _ => Compression::None,
        }
    }
}

fn read_head(reader: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    reader.take(HEAD).read_to_end(&mut head)?;
    Ok(head)
}

/// Counts the bytes as they come in, and tells before it may have to wait for more.
struct Tap {
    inner: Box<dyn Read>,
    before_read: Box<dyn Fn()>,
    bytes_read: Arc<AtomicU64>,
}

impl Read for Tap {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (self.before_read)();
        let n = self.inner.read(buffer)?;
        // Relaxed: a number for the progress bar and for messages.
        self.bytes_read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compression_is_told_from_the_first_bytes() {
        let packed = zstd::encode_all(&b"text"[..], 0).expect("in memory");
        assert!(matches!(Compression::of(&packed), Compression::Zstd));
        assert!(matches!(Compression::of(b"\x1f\x8b\x08"), Compression::Other { format: "gzip", .. }));
        for plain in [&b""[..], b"(", b"text", b"BZh is a word"] {
            assert!(matches!(Compression::of(plain), Compression::None));
        }
    }
}
