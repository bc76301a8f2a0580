//! The grid of hits: only the cells that are seen are laid out and drawn.

use eframe::egui;
use egui::{
    Align2, Color32, CornerRadius, FontId, Margin, Pos2, Rect, Role, ScrollArea, Sense, Stroke, StrokeKind,
    Ui, Vec2, WidgetInfo,
};
use mmgem_core::image::BoxPx;

use super::geometry::{Fit, Grid, LINE};
use super::thumbnails::Lack;
use super::window::{Pictures, Window};
use crate::library::{Photo, Ranked};

/// What was done with a cell.
enum Deed {
    Select(usize),
    Open(usize),
    Similar(usize),
    OpenOutside(usize),
    Reveal(usize),
    CopyPath(usize),
}

/// Draws the grid and does what is done in it.
pub fn grid(window: &mut Window, ui: &mut Ui) {
    let n_cells = window.state.n_shown();
    if n_cells == 0 {
        let says = if window.state.searching { "Searching" } else { "No photo is a hit" };
        ui.centered_and_justified(|ui| ui.weak(says));
        return;
    }
    let outer = ui.available_rect_before_wrap();
    let bar = ui.spacing().scroll.allocated_width();
    let grid = Grid::new(n_cells, outer.width() - bar, window.cell_side);
    let mut area = ScrollArea::vertical().auto_shrink(false).content_margin(Margin::ZERO).id_salt("grid");
    if let Some(top) = scroll_to(window, &grid) {
        area = area.vertical_scroll_offset(top as f32);
    }
    let mut deed = None;
    let output = area.show_viewport(ui, |ui, viewport| {
        ui.set_height(grid.height() as f32);
        ui.set_width(ui.available_width());
        let pixels_per_point = f64::from(ui.pixels_per_point());
        let top = (f64::from(viewport.min.y) * pixels_per_point).round() / pixels_per_point;
        let visible = grid.visible(top, f64::from(viewport.height()));
        for at in visible.clone() {
            let [x, y] = grid.place(at, top);
            let rect =
                Rect::from_min_size(outer.min + Vec2::new(x, y), Vec2::new(grid.side, grid.side + LINE));
            deed = cell(window, ui, at, rect).or(deed.take());
        }
        // And those of the page below, where one scrolls next.
        let ahead = visible.end..(visible.end + visible.len()).min(n_cells);
        window.state.wants.want(lacks(window, visible.chain(ahead)));
        viewport
    });
    window.scroll.top = f64::from(output.inner.min.y);
    window.scroll.height = f64::from(output.inner.height());
    window.scroll.n_columns = grid.n_columns;
    if let Some(deed) = deed {
        act(window, ui, deed);
    }
}

/// Where the grid is to be scrolled in this frame, if anywhere.
fn scroll_to(window: &mut Window, grid: &Grid) -> Option<f64> {
    let scroll = &mut window.scroll;
    let to_selected = std::mem::take(&mut scroll.to_selected);
    let selected = window.state.selected.filter(|_| to_selected && scroll.height > 0.0);
    let shown = selected.map(|at| grid.scrolled_to(at, scroll.top, scroll.height));
    scroll.to.take().or(shown.filter(|top| *top != scroll.top))
}

/// Cells without a picture, or without the box that belongs to this search, but for those that were read.
fn lacks(window: &Window, cells: impl Iterator<Item = usize>) -> Vec<Lack> {
    let Pictures { thumbnails, boxes, .. } = &window.pictures;
    let lack = |at| {
        let content = window.state.shown(at)?.0.content;
        let (image, best_box) =
            (!thumbnails.has(content), window.state.hits.scored && !boxes.1.contains_key(&content));
        let is_read = || window.cells.iter().any(|cell| cell.content == content);
        ((image || best_box) && !is_read()).then_some(Lack { content, image, best_box })
    };
    cells.filter_map(lack).collect()
}

fn cell(window: &mut Window, ui: &mut Ui, at: usize, rect: Rect) -> Option<Deed> {
    let selected = window.state.selected == Some(at);
    let scored = window.state.hits.scored;
    let (hit, photo) = window.state.shown(at)?;
    let name = photo.paths[0].file_name().unwrap_or_default().to_string_lossy().into_owned();
    let response = ui.interact(rect, ui.scope_id().with(("cell", hit.content)), Sense::CLICK);
    response.widget_info(|| WidgetInfo::selected(Role::Button, true, selected, &name));

    let visuals = ui.visuals();
    let picture = Rect::from_min_size(rect.min, Vec2::splat(rect.width()));
    let corners = CornerRadius::same(4);
    ui.painter().rect_filled(picture, corners, visuals.faint_bg_color);
    let best = window.pictures.boxes.1.get(&hit.content).copied().flatten();
    if let Some(texture) = window.pictures.thumbnails.get(hit.content) {
        let [x, y] = [picture.min.x, picture.min.y];
        let fit = Fit::new(photo.size_px, [x, y, picture.width(), picture.height()], f32::MAX);
        let whole = Rect::from_min_max(Pos2::ZERO, Pos2::new(1.0, 1.0));
        ui.painter().image(texture.id(), rect_of(&fit), whole, Color32::WHITE);
        if let Some(best) = best.filter(|_| scored) {
            frame(ui, &fit, best);
        }
    }
    line(ui, hit, &name, scored, rect);
    if selected || response.hovered() {
        let color =
            if selected { ui.visuals().selection.stroke.color } else { ui.visuals().weak_text_color() };
        let stroke = Stroke::new(if selected { 3.0 } else { 1.0 }, color);
        ui.painter().rect_stroke(picture, corners, stroke, StrokeKind::Outside);
    }
    let mut deed = None;
    if response.double_clicked() {
        deed = Some(Deed::Open(at));
    } else if response.clicked() {
        deed = Some(Deed::Select(at));
    }
    response.context_menu(|ui| deed = menu(ui, at).or(deed.take()));
    if response.hovered() {
        response.on_hover_ui_at_pointer(|ui| facts(ui, hit, photo, scored));
    }
    deed
}

