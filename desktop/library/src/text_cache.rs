//! Cache of text embeddings, so that the language model reads each query only once.

use std::collections::HashMap;

use rusqlite::{OptionalExtension, params};

use super::{Library, Result, bytes_of_floats, floats};

/// Texts whose embeddings a library caches; with 512 numbers each they take 8 MB.
const KEPT: i64 = 4096;
/// Texts whose embeddings [`MemoryTextCache`] caches.
const KEPT_IN_MEMORY: usize = 1024;

/// A cache of text embeddings, all by one model.
pub trait TextCache {
    /// The embedding of a text, of unit length, if it is cached.
    ///
    /// # Errors
    /// When the cache cannot be read.
    fn text_embed(&self, text: &str) -> Result<Option<Vec<f32>>>;

    /// Caches the embedding of a text.
    ///
    /// # Errors
    /// When the cache cannot be written.
    fn store_text_embed(&mut self, text: &str, embed: &[f32]) -> Result<()>;
}

/// The cache on disk, per model. It stores only a hash of each text, so a shared library does not
/// reveal its user's searches.
impl TextCache for Library {
    fn text_embed(&self, text: &str) -> Result<Option<Vec<f32>>> {
        let sql = "SELECT embed FROM text_vector WHERE model = ?1 AND hash = ?2";
        let mut row = self.db.prepare_cached(sql)?;
        let hash = blake3::hash(text.as_bytes());
        let bytes: Option<Vec<u8>> =
            row.query_row(params![self.model, hash.as_bytes()], |row| row.get(0)).optional()?;
        Ok(bytes.map(|bytes| floats(&bytes)).filter(|embed| embed.len() == self.dim))
    }

    fn store_text_embed(&mut self, text: &str, embed: &[f32]) -> Result<()> {
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

/// The cache in memory, for a search while another thread or process writes the library.
#[derive(Debug, Default)]
pub struct MemoryTextCache(HashMap<String, Vec<f32>>);

impl TextCache for MemoryTextCache {
    fn text_embed(&self, text: &str) -> Result<Option<Vec<f32>>> {
        Ok(self.0.get(text).cloned())
    }

    fn store_text_embed(&mut self, text: &str, embed: &[f32]) -> Result<()> {
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
        let known = |model, text| open(model).text_embed(text).expect("readable");
        assert_eq!(known(1, "dog"), None);
        open(1).store_text_embed("dog", &[0.6, 0.8]).expect("writable");
        open(1).store_text_embed("cat", &[1.0, 0.0]).expect("writable");
        open(1).store_text_embed("cat", &[0.0, 1.0]).expect("writable");
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
            library.store_text_embed(&text.to_string(), &[text as f32]).expect("writable");
        }
        let known = |text: i64| {
            library.text_embed(&text.to_string()).expect("readable").map(|embed| embed[0])
        };
        assert_eq!(
            [0, 2, 3, n_texts - 1].map(known),
            [None, None, Some(3.0), Some((n_texts - 1) as f32)]
        );

        let mut memory = MemoryTextCache::default();
        for text in 0..3 * KEPT_IN_MEMORY {
            memory.store_text_embed(&text.to_string(), &[text as f32]).expect("there is memory");
            assert_eq!(
                memory.text_embed(&text.to_string()).expect("readable"),
                Some(vec![text as f32])
            );
            assert!(memory.0.len() <= KEPT_IN_MEMORY);
        }
    }
}
