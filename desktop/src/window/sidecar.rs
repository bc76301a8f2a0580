//! Captions as XMP sidecars beside photos (`photo.jpg.xmp`), which photo programs read.
//!
//! A sidecar is written only on request and atomically. It replaces another program's file only if
//! the user agrees; the old contents are saved as `photo.jpg.xmp.bak`. The photo itself is not
//! changed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use mmgem_data::files::{FolderError, read, write_atomic};

/// The result of a request to write a sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SidecarResult {
    /// The sidecar was written.
    Done(PathBuf),
    /// A sidecar exists that another program wrote or changed; nothing was written.
    Foreign(PathBuf),
}

/// Path of a photo's sidecar.
pub fn sidecar_of(photo: &Path) -> PathBuf {
    let mut name = photo.file_name().unwrap_or_default().to_owned();
    name.push(".xmp");
    photo.with_file_name(name)
}

/// Writes a caption as the sidecar of a photo. If another program wrote or changed the existing
/// sidecar, replaces it only with `replace`, and saves a copy of it.
///
/// # Errors
/// When the folder cannot be written, or an earlier saved copy is in the way.
pub fn write_sidecar(photo: &Path, caption: &str, replace: bool) -> Result<SidecarResult> {
    let path = sidecar_of(photo);
    match read(&path) {
        Ok(there) if !is_ours(&there) => {
            if !replace {
                return Ok(SidecarResult::Foreign(path));
            }
            keep(&path, &there)?;
        }
        Ok(_) => {}
        Err(FolderError::Io { cause, .. }) if cause.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).context("the sidecar cannot be read, so it is left alone"),
    }
    write_atomic(&path, packet(caption).as_bytes())?;
    Ok(SidecarResult::Done(path))
}

/// Saves a copy of another program's sidecar.
fn keep(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".bak");
    let kept = path.with_file_name(name);
    anyhow::ensure!(
        fs::symlink_metadata(&kept).is_err(),
        "an older sidecar is kept already; move it away first\n  file: {}",
        crate::names::printable_path(&kept)
    );
    Ok(write_atomic(&kept, bytes)?)
}

const HEAD: &str = "<?xpacket begin=\"\u{feff}\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>
<x:xmpmeta xmlns:x=\"adobe:ns:meta/\">
 <rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">
  <rdf:Description rdf:about=\"\" xmlns:dc=\"http://purl.org/dc/elements/1.1/\" xmlns:xmp=\"http://ns.adobe.com/xap/1.0/\" \
xmp:CreatorTool=\"mmgem\">
   <dc:description>
    <rdf:Alt>
     <rdf:li xml:lang=\"x-default\">";
const TAIL: &str = "</rdf:li>
    </rdf:Alt>
   </dc:description>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end=\"w\"?>
";

/// The caption as an XMP packet.
fn packet(caption: &str) -> String {
    // XML 1.0 cannot represent control characters.
    let clean: String = caption.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let escaped = clean.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!("{HEAD}{escaped}{TAIL}")
}

/// Whether this program wrote the sidecar and nothing changed it since, whatever its caption.
fn is_ours(bytes: &[u8]) -> bool {
    let text = std::str::from_utf8(bytes).ok();
    let caption = text.and_then(|text| text.strip_prefix(HEAD)?.strip_suffix(TAIL));
    caption.is_some_and(|caption| !caption.contains(['<', '>']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn photo() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let photo = folder.path().join("a photo.JPG");
        fs::write(&photo, b"untouched").expect("writable");
        (folder, photo)
    }

    #[test]
    fn a_caption_is_written_beside_its_photo_and_again_over_itself() {
        let (folder, photo) = photo();
        let path = folder.path().join("a photo.JPG.xmp");
        for caption in ["cats & <dogs>\n", "a boat"] {
            assert_eq!(
                write_sidecar(&photo, caption, false).expect("writable"),
                SidecarResult::Done(path.clone())
            );
        }
        let text = fs::read_to_string(&path).expect("written");
        assert!(text.contains(">a boat</rdf:li>") && text.contains("dc:description"), "{text}");
        assert!(packet("cats & <dogs>\n").contains(">cats &amp; &lt;dogs&gt; </rdf:li>"));
        assert_eq!(fs::read(&photo).expect("there"), b"untouched");
        assert_eq!(
            fs::read_dir(folder.path()).expect("there").count(),
            2,
            "no temporary file is left"
        );
    }

    #[test]
    fn another_programs_sidecar_is_replaced_only_on_demand_and_kept() {
        let (_folder, photo) = photo();
        let path = sidecar_of(&photo);
        let changed = packet("mine").replace("</rdf:Alt>", "</rdf:Alt><xmp:Rating>5</xmp:Rating>");
        fs::write(&path, &changed).expect("writable");
        assert_eq!(
            write_sidecar(&photo, "new", false).expect("readable"),
            SidecarResult::Foreign(path.clone())
        );
        assert_eq!(fs::read_to_string(&path).expect("there"), changed);
        assert_eq!(
            write_sidecar(&photo, "new", true).expect("writable"),
            SidecarResult::Done(path.clone())
        );
        let kept = path.with_file_name("a photo.JPG.xmp.bak");
        assert_eq!(fs::read_to_string(&kept).expect("kept"), changed);
        fs::write(&path, "<x:xmpmeta/>").expect("writable");
        let error = write_sidecar(&photo, "newer", true).expect_err("the old one is in the way");
        assert!(error.to_string().contains("kept already"), "{error}");
        assert_eq!(fs::read_to_string(&path).expect("there"), "<x:xmpmeta/>");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_an_error() {
        let error =
            write_sidecar(Path::new("/no/such/folder/a.jpg"), "a", false).expect_err("not there");
        assert!(format!("{error:#}").contains("/no/such/folder"), "{error:#}");
    }
}
