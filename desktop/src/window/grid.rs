//! The grid of hits; lays out and draws only the visible cells.

use std::path::Path;

use eframe::egui;
use egui::containers::scroll_area::ScrollSource;
use egui::{
    Align2, Color32, CornerRadius, FontId, Margin, PointerButton, Pos2, Rect, Role, ScrollArea,
    Sense, Stroke, StrokeKind, Ui, Vec2, WidgetInfo,
};
use mmgem_core::image::BoxPx;

use super::geometry::Fit;
use super::grid_layout::{Grid, HEADING, LINE};
use super::main_window::{Pictures, Window};
use super::state::{More, Shown};
use super::thumbnails::MissingCell;
use crate::library::{Mark, Photo, Ranked, date_in_words};
use crate::names::printable_path;

/// The user's action on a cell.
enum CellAction {
    Select(usize),
    /// Choose it besides the others, or not any more.
    Toggle(usize),
    /// Choose all cells up to it.
    SelectTo(usize),
    Favourite(usize),
    Hide(usize),
    Export(usize),
    Open(usize),
    Similar(usize),
    OpenOutside(usize),
    Reveal(usize),
    CopyPath(usize),
    /// Show every file with the same picture, or only one of them again.
    Unfold(usize),
}

/// Draws the grid and performs the user's actions in it.
pub fn grid(window: &mut Window, ui: &mut Ui) {
    let n_cells = window.state.n_shown();
    if n_cells == 0 {
        let says = if window.state.searching { "Searching" } else { "No photo matches" };
        ui.centered_and_justified(|ui| ui.weak(says));
        return;
    }
    let outer = ui.available_rect_before_wrap();
    let headings: Vec<usize> =
        window.state.hits.headings.iter().map(|heading| heading.first).collect();
    let bar = ui.spacing().scroll.allocated_width();
    let grid = Grid::new(n_cells, outer.width() - bar, window.cell_side, &headings);
    let mut area =
        ScrollArea::vertical().auto_shrink(false).content_margin(Margin::ZERO).id_salt("grid");
    if !ui.input(egui::InputState::has_touch_screen) {
        // A drag with the mouse chooses photos.
        area = area.scroll_source(ScrollSource::SCROLL_BAR | ScrollSource::MOUSE_WHEEL);
    }
    if let Some(top) = scroll_to(window, &grid) {
        area = area.vertical_scroll_offset(top as f32);
    }
    let mut action = None;
    let output = area.show_viewport(ui, |ui, viewport| {
        ui.set_height(grid.height() as f32);
        ui.set_width(ui.available_width());
        let pixels_per_point = f64::from(ui.pixels_per_point());
        let top = (f64::from(viewport.min.y) * pixels_per_point).round() / pixels_per_point;
        let visible = grid.visible(top, f64::from(viewport.height()));
        choose_by_drag(window, ui, &grid, outer, top);
        for (at, y) in grid.headings(top, f64::from(viewport.height())) {
            let rect = Rect::from_min_size(
                outer.min + Vec2::new(10.0, y),
                Vec2::new(outer.width() - bar - 20.0, HEADING),
            );
            heading(ui, rect, at, &window.state.hits.headings[at].text);
        }
        for at in visible.clone() {
            let [x, y] = grid.place(at, top);
            let rect = Rect::from_min_size(
                outer.min + Vec2::new(x, y),
                Vec2::new(grid.side, grid.side + LINE),
            );
            action = cell(window, ui, at, rect).or(action.take());
        }
        // Also the cells of the page below, for the next scroll.
        let ahead = visible.end..(visible.end + visible.len()).min(n_cells);
        window.state.cell_requests.want(missing(window, visible.chain(ahead)));
        viewport
    });
    window.scroll.top = f64::from(output.inner.min.y);
    window.scroll.height = f64::from(output.inner.height());
    window.grid = Some(grid);
    if let Some(action) = action {
        act(window, ui, action);
    }
}

