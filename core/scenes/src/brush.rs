//! Shapes, and a brush that tracks the bounds of the painted area.

use tiny_skia::{
    Color, FillRule, GradientStop, LineCap, LineJoin, LinearGradient, Paint, Path, PathBuilder,
    Pixmap, Point, RadialGradient, Rect, Shader, SpreadMode, Stroke, Transform,
};

use super::palette::Rgb;

/// Paints in the frame of one object: x to the right, y up, foot at the origin, height about 1.
///
/// With [`Brush::page`] the frame is pixels of the picture, with y down.
pub(super) struct Brush<'a> {
    pixmap: &'a mut Pixmap,
    frame: Transform,
    light: [f32; 3],
    bounds: Option<Rect>,
}

impl<'a> Brush<'a> {
    pub(super) fn page(pixmap: &'a mut Pixmap, light: [f32; 3]) -> Self {
        Self { pixmap, frame: Transform::identity(), light, bounds: None }
    }

    /// A brush for one object. `at` is the foot in pixels, `size` the number of pixels per unit.
    pub(super) fn object(
        pixmap: &'a mut Pixmap,
        light: [f32; 3],
        at: [f32; 2],
        size: f32,
        flip: bool,
    ) -> Self {
        let across = if flip { -size } else { size };
        Self {
            pixmap,
            frame: Transform::from_row(across, 0.0, 0.0, -size, at[0], at[1]),
            light,
            bounds: None,
        }
    }

    /// Bounds `[x0, y0, x1, y1]` in pixels of everything painted, including parts outside the
    /// picture.
    pub(super) fn bounds(&self) -> Option<[f32; 4]> {
        self.bounds.map(|r| [r.left(), r.top(), r.right(), r.bottom()])
    }

    pub(super) fn fill(&mut self, path: &Path, rgb: Rgb) {
        let color = self.lit(rgb, 1.0);
        self.paint(path, Shader::SolidColor(color));
    }

    /// Fills with a vertical gradient from `above` to `below`.
    pub(super) fn shade(&mut self, path: &Path, above: Rgb, below: Rgb) {
        let bounds = path.bounds();
        let (start, end) = if self.frame.sy < 0.0 {
            (bounds.bottom(), bounds.top())
        } else {
            (bounds.top(), bounds.bottom())
        };
        let stops = vec![
            GradientStop::new(0.0, self.lit(above, 1.0)),
            GradientStop::new(1.0, self.lit(below, 1.0)),
        ];
        let gradient = LinearGradient::new(
            Point::from_xy(0.0, start),
            Point::from_xy(0.0, end),
            stops,
            SpreadMode::Pad,
            Transform::identity(),
        );
        let flat = Shader::SolidColor(self.lit(above, 1.0));
        self.paint(path, gradient.unwrap_or(flat));
    }

    /// Fills with the usual shading: lighter above, darker below.
    pub(super) fn solid(&mut self, path: &Path, rgb: Rgb) {
        self.shade(path, rgb.light(0.14), rgb.dark(0.2));
    }

    pub(super) fn line(&mut self, path: &Path, width: f32, rgb: Rgb) {
        self.grow(path, width * 0.5);
        let mut paint = Paint::default();
        paint.set_color(self.lit(rgb, 1.0));
        let stroke = Stroke {
            width,
            line_cap: LineCap::Round,
            line_join: LineJoin::Round,
            ..Stroke::default()
        };
        self.pixmap.stroke_path(path, &paint, &stroke, self.frame, None);
    }

    /// Paints a translucent tone, such as a shadow. Ignores the light and does not extend the
    /// bounds.
    pub(super) fn veil(&mut self, path: &Path, rgb: Rgb, alpha: f32) {
        let mut paint = Paint::default();
        paint.set_color(opaque(rgb, [1.0; 3], alpha));
        self.pixmap.fill_path(path, &paint, FillRule::Winding, self.frame, None);
    }

    /// Paints a soft round light. Like [`Brush::veil`], it does not extend the bounds.
    pub(super) fn glow(&mut self, x: f32, y: f32, radius: f32, rgb: Rgb, alpha: f32) {
        let centre = Point::from_xy(x, y);
        let stops = vec![
            GradientStop::new(0.0, opaque(rgb, [1.0; 3], alpha)),
            GradientStop::new(1.0, opaque(rgb, [1.0; 3], 0.0)),
        ];
        let shader = RadialGradient::new(
            centre,
            0.0,
            centre,
            radius,
            stops,
            SpreadMode::Pad,
            Transform::identity(),
        );
        if let Some(shader) = shader {
            let paint = Paint { shader, ..Paint::default() };
            self.pixmap.fill_path(
                &oval(x, y, radius, radius),
                &paint,
                FillRule::Winding,
                self.frame,
                None,
            );
        }
    }

    /// Fills at full light at any time of day: flames, lit windows, the moon.
    pub(super) fn fill_lit(&mut self, path: &Path, rgb: Rgb) {
        self.paint(path, Shader::SolidColor(opaque(rgb, [1.0; 3], 1.0)));
    }

