//! Place of a photo on the screen, and zoom.

use mmgem_core::image::BoxPx;

/// The place of a photo on the screen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    /// Top left corner on the screen, in points.
    pub left_top: [f32; 2],
    /// Size on the screen, in points.
    pub size: [f32; 2],
    /// Size of the photo, in pixels.
    size_px: [f32; 2],
}

impl Fit {
    /// Centres a photo of `size_px` pixels in `[x, y, width, height]`, as large as it fits,
    /// enlarged at most `most` times.
    pub fn new(size_px: [u32; 2], [x, y, width, height]: [f32; 4], most: f32) -> Self {
        let size_px = size_px.map(|side| side.max(1) as f32);
        let scale = (width / size_px[0]).min(height / size_px[1]).clamp(0.0, most);
        let size = size_px.map(|side| side * scale);
        let left_top = [x + (width - size[0]) / 2.0, y + (height - size[1]) / 2.0];
        Self { left_top, size, size_px }
    }

    /// A box of the photo on the screen: `[x0, y0, x1, y1]` in points.
    pub fn on_screen(&self, box_px: BoxPx) -> [f32; 4] {
        let at =
            |i: usize| self.left_top[i % 2] + box_px[i] / self.size_px[i % 2] * self.size[i % 2];
        [at(0), at(1), at(2), at(3)]
    }

    /// The whole pixel of the photo at a point of the screen; `None` outside the photo.
    pub fn point_px(&self, at: [f32; 2]) -> Option<[f32; 2]> {
        let share = [0, 1].map(|i| (at[i] - self.left_top[i]) / self.size[i].max(1e-6));
        let is_on = share.iter().all(|share| (0.0..=1.0).contains(share));
        is_on.then(|| [0, 1].map(|i| (share[i] * self.size_px[i]).round()))
    }

    /// Converts a length on the screen from points to pixels of the photo.
    pub fn px(&self, points: f32) -> f32 {
        points * self.size_px[0] / self.size[0].max(1e-6)
    }

    /// The box dragged between two points of the screen, in whole pixels and clipped to the photo;
    /// `None` if it is too small.
    pub fn dragged(&self, from: [f32; 2], to: [f32; 2]) -> Option<BoxPx> {
        const LEAST_POINTS: f32 = 6.0;
        let edge = |i: usize, point: f32| {
            let share = (point - self.left_top[i]) / self.size[i].max(1e-6);
            (share.clamp(0.0, 1.0) * self.size_px[i]).round()
        };
        let enough = (0..2).all(|i| (from[i] - to[i]).abs() >= LEAST_POINTS);
        let (x, y) = ([edge(0, from[0]), edge(0, to[0])], [edge(1, from[1]), edge(1, to[1])]);
        let box_px = [x[0].min(x[1]), y[0].min(y[1]), x[0].max(x[1]), y[0].max(y[1])];
        (enough && box_px[2] > box_px[0] && box_px[3] > box_px[1]).then_some(box_px)
    }
}

/// Maximum zoom into a photo.
const MOST_ZOOM: f32 = 16.0;

/// Zoom of a photo beyond its fit into a room, `[x, y, width, height]` in points.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Zoom {
    /// At least 1, which shows the whole photo.
    times: f32,
    /// The point of the photo in the middle of the room, as shares of the photo's sides.
    middle: [f32; 2],
}

impl Default for Zoom {
    fn default() -> Self {
        Self { times: 1.0, middle: [0.5; 2] }
    }
}

impl Zoom {
    /// The zoomed place of the photo, given its place without zoom.
    pub fn seen(&self, whole: &Fit, room: [f32; 4]) -> Fit {
        let size = whole.size.map(|side| side * self.times);
        let left_top = [0, 1].map(|i| room[i] + room[i + 2] / 2.0 - self.middle[i] * size[i]);
        Fit { left_top, size, ..*whole }
    }

    /// Zooms by `factor` more; the point of the photo at `at` on the screen stays there.
    pub fn enlarged(&self, factor: f32, at: [f32; 2], whole: &Fit, room: [f32; 4]) -> Self {
        let seen = self.seen(whole, room);
        let times = (self.times * factor).clamp(1.0, MOST_ZOOM);
        let middle = [0, 1].map(|i| {
            let share = (at[i] - seen.left_top[i]) / seen.size[i].max(1e-6);
            share + (room[i] + room[i + 2] / 2.0 - at[i]) / (whole.size[i] * times).max(1e-6)
        });
        Self { times, middle }.inside(whole, room)
    }

