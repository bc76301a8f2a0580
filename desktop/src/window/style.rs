//! Dark and light style of the window.

use eframe::egui;
use egui::{
    Color32, Context, CornerRadius, FontFamily, FontId, Stroke, Style, TextStyle, Theme, Visuals,
};

/// Sets both themes; the window chooses which one is shown.
pub fn set(ctx: &Context) {
    for theme in [Theme::Dark, Theme::Light] {
        ctx.style_mut_of(theme, |style| apply(style, theme));
    }
}

fn apply(style: &mut Style, theme: Theme) {
    for (name, size) in [
        (TextStyle::Small, 11.0),
        (TextStyle::Body, 14.0),
        (TextStyle::Button, 14.0),
        (TextStyle::Heading, 18.0),
    ] {
        style.text_styles.insert(name, FontId::new(size, FontFamily::Proportional));
    }
    style.spacing.item_spacing = egui::vec2(8.0, 6.0);
    style.spacing.button_padding = egui::vec2(9.0, 4.0);
    style.spacing.slider_width = 110.0;
    let visuals = &mut style.visuals;
    *visuals = match theme {
        Theme::Dark => dark(),
        Theme::Light => light(),
    };
    for widget in [
        &mut visuals.widgets.noninteractive,
        &mut visuals.widgets.inactive,
        &mut visuals.widgets.hovered,
        &mut visuals.widgets.active,
        &mut visuals.widgets.open,
    ] {
        widget.corner_radius = CornerRadius::same(5);
    }
}

fn dark() -> Visuals {
    let accent = Color32::from_rgb(96, 165, 250);
    let mut visuals = Visuals::dark();
    visuals.panel_fill = Color32::from_rgb(24, 26, 31);
    visuals.window_fill = Color32::from_rgb(32, 35, 42);
    visuals.faint_bg_color = Color32::from_rgb(33, 36, 43);
    visuals.extreme_bg_color = Color32::from_rgb(15, 16, 20);
    visuals.override_text_color = Some(Color32::from_rgb(222, 226, 234));
    visuals.selection.bg_fill = Color32::from_rgb(37, 78, 138);
    visuals.selection.stroke = Stroke::new(1.5, accent);
    visuals.hyperlink_color = accent;
    visuals.widgets.inactive.bg_stroke = Stroke::new(1.0, Color32::from_rgb(56, 61, 72));
    visuals
}

fn light() -> Visuals {
    let accent = Color32::from_rgb(29, 98, 214);
    let mut visuals = Visuals::light();
    visuals.panel_fill = Color32::from_rgb(247, 248, 250);
    visuals.window_fill = Color32::WHITE;
    visuals.faint_bg_color = Color32::from_rgb(234, 237, 242);
    visuals.extreme_bg_color = Color32::WHITE;
    visuals.override_text_color = Some(Color32::from_rgb(28, 32, 40));
    visuals.selection.bg_fill = Color32::from_rgb(190, 214, 252);
    visuals.selection.stroke = Stroke::new(1.5, accent);
    visuals.hyperlink_color = accent;
    // Without it an empty field cannot be seen on the panel.
    visuals.widgets.inactive.bg_stroke = Stroke::new(1.0, Color32::from_rgb(206, 211, 220));
    visuals
}