/// The position to scroll to in this frame, if any.
fn scroll_to(window: &mut Window, grid: &Grid) -> Option<f64> {
    let scroll = &mut window.scroll;
    let to_selected = std::mem::take(&mut scroll.to_selected);
    let selected = window.state.selected.filter(|_| to_selected && scroll.height > 0.0);
    let shown = selected.map(|at| grid.scrolled_to(at, scroll.top, scroll.height));
    scroll.to.take().or(shown.filter(|top| *top != scroll.top))
}

/// Cells whose thumbnail, or whose best box for this search, is missing and was not read yet.
fn missing(window: &Window, cells: impl Iterator<Item = usize>) -> Vec<MissingCell> {
    let Pictures { thumbnails, boxes, .. } = &window.pictures;
    let missing_cell = |at| {
        let content = window.state.shown(at)?.hit.content;
        let (image, best_box) =
            (!thumbnails.has(content), window.state.hits.scored && !boxes.1.contains_key(&content));
        let is_read = || window.cells.iter().any(|cell| cell.content == content);
        ((image || best_box) && !is_read()).then_some(MissingCell { content, image, best_box })
    };
    // The picture of the photo that similar ones are searched for.
    let like = window.state.like_content.filter(|content| !thumbnails.has(*content));
    let like = like.map(|content| MissingCell { content, image: true, best_box: false });
    like.into_iter().chain(cells.filter_map(missing_cell)).collect()
}

fn cell(window: &mut Window, ui: &mut Ui, at: usize, rect: Rect) -> Option<CellAction> {
    let selected = window.state.is_chosen(at);
    let scored = window.state.hits.scored;
    let cell = window.state.shown(at)?;
    let Shown { hit, photo, path, more } = cell;
    let mark = window.state.mark_of(hit.content);
    let name = printable_path(Path::new(path.file_name().unwrap_or_default()));
    let id = ui.scope_id().with(("cell", hit.content, path));
    let response = ui.interact(rect, id, Sense::CLICK);
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
        let tint = if mark.hidden { Color32::from_white_alpha(90) } else { Color32::WHITE };
        ui.painter().image(texture.id(), rect_of(&fit), whole, tint);
        if let Some(best) = best.filter(|_| scored) {
            frame(ui, &fit, best);
        }
    }
    if mark.favourite {
        star(ui, picture.left_top() + Vec2::new(14.0, 14.0));
    }
    let wants_more = line(ui, hit, &name, more, scored, rect, id);
    if selected || response.hovered() {
        let color = if selected {
            ui.visuals().selection.stroke.color
        } else {
            ui.visuals().weak_text_color()
        };
        let stroke = Stroke::new(if selected { 3.0 } else { 1.0 }, color);
        if selected && window.state.has_several() {
            let veil = ui.visuals().selection.stroke.color.gamma_multiply(0.25);
            ui.painter().rect_filled(picture, corners, veil);
        }
        ui.painter().rect_stroke(picture, corners, stroke, StrokeKind::Outside);
    }
    let mut action = None;
    if wants_more {
        action = Some(CellAction::Unfold(at));
    } else if response.double_clicked() {
        action = Some(CellAction::Open(at));
    } else if response.clicked() {
        let modifiers = modifiers_of_click(ui);
        action = Some(if modifiers.command {
            CellAction::Toggle(at)
        } else if modifiers.shift {
            CellAction::SelectTo(at)
        } else {
            CellAction::Select(at)
        });
    } else if response.secondary_clicked() && !selected {
        action = Some(CellAction::Select(at));
    }
    response.context_menu(|ui| action = menu(ui, at, more, mark).or(action.take()));
    if response.hovered() {
        response.on_hover_ui_at_pointer(|ui| facts(ui, cell, scored));
    }
    action
}