    /// Pans by some points of the screen.
    pub fn pulled(&self, by: [f32; 2], whole: &Fit, room: [f32; 4]) -> Self {
        let middle =
            [0, 1].map(|i| self.middle[i] - by[i] / (whole.size[i] * self.times).max(1e-6));
        Self { middle, ..*self }.inside(whole, room)
    }

    /// Keeps the photo's edges outside the room where it is larger than the room, and centres it
    /// elsewhere.
    fn inside(self, whole: &Fit, room: [f32; 4]) -> Self {
        let middle = [0, 1].map(|i| {
            let half = room[i + 2] / (2.0 * whole.size[i] * self.times).max(1e-6);
            if half >= 0.5 { 0.5 } else { self.middle[i].clamp(half, 1.0 - half) }
        });
        Self { middle, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_photo_fits_whole_and_boxes_go_there_and_back() {
        let fit = Fit::new([400, 200], [100.0, 50.0, 200.0, 200.0], 8.0);
        assert_eq!((fit.left_top, fit.size), ([100.0, 100.0], [200.0, 100.0]));
        let box_px = [40.0, 20.0, 200.0, 180.0];
        let [x0, y0, x1, y1] = fit.on_screen(box_px);
        assert_eq!([x0, y0, x1, y1], [120.0, 110.0, 200.0, 190.0]);
        assert_eq!(fit.dragged([x1, y0], [x0, y1]), Some(box_px), "from any corner");
        assert_eq!(fit.dragged([0.0, 0.0], [999.0, 150.0]), Some([0.0, 0.0, 400.0, 100.0]));
        assert_eq!(fit.dragged([120.0, 120.0], [123.0, 180.0]), None);
        assert_eq!(fit.point_px([x1, y0]), Some([box_px[2], box_px[1]]));
        assert_eq!((fit.point_px([99.0, 120.0]), fit.px(6.0)), (None, 12.0));
        assert_eq!(fit.dragged([0.0, 0.0], [90.0, 90.0]), None, "beside the photo");
        assert_eq!(Fit::new([10, 10], [0.0, 0.0, 500.0, 500.0], 4.0).size, [40.0, 40.0]);
    }

    #[test]
    fn what_is_under_the_pointer_stays_there_while_one_zooms() {
        let room = [100.0, 50.0, 200.0, 200.0];
        let whole = Fit::new([400, 200], room, 8.0);
        assert_eq!(Zoom::default().seen(&whole, room), whole);
        let (pointer, box_px) = ([120.0, 160.0], [10.0, 0.0, 40.0, 120.0]);
        assert_eq!(whole.on_screen(box_px)[2..], pointer);
        let zoom = Zoom::default().enlarged(4.0, pointer, &whole, room);
        let seen = zoom.seen(&whole, room);
        assert_eq!((seen.size, seen.left_top[0] <= 100.0), ([800.0, 400.0], true));
        let corner = seen.on_screen(box_px);
        assert!(
            (corner[2] - pointer[0]).abs() < 1e-3 && (corner[3] - pointer[1]).abs() < 1e-3,
            "{corner:?}"
        );
        assert_eq!(zoom.enlarged(0.01, pointer, &whole, room), Zoom::default(), "all of it again");
        assert_eq!(
            zoom.enlarged(999.0, pointer, &whole, room).seen(&whole, room).size,
            [3200.0, 1600.0]
        );
    }

    #[test]
    fn a_photo_is_pulled_to_its_edges_and_no_further() {
        let room = [0.0, 0.0, 200.0, 200.0];
        let whole = Fit::new([400, 200], room, 8.0);
        let zoom = Zoom::default().enlarged(3.0, [100.0, 100.0], &whole, room);
        let left_top = |by| zoom.pulled(by, &whole, room).seen(&whole, room).left_top;
        let [x, y] = left_top([9999.0, 9999.0]);
        assert!(x.abs() < 1e-3 && y.abs() < 1e-3, "{x} {y}");
        let [x, y] = left_top([-9999.0, 0.0]);
        assert!((x + 400.0).abs() < 1e-3 && (y + 50.0).abs() < 1e-3, "{x} {y}");
        let little = Zoom::default().enlarged(1.5, [100.0, 100.0], &whole, room);
        assert_eq!(little.pulled([0.0, 30.0], &whole, room), little, "its height fits still");
    }
}
