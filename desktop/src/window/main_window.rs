//! The window: passes the user's actions to the state and draws the state.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::mpsc::Receiver;

use eframe::egui;
use egui::{
    CentralPanel, Color32, ColorImage, Frame, Key, Modifiers, Panel, TextureHandle, TextureOptions,
    Ui,
};
use mmgem_core::image::{BoxPx, Rgb};

use super::geometry::Zoom;
use super::grid::grid;
use super::grid_layout::{Grid, Step};
use super::library_panel::{bottom_line, library_panel, welcome};
use super::messages::{Cell, Event};
use super::overview::{MapView, Overview, overview};
use super::photo_view::photo_view;
use super::problems::problems_page;
use super::search_bar::search_bar;
use super::selection_bar::chosen_bar;
use super::settings::Theme;
use super::state::{Model, State};
use super::system;
use super::thumbnails::Lru;
use crate::library::simplified_path;
use crate::names::as_text;

/// Thumbnails cached as textures: at 256 × 192 pixels each takes 0.2 MB.
const TEXTURES: usize = 800;
/// Thumbnails uploaded per frame, so that a frame stays short.
const TEXTURES_A_FRAME: usize = 24;
/// Below this width, in points, panels are not placed beside each other.
pub const NARROW: f32 = 700.0;
/// Zoom factor of a key.
const ZOOM_BY_KEY: f32 = 1.25;

/// The window: its state and the data that only drawing needs.
pub struct Window {
    pub state: State,
    events: Receiver<Event>,
    /// Cells that were read but are not textures yet.
    pub cells: VecDeque<Cell>,
    pub pictures: Pictures,
    /// Text in the field for the model's folder.
    pub model_text: String,
    pub library_open: bool,
    /// Whether a narrow window shows the filters.
    pub filters_open: bool,
    /// Minimum width of a cell, in points.
    pub cell_side: f32,
    pub scroll: Scroll,
    /// The layout of the last frame.
    pub grid: Option<Grid>,
    /// Where the user began to drag a rectangle around photos, in points of the whole grid.
    pub choose_from: Option<[f64; 2]>,
    /// The calendar or the map, if it replaces the grid.
    pub overview: Option<Overview>,
    /// The part of the world that the map shows; `None` for all places.
    pub map_view: Option<MapView>,
    /// Whether the list of files that cannot be read fills the window.
    pub problems_open: bool,
    /// Start of a drag on the photo, in points of the screen.
    pub drag_from: Option<[f32; 2]>,
    pub zoom: PhotoZoom,
    /// Wheel movement over a clicked place since the last step, in points.
    pub turned: f32,
    /// The focus at the end of the last frame: Escape removes it before this code sees the key.
    focused: Option<egui::Id>,
    theme: Option<Theme>,
}

/// Scroll position of the grid.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scroll {
    pub top: f64,
    /// Height of the visible part in the last frame, in points.
    pub height: f64,
    /// Scroll to the selected cell in this frame.
    pub to_selected: bool,
    /// Scroll to this position in this frame.
    pub to: Option<f64>,
}

/// Zoom into the open photo.
#[derive(Clone, Copy, Debug)]
pub struct PhotoZoom {
    /// The number of its [`OpenPhoto`](super::state::OpenPhoto).
    pub of: u64,
    pub zoom: Zoom,
    /// Zoom factor that a key requests in this frame.
    pub next: f32,
}

impl Default for PhotoZoom {
    fn default() -> Self {
        Self { of: 0, zoom: Zoom::default(), next: 1.0 }
    }
}

/// Textures, and best boxes of hits.
pub struct Pictures {
    pub thumbnails: Lru<i64, TextureHandle>,
    /// Number of the search, and best boxes of its photos.
    pub boxes: (u64, HashMap<i64, Option<BoxPx>>),
    /// The open photo, with the number of its look.
    pub photo: Option<(u64, TextureHandle)>,
    /// Its heat map, with the numbers of look and map.
    pub heat: Option<((u64, u64), TextureHandle)>,
}

impl Window {
    pub fn new(state: State, events: Receiver<Event>) -> Self {
        let model_text = state
            .model_folder
            .as_deref()
            .map_or_else(String::new, |folder| as_text(&simplified_path(folder)));
        Self {
            state,
            events,
            cells: VecDeque::new(),
            pictures: Pictures {
                thumbnails: Lru::new(TEXTURES),
                boxes: (0, HashMap::new()),
                photo: None,
                heat: None,
            },
            model_text,
            library_open: false,
            filters_open: false,
            cell_side: 168.0,
            scroll: Scroll::default(),
            grid: None,
            choose_from: None,
            overview: None,
            map_view: None,
            problems_open: false,
            drag_from: None,
            zoom: PhotoZoom::default(),
            turned: 0.0,
            focused: None,
            theme: None,
        }
    }

