//! A calendar and a map of all photos; a click on a month or a place filters by it.

use eframe::egui;
use egui::{
    Align2, Color32, FontId, Pos2, Rect, Role, ScrollArea, Sense, Stroke, Ui, Vec2, WidgetInfo,
};

use super::main_window::Window;
use super::messages::Catalogue;
use super::months::{limits_of, name_of};

/// A dot is found by a click this near to it, in points.
const REACH: f32 = 8.0;
/// The map shows at least this many degrees.
const LEAST_DEGREES: f64 = 0.2;
/// Part of a degree of latitude that a dot may cover is at least this many kilometres wide.
const LEAST_KM: f64 = 1.0;
const KM_A_DEGREE: f64 = 111.2;

/// The page that replaces the grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overview {
    Calendar,
    Map,
}

pub fn overview(window: &mut Window, page: Overview, ui: &mut Ui) {
    ui.add_space(8.0);
    ui.horizontal_wrapped(|ui| {
        if ui.button("Back").on_hover_text("Esc").clicked() {
            window.overview = None;
        }
        ui.heading(match page {
            Overview::Calendar => "Photos by month",
            Overview::Map => "Places of photos",
        });
        if page == Overview::Map {
            ui.weak(
                "Latitude and longitude. Wheel zooms, a drag moves, a click finds photos there.",
            );
        }
    });
    ui.add_space(4.0);
    match page {
        Overview::Calendar => calendar(window, ui),
        Overview::Map => map(window, ui),
    }
}

/// Draws the months that have photos, the latest year first.
fn calendar(window: &mut Window, ui: &mut Ui) {
    let Some(catalogue) = window.state.catalogue() else { return };
    let mut years: Vec<(i64, Vec<(u8, usize)>)> = Vec::new();
    for ((year, month), n) in catalogue.months.iter().rev() {
        match years.last_mut() {
            Some((last, months)) if last == year => months.insert(0, (*month, *n)),
            _ => years.push((*year, vec![(*month, *n)])),
        }
    }
    let mut chosen = None;
    ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
        for (year, months) in years {
            ui.strong(year.to_string());
            ui.horizontal_wrapped(|ui| {
                for (month, n) in months {
                    let button = ui.button(format!("{} ({n})", &name_of(month)[..3]));
                    let name = format!("{} {year}, {n} photos", name_of(month));
                    if button.accessible_name(name).clicked() {
                        chosen = Some((year, month));
                    }
                }
            });
            ui.add_space(6.0);
        }
    });
    if let Some(month) = chosen {
        let form = &mut window.state.form;
        [form.after, form.before] = limits_of(month);
        window.state.search();
        window.close_overview();
    }
}

/// The part of the world that the map shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MapView {
    /// Latitude and longitude of the middle.
    middle: [f64; 2],
    degrees_a_point: f64,
}

impl MapView {
    /// Shows all these places.
    fn of(places: &[[f64; 2]], size: Vec2) -> Self {
        let range = |i: usize| {
            let least = places.iter().map(|place| place[i]).fold(f64::INFINITY, f64::min);
            let most = places.iter().map(|place| place[i]).fold(f64::NEG_INFINITY, f64::max);
            if least <= most { (least, most) } else { [(-90.0, 90.0), (-180.0, 180.0)][i] }
        };
        let (latitudes, longitudes) = (range(0), range(1));
        let scale = |(least, most): (f64, f64), points: f32| {
            (1.2 * (most - least)).max(LEAST_DEGREES) / f64::from(points.max(1.0))
        };
        Self {
            middle: [(latitudes.0 + latitudes.1) / 2.0, (longitudes.0 + longitudes.1) / 2.0],
            degrees_a_point: scale(latitudes, size.y).max(scale(longitudes, size.x)),
        }
    }

    fn on_screen(&self, [latitude, longitude]: [f64; 2], area: Rect) -> Pos2 {
        let x = (longitude - self.middle[1]) / self.degrees_a_point;
        let y = (self.middle[0] - latitude) / self.degrees_a_point;
        area.center() + Vec2::new(x as f32, y as f32)
    }

    fn place_at(&self, at: Pos2, area: Rect) -> [f64; 2] {
        let from_middle = at - area.center();
        [
            self.middle[0] - f64::from(from_middle.y) * self.degrees_a_point,
            self.middle[1] + f64::from(from_middle.x) * self.degrees_a_point,
        ]
    }

    /// Zooms by a factor; the place at `at` stays there.
    fn zoomed(&self, factor: f64, at: Pos2, area: Rect) -> Self {
        let degrees_a_point = (self.degrees_a_point / factor).clamp(1e-6, 2.0);
        let [latitude, longitude] = self.place_at(at, area);
        let from_middle = at - area.center();
        Self {
            middle: [
                (latitude + f64::from(from_middle.y) * degrees_a_point).clamp(-90.0, 90.0),
                (longitude - f64::from(from_middle.x) * degrees_a_point).clamp(-180.0, 180.0),
            ],
            degrees_a_point,
        }
    }

    /// Kilometres of some points on the screen.
    fn km(&self, points: f32) -> f64 {
        f64::from(points) * self.degrees_a_point * KM_A_DEGREE
    }

    /// Distance of the lines, in degrees: at least 90 points.
    fn grid_degrees(&self) -> f64 {
        let least = 90.0 * self.degrees_a_point;
        let steps = [0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0];
        steps.into_iter().find(|step| *step >= least).unwrap_or(60.0)
    }
}

