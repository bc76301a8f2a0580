//! The user's marks on photos: favourites, and photos that the window hides.
//!
//! A mark belongs to the bytes of a photo, like its embeddings: copies and moved files share it. It
//! stays when the file is gone or the library is compacted, and is found again when the same bytes
//! come back.

use std::collections::HashMap;

use rusqlite::{OptionalExtension, params};

use super::{Library, LibraryError, Result};

/// The marks of one photo.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// A favourite of the user.
    pub favourite: bool,
    /// The window shows the photo only on request.
    pub hidden: bool,
}

/// A change of marks; `None` leaves a mark as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MarkChange {
    /// Whether the photo is a favourite.
    pub favourite: Option<bool>,
    /// Whether the window hides it.
    pub hidden: Option<bool>,
}

impl Mark {
    /// The mark after a change.
    pub fn changed(self, change: MarkChange) -> Self {
        Self {
            favourite: change.favourite.unwrap_or(self.favourite),
            hidden: change.hidden.unwrap_or(self.hidden),
        }
    }
}

impl Library {
    /// The marked photos, by their row in `content`.
    ///
    /// # Errors
    /// When the library cannot be read.
    pub fn marks(&self) -> Result<HashMap<i64, Mark>> {
        let sql = "SELECT content.id, favourite, hidden FROM mark JOIN content USING (hash)";
        let mut rows = self.db.prepare(sql)?;
        let mark = |row: &rusqlite::Row| {
            Ok((row.get(0)?, Mark { favourite: row.get(1)?, hidden: row.get(2)? }))
        };
        Ok(rows.query_map([], mark)?.collect::<rusqlite::Result<_>>()?)
    }

    /// Changes the marks of photos, given by their rows in `content`. A photo that the library does
    /// not know any more is skipped.
    ///
    /// # Errors
    /// When the library cannot be written.
    pub fn mark(&mut self, contents: &[i64], change: MarkChange) -> Result<()> {
        if self.is_read_only() {
            return Err(LibraryError::MarksReadOnly);
        }
        let transaction = self.db.transaction()?;
        for content in contents {
            let old = "SELECT hash, coalesce(favourite, 0), coalesce(hidden, 0)
                FROM content LEFT JOIN mark USING (hash) WHERE content.id = ?1";
            let row = |row: &rusqlite::Row| {
                let mark = Mark { favourite: row.get(1)?, hidden: row.get(2)? };
                Ok((row.get::<_, Vec<u8>>(0)?, mark))
            };
            let Some((hash, old)) = transaction.query_row(old, [content], row).optional()? else {
                continue;
            };
            let new = old.changed(change);
            if new == Mark::default() {
                transaction.execute("DELETE FROM mark WHERE hash = ?1", [hash])?;
            } else {
                transaction.execute(
                    "INSERT OR REPLACE INTO mark (hash, favourite, hidden) VALUES (?1, ?2, ?3)",
                    params![hash, new.favourite, new.hidden],
                )?;
            }
        }
        Ok(transaction.commit()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAVOURITE: MarkChange = MarkChange { favourite: Some(true), hidden: None };
    const HIDDEN: MarkChange = MarkChange { favourite: None, hidden: Some(true) };

    fn add(library: &Library, id: i64, hash: &[u8]) {
        let sql = "INSERT INTO content (id, hash, format, width, height, look)
            VALUES (?1, ?2, 'JPEG', 4, 3, 0)";
        library.db.execute(sql, params![id, hash]).expect("writable");
    }

    #[test]
    fn marks_are_kept_and_each_changes_by_itself() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("l.sqlite");
        let mut library = Library::open(&file, 1, 2).expect("usable");
        (1..=3).for_each(|id| add(&library, id, &[id as u8]));
        library.mark(&[1, 2, 99], FAVOURITE).expect("writable");
        library.mark(&[2, 3], HIDDEN).expect("writable");
        drop(library);
        let mut library = Library::open_to_search(&file, 8, 2).expect("usable");
        let mark = |favourite, hidden| Mark { favourite, hidden };
        let wanted =
            HashMap::from([(1, mark(true, false)), (2, mark(true, true)), (3, mark(false, true))]);
        assert_eq!(library.marks().expect("readable"), wanted, "for every model");
        library
            .mark(&[1, 2], MarkChange { favourite: Some(false), hidden: None })
            .expect("writable");
        let wanted = HashMap::from([(2, mark(false, true)), (3, mark(false, true))]);
        assert_eq!(library.marks().expect("readable"), wanted);
    }

    #[test]
    fn a_mark_outlives_the_row_of_its_photo() {
        let mut library = Library::in_memory(1, 2).expect("usable");
        add(&library, 1, b"bytes");
        library.mark(&[1], FAVOURITE).expect("writable");
        library.compact().expect("no file has these bytes");
        assert_eq!(library.marks().expect("readable"), HashMap::new());
        add(&library, 7, b"bytes");
        let wanted = HashMap::from([(7, Mark { favourite: true, hidden: false })]);
        assert_eq!(library.marks().expect("readable"), wanted, "the photo came back");
    }

    #[test]
    fn a_library_that_can_only_be_read_says_so() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("l.sqlite");
        drop(Library::open(&file, 1, 2).expect("usable"));
        let mut library = Library::for_reading(&file, 1, 2).expect("readable");
        let error = library.mark(&[1], HIDDEN).expect_err("read-only").to_string();
        assert!(error.contains("can only be read") && error.contains("--library"), "{error}");
        assert_eq!(library.marks().expect("readable"), HashMap::new());
    }
}
