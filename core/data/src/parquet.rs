//! Writes vectors as a Parquet file, which databases import.
//!
//! The file has three columns, `id`, `path` and `vector`, plain and uncompressed: floats of unit
//! vectors hardly compress. This needs only a small part of the format
//! (<https://github.com/apache/parquet-format>), so this module implements it. The crate `parquet`
//! (60.1, without its features) would add four crates and 30 s of CPU to a cold build.

use std::io::{self, Read, Seek, SeekFrom};

/// Number of rows in a row group. Readers hold a whole group in memory.
const GROUP_ROWS: usize = 8192;
/// Marks both ends of a file.
const MAGIC: &[u8; 4] = b"PAR1";
/// The `created_by` field of the format.
const CREATED_BY: &str = concat!("mmgem version ", env!("CARGO_PKG_VERSION"));

/// Unit vectors with their ids.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VectorTable {
    /// Number of values in a vector, at least 1.
    pub dim: usize,
    /// Unique id of each row.
    pub ids: Vec<String>,
    /// Path of the photo of each row.
    pub paths: Vec<String>,
    /// `[rows, dim]`, row after row.
    pub vectors: Vec<f32>,
    /// Further key-value pairs for the footer.
    pub notes: Vec<(String, String)>,
}

impl VectorTable {
    /// A table without rows, for vectors of `dim` values.
    pub fn new(dim: usize) -> Self {
        Self { dim, ..Self::default() }
    }