    /// Draws one frame.
    pub fn show(&mut self, ui: &mut Ui) {
        let ctx = ui.ctx().clone();
        if self.theme != Some(self.state.theme) {
            self.theme = Some(self.state.theme);
            ctx.set_theme(match self.state.theme {
                Theme::System => egui::ThemePreference::System,
                Theme::Dark => egui::ThemePreference::Dark,
                Theme::Light => egui::ThemePreference::Light,
            });
        }
        let now_secs = ctx.input(|input| input.time);
        self.take_events(&ctx, now_secs);
        if let Some(wait_secs) = self.state.tick(now_secs) {
            ctx.request_repaint_after_secs(wait_secs as f32);
        }
        self.dropped(&ctx);
        self.keys(&ctx);
        self.panels(ui);
        hovering(&ctx);
        self.focused = ctx.memory(egui::Memory::focused);
    }

    fn panels(&mut self, ui: &mut Ui) {
        let looks = self.state.photo.is_some();
        let has_photos =
            self.state.catalogue().is_some_and(|catalogue| !catalogue.photos.is_empty());
        let open = matches!(self.state.model, Model::Open(_));
        Panel::bottom("bottom").show(ui, |ui| bottom_line(self, ui));
        if self.state.has_several() && !looks {
            Panel::bottom("chosen").show(ui, |ui| chosen_bar(self, ui));
        }
        if self.problems_open && !looks {
            CentralPanel::default().show(ui, |ui| problems_page(self, ui));
            return;
        }
        if let Some(page) = self.overview.filter(|_| !looks && has_photos) {
            CentralPanel::default().show(ui, |ui| overview(self, page, ui));
            return;
        }
        if open && has_photos && !looks {
            Panel::top("search").show(ui, |ui| search_bar(self, ui));
        }
        let is_narrow = ui.available_width() < NARROW;
        if self.library_open && !looks && !is_narrow {
            Panel::right("library").default_size(320.0).show(ui, |ui| library_panel(self, ui));
        }
        let fill = ui.visuals().panel_fill;
        if self.library_open && !looks && is_narrow {
            CentralPanel::default().show(ui, |ui| library_panel(self, ui));
        } else if looks {
            photo_view(self, ui);
        } else if open && has_photos {
            CentralPanel::default().frame(Frame::NONE.fill(fill)).show(ui, |ui| grid(self, ui));
        } else {
            CentralPanel::default().show(ui, |ui| welcome(self, ui));
        }
    }

    fn take_events(&mut self, ctx: &egui::Context, now_secs: f64) {
        while let Ok(event) = self.events.try_recv() {
            match event {
                Event::Cell(cell) => self.cells.push_back(cell),
                Event::Ready(_) => {
                    // Rows of another library stand for other photos.
                    self.pictures.thumbnails.clear();
                    self.state.take(event, now_secs);
                }
                event => self.state.take(event, now_secs),
            }
        }
        let number = self.state.hits.number;
        if self.pictures.boxes.0 != number {
            self.pictures.boxes = (number, HashMap::new());
            self.scroll.to = Some(0.0);
        }
        let mut n_textures = 0;
        while n_textures < TEXTURES_A_FRAME
            && let Some(Cell { content, image, best_box }) = self.cells.pop_front()
        {
            self.state.cell_requests.taken();
            if let Some(image) = image {
                self.pictures.thumbnails.insert(content, texture(ctx, "thumbnail", &image));
                n_textures += 1;
            }
            if let Some((_, best)) = best_box.filter(|(of, _)| *of == number) {
                self.pictures.boxes.1.insert(content, best);
            }
        }
        if !self.cells.is_empty() {
            ctx.request_repaint();
        }
    }

    /// Passes dropped paths to the state.
    fn dropped(&mut self, ctx: &egui::Context) {
        let dropped: Vec<PathBuf> = ctx.input(|input| {
            input.raw.dropped_files.iter().map(|file| file.path().to_owned()).collect()
        });
        dropped.into_iter().for_each(|path| self.state.drop_path(path));
    }

