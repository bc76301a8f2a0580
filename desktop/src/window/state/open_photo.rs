//! The photo that is open: its captions, boxes and located texts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mmgem_core::image::{BoxPx, Rgb};

use super::State;
use super::hits::Shown;
use crate::library::Photo;
use crate::names::{json_path, printable_path};
use crate::terminal::json_box;
use crate::window::clicks::{Clicks, PointPx};
use crate::window::messages::{Event, Request};
use crate::window::sidecar::SidecarResult;

/// The photo that is open.
#[derive(Debug)]
pub struct OpenPhoto {
    /// Identifies this photo in messages, so that late answers about an earlier one are dropped.
    pub number: u64,
    /// Index among the shown hits.
    pub at: usize,
    pub content: i64,
    pub path: PathBuf,
    pub size_px: [u32; 2],
    pub pixels: Option<Arc<Rgb>>,
    /// Caption of the whole photo.
    pub caption: Option<CaptionText>,
    /// The box that matches the query best, with its caption.
    pub matched: Option<(BoxPx, CaptionText)>,
    /// Other files with the same picture.
    pub same: Vec<(i64, PathBuf)>,
    /// The box that was dragged or clicked, with its caption.
    pub dragged: Option<(BoxPx, CaptionText)>,
    /// The boxes that clicks give.
    pub clicks: Clicks,
    /// Text to find in the photo.
    pub phrase: String,
    /// Whether a request for the place of the text is pending.
    pub locating: bool,
    pub located: Option<Located>,
    /// Whether the heat map is shown.
    pub heat_on: bool,
    /// Another program's sidecar, with the caption to write; the user is asked whether to replace
    /// it.
    pub foreign: Option<(PathBuf, String)>,
    pub problem: Option<String>,
}

/// A caption that is being written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaptionText {
    pub text: String,
    pub done: bool,
}

/// The place of a text in the photo.
#[derive(Debug)]
pub struct Located {
    pub text: String,
    pub box_px: BoxPx,
    pub score: f32,
    pub heat: Rgb,
    /// Identifies the result, so that the heat map is uploaded once.
    pub number: u64,
}

impl State {
    /// Opens a hit.
    pub fn open(&mut self, at: usize) {
        let Some(Shown { hit, photo, path, .. }) = self.shown(at) else { return };
        let (content, path, size_px) = (hit.content, path.to_owned(), photo.size_px);
        self.selected = Some(at);
        self.open_file(at, content, path, size_px);
    }

    /// Opens a file with the same picture as the open photo.
    pub fn open_same(&mut self, index: usize) {
        let Some(photo) = &self.photo else { return };
        let (at, Some((content, path))) = (photo.at, photo.same.get(index).cloned()) else {
            return;
        };
        let size_px = self.catalogue().and_then(|catalogue| catalogue.photos.get(&content));
        if let Some(size_px) = size_px.map(|photo| photo.size_px) {
            self.open_file(at, content, path, size_px);
        }
    }

    fn open_file(&mut self, at: usize, content: i64, path: PathBuf, size_px: [u32; 2]) {
        let number = self.next_number();
        let same = self.same_files(content, &path);
        self.send(Request::OpenPhoto { number, path: path.clone() });
        self.photo = Some(OpenPhoto {
            number,
            at,
            content,
            path,
            size_px,
            pixels: None,
            caption: None,
            matched: None,
            same,
            dragged: None,
            clicks: Clicks::default(),
            phrase: self.photo.take().map(|look| look.phrase).unwrap_or_default(),
            locating: false,
            located: None,
            heat_on: true,
            foreign: None,
            problem: None,
        });
    }

    /// Other files with the same picture: copies, and other formats, sizes and qualities.
    fn same_files(&self, content: i64, path: &Path) -> Vec<(i64, PathBuf)> {
        let Some(catalogue) = self.catalogue() else { return Vec::new() };
        let Some(group) = catalogue.photos.get(&content).map(Photo::group) else {
            return Vec::new();
        };
        let members = catalogue.photos.values().filter(|photo| photo.group() == group);
        let mut files: Vec<(i64, PathBuf)> = members
            .flat_map(|photo| photo.paths.iter().map(|path| (photo.content, path.clone())))
            .filter(|(_, other)| other != path)
            .collect();
        files.sort();
        files
    }

    /// Shows the box of the open photo that matches the query best, and captions it.
    pub fn show_match(&mut self, box_px: BoxPx) {
        let Some(photo) = &mut self.photo else { return };
        if photo.matched.is_none() && photo.dragged.is_none() {
            photo.matched = Some((box_px, CaptionText::default()));
            let number = photo.number;
            self.send(Request::Caption { number, box_px: Some(box_px) });
        }
    }

    /// The score of the open photo.
    pub fn open_score(&self) -> Option<f32> {
        let at = self.photo.as_ref()?.at;
        self.shown(at).filter(|_| self.hits.scored).map(|shown| shown.hit.score)
    }

    /// Opens the next or previous photo.
    pub fn turn(&mut self, forward: bool) {
        let Some(look) = &self.photo else { return };
        let at = if forward { look.at.checked_add(1) } else { look.at.checked_sub(1) };
        if let Some(at) = at.filter(|at| *at < self.n_shown()) {
            self.open(at);
        }
    }

    /// Returns to the grid.
    pub fn close(&mut self) {
        self.photo = None;
    }

    /// The user dragged a box: captions it.
    pub fn drag(&mut self, box_px: BoxPx) {
        if let Some(look) = &mut self.photo {
            look.clicks.forget();
        }
        self.describe(box_px);
    }

    /// The pointer moved to this point, or off the photo.
    pub fn hover(&mut self, point: Option<PointPx>) {
        let Some(look) = &mut self.photo else { return };
        look.clicks.hover(point);
        self.ask_for_boxes();
    }