    /// Adds a row.
    ///
    /// # Panics
    /// If the vector does not have `dim` values.
    pub fn push(&mut self, id: String, path: String, vector: &[f32]) {
        assert_eq!(vector.len(), self.dim, "the vector has `dim` values");
        self.ids.push(id);
        self.paths.push(path);
        self.vectors.extend_from_slice(vector);
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether the table has no rows.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Encodes the table as a Parquet file.
    pub fn to_parquet(&self) -> Vec<u8> {
        let mut file = MAGIC.to_vec();
        let mut groups = Vec::new();
        for start in (0..self.len()).step_by(GROUP_ROWS) {
            let rows = start..(start + GROUP_ROWS).min(self.len());
            let vectors = &self.vectors[rows.start * self.dim..rows.end * self.dim];
            let columns = [
                chunk(&mut file, rows.len(), BYTE_ARRAY, &strings(&self.ids[rows.clone()])),
                chunk(&mut file, rows.len(), BYTE_ARRAY, &strings(&self.paths[rows.clone()])),
                chunk(&mut file, vectors.len(), FLOAT, &lists(vectors, self.dim)),
            ];
            groups.push((rows.len(), columns));
        }
        let footer = self.footer(&groups);
        file.extend_from_slice(&footer);
        file.extend_from_slice(&(footer.len() as u32).to_le_bytes());
        file.extend_from_slice(MAGIC);
        file
    }

    /// Encodes `FileMetaData` of the format.
    fn footer(&self, groups: &[(usize, [Chunk; 3])]) -> Vec<u8> {
        let mut file = Struct::default();
        file.i32(1, 1);
        file.structs(2, &schema());
        file.i64(3, self.len());
        let groups: Vec<Struct> =
            groups.iter().map(|(n_rows, columns)| row_group(*n_rows, columns)).collect();
        file.structs(4, &groups);
        let notes: Vec<Struct> =
            self.notes.iter().map(|(key, value)| key_value(key, value)).collect();
        file.structs(5, &notes);
        file.string(6, CREATED_BY);
        file.end()
    }
}

/// Reads only the footer of a Parquet file. Returns `None` if the file is truncated or is not
/// Parquet.
///
/// # Errors
/// If the file cannot be read.
pub fn footer(file: &mut (impl Read + Seek)) -> io::Result<Option<Vec<u8>>> {
    let len_bytes = file.seek(SeekFrom::End(0))?;
    let Some(end) = len_bytes.checked_sub(2 * MAGIC.len() as u64) else { return Ok(None) };
    file.seek(SeekFrom::Start(end))?;
    let (mut footer_bytes, mut magic) = ([0; 4], [0; 4]);
    file.read_exact(&mut footer_bytes)?;
    file.read_exact(&mut magic)?;
    let start = end.checked_sub(u64::from(u32::from_le_bytes(footer_bytes)));
    let Some(start) = start.filter(|_| magic == *MAGIC) else { return Ok(None) };
    let mut footer = vec![0; u32::from_le_bytes(footer_bytes) as usize];
    file.seek(SeekFrom::Start(start))?;
    file.read_exact(&mut footer)?;
    Ok(Some(footer))
}

/// Whether a [`footer`] written by [`VectorTable::to_parquet`] has this note.
pub fn has_note(footer: &[u8], key: &str, value: &str) -> bool {
    let wanted = key_value(key, value).end();
    footer.windows(wanted.len()).any(|bytes| bytes == wanted)
}

// Numbers of the format's types, encodings and so on.
const FLOAT: i32 = 4;
const BYTE_ARRAY: i32 = 6;
const PLAIN: i32 = 0;
const RLE: i32 = 3;
const UNCOMPRESSED: i32 = 0;
const REQUIRED: i32 = 0;
const REPEATED: i32 = 2;
const UTF8: i32 = 0;
const LIST: i32 = 3;

/// Position of one column's values of a row group.
struct Chunk {
    kind: i32,
    n_values: usize,
    offset: usize,
    len_bytes: usize,
}

/// Appends one column's values of a row group as a single page.
fn chunk(file: &mut Vec<u8>, n_values: usize, kind: i32, page: &[u8]) -> Chunk {
    let offset = file.len();
    let mut data = Struct::default();
    data.i32(1, i32::try_from(n_values).expect("a row group is small"));
    data.i32(2, PLAIN);
    data.i32(3, RLE);
    data.i32(4, RLE);
    let mut header = Struct::default();
    let len_bytes = i32::try_from(page.len()).expect("a row group is small");
    // Page type 0 is a data page. Its uncompressed and compressed sizes are equal.
    header.i32(1, 0);
    header.i32(2, len_bytes);
    header.i32(3, len_bytes);
    header.structure(5, &data);
    file.extend_from_slice(&header.end());
    file.extend_from_slice(page);
    Chunk { kind, n_values, offset, len_bytes: file.len() - offset }
}

fn strings(texts: &[String]) -> Vec<u8> {
    let bytes = |text: &String| [&(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    texts.iter().flat_map(bytes).collect()
}

/// Encodes lists with their levels. Repetition levels mark the start of each list; definition
/// levels say that every value exists.
fn lists(vectors: &[f32], dim: usize) -> Vec<u8> {
    let mut begins = Vec::new();
    for _ in 0..vectors.len() / dim {
        run(&mut begins, 1, 0);
        if dim > 1 {
            run(&mut begins, dim - 1, 1);
        }
    }
    let mut is_there = Vec::new();
    run(&mut is_there, vectors.len(), 1);
    let mut page = Vec::with_capacity(4 * vectors.len() + begins.len() + is_there.len() + 8);
    for levels in [begins, is_there] {
        page.extend_from_slice(&(levels.len() as u32).to_le_bytes());
        page.extend_from_slice(&levels);
    }
    page.extend(vectors.iter().flat_map(|x| x.to_le_bytes()));
    page
}

/// Appends a run of equal one-bit levels.
fn run(bytes: &mut Vec<u8>, len: usize, level: u8) {
    varint(bytes, (len as u64) << 1);
    bytes.push(level);
}

/// Schema of the columns: two strings, and a list of floats in the format's three-level form.
fn schema() -> [Struct; 6] {
    let element = |name: &str| {
        let mut element = Struct::default();
        element.string(4, name);
        element
    };
    let mut root = element("schema");
    root.i32(5, 3);
    let text = |name: &str| {
        let mut text = Struct::default();
        text.i32(1, BYTE_ARRAY);
        text.i32(3, REQUIRED);
        text.string(4, name);
        text.i32(6, UTF8);
        text
    };
    let mut vector = Struct::default();
    vector.i32(3, REQUIRED);
    vector.string(4, "vector");
    vector.i32(5, 1);
    vector.i32(6, LIST);
    let mut list = Struct::default();
    list.i32(3, REPEATED);
    list.string(4, "list");
    list.i32(5, 1);
    let mut number = Struct::default();
    number.i32(1, FLOAT);
    number.i32(3, REQUIRED);
    number.string(4, "element");
    [root, text("id"), text("path"), vector, list, number]
}

const COLUMNS: [&[&str]; 3] = [&["id"], &["path"], &["vector", "list", "element"]];

fn row_group(n_rows: usize, columns: &[Chunk; 3]) -> Struct {
    let column = |(chunk, path): (&Chunk, &&[&str])| {
        let mut values = Struct::default();
        values.i32(1, chunk.kind);
        values.i32s(2, &[PLAIN, RLE]);
        values.strings(3, path);
        values.i32(4, UNCOMPRESSED);
        values.i64(5, chunk.n_values);
        values.i64(6, chunk.len_bytes);
        values.i64(7, chunk.len_bytes);
        values.i64(9, chunk.offset);
        let mut column = Struct::default();
        column.i64(2, 0);
        column.structure(3, &values);
        column
    };
    let mut group = Struct::default();
    group.structs(1, &columns.iter().zip(&COLUMNS).map(column).collect::<Vec<_>>());
    group.i64(2, columns.iter().map(|chunk| chunk.len_bytes).sum());
    group.i64(3, n_rows);
    group
}

fn key_value(key: &str, value: &str) -> Struct {
    let mut pair = Struct::default();
    pair.string(1, key);
    pair.string(2, value);
    pair
}

/// A struct in Thrift's compact protocol. Fields must be added in the order of their numbers.
#[derive(Debug, Clone, Default)]
struct Struct {
    bytes: Vec<u8>,
    last: u8,
}

impl Struct {
    const I32: u8 = 5;
    const I64: u8 = 6;
    const BINARY: u8 = 8;
    const LIST: u8 = 9;
    const STRUCT: u8 = 12;

    fn field(&mut self, number: u8, kind: u8) {
        // All steps are below 16, so the short form fits.
        self.bytes.push((number - self.last) << 4 | kind);
        self.last = number;
    }

    fn i32(&mut self, number: u8, value: i32) {
        self.field(number, Self::I32);
        varint(&mut self.bytes, zigzag(i64::from(value)));
    }

    fn i64(&mut self, number: u8, value: usize) {
        self.field(number, Self::I64);
        varint(&mut self.bytes, zigzag(value as i64));
    }

    fn string(&mut self, number: u8, text: &str) {
        self.field(number, Self::BINARY);
        self.text(text);
    }

    fn text(&mut self, text: &str) {
        varint(&mut self.bytes, text.len() as u64);
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn structure(&mut self, number: u8, value: &Self) {
        self.field(number, Self::STRUCT);
        self.bytes.extend_from_slice(&value.clone().end());
    }

    fn list(&mut self, number: u8, kind: u8, len: usize) {
        self.field(number, Self::LIST);
        if len < 15 {
            self.bytes.push((len as u8) << 4 | kind);
        } else {
            self.bytes.push(0xf0 | kind);
            varint(&mut self.bytes, len as u64);
        }
    }

    fn structs(&mut self, number: u8, values: &[Self]) {
        self.list(number, Self::STRUCT, values.len());
        values.iter().for_each(|value| self.bytes.extend_from_slice(&value.clone().end()));
    }

    fn i32s(&mut self, number: u8, values: &[i32]) {
        self.list(number, Self::I32, values.len());
        values.iter().for_each(|value| varint(&mut self.bytes, zigzag(i64::from(*value))));
    }

    fn strings(&mut self, number: u8, texts: &[&str]) {
        self.list(number, Self::BINARY, texts.len());
        texts.iter().for_each(|text| self.text(text));
    }

    fn end(mut self) -> Vec<u8> {
        self.bytes.push(0);
        self.bytes
    }
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

fn varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn table(n_rows: usize, dim: usize) -> VectorTable {
        let mut table = VectorTable::new(dim);
        for row in 0..n_rows {
            let vector: Vec<f32> = (0..dim).map(|i| row as f32 + i as f32 / 8.0).collect();
            table.push(format!("s/{row}"), format!("s.tar/ü {row}.jpg"), &vector);
        }
        table.notes.push(("mmgem.model".into(), "00ab".into()));
        table
    }

    /// A value of Thrift's compact protocol. The test parses it independently of the writer.
    #[derive(Debug, PartialEq)]
    enum Value {
        Number(i64),
        Text(String),
        List(Vec<Value>),
        Fields(Vec<(u8, Value)>),
    }

    struct Reader<'a>(&'a [u8]);

    impl Reader<'_> {
        fn byte(&mut self) -> u8 {
            let (first, rest) = self.0.split_first().expect("not at the end");
            self.0 = rest;
            *first
        }

        fn varint(&mut self) -> u64 {
            let byte = self.byte();
            let low = u64::from(byte & 0x7f);
            if byte < 0x80 { low } else { low | self.varint() << 7 }
        }

        fn value(&mut self, kind: u8) -> Value {
            match kind {
                5 | 6 => {
                    let number = self.varint();
                    Value::Number((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
                }
                8 => {
                    let len = self.varint() as usize;
                    let (text, rest) = self.0.split_at(len);
                    self.0 = rest;
                    Value::Text(String::from_utf8(text.to_vec()).expect("a text"))
                }
                9 => {
                    let head = self.byte();
                    let len = if head >> 4 == 15 { self.varint() } else { u64::from(head >> 4) };
                    Value::List((0..len).map(|_| self.value(head & 15)).collect())
                }
                12 => {
                    let (mut fields, mut number) = (Vec::new(), 0);
                    loop {
                        let head = self.byte();
                        if head == 0 {
                            return Value::Fields(fields);
                        }
                        number += head >> 4;
                        fields.push((number, self.value(head & 15)));
                    }
                }
                _ => panic!("type {kind} is never written"),
            }
        }
    }

    impl Value {
        fn get(&self, number: u8) -> &Self {
            let Self::Fields(fields) = self else { panic!("{self:?}") };
            &fields.iter().find(|field| field.0 == number).expect("the field is there").1
        }

        fn number(&self) -> usize {
            let Self::Number(number) = self else { panic!("{self:?}") };
            *number as usize
        }

        fn list(&self) -> &[Self] {
            let Self::List(values) = self else { panic!("{self:?}") };
            values
        }
    }

    fn found(file: &[u8]) -> Option<Vec<u8>> {
        footer(&mut Cursor::new(file)).expect("memory can be read")
    }

    fn read_footer(file: &[u8]) -> Value {
        assert_eq!((&file[..4], &file[file.len() - 4..]), (&b"PAR1"[..], &b"PAR1"[..]));
        let footer = found(file).expect("a whole file");
        let mut reader = Reader(&footer);
        let value = reader.value(12);
        assert!(reader.0.is_empty(), "nothing is left");
        value
    }

    /// Returns the concatenated pages of a column.
    fn pages(file: &[u8], footer: &Value, column: usize) -> Vec<u8> {
        let groups = footer.get(4).list();
        let page = |group: &Value| {
            let chunk = group.get(1).list()[column].get(3);
            let (offset, len_bytes) = (chunk.get(9).number(), chunk.get(7).number());
            let mut reader = Reader(&file[offset..offset + len_bytes]);
            let header = reader.value(12);
            assert_eq!(
                (header.get(3).number(), header.get(2).number()),
                (reader.0.len(), reader.0.len())
            );
            assert_eq!(header.get(5).get(1), chunk.get(5));
            reader.0.to_vec()
        };
        groups.iter().flat_map(page).collect()
    }

    #[test]
    fn ids_and_numbers_stand_where_the_footer_says() {
        let table = table(3, 4);
        let file = table.to_parquet();
        let footer = read_footer(&file);
        assert_eq!((footer.get(3).number(), footer.get(4).list().len()), (3, 1));
        let names: Vec<&Value> =
            footer.get(2).list().iter().map(|element| element.get(4)).collect();
        let wanted = ["schema", "id", "path", "vector", "list", "element"]
            .map(|name| Value::Text(name.into()));
        assert_eq!(names, wanted.iter().collect::<Vec<_>>());
        assert_eq!(
            pages(&file, &footer, 0),
            [
                3, 0, 0, 0, b's', b'/', b'0', 3, 0, 0, 0, b's', b'/', b'1', 3, 0, 0, 0, b's', b'/',
                b'2'
            ]
        );
        let numbers = pages(&file, &footer, 2);
        // Levels: a list starts, then three more values, three times. Then twelve values that
        // exist.
        let levels = [12, 0, 0, 0, 2, 0, 6, 1, 2, 0, 6, 1, 2, 0, 6, 1, 2, 0, 0, 0, 24, 1];
        assert_eq!(numbers[..levels.len()], levels);
        let floats: Vec<f32> = numbers[levels.len()..]
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four")))
            .collect();
        assert_eq!(floats, table.vectors);
    }

    #[test]
    fn many_rows_make_several_groups_and_none_an_empty_file() {
        let many = table(GROUP_ROWS + 2, 1).to_parquet();
        let groups: Vec<usize> =
            read_footer(&many).get(4).list().iter().map(|group| group.get(3).number()).collect();
        assert_eq!(groups, [GROUP_ROWS, 2]);
        let none = table(0, 4).to_parquet();
        assert_eq!(
            (read_footer(&none).get(3).number(), read_footer(&none).get(4).list().len()),
            (0, 0)
        );
    }

    #[test]
    fn a_note_is_found_in_a_whole_file_only() {
        let file = table(3, 4).to_parquet();
        let footer = found(&file).expect("a whole file");
        assert!(has_note(&footer, "mmgem.model", "00ab"));
        assert!(!has_note(&footer, "mmgem.model", "00a") && !has_note(&footer, "mmgem", "00ab"));
        for kept in 0..file.len() {
            assert_eq!(found(&file[..kept]), None, "{kept}");
        }
        assert_eq!(found(b"PAR1\xff\xff\xff\xffPAR1"), None, "longer than the file");
    }
}
