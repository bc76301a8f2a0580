//! The bar above the grid: query, order and cut-off.

use std::path::Path;

use eframe::egui;
use egui::{Button, ComboBox, Frame, Key, Margin, Modifiers, Slider, TextEdit, TextWrapMode, Ui};

use super::filters::filters;
use super::geometry::Fit;
use super::grid::{frame as outline, rect_of};
use super::main_window::{NARROW, Window, search_id};
use super::state::Sort;
use crate::library::Cutoff;
use crate::names::printable_path;

pub fn search_bar(window: &mut Window, ui: &mut Ui) {
    ui.add_space(8.0);
    ui.horizontal(|ui| {
        let right = 92.0;
        query_field(window, ui, ui.available_width() - right);
        let open = window.library_open;
        if ui.add_sized([right - 8.0, 30.0], Button::new("Library").selected(open)).clicked() {
            window.library_open = !open;
        }
    });
    if window.state.form.like.is_some() {
        like_chip(window, ui);
    }
    ui.add_space(2.0);
    ui.horizontal_wrapped(|ui| {
        ui.spacing_mut().slider_width = 96.0;
        // In a narrow window controls wrap to the next row instead of breaking into single letters.
        ui.style_mut().wrap_mode = Some(TextWrapMode::Extend);
        // The filters would take four rows of a narrow window, and hide the photos.
        if ui.available_width() < NARROW {
            let open = window.filters_open;
            let label = match window.state.form.n_filters() {
                0 => "Filters".to_owned(),
                n => format!("Filters ({n})"),
            };
            if ui.add(Button::new(label).selected(open)).clicked() {
                window.filters_open = !open;
            }
            count(window, ui);
            if !open {
                return;
            }
            ui.end_row();
            filters(window, ui);
            order(window, ui);
        } else {
            filters(window, ui);
            order(window, ui);
            count(window, ui);
        }
    });
    for says in window.state.search_error.iter().chain(&window.state.warnings) {
        ui.colored_label(ui.visuals().warn_fg_color, says);
    }
    ui.add_space(4.0);
}

fn query_field(window: &mut Window, ui: &mut Ui, width: f32) {
    // Taken before the field sees them: both keys move to the hits.
    let focused = ui.ctx().memory(|memory| memory.has_focus(search_id()));
    let pressed = |key| ui.ctx().input_mut(|input| input.consume_key(Modifiers::NONE, key));
    let leaves = focused && (pressed(Key::Enter) || pressed(Key::ArrowDown));
    let state = &mut window.state;
    let hint = "What is on the photo? Try: a red circle, beach - people, dog after:2024";
    let field = TextEdit::singleline(&mut state.form.text)
        .id(search_id())
        .hint_text(hint)
        .font(egui::TextStyle::Heading)
        .margin(Margin::symmetric(10, 6))
        .desired_width(width - 30.0);
    let response = ui.add(field).accessible_name("Search");
    if response.changed() {
        state.form.like = None;
        let now_secs = ui.ctx().input(|input| input.time);
        state.form_changed(now_secs);
    }
    let empty = state.form.text.is_empty() && state.form.like.is_none();
    if ui
        .add_enabled(!empty, Button::new("×").frame(false))
        .on_hover_text("Clear the search")
        .clicked()
    {
        state.form.text.clear();
        state.form.like = None;
        state.search();
    }
    if leaves {
        response.surrender_focus();
        if state.n_shown() > 0 {
            state.selected.get_or_insert(0);
            window.scroll.to_selected = true;
        }
    }
}

/// Draws the photo that similar ones are searched for, with its box.
fn like_chip(window: &mut Window, ui: &mut Ui) {
    const SIDE: f32 = 40.0;
    let Some((path, box_px)) = window.state.form.like.clone() else { return };
    let name = printable_path(Path::new(path.file_name().unwrap_or_default()));
    let what = if box_px.is_some() { "like a region of" } else { "like" };
    let size_px = window
        .state
        .like_content
        .and_then(|content| Some(window.state.catalogue()?.photos.get(&content)?.size_px));
    let texture = window
        .state
        .like_content
        .and_then(|content| window.pictures.thumbnails.get(content))
        .map(egui::TextureHandle::id);
    let visuals = ui.visuals();
    let frame = Frame::new()
        .fill(visuals.selection.bg_fill.gamma_multiply(0.6))
        .corner_radius(8)
        .inner_margin(Margin::symmetric(8, 4));
    frame.show(ui, |ui| {
        ui.horizontal(|ui| {
            if let (Some(size_px), Some(texture)) = (size_px, texture) {
                let (rect, _) =
                    ui.allocate_exact_size(egui::vec2(SIDE, SIDE), egui::Sense::hover());
                let room = [rect.min.x, rect.min.y, SIDE, SIDE];
                let fit = Fit::new(size_px, room, f32::MAX);
                let whole = egui::Rect::from_min_max(egui::Pos2::ZERO, egui::Pos2::new(1.0, 1.0));
                ui.painter().image(texture, rect_of(&fit), whole, egui::Color32::WHITE);
                if let Some(box_px) = box_px {
                    outline(ui, &fit, box_px);
                }
            }
            let close = ui.add(Button::new("×").frame(false));
            if close.accessible_name("Clear the photo to search for").clicked() {
                window.state.form.like = None;
                window.state.search();
            }
            let label = egui::Label::new(format!("{what} {name}")).truncate();
            ui.add(label).on_hover_text(printable_path(&path));
        });
    });
}