    /// Handles the keys that work anywhere, unless the user types into a field.
    fn keys(&mut self, ctx: &egui::Context) {
        // An open menu handles its keys itself. `Context::any_popup_open` knows only the menus that
        // were drawn earlier in this frame, and none is drawn yet.
        if egui::Popup::is_any_open(ctx) {
            return;
        }
        let pressed = |key| ctx.input_mut(|input| input.consume_key(Modifiers::NONE, key));
        if pressed(Key::Escape) {
            if self.focused.is_none() {
                self.escape();
            }
            return;
        }
        if ctx.text_edit_focused() {
            return;
        }
        let copies =
            ctx.input(|input| input.events.iter().any(|event| matches!(event, egui::Event::Copy)));
        if copies {
            self.copy_paths(ctx);
        }
        // A focused control uses arrows and Enter itself.
        if ctx.egui_wants_keyboard_input() {
            return;
        }
        if self.state.photo.is_some() { self.photo_keys(ctx) } else { self.grid_keys(ctx) }
    }

    fn escape(&mut self) {
        if self.state.photo.as_ref().is_some_and(|look| look.dragged.is_some()) {
            self.state.drop_box();
        } else if self.state.photo.is_some() {
            self.close_photo();
        } else if self.overview.is_some() {
            self.overview = None;
        } else if self.problems_open {
            self.problems_open = false;
        } else if self.state.has_several() {
            self.state.choose(&[], false);
        } else if self.library_open {
            self.library_open = false;
        } else if self.state.form != Default::default() {
            self.state.form = Default::default();
            self.state.search();
        }
    }

    pub fn close_photo(&mut self) {
        self.state.selected = self.state.photo.as_ref().map(|look| look.at);
        self.state.close();
        self.scroll.to_selected = true;
    }

    fn grid_keys(&mut self, ctx: &egui::Context) {
        let pressed = |key| ctx.input_mut(|input| input.consume_key(Modifiers::NONE, key));
        if pressed(Key::Slash)
            || ctx.input_mut(|input| input.consume_key(Modifiers::COMMAND, Key::F))
        {
            return type_into(ctx, search_id(), "/");
        }
        const STEPS: [(Key, Step); 8] = [
            (Key::ArrowLeft, Step::Left),
            (Key::ArrowRight, Step::Right),
            (Key::ArrowUp, Step::Up),
            (Key::ArrowDown, Step::Down),
            (Key::PageUp, Step::PageUp),
            (Key::PageDown, Step::PageDown),
            (Key::Home, Step::First),
            (Key::End, Step::Last),
        ];
        for (key, step) in STEPS {
            // The modifiers of the key itself: Shift may be up again at the end of a slow frame.
            let extends = ctx.input(|input| {
                input.events.iter().any(|event| {
                    matches!(
                        event,
                        egui::Event::Key { key: of, pressed: true, modifiers, .. }
                            if *of == key && modifiers.shift
                    )
                })
            });
            if pressed(key) {
                self.step(step, extends);
            }
        }
        if ctx.input_mut(|input| input.consume_key(Modifiers::COMMAND, Key::A)) {
            self.state.choose_all();
        }
        if let Some(at) = self.state.selected {
            if pressed(Key::Enter) {
                self.state.open(at);
            } else if pressed(Key::O) {
                self.open_outside();
            } else if pressed(Key::R) {
                self.reveal();
            } else if pressed(Key::S)
                && let Some(path) = self.state.shown(at).map(|shown| shown.path.to_owned())
            {
                self.state.search_like(path, None);
            } else if pressed(Key::G) {
                self.state.unfold(at);
            } else if pressed(Key::F) {
                self.state.toggle_favourite();
            } else if pressed(Key::X) {
                self.state.toggle_hidden();
            } else if pressed(Key::E) {
                self.state.export();
            }
        }
    }

    /// Moves the selection; the first step selects the first hit. With `extends`, chooses all cells
    /// on the way.
    pub fn step(&mut self, step: Step, extends: bool) {
        let n_cells = self.state.n_shown();
        if n_cells == 0 {
            return;
        }
        let Some(grid) = &self.grid else { return };
        let to = match self.state.selected {
            // The hits may be fewer since that frame.
            Some(from) => grid.step(from, step, self.scroll.height).min(n_cells - 1),
            None if step == Step::Last => n_cells - 1,
            None => 0,
        };
        if extends {
            self.state.select_to(to);
        } else {
            self.state.select(to);
        }
        self.scroll.to_selected = true;
    }

