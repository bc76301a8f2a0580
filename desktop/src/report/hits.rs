//! The hits of a search, with the best box in each.

use anyhow::Result;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use maud::{Markup, html};

use super::markup::{document, plain, rect};
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

/// The HTML of the page. `captions` are of the best boxes, one for each hit.
pub fn page(
    query: &str,
    hits: &[SearchHit],
    captions: &[Option<String>],
    library: &Library,
) -> Result<String> {
    let figures = hits
        .iter()
        .zip(captions)
        .map(|(hit, caption)| figure(hit, caption.as_deref(), library))
        .collect::<Result<Vec<_>>>()?;
    let body = html! {
        h1 { (plain(query)) }
        main {
            @for figure in &figures { (figure) }
        }
    };
    Ok(document(query, STYLE, &body))
}

fn figure(hit: &SearchHit, caption: Option<&str>, library: &Library) -> Result<Markup> {
    let [width, height] = hit.photo.size_px;
    let thumbnail = BASE64_STANDARD.encode(library.thumbnail(hit.photo.content)?);
    Ok(html! {
        figure {
            svg viewBox={ "0 0 " (width) " " (height) } {
                image width=(width) height=(height)
                    href={ "data:image/jpeg;base64," (thumbnail) } {}
                @if let Some(box_px) = hit.box_px { (rect("found", box_px)) }
            }
            figcaption {
                @if let Some(caption) = caption { (plain(caption)) br; }
                @if let Some(score) = hit.score { (format_args!("{score:.4} ")) }
                small { (plain(&printable_path(&hit.path))) }
            }
        }
    })
}
