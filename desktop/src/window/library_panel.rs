//! Folders, indexing, model and theme; and the page of a window without photos.

use std::path::{Path, PathBuf};

use eframe::egui;
use egui::{Align, Button, Label, Layout, ProgressBar, RichText, ScrollArea, TextEdit, Ui};

use super::main_window::Window;
use super::messages::FolderUse;
use super::problems::problems;
use super::search_bar::group;
use super::settings::Theme;
use super::state::{Model, State};
use crate::names::printable_path;

/// Width of the welcome page, in points.
const WELCOME_WIDTH: f32 = 520.0;

/// Draws the panel beside the grid.
pub fn library_panel(window: &mut Window, ui: &mut Ui) {
    ui.add_space(8.0);
    ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
        groups(window, ui);
    });
}

/// Draws folders, model, theme and problems, below each other.
fn groups(window: &mut Window, ui: &mut Ui) {
    group(ui, |ui| folders(window, ui));
    ui.add_space(8.0);
    group(ui, |ui| model(window, ui));
    ui.add_space(8.0);
    group(ui, |ui| theme(&mut window.state, ui));
    ui.add_space(8.0);
    problems(window, ui);
}

/// Draws the welcome page, while there are no photos to search.
pub fn welcome(window: &mut Window, ui: &mut Ui) {
    let side = ((ui.available_width() - WELCOME_WIDTH) / 2.0).max(0.0);
    ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
        ui.add_space(ui.available_height() * 0.12);
        ui.horizontal(|ui| {
            ui.add_space(side);
            ui.vertical(|ui| {
                ui.set_max_width(WELCOME_WIDTH.min(ui.available_width()));
                ui.label(RichText::new("Find photos by what is in them").size(28.0).strong());
                ui.add_space(6.0);
                ui.label(
                    "Add a folder: its photos are looked at once, and then found by words, by other photos or by a \
                     region of one. Nothing leaves this machine, and no photo is changed.",
                );
                ui.add_space(16.0);
                say_state(window, ui);
                groups(window, ui);
            });
        });
    });
}

/// Explains why there are no photos.
fn say_state(window: &mut Window, ui: &mut Ui) {
    match &window.state.model {
        Model::Opening => {
            _ = ui.horizontal(|ui| {
                ui.spinner();
                ui.label("Opening the model");
            })
        }
        Model::Broken(why) => _ = ui.colored_label(ui.visuals().error_fg_color, why.clone()),
        Model::Open(ready) => {
            let n_others = ready.catalogue.n_of_others;
            if n_others > 0 {
                let says = format!(
                    "{n_others} photos of this library were indexed with another model, so this \
                     model cannot find them. Index their folders again with this model (the other index \
                     stays), or open the other model below."
                );
                ui.colored_label(ui.visuals().warn_fg_color, says);
            }
        }
    }
    ui.add_space(8.0);
}

fn folders(window: &mut Window, ui: &mut Ui) {
    ui.strong("Folders");
    let mut gone = None;
    for (at, folder) in window.state.settings.folders.iter().enumerate() {
        ui.horizontal(|ui| {
            ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
                let forget = ui
                    .small_button("×")
                    .on_hover_text("Stop watching this folder; its photos stay in the library");
                if forget.accessible_name(format!("Forget {}", printable_path(folder))).clicked() {
                    gone = Some(at);
                }
                ui.with_layout(Layout::left_to_right(Align::Center), |ui| {
                    ui.add(Label::new(printable_path(folder)).truncate());
                    // A look at the file system here could block the window.
                    if window.state.indexing.problems.iter().any(|(missing, _)| missing == folder) {
                        ui.colored_label(ui.visuals().warn_fg_color, "missing");
                    }
                });
            });
        });
    }
    if let Some(at) = gone {
        window.state.forget_folder(at);
    }
    ui.horizontal(|ui| {
        let width = ui.available_width() - 110.0;
        let field = TextEdit::singleline(&mut window.state.folder_text)
            .hint_text("path of a folder")
            .desired_width(width);
        let response = ui.add(field).accessible_name("Folder to add");
        let entered =
            response.lost_focus() && ui.input(|input| input.key_pressed(egui::Key::Enter));
        if response.changed() {
            window.state.folder_error = None;
        }
        let typed = !window.state.folder_text.trim().is_empty();
        let open = window.state.catalogue().is_some();
        if (ui.add_enabled(typed && open, Button::new("Add folder")).clicked() || entered)
            && typed
            && open
        {
            let folder = from_home(window.state.folder_text.trim());
            window.state.add_folder(folder);
        }
    });
    let browse = ui.add_enabled(window.state.catalogue().is_some(), Button::new("Browse…"));
    if browse.accessible_name("Browse for a folder").clicked() {
        window.state.choose_folder(FolderUse::Add);
    }
    if let Some(why) = &window.state.folder_error {
        ui.colored_label(ui.visuals().error_fg_color, why);
    }
    ui.weak("or drop a folder on the window");
    if let Some(left_out) = &window.state.indexing.left_out {
        ui.weak(left_out);
    }
    ui.add_space(4.0);
    progress(&mut window.state, ui);
}

