//! The filters beside the query: dates, folder, place, camera, type and marks.

use std::path::Path;

use eframe::egui;
use egui::{Button, ComboBox, ScrollArea, TextEdit, Ui};

use super::main_window::Window;
use super::messages::Marked;
use super::overview::Overview;
use super::state::{Model, State};
use crate::names::printable_path;

/// Width of the date fields, in points.
const DATE_WIDTH: f32 = 122.0;

pub fn filters(window: &mut Window, ui: &mut Ui) {
    let state = &mut window.state;
    let mut changed = false;
    for (name, text) in [("after", &mut state.form.after), ("before", &mut state.form.before)] {
        let field = TextEdit::singleline(text)
            .hint_text(format!("{name} 2024-05"))
            .desired_width(DATE_WIDTH);
        changed |= ui.add(field).accessible_name(name).changed();
    }
    if changed {
        let now_secs = ui.ctx().input(|input| input.time);
        state.form_changed(now_secs);
    }
    folder_choice(window, ui);
    place_field(window, ui);
    for kind in [Kind::Camera, Kind::Format] {
        kind_choice(&mut window.state, kind, ui);
    }
    mark_choice(&mut window.state, ui);
    for (page, label) in [(Overview::Calendar, "Calendar"), (Overview::Map, "Map")] {
        let has_places =
            window.state.catalogue().is_some_and(|catalogue| !catalogue.places.is_empty());
        if (page == Overview::Calendar || has_places) && ui.button(label).clicked() {
            (window.overview, window.map_view) = (Some(page), None);
        }
    }
    let state = &mut window.state;
    let small = ui.checkbox(&mut state.form.by_region, "small things");
    if small.on_hover_text("Score a photo by its best region instead of the whole").changed() {
        state.search();
    }
}

fn folder_choice(window: &mut Window, ui: &mut Ui) {
    let state = &mut window.state;
    let name =
        |path: &Path| printable_path(Path::new(path.file_name().unwrap_or(path.as_os_str())));
    let chosen = state.form.folder.as_deref().map_or_else(|| "all folders".into(), name);
    let mut choice = None;
    let combo =
        ComboBox::from_id_salt("folder").width(150.0).selected_text(chosen).show_ui(ui, |ui| {
            let folders: &[_] = match &state.model {
                Model::Open(ready) => &ready.catalogue.folders,
                _ => &[],
            };
            if ui.selectable_label(state.form.folder.is_none(), "all folders").clicked() {
                choice = Some(None);
            }
            // Only visible rows are drawn, because there may be thousands of folders.
            let height = ui.text_style_height(&egui::TextStyle::Button)
                + 2.0 * ui.spacing().button_padding.y;
            ScrollArea::vertical().max_height(280.0).show_rows(
                ui,
                height,
                folders.len(),
                |ui, rows| {
                    ui.set_min_width(320.0);
                    for folder in &folders[rows] {
                        let is_chosen = state.form.folder.as_ref() == Some(folder);
                        let label =
                            Button::selectable(is_chosen, printable_path(folder)).truncate();
                        if ui.add(label).clicked() {
                            choice = Some(Some(folder.clone()));
                            ui.close();
                        }
                    }
                },
            );
        });
    combo.response.accessible_name("Folder");
    if let Some(folder) = choice {
        state.form.folder = folder;
        state.search();
    }
}

fn place_field(window: &mut Window, ui: &mut Ui) {
    let state = &mut window.state;
    let field =
        TextEdit::singleline(&mut state.form.near).hint_text("near 43.3,5.4").desired_width(112.0);
    let field = ui.add(field).accessible_name("near");
    if field.on_hover_text("Latitude, longitude and, if not 10, kilometres").changed() {
        let now_secs = ui.ctx().input(|input| input.time);
        state.form_changed(now_secs);
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Camera,
    Format,
}

/// Draws the choice of a camera or a format, if there are several.
fn kind_choice(state: &mut State, kind: Kind, ui: &mut Ui) {
    let (name, any) = match kind {
        Kind::Camera => ("Camera", "any camera"),
        Kind::Format => ("Type", "any type"),
    };
    let Some(catalogue) = state.catalogue() else { return };
    let all = if kind == Kind::Camera { &catalogue.cameras } else { &catalogue.formats };
    let chosen = if kind == Kind::Camera { &state.form.camera } else { &state.form.format };
    if chosen.is_none() && all.len() + usize::from(kind == Kind::Camera) < 2 {
        return;
    }
    let mut choice = None;
    let text = chosen.as_deref().unwrap_or(any);
    let combo = ComboBox::from_id_salt(name).width(96.0).truncate().selected_text(text);
    let combo = combo.show_ui(ui, |ui| {
        if ui.selectable_label(chosen.is_none(), any).clicked() {
            choice = Some(None);
        }
        for (value, n) in all {
            let is_chosen = chosen.as_ref() == Some(value);
            if ui.selectable_label(is_chosen, format!("{value} ({n})")).clicked() {
                choice = Some(Some(value.clone()));
            }
        }
    });
    combo.response.accessible_name(name);
    if let Some(choice) = choice {
        match kind {
            Kind::Camera => state.form.camera = choice,
            Kind::Format => state.form.format = choice,
        }
        state.search();
    }
}

/// Draws the choice between all photos, favourites and hidden ones.
fn mark_choice(state: &mut State, ui: &mut Ui) {
    const CHOICES: [(Marked, &str); 3] = [
        (Marked::Shown, "all photos"),
        (Marked::Favourites, "favourites"),
        (Marked::Hidden, "hidden"),
    ];
    let text =
        CHOICES.iter().find(|(marked, _)| *marked == state.form.marked).map_or("", |of| of.1);
    let mut chosen = state.form.marked;
    let combo =
        ComboBox::from_id_salt("marked").width(88.0).selected_text(text).show_ui(ui, |ui| {
            for (marked, label) in CHOICES {
                ui.selectable_value(&mut chosen, marked, label);
            }
        });
    combo.response.accessible_name("Marks");
    if chosen != state.form.marked {
        state.form.marked = chosen;
        state.search();
    }
}
