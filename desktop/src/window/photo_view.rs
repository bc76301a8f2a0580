//! The view of one photo. The user clicks a thing or drags a box to get its caption. The user can
//! also search for a text in the photo and find similar photos.

use std::path::Path;

use eframe::egui;
use egui::{
    Button, CentralPanel, Color32, CornerRadius, CursorIcon, Frame, Margin, Panel, PointerButton,
    Pos2, Rect, Response, RichText,
};
use egui::{Role, ScrollArea, Sense, Stroke, StrokeKind, TextEdit, Ui, WidgetInfo};

use super::geometry::{Fit, Zoom};
use super::grid::{facts_in_words, frame, name_job, rect_of};
use super::main_window::{NARROW, PhotoZoom, Window, phrase_id, texture};
use super::search_bar::group;
use super::state::{CaptionText, OpenPhoto};
use crate::names::printable_path;

/// A photo that fits is enlarged at most this many times.
const MOST_ENLARGED: f32 = 6.0;
/// Other files with the same picture that are listed.
const MOST_SAME: usize = 12;
/// A click this near to the last one, in points, gives the next box.
const CLICK_REACH: f32 = 6.0;
/// Wheel movement that steps to the next box, in points.
const STEP_POINTS: f32 = 40.0;
/// Zoom per point of the wheel; a notch is about 50 points.
const WHEEL_SPEED: f32 = 1.0 / 200.0;

pub fn photo_view(window: &mut Window, ui: &mut Ui) {
    let margin = Frame::side_top_panel(ui.style()).inner_margin(Margin::same(12));
    let panel = if ui.available_width() < NARROW {
        Panel::bottom("photo below").default_size(0.45 * ui.available_height())
    } else {
        Panel::right("photo").default_size(320.0).min_size(260.0)
    };
    panel.frame(margin).resizable(true).show(ui, |ui| {
        ScrollArea::vertical().auto_shrink(false).show(ui, |ui| side(window, ui));
    });
    let visuals = ui.visuals();
    let fill = if visuals.dark_mode { visuals.extreme_bg_color } else { visuals.faint_bg_color };
    CentralPanel::default().frame(Frame::NONE.fill(fill)).show(ui, |ui| canvas(window, ui));
}

fn canvas(window: &mut Window, ui: &mut Ui) {
    upload(window, ui);
    let area = ui.available_rect_before_wrap();
    let response = ui.interact(area, ui.scope_id().with("canvas"), Sense::DRAG | Sense::CLICK);
    response.widget_info(|| {
        WidgetInfo::labeled(
            Role::Image,
            true,
            "Photo: click a thing or drag a box to have it described",
        )
    });
    let was_zoomed = window.zoom.zoom != Zoom::default();
    let Some(fit) = zoom(window, ui, &response, area.shrink(14.0)) else { return };
    draw_photo(window, ui, &fit);
    show_match(window);
    hover(window, &response, &fit);

    let Some(look) = &window.state.photo else { return };
    if let Some(box_px) =
        look.clicks.preview(fit.px(CLICK_REACH)).filter(|_| window.drag_from.is_none())
    {
        preview(ui, &fit, box_px);
    }
    if let Some(located) = look.located.as_ref().filter(|_| look.heat_on) {
        frame(ui, &fit, located.box_px);
        tag(ui, &fit, located.box_px, &located.text, area);
    }
    let pointer = response.interact_pointer_pos().map(|at| [at.x, at.y]);
    let mut dragged = None;
    if response.drag_started_by(PointerButton::Primary) {
        let origin = ui.input(|input| input.pointer.press_origin()).map(|at| [at.x, at.y]);
        window.drag_from = origin.or(pointer);
    }
    if let (Some(from), Some(to)) = (window.drag_from, pointer) {
        dragged = fit.dragged(from, to);
        if let Some(box_px) = dragged {
            frame(ui, &fit, box_px);
        }
    } else if let Some((box_px, writing)) = &look.dragged {
        frame(ui, &fit, *box_px);
        tag(ui, &fit, *box_px, said(writing), area);
    } else if let Some((box_px, writing)) =
        look.matched.as_ref().filter(|_| look.located.is_none() || !look.heat_on)
    {
        frame(ui, &fit, *box_px);
        if !writing.text.is_empty() {
            tag(ui, &fit, *box_px, &writing.text, area);
        }
    }
    if response.drag_stopped() {
        window.drag_from = None;
        if let Some(box_px) = dragged {
            window.state.drag(box_px);
        }
    } else if response.clicked() && !(response.double_clicked() && was_zoomed) {
        match pointer.and_then(|at| fit.point_px(at)) {
            Some(point) => window.state.click(point, fit.px(CLICK_REACH)),
            None => window.state.drop_box(),
        }
    }
    response.on_hover_cursor(CursorIcon::Crosshair);
}

