//! Vectors of texts that were looked for before, so that the language model need not read them again.

use std::collections::HashMap;

use anyhow::Result;
use rusqlite::{OptionalExtension, params};

use super::{Library, bytes_of_floats, floats};

/// Texts whose vectors a library keeps: with 512 numbers each, 8 MB.
const KEPT: i64 = 4096;
/// Texts whose vectors are kept in memory.
const KEPT_IN_MEMORY: usize = 1024;

/// Somebody who remembers the vectors of texts, all by one model.
pub trait KnownTexts {
    /// The unit vector of a text, if it is known.
    ///
    /// # Errors
    /// When what is remembered cannot be read.
    fn known(&self, text: &str) -> Result<Option<Vec<f32>>>;

    /// Remembers it.
    ///
    /// # Errors
    /// When it cannot be written.
    fn remember(&mut self, text: &str, embed: &[f32]) -> Result<()>;
}

/// On disk, of each model. The text itself is not kept, only its hash: a library that is given away does not
/// tell what was looked for.
impl KnownTexts for Library {
    fn known(&self, text: &str) -> Result<Option<Vec<f32>>> {
        let sql = "SELECT embed FROM text_vector WHERE model = ?1 AND hash = ?2";
        let mut row = self.db.prepare_cached(sql)?;
        let hash = blake3::hash(text.as_bytes());
        let bytes: Option<Vec<u8>> =
            row.query_row(params![self.model, hash.as_bytes()], |row| row.get(0)).optional()?;
        Ok(bytes.map(|bytes| floats(&bytes)).filter(|embed| embed.len() == self.dim))
    }

    fn remember(&mut self, text: &str, embed: &[f32]) -> Result<()> {
        if self.is_read_only() {
            return Ok(());
        }
        let transaction = self.db.transaction()?;
        transaction.execute(
            "INSERT OR REPLACE INTO text_vector (model, hash, embed) VALUES (?1, ?2, ?3)",
            params![self.model, blake3::hash(text.as_bytes()).as_bytes(), bytes_of_floats(embed)],
        )?;
        let oldest =
            "DELETE FROM text_vector WHERE rowid <= (SELECT max(rowid) FROM text_vector) - ?1";
        transaction.execute(oldest, [KEPT])?;
        Ok(transaction.commit()?)
    }
}

/// In memory, for somebody who searches while another writes the library.
#[derive(Debug, Default)]
pub struct TextsInMemory(HashMap<String, Vec<f32>>);

impl KnownTexts for TextsInMemory {
    fn known(&self, text: &str) -> Result<Option<Vec<f32>>> {
        Ok(self.0.get(text).cloned())
    }

    fn remember(&mut self, text: &str, embed: &[f32]) -> Result<()> {
        if self.0.len() >= KEPT_IN_MEMORY {
            self.0.clear();
        }
        self.0.insert(text.to_owned(), embed.to_vec());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_known_to_the_model_that_read_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let open =
            |model| Library::open(&folder.path().join("l.sqlite"), model, 2).expect("usable");
        let known = |model, text| open(model).known(text).expect("readable");
        assert_eq!(known(1, "dog"), None);
        open(1).remember("dog", &[0.6, 0.8]).expect("writable");
        open(1).remember("cat", &[1.0, 0.0]).expect("writable");
        open(1).remember("cat", &[0.0, 1.0]).expect("writable");
        assert_eq!(
            (known(1, "dog"), known(1, "cat")),
            (Some(vec![0.6, 0.8]), Some(vec![0.0, 1.0]))
        );
        assert_eq!((known(2, "dog"), known(1, "Dog")), (None, None));
        open(1).compact().expect("writable");
        assert_eq!(known(1, "dog"), None);
    }

    #[test]
    fn the_oldest_texts_are_forgotten() {
        let mut library = Library::in_memory(1, 1).expect("usable");
        let n_texts = KEPT + 3;
        library.db.execute_batch("PRAGMA synchronous = OFF").expect("taken");
        for text in 0..n_texts {
            library.remember(&text.to_string(), &[text as f32]).expect("writable");
        }
        let known =
            |text: i64| library.known(&text.to_string()).expect("readable").map(|embed| embed[0]);
        assert_eq!(
            [0, 2, 3, n_texts - 1].map(known),
            [None, None, Some(3.0), Some((n_texts - 1) as f32)]
        );

        let mut memory = TextsInMemory::default();
        for text in 0..3 * KEPT_IN_MEMORY {
            memory.remember(&text.to_string(), &[text as f32]).expect("there is memory");
            assert_eq!(memory.known(&text.to_string()).expect("readable"), Some(vec![text as f32]));
            assert!(memory.0.len() <= KEPT_IN_MEMORY);
        }
    }
}