fn order(window: &mut Window, ui: &mut Ui) {
    let state = &mut window.state;
    let mut sort = state.sort;
    for (order, label) in [(Sort::Relevance, "by relevance"), (Sort::Date, "by date")] {
        if ui.add_enabled(state.hits.scored, Button::selectable(sort == order, label)).clicked() {
            sort = order;
        }
    }
    if sort != state.sort {
        state.set_sort(sort);
        window.scroll.to = Some(0.0);
    }
    let state = &mut window.state;
    if let Some((least, most)) = state.score_range() {
        let mut cutoff = state.cutoff.clamp(least, most);
        let value =
            if state.cutoff <= least { "all".into() } else { format!("from {:.2}", state.cutoff) };
        keep_together(ui, SLIDER_ROOM + 60.0);
        let label = ui.label("score:").on_hover_text("Hits with a lower score are left out");
        let slider = Slider::new(&mut cutoff, least..=most).show_value(false);
        let slider = ui.add(slider).labelled_by(label.id);
        ui.label(value);
        if slider.changed() {
            // At the left end there is no cut-off, also for later queries.
            state.set_cutoff(if cutoff <= least { -1.0 } else { cutoff });
        }
        measured_cutoffs(window, ui);
        let state = &mut window.state;
        let mut good_only = state.good_only;
        if state.n_good().is_some()
            && ui
                .checkbox(&mut good_only, "good matches only")
                .on_hover_text("Leaves out the photos below the heading \"Weak matches\"")
                .changed()
        {
            state.set_good_only(good_only);
        }
    }
    keep_together(ui, SLIDER_ROOM);
    let label = ui.label("size:");
    ui.add(Slider::new(&mut window.cell_side, 96.0..=320.0).show_value(false))
        .labelled_by(label.id);
}

/// Draws the number of hits.
fn count(window: &Window, ui: &mut Ui) {
    let state = &window.state;
    let n_photos = state.catalogue().map_or(0, |catalogue| catalogue.photos.len());
    let n_hits = state.n_hits();
    let count = match n_hits == n_photos {
        true => format!("{n_photos} photos"),
        false => format!("{n_hits} of {n_photos} photos"),
    };
    let count = match state.n_good().filter(|_| !state.good_only) {
        Some(n_good) => format!("{count}, {n_good} good"),
        None => count,
    };
    ui.add(egui::Label::new(egui::RichText::new(count).strong()).extend());
    if state.searching {
        ui.add(egui::Spinner::new().size(14.0));
    }
}

/// Offers the cut-offs that `mmgem calibrate` measured with this model.
fn measured_cutoffs(window: &mut Window, ui: &mut Ui) {
    let state = &mut window.state;
    if state.cutoffs().is_empty() {
        return;
    }
    let mut chosen = None;
    let combo =
        ComboBox::from_id_salt("cutoff").width(70.0).selected_text("measured").show_ui(ui, |ui| {
            if ui.selectable_label(state.cutoff == -1.0, "all").clicked() {
                chosen = Some(-1.0);
            }
            for Cutoff { kept, min_score, passed } in state.cutoffs() {
                let (kept, passed) = (100.0 * kept, 100.0 * passed);
                let says = format!(
                    "from {min_score:.2}: {kept:.0} % of matches, {passed:.1} % of the rest"
                );
                if ui.selectable_label(state.cutoff == *min_score, says).clicked() {
                    chosen = Some(*min_score);
                }
            }
        });
    combo.response.accessible_name("Measured cut-offs");
    if let Some(cutoff) = chosen {
        state.set_cutoff(cutoff);
    }
}

/// Room for a slider and the label before it, in points.
const SLIDER_ROOM: f32 = 170.0;

/// Begins a new row if so many points do not fit into this one. A slider does not wrap by itself, and
/// a label should stand beside it.
fn keep_together(ui: &mut Ui, width: f32) {
    if ui.available_size_before_wrap().x < width {
        ui.end_row();
    }
}

/// A subtle frame around a group of controls.
pub fn group(ui: &mut Ui, add: impl FnOnce(&mut Ui)) {
    let visuals = ui.visuals();
    let frame =
        Frame::new().fill(visuals.faint_bg_color).corner_radius(6).inner_margin(Margin::same(10));
    frame.show(ui, |ui| {
        ui.set_width(ui.available_width());
        add(ui);
    });
}