/// Shows the box that matches the query best, once the grid knows it.
fn show_match(window: &mut Window) {
    let Some(photo) = &window.state.photo else { return };
    if photo.matched.is_some() || photo.pixels.is_none() || !window.state.hits.scored {
        return;
    }
    let best = window.pictures.boxes.1.get(&photo.content).copied().flatten();
    if let Some(box_px) = best {
        window.state.show_match(box_px);
    }
}

/// Requests the boxes under the pointer, and steps to the next box if the wheel turned over the
/// place of the last click.
fn hover(window: &mut Window, response: &Response, fit: &Fit) {
    let point = response.hover_pos().and_then(|at| fit.point_px([at.x, at.y]));
    window.state.hover(point);
    if window.turned.abs() >= STEP_POINTS {
        window.state.step(if window.turned < 0.0 { 1 } else { -1 });
        window.turned = 0.0;
    }
}

/// Draws the box that a click would give.
fn preview(ui: &Ui, fit: &Fit, box_px: mmgem_core::image::BoxPx) {
    let [x0, y0, x1, y1] = fit.on_screen(box_px);
    let rect = Rect::from_min_max(Pos2::new(x0, y0), Pos2::new(x1, y1));
    let stroke = Stroke::new(1.5, Color32::from_white_alpha(150));
    ui.painter().rect_stroke(rect, CornerRadius::same(2), stroke, StrokeKind::Middle);
}

/// Applies zoom and pan, and returns the photo's place. Wheel, pinch and keys zoom; a double click
/// resets; a drag with another button than the primary one pans.
fn zoom(window: &mut Window, ui: &Ui, response: &Response, room: Rect) -> Option<Fit> {
    let look = window.state.photo.as_ref()?;
    let middle = [room.center().x, room.center().y];
    let room = [room.min.x, room.min.y, room.width(), room.height()];
    let whole = Fit::new(look.size_px, room, MOST_ENLARGED);
    if window.zoom.of != look.number {
        window.zoom = PhotoZoom { of: look.number, ..PhotoZoom::default() };
    }
    let by_keys = std::mem::replace(&mut window.zoom.next, 1.0);
    let seen = window.zoom.zoom.seen(&whole, room);
    let is_step = response
        .hover_pos()
        .and_then(|at| seen.point_px([at.x, at.y]))
        .is_some_and(|point| look.clicks.is_step(point, seen.px(CLICK_REACH)));
    let zoom = &mut window.zoom.zoom;
    if by_keys != 1.0 {
        *zoom = zoom.enlarged(by_keys, middle, &whole, room);
    }
    if let Some(at) = response.hover_pos() {
        let (by_pinch, scrolled) =
            ui.input(|input| (input.zoom_delta(), input.smooth_scroll_delta().y));
        let factor = if is_step { by_pinch } else { by_pinch * (scrolled * WHEEL_SPEED).exp() };
        window.turned = if is_step { window.turned + scrolled } else { 0.0 };
        if factor != 1.0 {
            *zoom = zoom.enlarged(factor, [at.x, at.y], &whole, room);
        }
    }
    if response.dragged_by(PointerButton::Secondary) || response.dragged_by(PointerButton::Middle) {
        let by = response.drag_delta();
        *zoom = zoom.pulled([by.x, by.y], &whole, room);
    }
    if response.double_clicked() {
        *zoom = Zoom::default();
    }
    Some(zoom.seen(&whole, room))
}

