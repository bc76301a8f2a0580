//! Decompresses shards (`.tar.gz`, `.tar.zst`). The first bytes decide the format, not the file's
//! name.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Chain, Cursor, Read, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex, PoisonError};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::FrameDecoderError::ReadFrameHeaderError;
use ruzstd::decoding::errors::ReadFrameHeaderError::SkipFrame;
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// Compression of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

/// Number of bytes that identify a compression.
const N_BYTES: usize = 6;
/// First bytes of zstd frames.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// First bytes of zstd frames without data, after a first byte of 0x50 to 0x5f.
const ZSTD_SKIPPED: [u8; 3] = [0x2a, 0x4d, 0x18];

impl Compression {
    /// Identifies a compression by its first bytes.
    ///
    /// # Errors
    /// If the compression is not supported. The text states the remedy.
    fn of(start: &[u8]) -> Result<Self, String> {
        let other = match start {
            [0x1f, 0x8b, ..] => return Ok(Self::Gzip),
            [a, b, c, d, ..] if [*a, *b, *c, *d] == ZSTD => return Ok(Self::Zstd),
            [0x50..=0x5f, b, c, d, ..] if [*b, *c, *d] == ZSTD_SKIPPED => return Ok(Self::Zstd),
            [b'B', b'Z', b'h', ..] => "bzip2 (bunzip2)",
            [0xfd, b'7', b'z', b'X', b'Z', 0] => "xz (unxz)",
            [0x04, 0x22, 0x4d, 0x18, ..] => "lz4 (unlz4)",
            [b'P', b'K', 3, 4, ..] => "a zip archive (unzip)",
            _ => return Ok(Self::None),
        };
        Err(format!(
            "the file is compressed with {other}, wanted a .tar, .tar.gz or .tar.zst; unpack it first"
        ))
    }
}

/// A reader whose first bytes were already read.
type Rewound<R> = Chain<Cursor<Vec<u8>>, R>;

/// A reader that decompresses.
pub(super) enum Unpacked<R: Read> {
    Plain(Rewound<R>),
    Gzip(Box<MultiGzDecoder<BufReader<Rewound<R>>>>),
    Zstd(Box<Zstd<BufReader<Rewound<R>>>>),
}

impl<R: Read> Unpacked<R> {
    /// Chooses the decompression by the first bytes.
    ///
    /// # Errors
    /// If the first bytes cannot be read, or if the compression is not supported.
    pub fn new(mut reader: R) -> io::Result<Self> {
        let mut start = Vec::new();
        reader.by_ref().take(N_BYTES as u64).read_to_end(&mut start)?;
        let compression = Compression::of(&start).map_err(io::Error::other)?;
        let reader = Cursor::new(start).chain(reader);
        Ok(match compression {
            Compression::None => Self::Plain(reader),
            Compression::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(BufReader::new(reader)))),
            Compression::Zstd => {
                let reader = BufReader::new(reader);
                Self::Zstd(Box::new(Zstd { reader, frame: FrameDecoder::new(), is_within: false }))
            }
        })
    }

    /// Whether the data is compressed.
    pub fn is_packed(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }
}

impl<R: Read> Read for Unpacked<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(reader) => reader.read(buf),
            Self::Gzip(reader) => reader.read(buf),
            Self::Zstd(reader) => reader.read(buf),
        }
    }
}

/// Reads all frames of a zstd file as one stream, like `zstd -d`.
pub(super) struct Zstd<R: Read> {
    reader: R,
    frame: FrameDecoder,
    is_within: bool,
}

impl<R: BufRead> Zstd<R> {
    /// Starts the next frame with data. Returns false at the end.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.reader.fill_buf()?.is_empty() {
            match self.frame.reset(&mut self.reader) {
                Ok(()) => return Ok(true),
                Err(ReadFrameHeaderError(SkipFrame { length, .. })) => {
                    io::copy(&mut self.reader.by_ref().take(length.into()), &mut io::sink())?;
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.is_within && !self.begin()? {
                return Ok(0);
            }
            self.is_within = true;
            while self.frame.can_collect() < buf.len() && !self.frame.is_finished() {
                let wanted = BlockDecodingStrategy::UptoBytes(buf.len() - self.frame.can_collect());
                self.frame.decode_blocks(&mut self.reader, wanted).map_err(io::Error::other)?;
            }
            let n = self.frame.read(buf)?;
            if n > 0 || buf.is_empty() {
                return Ok(n);
            }
            self.is_within = false;
        }
    }
}