/// The name below a picture, and the score.
fn line(ui: &Ui, hit: &Ranked, name: &str, scored: bool, rect: Rect) {
    let (font, color) = (FontId::proportional(12.0), ui.visuals().weak_text_color());
    let y = rect.max.y - LINE / 2.0;
    let mut right = rect.max.x;
    if scored {
        let score = format!("{:.2}", hit.score);
        let painted =
            ui.painter().text(Pos2::new(right, y), Align2::RIGHT_CENTER, score, font.clone(), color);
        right = painted.min.x - 6.0;
    }
    if !hit.similar.is_empty() {
        let more = format!("+{}", hit.similar.len());
        let painted = ui.painter().text(Pos2::new(right, y), Align2::RIGHT_CENTER, more, font.clone(), color);
        right = painted.min.x - 6.0;
    }
    let mut job = egui::text::LayoutJob::simple_singleline(name.to_owned(), font, ui.visuals().text_color());
    job.wrap = egui::text::TextWrapping::truncate_at_width((right - rect.min.x).max(8.0));
    let galley = ui.painter().layout_job(job);
    let place = Pos2::new(rect.min.x, y - galley.size().y / 2.0);
    ui.painter().galley(place, galley, ui.visuals().text_color());
}

fn facts(ui: &mut Ui, hit: &Ranked, photo: &Photo, scored: bool) {
    ui.set_max_width(420.0);
    ui.label(photo.paths[0].to_string_lossy());
    let [width, height] = photo.size_px;
    let date = date_in_words(photo.taken_secs);
    ui.weak(format!("{date}, {width} × {height}, {}", photo.format));
    if let Some(camera) = &photo.camera {
        ui.weak(camera);
    }
    if scored {
        ui.weak(format!("score {:.4}", hit.score));
    }
    for same in photo.paths[1..].iter().chain(&hit.similar).take(6) {
        ui.weak(format!("same: {}", same.display()));
    }
}

fn menu(ui: &mut Ui, at: usize) -> Option<Deed> {
    let entries = [
        ("Look at it", Deed::Open(at)),
        ("Find similar photos", Deed::Similar(at)),
        ("Open in another program", Deed::OpenOutside(at)),
        ("Show in folder", Deed::Reveal(at)),
        ("Copy path", Deed::CopyPath(at)),
    ];
    let mut deed = None;
    for (label, done) in entries {
        if ui.button(label).clicked() {
            deed = Some(done);
            ui.close();
        }
    }
    deed
}

fn act(window: &mut Window, ui: &Ui, deed: Deed) {
    let (Deed::Select(at)
    | Deed::Open(at)
    | Deed::Similar(at)
    | Deed::OpenOutside(at)
    | Deed::Reveal(at)
    | Deed::CopyPath(at)) = deed;
    window.state.selected = Some(at);
    match deed {
        Deed::Select(_) => {}
        Deed::Open(_) => window.state.open(at),
        Deed::OpenOutside(_) => window.open_outside(),
        Deed::Reveal(_) => window.reveal(),
        Deed::Similar(_) => {
            if let Some(path) = window.state.current_path().map(ToOwned::to_owned) {
                window.state.search_like(path, None);
                window.scroll.to = Some(0.0);
            }
        }
        Deed::CopyPath(_) => {
            if let Some(path) = window.state.current_path() {
                ui.ctx().copy_text(path.to_string_lossy().into_owned());
            }
        }
    }
}

pub fn rect_of(fit: &Fit) -> Rect {
    Rect::from_min_size(fit.left_top.into(), fit.size.into())
}

/// The frame of a box on a photo: white with a dark rim, so that it shows on anything.
pub fn frame(ui: &Ui, fit: &Fit, box_px: BoxPx) {
    let [x0, y0, x1, y1] = fit.on_screen(box_px);
    let rect = Rect::from_min_max(Pos2::new(x0, y0), Pos2::new(x1, y1));
    let corners = CornerRadius::same(2);
    let rim = Stroke::new(4.0, Color32::from_black_alpha(150));
    ui.painter().rect_stroke(rect, corners, rim, StrokeKind::Middle);
    ui.painter().rect_stroke(rect, corners, Stroke::new(2.0, Color32::WHITE), StrokeKind::Middle);
}

/// A day as `2024-05-17`, by the clock that the seconds are of.
pub fn date_in_words(secs: i64) -> String {
    // Hinnant, `civil_from_days`.
    let days = secs.div_euclid(86_400) + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::library::days_since_1970;

    #[test]
    fn days_are_told_as_they_are_counted() {
        for (year, month, day) in [(1970, 1, 1), (1969, 12, 31), (2000, 2, 29), (2024, 3, 1), (2026, 11, 25)]
        {
            let secs = days_since_1970(year, month, day) * 86_400 + 86_399;
            assert_eq!(date_in_words(secs), format!("{year:04}-{month:02}-{day:02}"));
        }
    }
}