/// Uploads new pictures as textures.
fn upload(window: &mut Window, ui: &Ui) {
    let (Some(look), pictures) = (&window.state.photo, &mut window.pictures) else { return };
    if let Some(pixels) = &look.pixels
        && pictures.photo.as_ref().is_none_or(|(of, _)| *of != look.number)
    {
        pictures.photo = Some((look.number, texture(ui.ctx(), "photo", pixels)));
    }
    if let Some(located) = &look.located {
        let key = (look.number, located.number);
        if pictures.heat.as_ref().is_none_or(|(of, _)| *of != key) {
            pictures.heat = Some((key, texture(ui.ctx(), "heat", &located.heat)));
        }
    }
}

/// Draws the heat map or the photo; until the photo is loaded, its thumbnail.
fn draw_photo(window: &mut Window, ui: &Ui, fit: &Fit) {
    let (Some(look), pictures) = (&window.state.photo, &mut window.pictures) else { return };
    let heat_on = look.heat_on && look.located.is_some();
    let heat = pictures.heat.as_ref().filter(|((of, _), _)| heat_on && *of == look.number);
    let photo = pictures.photo.as_ref().filter(|(of, _)| *of == look.number);
    let texture = match (heat, photo) {
        (Some((_, texture)), _) | (None, Some((_, texture))) => Some(texture.id()),
        (None, None) => pictures.thumbnails.get(look.content).map(egui::TextureHandle::id),
    };
    let whole = Rect::from_min_max(Pos2::ZERO, Pos2::new(1.0, 1.0));
    match texture {
        Some(id) => _ = ui.painter().image(id, rect_of(fit), whole, Color32::WHITE),
        None => _ = ui.painter().rect_filled(rect_of(fit), 0.0, ui.visuals().faint_bg_color),
    }
}

/// Draws a few words below a box, or inside it if there is no room below.
fn tag(ui: &Ui, fit: &Fit, box_px: mmgem_core::image::BoxPx, text: &str, area: Rect) {
    let [x0, _, x1, y1] = fit.on_screen(box_px);
    let font = egui::FontId::proportional(15.0);
    let width = (x1 - x0).max(180.0);
    let galley = ui.painter().layout(text.to_owned(), font, Color32::WHITE, width);
    let size = galley.size() + egui::vec2(14.0, 8.0);
    let y = if y1 + 6.0 + size.y < area.max.y { y1 + 6.0 } else { y1 - size.y - 6.0 };
    let x = x0.min(area.max.x - size.x).max(area.min.x);
    let rect = Rect::from_min_size(Pos2::new(x, y), size);
    let stroke = Stroke::new(1.0, Color32::from_white_alpha(60));
    let (corners, fill) = (CornerRadius::same(5), Color32::from_black_alpha(215));
    ui.painter().rect(rect, corners, fill, stroke, StrokeKind::Inside);
    ui.painter().galley(rect.min + egui::vec2(7.0, 4.0), galley, Color32::WHITE);
}

fn said(writing: &CaptionText) -> &str {
    match writing.text.as_str() {
        "" if writing.done => "(nothing)",
        "" => "…",
        text => text,
    }
}

