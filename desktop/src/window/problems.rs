//! Files that cannot be read, or only in part: the number in the library panel, and the whole list.

use std::path::{Path, PathBuf};

use eframe::egui;
use egui::{Align, Button, Label, Layout, RichText, ScrollArea, Ui};

use super::main_window::Window;
use super::state::State;
use super::system;
use crate::names::printable_path;

/// Draws the number of problems and the button for their list.
pub fn problems(window: &mut Window, ui: &mut Ui) {
    let n_problems = all(&window.state).len();
    if n_problems == 0 {
        return;
    }
    ui.horizontal_wrapped(|ui| {
        ui.label(format!("{n_problems} could not be read, or only in part"));
        if ui.button("Show them").clicked() {
            window.problems_open = true;
        }
    });
}

/// Draws the whole list.
pub fn problems_page(window: &mut Window, ui: &mut Ui) {
    ui.add_space(8.0);
    let all = all(&window.state);
    ui.horizontal_wrapped(|ui| {
        if ui.button("Back").on_hover_text("Esc").clicked() {
            window.problems_open = false;
        }
        ui.heading(format!("{} could not be read, or only in part", all.len()));
    });
    ui.add_space(4.0);
    let line = ui.text_style_height(&egui::TextStyle::Body);
    let height = 3.0 * line + 3.0 * ui.spacing().item_spacing.y + ui.spacing().button_padding.y;
    ScrollArea::vertical().auto_shrink(false).show_rows(ui, height, all.len(), |ui, rows| {
        for (path, why) in &all[rows] {
            ui.allocate_ui(egui::vec2(ui.available_width(), height), |ui| row(ui, path, why));
        }
    });
}

fn row(ui: &mut Ui, path: &Path, why: &str) {
    ui.with_layout(Layout::right_to_left(Align::Min), |ui| {
        let name = printable_path(Path::new(path.file_name().unwrap_or(path.as_os_str())));
        let button = ui.add(Button::new("Show in folder").small());
        if button.accessible_name(format!("Show {name} in folder")).clicked() {
            system::reveal(vec![path.to_owned()]);
        }
        ui.with_layout(Layout::top_down(Align::Min), |ui| {
            ui.add(Label::new(RichText::new(name).strong()).truncate());
            let folder = printable_path(path.parent().unwrap_or(path));
            ui.add(Label::new(RichText::new(folder).weak()).truncate());
            ui.add(Label::new(why).truncate()).on_hover_text(why);
        });
    });
}

/// The problems of this run, then those that the library knows.
fn all(state: &State) -> Vec<(PathBuf, String)> {
    let known = state.catalogue().map_or(&[][..], |catalogue| &catalogue.problems);
    let new = state.indexing.problems.iter().filter(|problem| !known.contains(problem));
    new.chain(known).cloned().collect()
}