    /// The user clicked a point: shows the next box, or requests boxes, and captions the box.
    pub fn click(&mut self, point: PointPx, reach_px: f32) {
        let Some(look) = &mut self.photo else { return };
        if look.clicks.is_step(point, reach_px) {
            return self.step(1);
        }
        match look.clicks.click(point) {
            Some(box_px) => self.describe(box_px),
            None => self.ask_for_boxes(),
        }
    }

    /// Steps through the boxes at the place of the last click.
    pub fn step(&mut self, by: isize) {
        if let Some(box_px) = self.photo.as_mut().and_then(|look| look.clicks.step(by)) {
            self.describe(box_px);
        }
    }

    fn ask_for_boxes(&mut self) {
        let Some(look) = &mut self.photo else { return };
        let number = look.number;
        if let Some(point_px) = look.clicks.question() {
            self.send(Request::Boxes { number, point_px });
        }
    }

    fn describe(&mut self, box_px: BoxPx) {
        let Some(look) = &mut self.photo else { return };
        // The worker drops the caption of the other box.
        end_writing(&mut look.matched);
        look.dragged = Some((box_px, CaptionText::default()));
        look.problem = None;
        let number = look.number;
        self.send(Request::Caption { number, box_px: Some(box_px) });
    }

    pub fn drop_box(&mut self) {
        if let Some(look) = &mut self.photo {
            look.dragged = None;
            look.clicks.forget();
        }
    }

    /// Requests a caption of the whole photo.
    pub fn caption_whole(&mut self) {
        let Some(look) = &mut self.photo else { return };
        if look.caption.is_none() {
            look.caption = Some(CaptionText::default());
            look.problem = None;
            let number = look.number;
            self.send(Request::Caption { number, box_px: None });
        }
    }

    /// Requests the place of the phrase in the photo.
    pub fn locate(&mut self) {
        let Some(look) = &mut self.photo else { return };
        let text = look.phrase.trim().to_owned();
        if !text.is_empty() {
            (look.locating, look.problem, look.heat_on) = (true, None, true);
            let number = look.number;
            self.send(Request::Locate { number, text });
        }
    }

    /// Requests a sidecar with the caption of the whole photo.
    pub fn write_sidecar(&mut self, replace: bool) {
        let Some(look) = &mut self.photo else { return };
        let caption = match (&look.foreign, &look.caption) {
            (Some((_, caption)), _) => caption.clone(),
            (None, Some(CaptionText { text, done: true })) => text.clone(),
            _ => return,
        };
        look.foreign = None;
        let photo = look.path.clone();
        self.send(Request::Sidecar { photo, caption, replace });
    }

    // Answers about it.

    pub(super) fn wrote(
        &mut self,
        photo: PathBuf,
        caption: String,
        result: Result<SidecarResult, String>,
    ) {
        match result {
            Ok(SidecarResult::Done(path)) => {
                self.notice = Some(format!("Wrote {}", printable_path(&path)))
            }
            Ok(SidecarResult::Foreign(path)) => {
                if let Some(look) = self.photo.as_mut().filter(|look| look.path == photo) {
                    look.foreign = Some((path, caption));
                }
            }
            Err(why) => self.notice = Some(why),
        }
    }

    pub(super) fn proposed(&mut self, number: u64, point: PointPx, boxes: Vec<BoxPx>) {
        let Some(look) = self.photo.as_mut().filter(|look| look.number == number) else { return };
        if let Some(box_px) = look.clicks.answer(point, boxes) {
            self.describe(box_px);
        }
        self.ask_for_boxes();
    }

    pub(super) fn looked(&mut self, event: Event) {
        let Some(look) = &mut self.photo else { return };
        match event {
            Event::PhotoDecoded { number, pixels, size_px } if number == look.number => {
                self.log.print("photo", &[("path", json_path(&look.path))]);
                (look.pixels, look.size_px) = (Some(pixels), size_px);
            }
            Event::Caption { number, box_px, text, done } if number == look.number => {
                let of_box = |place: &mut Option<(BoxPx, CaptionText)>| {
                    place.as_ref().is_some_and(|(of, _)| Some(*of) == box_px)
                };
                let writing = if box_px.is_none() {
                    look.caption.as_mut()
                } else if of_box(&mut look.dragged) {
                    look.dragged.as_mut().map(|(_, writing)| writing)
                } else if of_box(&mut look.matched) {
                    look.matched.as_mut().map(|(_, writing)| writing)
                } else {
                    None
                };
                let Some(writing) = writing else { return };
                if done {
                    self.log.print(
                        "caption",
                        &[("box", json_box(box_px)), ("text", text.as_str().into())],
                    );
                }
                *writing = CaptionText { text, done };
            }
            Event::Located { number, text, heat, box_px, score } if number == look.number => {
                look.locating = false;
                self.log.print(
                    "located",
                    &[("text", text.as_str().into()), ("box", json_box(Some(box_px)))],
                );
                let number = look.located.as_ref().map_or(0, |located| located.number) + 1;
                look.located = Some(Located { text, box_px, score, heat, number });
            }
            Event::Failed { number, why } if number == look.number => {
                look.locating = false;
                look.clicks.fail();
                // No caption will arrive for these requests.
                look.caption.take_if(|writing| !writing.done);
                look.dragged.take_if(|(_, writing)| !writing.done);
                end_writing(&mut look.matched);
                self.log.print("failed", &[("why", why.as_str().into())]);
                look.problem = Some(why);
            }
            _ => {}
        }
    }
}

/// No more words will arrive for this caption.
fn end_writing(place: &mut Option<(BoxPx, CaptionText)>) {
    if let Some((_, writing)) = place {
        writing.done = true;
    }
}
