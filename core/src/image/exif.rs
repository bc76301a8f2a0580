//! Reads the entries of TIFF directories that change how a picture looks, from EXIF data and TIFF
//! files.

use image::metadata::Orientation;

/// The orientation in EXIF data, if any.
pub(super) fn orientation(exif: Option<&[u8]>) -> Orientation {
    let number = exif.and_then(Directories::open).and_then(|exif| exif.orientation());
    number.and_then(Orientation::from_exif).unwrap_or(Orientation::NoTransforms)
}

pub(super) const ORIENTATION: u16 = 0x0112;
pub(super) const PHOTOMETRIC: u16 = 0x0106;
const EXIF_DIRECTORY: u16 = 0x8769;
const INTEROPERABILITY_DIRECTORY: u16 = 0xa005;
const COLOUR_SPACE: u16 = 0xa001;
const INTEROPERABILITY_INDEX: u16 = 0x0001;
/// `COLOUR_SPACE` of anything except sRGB.
const UNCALIBRATED: u64 = 0xffff;
/// `COLOUR_SPACE` of Adobe RGB, as some cameras write it.
const ADOBE_RGB: u64 = 2;
/// `INTEROPERABILITY_INDEX` of Adobe RGB (DCF 2.0's optional colour space).
const OPTIONAL_COLOUR_SPACE: &[u8; 3] = b"R03";

/// A file with directories of entries: TIFF, BigTIFF, or EXIF data.
#[derive(Debug, Clone, Copy)]
pub(super) struct Directories<'a> {
    bytes: &'a [u8],
    little_endian: bool,
    /// BigTIFF: offsets and counts have 64 bits.
    big: bool,
}

/// An entry of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// Number of its type: 1 byte, 2 text, 3 short, 4 long, 16 64-bit long.
    pub kind: u16,
    /// Position in the file of its value, or of the value's offset.
    pub at: usize,
}

impl<'a> Directories<'a> {
    /// Returns `None` if the bytes do not start like a TIFF file.
    pub fn open(bytes: &'a [u8]) -> Option<Self> {
        let little_endian = match bytes.get(..2)? {
            b"II" => true,
            b"MM" => false,
            _ => return None,
        };
        let plain = Self { bytes, little_endian, big: false };
        match plain.number(2, 2)? {
            42 => Some(plain),
            43 => Some(Self { big: true, ..plain }),
            _ => None,
        }
    }

    /// Whether numbers start with their lowest byte.
    pub fn is_little_endian(&self) -> bool {
        self.little_endian
    }

    /// Reads an unsigned number of `len` bytes.
    fn number(&self, at: usize, len: usize) -> Option<u64> {
        let bytes = self.bytes.get(at..at.checked_add(len)?)?;
        let fold = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        Some(if self.little_endian {
            bytes.iter().rev().fold(0, fold)
        } else {
            bytes.iter().fold(0, fold)
        })
    }

    /// Offset of the first directory.
    fn first(&self) -> Option<usize> {
        let offset = if self.big { self.number(8, 8) } else { self.number(4, 4) };
        usize::try_from(offset?).ok()
    }

    /// Finds an entry of the directory at an offset.
    fn entry_at(&self, directory: usize, tag: u16) -> Option<Entry> {
        let (count_len, entry_len, value_at) = if self.big { (8, 20, 12) } else { (2, 12, 8) };
        let count = self.number(directory, count_len)?;
        let mut at = directory.checked_add(count_len)?;
        for _ in 0..count {
            if self.number(at, 2)? == u64::from(tag) {
                let kind = self.number(at + 2, 2)? as u16;
                return Some(Entry { kind, at: at + value_at });
            }
            at = at.checked_add(entry_len)?;
        }
        None
    }

    /// Finds an entry of the first directory.
    pub fn entry(&self, tag: u16) -> Option<Entry> {
        self.entry_at(self.first()?, tag)
    }

    /// First value of an entry with unsigned numbers, or the offset that it contains.
    pub fn value(&self, entry: Entry) -> Option<u64> {
        let len = match entry.kind {
            1 => 1,
            3 => 2,
            16 => 8,
            _ => 4,
        };
        self.number(entry.at, len)
    }

    /// EXIF's orientation, 1 to 8.
    pub fn orientation(&self) -> Option<u8> {
        let value = self.value(self.entry(ORIENTATION)?)?;
        (1..=8).contains(&value).then_some(value as u8)
    }

    /// Whether the camera declares Adobe RGB. Most such cameras add no profile.
    pub fn is_adobe_rgb(&self) -> bool {
        self.adobe_rgb() == Some(true)
    }

    fn adobe_rgb(&self) -> Option<bool> {
        let offset = |entry| usize::try_from(self.value(entry)?).ok();
        let exif = offset(self.entry(EXIF_DIRECTORY)?)?;
        match self.value(self.entry_at(exif, COLOUR_SPACE)?)? {
            ADOBE_RGB => Some(true),
            UNCALIBRATED => {
                let interoperability = offset(self.entry_at(exif, INTEROPERABILITY_DIRECTORY)?)?;
                let index = self.entry_at(interoperability, INTEROPERABILITY_INDEX)?;
                Some(self.bytes.get(index.at..index.at + 3)? == OPTIONAL_COLOUR_SPACE)
            }
            _ => Some(false),
        }
    }
}