/// A shard decompressed into an unnamed temporary file. The system deletes the file when the last
/// handle closes.
#[derive(Debug, Clone)]
pub(super) struct UnpackedFile(Arc<Mutex<File>>);

impl UnpackedFile {
    /// Decompresses a shard. Also returns an error message if the shard ends early.
    ///
    /// # Errors
    /// If the temporary file cannot be written.
    pub fn new(mut unpacked: impl Read) -> io::Result<(Self, Option<String>)> {
        let mut file = tempfile::tempfile()?;
        let mut buf = vec![0; 1 << 16];
        let ended = loop {
            match unpacked.read(&mut buf) {
                Ok(0) => break None,
                Ok(n) => file.write_all(&buf[..n])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Some(error.to_string()),
            }
        };
        Ok((Self(Arc::new(Mutex::new(file))), ended))
    }

    /// Fills `bytes` from `offset` on. One thread reads at a time.
    pub fn read_exact_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(bytes)
    }
}

/// A reader with its own position in the shared file.
#[derive(Debug)]
pub(super) struct UnpackedReader {
    file: UnpackedFile,
    at: u64,
}

impl UnpackedFile {
    /// Creates a reader, and returns the file's size in bytes.
    pub fn reader(&self) -> io::Result<(UnpackedReader, u64)> {
        let len_bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner).metadata()?.len();
        Ok((UnpackedReader { file: self.clone(), at: 0 }, len_bytes))
    }
}

impl Read for UnpackedReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut file = self.file.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(self.at))?;
        let n = file.read(buf)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Seek for UnpackedReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let mut file = self.file.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(self.at))?;
        self.at = file.seek(to)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpacked(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Unpacked::new(bytes)?.read_to_end(&mut out)?;
        Ok(out)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("to memory");
        encoder.finish().expect("to memory")
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    #[test]
    fn every_compression_is_detected_from_its_bytes_and_decompressed() {
        let bytes: Vec<u8> = (0..300_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        for packed in [bytes.clone(), gzip(&bytes), zstd(&bytes)] {
            assert_eq!(unpacked(&packed).expect("whole"), bytes);
        }
        for short in [&b""[..], b"a", b"abcdefgh"] {
            assert_eq!(unpacked(short).expect("as it is"), short);
        }
    }

    #[test]
    fn parts_that_stand_one_after_the_other_are_one() {
        let both = b"first second".as_slice();
        assert_eq!(unpacked(&[gzip(b"first "), gzip(b"second")].concat()).expect("whole"), both);
        // zstd files may contain frames without data.
        let no_data = [&[0x52, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"any"].concat();
        let frames =
            [no_data.clone(), zstd(b"first "), no_data, zstd(b""), zstd(b"second")].concat();
        assert_eq!(unpacked(&frames).expect("whole"), both);
    }

    #[test]
    fn other_compressions_are_named_with_the_cure() {
        for (start, name) in
            [(&b"BZh9...."[..], "bunzip2"), (b"\xfd7zXZ\0..", "unxz"), (b"PK\x03\x04...", "unzip")]
        {
            let error = unpacked(start).expect_err("not read").to_string();
            assert!(error.contains(name) && error.contains(".tar.zst"), "{error}");
        }
    }

    #[test]
    fn a_truncated_stream_gives_its_complete_part() {
        let bytes: Vec<u8> =
            (0..400_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        for packed in [gzip(&bytes), zstd(&bytes)] {
            let cut = &packed[..packed.len() / 2];
            let (file, ended) =
                UnpackedFile::new(Unpacked::new(cut).expect("a start")).expect("writable");
            assert!(ended.is_some());
            let (mut reader, len_bytes) = file.reader().expect("readable");
            let mut found = Vec::new();
            reader.read_to_end(&mut found).expect("readable");
            assert_eq!(found.len() as u64, len_bytes);
            assert!(len_bytes > 100_000 && found == bytes[..found.len()], "{len_bytes}");
            let mut some = [0; 5];
            file.read_exact_at(1000, &mut some).expect("readable");
            assert_eq!(some, bytes[1000..1005]);
        }
    }
}