/// Draws the name below a picture, the score, and the number of further files with the same
/// picture; returns whether the user clicked that number.
fn line(
    ui: &Ui,
    hit: &Ranked,
    name: &str,
    more: More,
    scored: bool,
    rect: Rect,
    id: egui::Id,
) -> bool {
    let (font, color) = (FontId::proportional(12.0), ui.visuals().weak_text_color());
    let y = rect.max.y - LINE / 2.0;
    let mut right = rect.max.x;
    if scored {
        let score = format!("{:.2}", hit.score);
        let painted = ui.painter().text(
            Pos2::new(right, y),
            Align2::RIGHT_CENTER,
            score,
            font.clone(),
            color,
        );
        right = painted.min.x - 6.0;
    }
    let mut clicked = false;
    let (label, says) = match more {
        More::Nothing => (String::new(), String::new()),
        More::Folded(n) => (
            format!("+{n}"),
            format!(
                "{n} more with this picture: copies, other sizes or formats. Click or G shows them"
            ),
        ),
        More::Unfolded => ("−".into(), "show only one file with this picture (G)".into()),
    };
    if !label.is_empty() {
        let galley = ui.painter().layout_no_wrap(label, font.clone(), ui.visuals().hyperlink_color);
        let place = Pos2::new(right - galley.size().x, y - galley.size().y / 2.0);
        let target = Rect::from_min_size(place, galley.size()).expand2(Vec2::new(6.0, 4.0));
        let response = ui.interact(target, id.with("more"), Sense::CLICK);
        response.widget_info(|| WidgetInfo::labeled(Role::Button, true, &says));
        let rim = Stroke::new(1.0, ui.visuals().hyperlink_color);
        if response.hovered() {
            ui.painter().rect_stroke(target, CornerRadius::same(3), rim, StrokeKind::Inside);
        }
        ui.painter().galley(place, galley, ui.visuals().hyperlink_color);
        clicked = response.on_hover_text(says).clicked();
        right = target.min.x - 2.0;
    }
    let mut job = name_job(name, font, ui.visuals().text_color());
    job.wrap = egui::text::TextWrapping::truncate_at_width((right - rect.min.x).max(8.0));
    let galley = ui.painter().layout_job(job);
    let place = Pos2::new(rect.min.x, y - galley.size().y / 2.0);
    ui.painter().galley(place, galley, ui.visuals().text_color());
    clicked
}

/// A name on one line. Each run from right to left is a section of its own, because a section is
/// shaped in one direction; otherwise `.jpg` after a Hebrew name would be reversed.
pub fn name_job(name: &str, font: FontId, color: Color32) -> egui::text::LayoutJob {
    let mut job = egui::text::LayoutJob { break_on_newline: false, ..Default::default() };
    for run in directions(name) {
        job.append(run, 0.0, egui::TextFormat::simple(font.clone(), color));
    }
    job
}

/// Splits a text where its direction changes. Neutral characters, such as digits and dots, count as
/// left to right.
fn directions(text: &str) -> Vec<&str> {
    // Hebrew, Arabic, Syriac, Thaana, N'Ko and their presentation forms.
    let is_leftward = |c: char| matches!(c, '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{feff}');
    let mut pieces = Vec::new();
    let (mut start, mut leftward) = (0, false);
    for (at, c) in text.char_indices() {
        if is_leftward(c) != leftward {
            if at > start {
                pieces.push(&text[start..at]);
            }
            (start, leftward) = (at, !leftward);
        }
    }
    if start < text.len() {
        pieces.push(&text[start..]);
    }
    pieces
}

fn facts(ui: &mut Ui, cell: Shown, scored: bool) {
    let Shown { hit, photo, path, .. } = cell;
    ui.set_max_width(420.0);
    ui.label(printable_path(path));
    ui.weak(facts_in_words(photo));
    if let Some(camera) = &photo.camera {
        ui.weak(camera);
    }
    if scored {
        ui.weak(format!("score {:.4}", hit.score));
    }
    for same in photo.paths.iter().filter(|other| *other != path).take(6) {
        ui.weak(format!("same: {}", printable_path(same)));
    }
}

/// Date, size and format of a photo, for the user.
pub fn facts_in_words(photo: &Photo) -> String {
    let [width, height] = photo.size_px;
    let from = photo.taken.from.in_words().map(|from| format!(" ({from})")).unwrap_or_default();
    format!("{}{from}, {width} × {height}, {}", date_in_words(photo.taken.secs), photo.format)
}

