//! The bar below the grid while several photos are selected.

use eframe::egui;
use egui::{TextWrapMode, Ui};

use super::main_window::Window;

pub fn chosen_bar(window: &mut Window, ui: &mut Ui) {
    ui.add_space(4.0);
    ui.horizontal_wrapped(|ui| {
        ui.style_mut().wrap_mode = Some(TextWrapMode::Extend);
        ui.strong(format!("{} selected", window.state.n_chosen()));
        if ui.button("Copy paths").on_hover_text("Ctrl+C").clicked() {
            window.copy_paths(ui.ctx());
        }
        let export = ui.button("Copy to a folder…");
        if export.on_hover_text("E; no file in the folder is replaced").clicked() {
            window.state.export();
        }
        if ui.button("Show in folder").on_hover_text("R").clicked() {
            window.reveal();
        }
        let are_favourites = window.state.are_all_chosen(|mark| mark.favourite);
        let label = if are_favourites { "No favourites" } else { "Favourites" };
        if ui.button(label).on_hover_text("F").clicked() {
            window.state.toggle_favourite();
        }
        let are_hidden = window.state.are_all_chosen(|mark| mark.hidden);
        if ui.button(if are_hidden { "Show again" } else { "Hide" }).on_hover_text("X").clicked() {
            window.state.toggle_hidden();
        }
        if ui.button("Select none").on_hover_text("Esc").clicked() {
            window.state.choose(&[], false);
        }
    });
    ui.add_space(4.0);
}
