//! Scalars for TensorBoard: protocol buffers in TensorFlow's record format. Both are written by
//! hand, because only a few fields are needed.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Map, Value};

/// An events file.
pub struct EventFile(File);

impl EventFile {
    /// Creates the file with existing lines of `metrics.jsonl`.
    pub fn create<'a>(path: &Path, lines: impl Iterator<Item = &'a Value>) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        let mut events = Self(file);
        // Field 3 of an event: the version of the format.
        let mut version = Vec::new();
        put_double(&mut version, 1, 0.0);
        put_bytes(&mut version, 3, b"brain.Event:2");
        events.append(&version)?;
        for line in lines {
            events.write(line)?;
        }
        Ok(events)
    }

    /// Appends every number of a line.
    pub fn write(&mut self, line: &Value) -> io::Result<()> {
        let (Some(line), Some(step)) = (line.as_object(), line["step"].as_u64()) else {
            return Ok(());
        };
        let summary = match line.get("eval").and_then(Value::as_object) {
            Some(scores) => summary("eval/", scores),
            None => summary("train/", line),
        };
        let mut event = Vec::new();
        put_double(&mut event, 1, line.get("unix_time").and_then(Value::as_f64).unwrap_or(0.0));
        put_varint(&mut event, 2 << 3);
        put_varint(&mut event, step);
        put_bytes(&mut event, 5, &summary);
        self.append(&event)
    }

    /// Appends one record: length, checksum of the length, data, checksum of the data.
    fn append(&mut self, data: &[u8]) -> io::Result<()> {
        let len = (data.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(data.len() + 16);
        record.extend(len);
        record.extend(masked_crc(&len).to_le_bytes());
        record.extend(data);
        record.extend(masked_crc(data).to_le_bytes());
        self.0.write_all(&record)
    }
}

/// A `Summary` with a value for each number.
fn summary(prefix: &str, numbers: &Map<String, Value>) -> Vec<u8> {
    let mut summary = Vec::new();
    for (name, value) in numbers {
        let Some(number) =
            value.as_f64().filter(|_| !matches!(name.as_str(), "step" | "unix_time"))
        else {
            continue;
        };
        let mut entry = Vec::new();
        put_bytes(&mut entry, 1, format!("{prefix}{name}").as_bytes());
        entry.push(2 << 3 | 5);
        entry.extend((number as f32).to_le_bytes());
        put_bytes(&mut summary, 1, &entry);
    }
    summary
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_double(out: &mut Vec<u8>, field: u8, value: f64) {
    out.push(field << 3 | 1);
    out.extend(value.to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend(bytes);
}

/// CRC-32C, rotated and shifted as the record format requires.
fn masked_crc(bytes: &[u8]) -> u32 {
    let crc = !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())
        })
    });
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_checksum_is_crc_32c() {
        // The check value of the polynomial for "123456789".
        let unmasked = masked_crc(b"123456789").wrapping_sub(0xa282_ead8).rotate_left(15);
        assert_eq!(unmasked, 0xe306_9283);
    }

    #[test]
    fn numbers_of_more_than_seven_bits_go_on() {
        let mut out = Vec::new();
        put_varint(&mut out, 300);
        assert_eq!(out, [0xac, 0x02]);
    }

    #[test]
    fn a_line_becomes_one_record_with_its_numbers() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("events");
        let line = json!({ "step": 7, "loss": 1.5, "example": "a dog", "unix_time": 2.0 });
        EventFile::create(&path, std::iter::once(&line)).expect("writable");
        let bytes = std::fs::read(&path).expect("just written");
        let first = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
        let event = &bytes[16 + first + 12..bytes.len() - 4];
        let mut wanted = vec![1 << 3 | 1];
        wanted.extend(2f64.to_le_bytes());
        wanted.extend([2 << 3, 7, 5 << 3 | 2, 19, 1 << 3 | 2, 17, 1 << 3 | 2, 10]);
        wanted.extend(b"train/loss");
        wanted.push(2 << 3 | 5);
        wanted.extend(1.5f32.to_le_bytes());
        assert_eq!(event, wanted);
    }
}