fn map(window: &mut Window, ui: &mut Ui) {
    let area = ui.available_rect_before_wrap();
    let response = ui.interact(area, ui.scope_id().with("map"), Sense::click_and_drag());
    response.widget_info(|| WidgetInfo::labeled(Role::Image, true, "Map of places"));
    let Some(catalogue) = window.state.catalogue() else { return };
    let mut view =
        *window.map_view.get_or_insert_with(|| MapView::of(&catalogue.places, area.size()));
    if response.dragged() {
        let middle = area.center() - response.drag_delta();
        let [latitude, longitude] = view.place_at(middle, area);
        view.middle = [latitude.clamp(-90.0, 90.0), longitude.clamp(-180.0, 180.0)];
    }
    if let Some(at) = response.hover_pos() {
        let (pinch, scrolled) =
            ui.input(|input| (input.zoom_delta(), input.smooth_scroll_delta().y));
        let factor = f64::from(pinch * (scrolled / 200.0).exp());
        if factor != 1.0 {
            view = view.zoomed(factor, at, area);
        }
    }
    draw(ui, area, &view, catalogue);
    let clicked = response.clicked().then(|| response.interact_pointer_pos()).flatten();
    let near = clicked.and_then(|at| {
        let distance = |place: &&[f64; 2]| view.on_screen(**place, area).distance(at);
        let by_distance = |a: &&[f64; 2], b: &&[f64; 2]| distance(a).total_cmp(&distance(b));
        catalogue.places.iter().min_by(by_distance).filter(|place| distance(place) <= REACH)
    });
    let near = near.map(|[latitude, longitude]| {
        let km = view.km(REACH).max(LEAST_KM);
        format!("{latitude:.5},{longitude:.5},{km:.1}")
    });
    window.map_view = Some(view);
    if let Some(near) = near {
        window.state.form.near = near;
        window.state.search();
        window.close_overview();
    }
}

/// Draws lines of latitude and longitude, and a dot for each place.
fn draw(ui: &Ui, area: Rect, view: &MapView, catalogue: &Catalogue) {
    let painter = ui.painter().with_clip_rect(area);
    let visuals = ui.visuals();
    painter.rect_filled(area, 4.0, visuals.extreme_bg_color);
    let (font, weak) = (FontId::proportional(11.0), visuals.weak_text_color());
    let line = Stroke::new(1.0, visuals.widgets.noninteractive.bg_stroke.color);
    let step = view.grid_degrees();
    let [north, west] = view.place_at(area.left_top(), area);
    let [south, east] = view.place_at(area.right_bottom(), area);
    let lines = |from: f64, to: f64| {
        let (first, last) = ((from / step).ceil() as i64, (to / step).floor() as i64);
        (first..=last).map(move |i| i as f64 * step)
    };
    let digits = if step < 1.0 { 3 } else { 0 };
    for latitude in lines(south.max(-90.0), north.min(90.0)) {
        let y = view.on_screen([latitude, 0.0], area).y;
        painter.hline(area.x_range(), y, line);
        let at = Pos2::new(area.min.x + 4.0, y);
        let label = format!("{latitude:.digits$}°");
        painter.text(at, Align2::LEFT_BOTTOM, label, font.clone(), weak);
    }
    for longitude in lines(west.max(-180.0), east.min(180.0)) {
        let x = view.on_screen([0.0, longitude], area).x;
        painter.vline(x, area.y_range(), line);
        let at = Pos2::new(x + 3.0, area.max.y - 2.0);
        let label = format!("{longitude:.digits$}°");
        painter.text(at, Align2::LEFT_BOTTOM, label, font.clone(), weak);
    }
    let color = visuals.selection.stroke.color;
    // Places closer than a dot are one dot.
    let mut drawn = std::collections::HashSet::new();
    for place in &catalogue.places {
        let at = view.on_screen(*place, area);
        if area.contains(at) && drawn.insert(((at.x / 3.0) as i32, (at.y / 3.0) as i32)) {
            painter.circle(at, 4.0, color, Stroke::new(1.0, Color32::WHITE));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AREA: Rect = Rect::from_min_max(Pos2::new(100.0, 50.0), Pos2::new(500.0, 250.0));

    #[test]
    fn all_places_are_on_the_map_and_points_lead_back_to_them() {
        let places = [[43.3, 5.4], [52.5, 13.4], [-33.9, 151.2]];
        let view = MapView::of(&places, AREA.size());
        for place in places {
            let at = view.on_screen(place, AREA);
            assert!(AREA.contains(at), "{at}");
            let [latitude, longitude] = view.place_at(at, AREA);
            assert!((latitude - place[0]).abs() < 0.01 && (longitude - place[1]).abs() < 0.01);
        }
        let north = view.on_screen(places[1], AREA);
        assert!(north.y < view.on_screen(places[0], AREA).y, "north is up");
        assert!(north.x < view.on_screen(places[2], AREA).x, "east is right");
        assert!(MapView::of(&[], AREA.size()).degrees_a_point > 1.0, "the world");
        assert!(MapView::of(&places[..1], AREA.size()).km(400.0) > 20.0, "not a single point");
    }

    #[test]
    fn the_place_under_the_pointer_stays_there_while_one_zooms() {
        let view = MapView::of(&[[40.0, 0.0], [50.0, 20.0]], AREA.size());
        let at = Pos2::new(150.0, 220.0);
        let zoomed = view.zoomed(4.0, at, AREA);
        assert!(zoomed.degrees_a_point < view.degrees_a_point);
        let (before, after) = (view.place_at(at, AREA), zoomed.place_at(at, AREA));
        assert!((before[0] - after[0]).abs() < 1e-9 && (before[1] - after[1]).abs() < 1e-9);
    }
}