/// Draws the progress of indexing and its controls.
fn progress(state: &mut State, ui: &mut Ui) {
    if !state.indexing.running {
        if state.settings.folders.is_empty() {
            return;
        }
        let update = ui.add_enabled(state.catalogue().is_some(), Button::new("Look for changes"));
        if update.on_hover_text("Only new and changed photos are looked at").clicked() {
            state.index();
        }
        return;
    }
    let paused = state.control.is_paused();
    ui.add(ProgressBar::new(state.indexing.progress.share()).animate(!paused));
    ui.horizontal_wrapped(|ui| {
        if ui.button(if paused { "Go on" } else { "Pause" }).clicked() {
            state.pause(!paused);
        }
        if ui
            .button("Stop")
            .on_hover_text("Keeps the photos that are done; the next run continues from there")
            .clicked()
        {
            state.control.stop();
        }
        ui.label(state.indexing.progress.in_words());
    });
}

fn model(window: &mut Window, ui: &mut Ui) {
    ui.strong("Model");
    if let Model::Open(ready) = &window.state.model {
        ui.label(format!("{} on {}", ready.model_name, ready.device_name));
    }
    ui.horizontal(|ui| {
        let width = ui.available_width() - 110.0;
        let hint = "folder of a model; empty: the embedded one";
        let field =
            TextEdit::singleline(&mut window.model_text).hint_text(hint).desired_width(width);
        let response = ui.add(field).accessible_name("Folder of the model");
        let entered =
            response.lost_focus() && ui.input(|input| input.key_pressed(egui::Key::Enter));
        if ui.button("Open model").clicked() || entered {
            let text = window.model_text.trim();
            let folder = (!text.is_empty()).then(|| from_home(text));
            window.state.open_model(folder);
        }
    });
    let browse = ui.button("Browse…");
    if browse.accessible_name("Browse for a model").clicked() {
        window.state.choose_folder(FolderUse::Model);
    }
}

fn theme(state: &mut State, ui: &mut Ui) {
    ui.horizontal(|ui| {
        ui.strong("Colours");
        let mut chosen = state.theme;
        for (theme, label) in
            [(Theme::System, "as the system"), (Theme::Dark, "dark"), (Theme::Light, "light")]
        {
            ui.selectable_value(&mut chosen, theme, label);
        }
        if chosen != state.theme {
            state.set_theme(chosen);
        }
    });
}

/// Draws the bottom line: indexing, the last notice, and the path of the selected photo.
pub fn bottom_line(window: &mut Window, ui: &mut Ui) {
    let state = &mut window.state;
    ui.horizontal(|ui| {
        if state.indexing.running {
            let paused = state.control.is_paused();
            ui.add(ProgressBar::new(state.indexing.progress.share()).desired_width(140.0));
            if ui.small_button(if paused { "Go on" } else { "Pause" }).clicked() {
                state.pause(!paused);
            }
            let words = state.indexing.progress.in_words();
            ui.weak(if paused { format!("{words} (paused)") } else { words });
            ui.separator();
        }
        if let Some(notice) = state.notice.clone() {
            if ui.add(Button::new("×").small().frame(false)).on_hover_text("Dismiss").clicked() {
                state.notice = None;
            }
            ui.label(crate::terminal::one_line(&notice));
            ui.separator();
        }
        let keys = if state.photo.is_some() {
            "Esc back   Left and Right other photos   C describe   / find text   H heat map   S similar   wheel zooms"
        } else {
            "/ search   arrows select   Enter look   S similar   F favourite   X hide   E copy"
        };
        match state.current_path() {
            Some(path) if state.photo.is_none() => {
                ui.add(Label::new(RichText::new(printable_path(path)).weak()).truncate());
            }
            _ if state.n_shown() > 0 || state.photo.is_some() => _ = ui.weak(keys),
            _ => _ = ui.weak("Nothing leaves this machine"),
        }
    });
}

/// A path as the user types it: `~` is the home folder.
fn from_home(text: &str) -> PathBuf {
    let home = std::env::home_dir();
    match (text.strip_prefix('~'), home) {
        (Some(""), Some(home)) => home,
        (Some(rest), Some(home)) if rest.starts_with(['/', '\\']) => {
            home.join(Path::new(&rest[1..]))
        }
        _ => PathBuf::from(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tilde_is_the_home_folder() {
        let home = std::env::home_dir().expect("the user who runs tests has one");
        assert_eq!(from_home("~/Pictures"), home.join("Pictures"));
        assert_eq!(from_home("~"), home);
        assert_eq!(from_home("~else/a"), Path::new("~else/a"));
        assert_eq!(from_home("/a b"), Path::new("/a b"));
    }
}