fn menu(ui: &mut Ui, at: usize, more: More, mark: Mark) -> Option<CellAction> {
    let entries = [
        ("Look at it", CellAction::Open(at)),
        ("Find similar photos", CellAction::Similar(at)),
        ("Open in another program", CellAction::OpenOutside(at)),
        ("Show in folder", CellAction::Reveal(at)),
        ("Copy path", CellAction::CopyPath(at)),
        ("Copy to a folder…", CellAction::Export(at)),
        (if mark.favourite { "No favourite" } else { "Favourite" }, CellAction::Favourite(at)),
        (if mark.hidden { "Show again" } else { "Hide" }, CellAction::Hide(at)),
    ];
    let unfold = match more {
        More::Nothing => None,
        More::Folded(n) => {
            Some((format!("Show {n} more with this picture"), CellAction::Unfold(at)))
        }
        More::Unfolded => {
            Some(("Show only one file with this picture".to_owned(), CellAction::Unfold(at)))
        }
    };
    let mut action = None;
    for (label, done) in
        entries.map(|(label, done)| (label.to_owned(), done)).into_iter().chain(unfold)
    {
        if ui.button(label).clicked() {
            action = Some(done);
            ui.close();
        }
    }
    action
}

fn act(window: &mut Window, ui: &Ui, action: CellAction) {
    let (CellAction::Select(at)
    | CellAction::Toggle(at)
    | CellAction::SelectTo(at)
    | CellAction::Favourite(at)
    | CellAction::Hide(at)
    | CellAction::Export(at)
    | CellAction::Open(at)
    | CellAction::Similar(at)
    | CellAction::OpenOutside(at)
    | CellAction::Reveal(at)
    | CellAction::CopyPath(at)
    | CellAction::Unfold(at)) = action;
    match action {
        CellAction::Toggle(_) => return window.state.toggle(at),
        CellAction::SelectTo(_) => return window.state.select_to(at),
        // These apply to all chosen photos, if this is one of them.
        CellAction::Favourite(_)
        | CellAction::Hide(_)
        | CellAction::Export(_)
        | CellAction::CopyPath(_)
        | CellAction::Reveal(_)
            if window.state.is_chosen(at) => {}
        _ => window.state.select(at),
    }
    match action {
        CellAction::Select(_) | CellAction::Toggle(_) | CellAction::SelectTo(_) => {}
        CellAction::Favourite(_) => window.state.toggle_favourite(),
        CellAction::Hide(_) => window.state.toggle_hidden(),
        CellAction::Export(_) => window.state.export(),
        CellAction::Open(_) => window.state.open(at),
        CellAction::Unfold(_) => window.state.unfold(at),
        CellAction::OpenOutside(_) => window.open_outside(),
        CellAction::Reveal(_) => window.reveal(),
        CellAction::Similar(_) => {
            if let Some(path) = window.state.current_path().map(ToOwned::to_owned) {
                window.state.search_like(path, None);
                window.scroll.to = Some(0.0);
            }
        }
        CellAction::CopyPath(_) => window.copy_paths(ui.ctx()),
    }
}

/// The modifiers at the end of the click. Those of the frame may be others, if the frame is slow.
fn modifiers_of_click(ui: &Ui) -> egui::Modifiers {
    ui.input(|input| {
        let released = input.events.iter().rev().find_map(|event| match event {
            egui::Event::PointerButton { pressed: false, modifiers, .. } => Some(*modifiers),
            _ => None,
        });
        released.unwrap_or(input.modifiers)
    })
}

/// A month, or the line above weak matches.
fn heading(ui: &Ui, rect: Rect, at: usize, text: &str) {
    let id = ui.scope_id().with(("heading", at));
    let response = ui.interact(rect, id, Sense::hover());
    response.widget_info(|| WidgetInfo::labeled(Role::Label, true, text));
    let color = ui.visuals().strong_text_color();
    let mut job = egui::text::LayoutJob::simple_singleline(
        text.to_owned(),
        FontId::proportional(14.0),
        color,
    );
    job.wrap = egui::text::TextWrapping::truncate_at_width(rect.width());
    let galley = ui.painter().layout_job(job);
    let place = Pos2::new(rect.min.x, rect.center().y - galley.size().y / 2.0);
    ui.painter().galley(place, galley, color);
    let line = Stroke::new(1.0, ui.visuals().widgets.noninteractive.bg_stroke.color);
    ui.painter().hline(rect.x_range(), rect.max.y - 5.0, line);
}

