//! Copies, hashes and lists the files that are served.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sha2::{Digest, Sha256};

/// Copies a folder's files and folders.
pub fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    let entries = fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))?;
    for entry in entries {
        let (entry, to) = (entry?.path(), to);
        let to = to.join(entry.file_name().expect("a listed file has a name"));
        if entry.is_dir() {
            copy_folder(&entry, &to)?;
        } else {
            fs::copy(&entry, &to).with_context(|| format!("cannot copy {}", entry.display()))?;
        }
    }
    Ok(())
}

/// The name of every file below a folder, with slashes; sorted.
pub fn file_names(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?
    {
        let path = entry?.path();
        let name =
            path.file_name().expect("a listed file has a name").to_string_lossy().into_owned();
        if path.is_dir() {
            names.extend(file_names(&path)?.into_iter().map(|below| format!("{name}/{below}")));
        } else {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Copies a model's files and writes `manifest.json`: its name, and the names, sizes and checksums
/// of its files. Returns the size of the model in bytes.
pub fn copy_model(model: &Path, name: &str, to: &Path) -> Result<u64> {
    let is_weights = |name: &str| name.starts_with("model") && name.contains(".safetensors");
    let mut names = vec!["config.json".to_owned(), "tokenizer.json".to_owned()];
    let entries =
        fs::read_dir(model).with_context(|| format!("cannot list {}", model.display()))?;
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if is_weights(&name) && !name.ends_with(".index.json") {
            names.push(name);
        }
    }
    ensure!(names.len() > 2, "there is no model.safetensors in {}", model.display());
    names[2..].sort();
    fs::create_dir_all(to)?;
    let mut files = Vec::new();
    let mut total = 0;
    for name in &names {
        let bytes = fs::read(model.join(name)).with_context(|| format!("cannot read {name}"))?;
        files.push(json!({ "name": name, "bytes": bytes.len(), "sha256": hex_digest(&bytes) }));
        total += bytes.len() as u64;
        fs::write(to.join(name), bytes)?;
    }
    let manifest = json!({ "format": "mmgem-web-1", "name": name, "files": files });
    fs::write(to.join("manifest.json"), format!("{manifest:#}\n"))?;
    // The licence of the weights requires its notice in every copy.
    if model.join("NOTICE").is_file() {
        fs::copy(model.join("NOTICE"), to.join("NOTICE"))?;
    }
    Ok(total)
}

/// SHA-256 in hexadecimal digits.
pub fn hex_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A size in readable units.
pub fn human_bytes(bytes: u64) -> String {
    if bytes < 1_000_000 {
        return format!("{:.0} kB", bytes as f64 / 1e3);
    }
    format!("{:.1} MB", bytes as f64 / 1e6)
}
