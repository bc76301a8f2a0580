//! Cut-offs that `mmgem calibrate` measured. The window offers them.

pub use mmgem_core::config::SearchCutoff as Cutoff;
use rusqlite::params;

use super::{Library, Result};

impl Library {
    /// This model's last calibration in this library, the mildest cut-off first; empty if there was
    /// none.
    ///
    /// # Errors
    /// When the library cannot be read.
    pub fn cutoffs(&self) -> Result<Vec<Cutoff>> {
        let sql = "SELECT kept, min_score, passed FROM cutoff WHERE model = ?1 ORDER BY kept DESC";
        let mut rows = self.db.prepare(sql)?;
        let cutoff = |row: &rusqlite::Row| {
            Ok(Cutoff { kept: row.get(0)?, min_score: row.get(1)?, passed: row.get(2)? })
        };
        Ok(rows.query_map([self.model], cutoff)?.collect::<rusqlite::Result<_>>()?)
    }

    /// This library's calibration, else the cut-offs that came with the model.
    ///
    /// # Errors
    /// When the library cannot be read.
    pub fn cutoffs_or(&self, of_model: &[Cutoff]) -> Result<Vec<Cutoff>> {
        let own = self.cutoffs()?;
        Ok(if own.is_empty() { of_model.to_vec() } else { own })
    }

    /// Replaces this model's cut-offs.
    ///
    /// # Errors
    /// When the library cannot be written.
    pub fn set_cutoffs(&mut self, cutoffs: &[Cutoff]) -> Result<()> {
        let transaction = self.db.transaction()?;
        transaction.execute("DELETE FROM cutoff WHERE model = ?1", [self.model])?;
        for Cutoff { kept, min_score, passed } in cutoffs {
            transaction.execute(
                "INSERT INTO cutoff (model, kept, min_score, passed) VALUES (?1, ?2, ?3, ?4)",
                params![self.model, kept, min_score, passed],
            )?;
        }
        Ok(transaction.commit()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_calibration_of_each_model_is_kept() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let open =
            |model| Library::open(&folder.path().join("l.sqlite"), model, 1).expect("usable");
        let cutoff = |kept, min_score| Cutoff { kept, min_score, passed: 0.25 };
        open(1).set_cutoffs(&[cutoff(0.9, 0.1)]).expect("writable");
        let last = [cutoff(0.95, 0.2), cutoff(0.5, 0.4)];
        open(1).set_cutoffs(&last).expect("writable");
        assert_eq!(
            (open(1).cutoffs().expect("readable"), open(2).cutoffs().expect("readable")),
            (last.into(), vec![])
        );
    }
}
