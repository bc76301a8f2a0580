//! The folders that a library was filled from, so that `mmgem index` can update them later.

use std::path::{Path, PathBuf};

use rusqlite::params;

use super::photos::Root;
use super::{Library, Result, paths};

impl Library {
    /// Saves folders with their exclusion rules. Replaces the earlier rules of these folders and
    /// forgets known folders inside them. Skips a folder that lies inside another known folder.
    ///
    /// # Errors
    /// When the library cannot be written.
    pub fn remember_folders(&mut self, roots: &[Root]) -> Result<()> {
        let known = self.folders()?;
        let transaction = self.db.transaction()?;
        for root in roots.iter().filter(|root| root.path.is_dir()) {
            if known
                .iter()
                .any(|known| root.path != known.path && root.path.starts_with(&known.path))
            {
                continue;
            }
            let inner = known.iter().filter(|known| known.path.starts_with(&root.path));
            for inner in inner {
                transaction.execute(
                    "DELETE FROM folder WHERE path = ?1",
                    [paths::to_bytes(&inner.path)],
                )?;
            }
            transaction.execute(
                "INSERT OR REPLACE INTO folder (path, exclude, hidden) VALUES (?1, ?2, ?3)",
                params![
                    paths::to_bytes(&root.path),
                    serde_json::to_string(&root.exclude)?,
                    root.hidden
                ],
            )?;
        }
        Ok(transaction.commit()?)
    }

    /// The saved folders, in order of path.
    ///
    /// # Errors
    /// When the library cannot be read.
    pub fn folders(&self) -> Result<Vec<Root>> {
        let mut rows = self.db.prepare("SELECT path, exclude, hidden FROM folder ORDER BY path")?;
        let mut rows = rows.query([])?;
        let mut folders = Vec::new();
        while let Some(row) = rows.next()? {
            let exclude: String = row.get(1)?;
            folders.push(Root {
                path: paths::from_bytes(row.get_ref(0)?.as_blob()?),
                exclude: serde_json::from_str(&exclude)?,
                hidden: row.get(2)?,
            });
        }
        Ok(folders)
    }

    /// A folder with its saved exclusion rules; without rules if the folder is not saved.
    ///
    /// # Errors
    /// When the library cannot be read.
    pub fn as_remembered(&self, folder: &Path) -> Result<Root> {
        let known = self.folders()?.into_iter().find(|known| known.path == folder);
        Ok(known.unwrap_or_else(|| Root::from(PathBuf::from(folder))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_remembered_with_what_is_left_out_of_them() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let root = |name: &str, exclude: &[&str]| {
            let path = place.path().join(name);
            std::fs::create_dir_all(&path).expect("writable");
            Root { path, exclude: exclude.iter().map(ToString::to_string).collect(), hidden: false }
        };
        let mut library = Library::in_memory(1, 1).expect("usable");
        let (a, b, inner) = (root("a", &["*.png"]), root("b", &[]), root("a/c", &["d/"]));
        library.remember_folders(&[inner.clone(), b.clone()]).expect("writable");
        library.remember_folders(std::slice::from_ref(&a)).expect("writable");
        library.remember_folders(&[inner]).expect("writable");
        assert_eq!(library.folders().expect("readable"), [a.clone(), b.clone()]);
        let all = Root { hidden: true, ..root("a", &[]) };
        library.remember_folders(std::slice::from_ref(&all)).expect("writable");
        library.remember_folders(&[root("missing", &[])]).expect("writable");
        std::fs::remove_dir(place.path().join("missing")).expect("writable");
        assert_eq!(library.as_remembered(&all.path).expect("readable"), all);
        assert_eq!(
            library.as_remembered(Path::new("/x")).expect("readable"),
            Root::from(PathBuf::from("/x"))
        );
    }
}