/// Chooses the cells under a rectangle that the user drags.
fn choose_by_drag(window: &mut Window, ui: &Ui, grid: &Grid, outer: Rect, top: f64) {
    let drags = !ui.input(egui::InputState::has_touch_screen);
    let sense = if drags { Sense::click_and_drag() } else { Sense::click() };
    let response = ui.interact(outer, ui.scope_id().with("background"), sense);
    let in_grid = |at: Pos2| [f64::from(at.x - outer.min.x), f64::from(at.y - outer.min.y) + top];
    if response.clicked() {
        window.state.choose(&[], false);
    }
    if response.drag_started_by(PointerButton::Primary) {
        let origin = ui.input(|input| input.pointer.press_origin());
        window.choose_from = origin.or(response.interact_pointer_pos()).map(in_grid);
    }
    if let (Some([x, y]), Some(pointer)) = (window.choose_from, response.interact_pointer_pos()) {
        let [to_x, to_y] = in_grid(pointer);
        let cells = grid.touched([x.min(to_x), y.min(to_y), x.max(to_x), y.max(to_y)]);
        let besides = ui.input(|input| input.modifiers.command || input.modifiers.shift);
        window.state.choose(&cells, besides);
        let from = outer.min + Vec2::new(x as f32, (y - top) as f32);
        let color = ui.visuals().selection.stroke.color;
        let (fill, stroke) = (color.gamma_multiply(0.15), Stroke::new(1.0, color));
        let layer = ui.ctx().layer_painter(egui::LayerId::new(
            egui::Order::Foreground,
            ui.scope_id().with("chosen"),
        ));
        let rect = Rect::from_two_pos(from, pointer);
        layer.with_clip_rect(outer).rect(rect, 2.0, fill, stroke, StrokeKind::Inside);
    }
    if response.drag_stopped() {
        window.choose_from = None;
    }
}

/// Marks a favourite: a star, light with a dark rim, so that it is visible on any photo.
fn star(ui: &Ui, center: Pos2) {
    let points: Vec<Pos2> = (0..10)
        .map(|i| {
            let (radius, angle) =
                (if i % 2 == 0 { 9.0 } else { 4.0 }, std::f32::consts::PI * i as f32 / 5.0);
            center + radius * Vec2::new(angle.sin(), -angle.cos())
        })
        .collect();
    let fill = Color32::from_rgb(255, 205, 60);
    let middle = egui::Shape::circle_filled(center, 5.0, fill);
    ui.painter().circle_filled(center, 12.0, Color32::from_black_alpha(140));
    for tip in 0..5 {
        let corner = |at: usize| points[at % 10];
        let triangle = vec![corner(2 * tip + 9), corner(2 * tip), corner(2 * tip + 1)];
        ui.painter().add(egui::Shape::convex_polygon(triangle, fill, Stroke::NONE));
    }
    ui.painter().add(middle);
}

pub fn rect_of(fit: &Fit) -> Rect {
    Rect::from_min_size(fit.left_top.into(), fit.size.into())
}

/// Draws the frame of a box on a photo, white with a dark rim, so that it is visible on any photo.
pub fn frame(ui: &Ui, fit: &Fit, box_px: BoxPx) {
    let [x0, y0, x1, y1] = fit.on_screen(box_px);
    let rect = Rect::from_min_max(Pos2::new(x0, y0), Pos2::new(x1, y1));
    let corners = CornerRadius::same(2);
    let rim = Stroke::new(4.0, Color32::from_black_alpha(150));
    ui.painter().rect_stroke(rect, corners, rim, StrokeKind::Middle);
    ui.painter().rect_stroke(rect, corners, Stroke::new(2.0, Color32::WHITE), StrokeKind::Middle);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_apart_where_its_direction_changes() {
        let check = |text: &str, wanted: &[&str]| assert_eq!(directions(text), wanted);
        check("photo 1.jpg", &["photo 1.jpg"]);
        check("עברית.jpg", &["עברית", ".jpg"]);
        check("a עב 1 גד.jpg", &["a ", "עב", " 1 ", "גד", ".jpg"]);
        check("日本語.jpg", &["日本語.jpg"]);
        check("", &[]);
    }
}