fn side(window: &mut Window, ui: &mut Ui) {
    ui.horizontal(|ui| {
        if ui.button("Back").on_hover_text("Esc").clicked() {
            window.close_photo();
        }
        let Some(look) = &window.state.photo else { return };
        let (at, n_shown) = (look.at, window.state.n_shown());
        if ui.add_enabled(at > 0, Button::new("Previous")).on_hover_text("left arrow").clicked() {
            window.state.turn(false);
        }
        if ui
            .add_enabled(at + 1 < n_shown, Button::new("Next"))
            .on_hover_text("right arrow")
            .clicked()
        {
            window.state.turn(true);
        }
        ui.weak(format!("{} / {n_shown}", at + 1));
    });
    ui.add_space(6.0);
    if window.state.photo.is_none() {
        return;
    }
    about(window, ui);
    ui.add_space(8.0);
    why(window, ui);
    group(ui, |ui| whole(window, ui));
    ui.add_space(8.0);
    group(ui, |ui| region(window, ui));
    ui.add_space(8.0);
    group(ui, |ui| find_text(window, ui));
    if let Some(OpenPhoto { problem: Some(problem), .. }) = &window.state.photo {
        ui.add_space(8.0);
        ui.colored_label(ui.visuals().error_fg_color, problem);
    }
}

fn about(window: &mut Window, ui: &mut Ui) {
    let Some(look) = &window.state.photo else { return };
    let name = printable_path(Path::new(look.path.file_name().unwrap_or_default()));
    let font = egui::FontId::proportional(17.0);
    ui.label(name_job(&name, font, ui.visuals().strong_text_color()));
    let folder = printable_path(look.path.parent().unwrap_or(&look.path));
    ui.add(egui::Label::new(RichText::new(folder).weak()).truncate());
    let photo = window.state.catalogue().and_then(|catalogue| catalogue.photos.get(&look.content));
    if let Some(photo) = photo {
        ui.weak(facts_in_words(photo));
        if let Some(problem) = &photo.problem {
            ui.colored_label(ui.visuals().warn_fg_color, problem);
        }
        if let Some(camera) = &photo.camera {
            ui.weak(camera);
        }
        if let Some([latitude, longitude]) = photo.place {
            ui.weak(format!("{latitude:.4}, {longitude:.4}"));
        }
    }
    let place = photo.and_then(|photo| photo.place);
    let same: Vec<String> =
        look.same.iter().take(MOST_SAME).map(|(_, path)| printable_path(path)).collect();
    let n_same = look.same.len();
    if n_same > 0 {
        let (files, copies) =
            (if n_same == 1 { "file" } else { "files" }, "with the same picture:");
        ui.label(format!("{n_same} more {files} {copies}"))
            .on_hover_text("Copies, and the picture in other formats, sizes and qualities");
        let mut opened = None;
        for (index, path) in same.iter().enumerate() {
            let link = Button::new(RichText::new(path).color(ui.visuals().hyperlink_color));
            if ui.add(link.frame(false).truncate()).on_hover_text("Open this file").clicked() {
                opened = Some(index);
            }
        }
        if let Some(index) = opened {
            return window.state.open_same(index);
        }
    }
    if let Some([latitude, longitude]) = place
        && ui.button("Photos near here").on_hover_text("Taken within 10 km").clicked()
    {
        return window.search_near([latitude, longitude]);
    }
    let mark = window
        .state
        .photo
        .as_ref()
        .map(|photo| window.state.mark_of(photo.content))
        .unwrap_or_default();
    ui.horizontal_wrapped(|ui| {
        if ui.add(Button::new("Favourite").selected(mark.favourite)).on_hover_text("F").clicked() {
            window.state.toggle_favourite();
        }
        let hidden = ui.add(Button::new("Hidden").selected(mark.hidden));
        if hidden.on_hover_text("Only the filter \"hidden\" shows it").clicked() {
            window.state.toggle_hidden();
        }
        if ui.button("Copy to a folder…").clicked() {
            window.state.export();
        }
        if ui.button("Open").on_hover_text("With the system's default program (O)").clicked() {
            window.open_outside();
        }
        if ui.button("Show in folder").on_hover_text("R").clicked() {
            window.reveal();
        }
        if ui.button("Copy path").on_hover_text("Ctrl+C").clicked() {
            window.copy_paths(ui.ctx());
        }
    });
}