    fn photo_keys(&mut self, ctx: &egui::Context) {
        let pressed = |key| ctx.input_mut(|input| input.consume_key(Modifiers::NONE, key));
        if pressed(Key::Slash) {
            return type_into(ctx, phrase_id(), "/");
        }
        if pressed(Key::ArrowLeft) {
            self.state.turn(false);
        } else if pressed(Key::ArrowRight) {
            self.state.turn(true);
        } else if pressed(Key::C) {
            self.state.caption_whole();
        } else if pressed(Key::H) {
            if let Some(look) = &mut self.state.photo {
                look.heat_on = !look.heat_on;
            }
        } else if pressed(Key::F) {
            self.state.toggle_favourite();
        } else if pressed(Key::S) {
            self.similar();
        } else if pressed(Key::Plus) || pressed(Key::Equals) {
            self.zoom.next = ZOOM_BY_KEY;
        } else if pressed(Key::Minus) {
            self.zoom.next = 1.0 / ZOOM_BY_KEY;
        } else if pressed(Key::Num0) {
            self.zoom.zoom = Zoom::default();
        } else if pressed(Key::O) {
            self.open_outside();
        } else if pressed(Key::R) {
            self.reveal();
        }
    }

    /// Searches for photos like the dragged box, or like the whole photo.
    pub fn similar(&mut self) {
        if let Some(look) = &self.state.photo {
            let box_px = look.dragged.as_ref().map(|(box_px, _)| *box_px);
            self.state.search_like(look.path.clone(), box_px);
            self.scroll.to = Some(0.0);
        }
    }

    /// Searches for photos that were taken near a place.
    pub fn search_near(&mut self, [latitude, longitude]: [f64; 2]) {
        self.state.close();
        self.state.form = super::state::Form {
            near: format!("{latitude:.5},{longitude:.5}"),
            ..Default::default()
        };
        self.state.search();
        self.filters_open = true;
        self.scroll.to = Some(0.0);
    }

    /// Shows the photos of the month or place that the user chose.
    pub fn close_overview(&mut self) {
        self.overview = None;
        self.filters_open = true;
        self.scroll.to = Some(0.0);
    }

    pub fn open_outside(&mut self) {
        if let Some(path) = self.state.current_path()
            && let Err(why) = system::open_photo(path)
        {
            self.state.notice = Some(why);
        }
    }

    /// Shows the chosen photos in their folders.
    pub fn reveal(&self) {
        system::reveal(self.state.chosen_paths());
    }

    /// Copies the paths of the chosen photos, one a line.
    pub fn copy_paths(&mut self, ctx: &egui::Context) {
        let paths: Vec<String> =
            self.state.chosen_paths().iter().map(|path| as_text(&simplified_path(path))).collect();
        self.state.notice = Some(match paths.len() {
            0 => return,
            1 => "The path is copied".into(),
            n => format!("{n} paths are copied"),
        });
        ctx.copy_text(paths.join("\n"));
    }
}

impl eframe::App for Window {
    fn ui(&mut self, ui: &mut Ui, frame: &mut eframe::Frame) {
        if let Some(secs) = frame.info().cpu_usage {
            tracing::trace!("a frame took {:.2} ms", 1e3 * secs);
        }
        self.show(ui);
    }

    fn on_exit(&mut self, _gl: Option<&eframe::glow::Context>) {
        self.state.control.stop();
        self.state.cell_requests.close();
    }
}

/// Focuses a field by a key, without typing the key itself. Other text of this frame, which may be
/// long in a slow frame, goes to the field. So the caller must not handle further keys of this
/// frame.
fn type_into(ctx: &egui::Context, field: egui::Id, key: &str) {
    ctx.input_mut(|input| {
        let is_key = |event: &egui::Event| matches!(event, egui::Event::Text(text) if text == key);
        if let Some(at) = input.events.iter().position(is_key) {
            input.events.remove(at);
        }
    });
    ctx.memory_mut(|memory| memory.request_focus(field));
}

/// Id of the query field.
pub fn search_id() -> egui::Id {
    egui::Id::unique("query")
}

/// Id of the field for a text to find in a photo.
pub fn phrase_id() -> egui::Id {
    egui::Id::unique("phrase")
}

pub fn texture(ctx: &egui::Context, name: &str, pixels: &Rgb) -> TextureHandle {
    let size = [pixels.width() as usize, pixels.height() as usize];
    ctx.load_texture(name, ColorImage::from_rgb(size, pixels.as_raw()), TextureOptions::LINEAR)
}

/// Shows a hint while the user drags a file over the window.
fn hovering(ctx: &egui::Context) {
    if ctx.input(|input| input.raw.hovered_files.is_empty()) {
        return;
    }
    let layer = egui::LayerId::new(egui::Order::Foreground, egui::Id::unique("drop"));
    let (painter, rect) = (ctx.layer_painter(layer), ctx.content_rect());
    painter.rect_filled(rect, 0.0, Color32::from_black_alpha(190));
    let font = egui::FontId::proportional(24.0);
    let says = "Drop a folder to add it, or a photo to find others like it";
    painter.text(rect.center(), egui::Align2::CENTER_CENTER, says, font, Color32::WHITE);
}