    fn paint(&mut self, path: &Path, shader: Shader<'_>) {
        self.grow(path, 0.0);
        let paint = Paint { shader, ..Paint::default() };
        self.pixmap.fill_path(path, &paint, FillRule::Winding, self.frame, None);
    }

    fn grow(&mut self, path: &Path, margin: f32) {
        let Some(rect) = path.compute_tight_bounds() else {
            return;
        };
        let rect = Rect::from_ltrb(
            rect.left() - margin,
            rect.top() - margin,
            rect.right() + margin,
            rect.bottom() + margin,
        );
        let Some(rect) = rect.and_then(|r| r.transform(self.frame)) else {
            return;
        };
        self.bounds = match self.bounds {
            None => Some(rect),
            Some(old) => Rect::from_ltrb(
                old.left().min(rect.left()),
                old.top().min(rect.top()),
                old.right().max(rect.right()),
                old.bottom().max(rect.bottom()),
            ),
        };
    }

    fn lit(&self, rgb: Rgb, alpha: f32) -> Color {
        opaque(rgb, self.light, alpha)
    }
}

fn opaque(rgb: Rgb, light: [f32; 3], alpha: f32) -> Color {
    let scale = |v: u8, l: f32| (f32::from(v) * l).clamp(0.0, 255.0) as u8;
    Color::from_rgba8(
        scale(rgb.0, light[0]),
        scale(rgb.1, light[1]),
        scale(rgb.2, light[2]),
        (alpha * 255.0) as u8,
    )
}

fn finish(builder: PathBuilder) -> Path {
    builder.finish().expect("shapes have finite points")
}

pub(super) fn poly(points: &[(f32, f32)]) -> Path {
    let mut builder = PathBuilder::new();
    builder.move_to(points[0].0, points[0].1);
    for &(x, y) in &points[1..] {
        builder.line_to(x, y);
    }
    builder.close();
    finish(builder)
}

/// A closed smooth outline that the points attract (a quadratic B-spline).
pub(super) fn blob(points: &[(f32, f32)]) -> Path {
    let n = points.len();
    let middle = |i: usize| {
        let (a, b) = (points[i % n], points[(i + 1) % n]);
        ((a.0 + b.0) * 0.5, (a.1 + b.1) * 0.5)
    };
    let mut builder = PathBuilder::new();
    let start = middle(n - 1);
    builder.move_to(start.0, start.1);
    for (i, &(x, y)) in points.iter().enumerate() {
        let end = middle(i);
        builder.quad_to(x, y, end.0, end.1);
    }
    builder.close();
    finish(builder)
}

/// An open smooth line from the first point to the last. The points between attract it.
pub(super) fn curve(points: &[(f32, f32)]) -> Path {
    let n = points.len();
    let mut builder = PathBuilder::new();
    builder.move_to(points[0].0, points[0].1);
    for i in 1..n - 1 {
        let (a, mut b) = (points[i], points[i + 1]);
        if i + 2 < n {
            b = ((a.0 + b.0) * 0.5, (a.1 + b.1) * 0.5);
        }
        builder.quad_to(a.0, a.1, b.0, b.1);
    }
    if n == 2 {
        builder.line_to(points[1].0, points[1].1);
    }
    finish(builder)
}

pub(super) fn oval(x: f32, y: f32, rx: f32, ry: f32) -> Path {
    ovals(&[(x, y, rx, ry)])
}

/// A single shape of many ovals `(x, y, rx, ry)`.
pub(super) fn ovals(each: &[(f32, f32, f32, f32)]) -> Path {
    let mut builder = PathBuilder::new();
    for &(x, y, rx, ry) in each {
        if let Some(rect) = Rect::from_ltrb(x - rx, y - ry, x + rx, y + ry) {
            builder.push_oval(rect);
        }
    }
    finish(builder)
}

pub(super) fn rect(x0: f32, y0: f32, x1: f32, y1: f32) -> Path {
    poly(&[(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
}

/// A single shape of many rectangles `(x0, y0, x1, y1)`.
pub(super) fn rects(each: &[(f32, f32, f32, f32)]) -> Path {
    let mut builder = PathBuilder::new();
    for &(x0, y0, x1, y1) in each {
        if let Some(rect) = Rect::from_ltrb(x0, y0, x1, y1) {
            builder.push_rect(rect);
        }
    }
    finish(builder)
}

/// A rectangle with round corners of radius `r`.
pub(super) fn round(x0: f32, y0: f32, x1: f32, y1: f32, r: f32) -> Path {
    let mut builder = PathBuilder::new();
    builder.move_to(x0 + r, y0);
    builder.line_to(x1 - r, y0);
    builder.quad_to(x1, y0, x1, y0 + r);
    builder.line_to(x1, y1 - r);
    builder.quad_to(x1, y1, x1 - r, y1);
    builder.line_to(x0 + r, y1);
    builder.quad_to(x0, y1, x0, y1 - r);
    builder.line_to(x0, y0 + r);
    builder.quad_to(x0, y0, x0 + r, y0);
    builder.close();
    finish(builder)
}