/// Draws the box that matched the query, and its caption.
fn why(window: &Window, ui: &mut Ui) {
    let Some((box_px, writing)) =
        window.state.photo.as_ref().and_then(|photo| photo.matched.as_ref())
    else {
        return;
    };
    group(ui, |ui| {
        ui.strong("Why this photo");
        if let Some(score) = window.state.open_score() {
            ui.label(format!("It scores {score:.3}. In the box that matches best:"));
        }
        ui.label(said(writing));
        ui.weak(format!("box {}", crate::terminal::box_text(Some(*box_px))));
    });
    ui.add_space(8.0);
}

fn whole(window: &mut Window, ui: &mut Ui) {
    ui.strong("The whole photo");
    let Some(look) = &window.state.photo else { return };
    let caption = look.caption.clone();
    match &caption {
        Some(writing) => _ = ui.label(said(writing)),
        None => {
            ui.horizontal_wrapped(|ui| {
                if ui.button("Describe it").on_hover_text("C").clicked() {
                    window.state.caption_whole();
                }
            })
            .inner
        }
    }
    ui.horizontal_wrapped(|ui| {
        if ui.button("Find similar photos").clicked()
            && let Some(path) = window.state.current_path().map(ToOwned::to_owned)
        {
            window.state.search_like(path, None);
            window.scroll.to = Some(0.0);
        }
        if caption.is_some_and(|writing| writing.done) {
            let save = ui.button("Save as XMP sidecar");
            if save
                .on_hover_text(
                    "Writes the description to a file beside the photo, which photo programs read",
                )
                .clicked()
            {
                window.state.write_sidecar(false);
            }
        }
    });
    let foreign = window.state.photo.as_ref().and_then(|look| look.foreign.clone());
    if let Some((path, _)) = foreign {
        let name = printable_path(Path::new(path.file_name().unwrap_or_default()));
        ui.colored_label(
            ui.visuals().warn_fg_color,
            format!("{name} already exists, from another program."),
        );
        ui.horizontal_wrapped(|ui| {
            if ui.button("Replace it, keep it as .bak").clicked() {
                window.state.write_sidecar(true);
            }
            if ui.button("Leave it").clicked()
                && let Some(look) = &mut window.state.photo
            {
                look.foreign = None;
            }
        });
    }
}

fn region(window: &mut Window, ui: &mut Ui) {
    ui.strong("A region");
    let dragged = window.state.photo.as_ref().and_then(|look| look.dragged.clone());
    let Some((box_px, writing)) = dragged else {
        ui.weak("Click a thing on the photo, and again for another box there; or draw a box.");
        return;
    };
    ui.label(said(&writing));
    ui.weak(format!("box {}", crate::terminal::box_text(Some(box_px))));
    ui.horizontal_wrapped(|ui| {
        if ui.button("Find similar regions").on_hover_text("S").clicked() {
            window.similar();
        }
        if ui.button("Drop the box").on_hover_text("Esc").clicked() {
            window.state.drop_box();
        }
    });
}

fn find_text(window: &mut Window, ui: &mut Ui) {
    let heading = ui.strong("Find text here");
    let Some(look) = &mut window.state.photo else { return };
    let mut go = false;
    ui.horizontal(|ui| {
        let field = TextEdit::singleline(&mut look.phrase)
            .id(phrase_id())
            .hint_text("the red circle")
            .desired_width(ui.available_width() - 60.0);
        let response = ui.add(field).labelled_by(heading.id);
        go = response.lost_focus() && ui.input(|input| input.key_pressed(egui::Key::Enter));
        go |= ui.add_enabled(!look.phrase.trim().is_empty(), Button::new("Find")).clicked();
    });
    if look.locating {
        ui.add(egui::Spinner::new().size(14.0));
    } else if let Some(located) = &look.located {
        ui.weak(format!("“{}” scores {:.3} in its best box", located.text, located.score));
        ui.checkbox(&mut look.heat_on, "heat map and box").on_hover_text("H");
    }
    if go {
        window.state.locate();
    }
}
