//! Invented photos, for measurements and tests.

use rusqlite::params;

use super::{Library, Result, bytes_of_codes};

/// Time between two photos, in seconds.
const APART_SECS: i64 = 1000;

#[doc(hidden)]
impl Library {
    /// Adds `n` photos that do not exist, with random embeddings. Photo `i` was taken `1000 * i`
    /// seconds after 1970.
    ///
    /// # Errors
    /// When the library cannot be written.
    pub fn add_examples(&mut self, n: usize) -> Result<()> {
        let (model, dim) = (self.model, self.dim);
        let transaction = self.db.transaction()?;
        {
            let mut content = transaction.prepare(
                "INSERT INTO content (hash, format, width, height, look, family, taken_secs,
                date_from, facts) VALUES (?1, 'JPEG', 4000, 3000, ?2, ?2, ?3, 'exif', 1)",
            )?;
            let mut file = transaction.prepare(
                "INSERT INTO file (path, size_bytes, modified_ns, content, readers)
                VALUES (?1, 3000000, ?2, ?3, 1)",
            )?;
            let mut vector = transaction.prepare(
                "INSERT INTO image_vector (model, content, scale, codes) VALUES (?1, ?2, ?3, ?4)",
            )?;
            let first: i64 =
                transaction.query_row("SELECT count(*) FROM content", [], |row| row.get(0))?;
            for i in first..first + n as i64 {
                let name = format!("/example/{:04}/{i:08}.jpg", i / 1000);
                let hash = blake3::hash(name.as_bytes());
                content.execute(params![hash.as_bytes(), i, i * APART_SECS])?;
                let row = transaction.last_insert_rowid();
                file.execute(params![name.as_bytes(), i * APART_SECS * 1_000_000_000, row])?;
                let mut codes = vec![0; dim];
                blake3::Hasher::new_keyed(hash.as_bytes()).finalize_xof().fill(&mut codes);
                let codes: Vec<i8> = codes.into_iter().map(|code| code.cast_signed() / 2).collect();
                let square: f32 = codes.iter().map(|code| f32::from(*code).powi(2)).sum();
                let scale = 1.0 / square.sqrt().max(1.0);
                vector.execute(params![model, row, scale, bytes_of_codes(&codes)])?;
            }
        }
        Ok(transaction.commit()?)
    }
}
