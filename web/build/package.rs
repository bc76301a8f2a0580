//! Lets the folder of the page also be an npm package and one archive.
//!
//! `lib/wasm-urls.js` and `lib/wasm-code.js` name the modules of the build, so that bundlers find
//! them.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, Header};

use crate::files::file_names;

/// Folder that the archive unpacks into. `mmgem web` looks for it beside the program.
const ROOT: &str = "mmgem-web";

/// Writes the two files of the library that depend on the modules of this build. Bundlers follow
/// them, so they name no other module. The page imports the first one and the worker the second.
/// A bundled worker from a blob cannot resolve the URL of a file.
pub fn list_modules(lib: &Path, backends: &[&str]) -> Result<()> {
    let mut urls = String::new();
    let mut code = String::new();
    for backend in backends {
        let module = format!("./{backend}/mmgem_web");
        urls += &format!("  {backend}: new URL(\"{module}_bg.wasm\", import.meta.url).href,\n");
        code += &format!("  {backend}: () => import(\"{module}.js\"),\n");
    }
    let head = "// Written by `cargo web`: the modules of this build.\n\n";
    let urls = format!(
        "{head}/** @type {{Record<string, string>}} */\n\
         export const WASM_URLS = {{\n{urls}}};\n"
    );
    let code = format!(
        "{head}/** @type {{Record<string, () => Promise<any>>}} */\n\
         export const WASM_CODE = {{\n{code}}};\n"
    );
    fs::write(lib.join("wasm-urls.js"), urls).context("cannot write wasm-urls.js")?;
    fs::write(lib.join("wasm-code.js"), code).context("cannot write wasm-code.js")
}

/// Makes `dist` an npm package: the library, the model, their description and licences.
pub fn add_package(workspace: &Path, dist: &Path) -> Result<()> {
    let read = |from: &str| {
        fs::read_to_string(workspace.join(from)).with_context(|| format!("cannot read {from}"))
    };
    let description = read("web/package/package.json")?;
    let description = description.replace("VERSION", env!("CARGO_PKG_VERSION"));
    for (name, text) in [
        ("package.json", description),
        ("README.md", read("web/package/README.md")?),
        ("LICENSE-MIT", read("LICENSE-MIT")?),
        ("LICENSE-APACHE", read("LICENSE-APACHE")?),
    ] {
        fs::write(dist.join(name), text).with_context(|| format!("cannot write {name}"))?;
    }
    Ok(())
}

/// Packs the page into one file. Equal pages give equal archives: no dates, no owners.
pub fn write_archive(dist: &Path, archive: &Path) -> Result<u64> {
    let unfinished = archive.with_extension("tmp");
    let file = fs::File::create(&unfinished)
        .with_context(|| format!("cannot write {}", unfinished.display()))?;
    let mut tar = Builder::new(GzEncoder::new(file, Compression::default()));
    for name in file_names(dist)? {
        let bytes = fs::read(dist.join(&name)).with_context(|| format!("cannot read {name}"))?;
        let mut header = Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        tar.append_data(&mut header, format!("{ROOT}/{name}"), bytes.as_slice())
            .with_context(|| format!("cannot pack {name}"))?;
    }
    tar.into_inner()?.finish()?.flush()?;
    fs::rename(&unfinished, archive)
        .with_context(|| format!("cannot write {}", archive.display()))?;
    Ok(fs::metadata(archive)?.len())
}
