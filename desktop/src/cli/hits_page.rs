//! Hits of a search as one self-contained HTML page, without network and script.

use std::fmt::Write as _;

use anyhow::Result;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::demo::markup::{escape, rect};
use crate::library::{Library, SearchHit};
use crate::names::printable_path;

const STYLE: &str = "
:root { color-scheme: light dark }
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(240px, 1fr)); gap: 1.2em }
figure { margin: 0 } figcaption { overflow-wrap: anywhere; font-size: 13px }
svg { width: 100%; height: auto; border-radius: 4px }
rect { fill: none; stroke: #fff; stroke-width: 3; vector-effect: non-scaling-stroke;
  filter: drop-shadow(0 0 1px #000) drop-shadow(0 0 1px #000) }
small { opacity: .7 }";

/// Returns the HTML: for each hit the thumbnail with the best box, the caption of `whys`, the score
/// and the path.
pub fn hits_page(
    query: &str,
    found: &[SearchHit],
    whys: &[Option<String>],
    library: &Library,
) -> Result<String> {
    let title = escape(query);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\n<style>{STYLE}\n</style>\n\
         <h1>{title}</h1>\n<main>\n"
    );
    for (hit, why) in found.iter().zip(whys) {
        let [width, height] = hit.photo.size_px;
        let thumbnail = BASE64_STANDARD.encode(library.thumbnail(hit.photo.content)?);
        let place = hit.box_px.map_or(String::new(), |box_px| rect("found", box_px));
        let path = escape(&printable_path(&hit.path));
        let score = hit.score.map_or(String::new(), |score| format!("{score:.4} "));
        let why = why.as_deref().map_or(String::new(), |why| format!("{}<br>", escape(why)));
        writeln!(
            page,
            "<figure><svg viewBox=\"0 0 {width} {height}\"><image width=\"{width}\" height=\"{height}\" \
             href=\"data:image/jpeg;base64,{thumbnail}\"/>{place}</svg>\
             <figcaption>{why}{score}<small>{path}</small></figcaption></figure>"
        )?;
    }
    page.push_str("</main></html>\n");
    Ok(page)
}
