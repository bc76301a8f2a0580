//! Clicks on a photo: the box that a click gives, the next box at the same place, and a preview
//! under the pointer.

use mmgem_core::image::BoxPx;

/// A point of the photo, in its pixels.
pub type PointPx = [f32; 2];

/// The boxes that clicks gave or would give. Only one request is pending at a time; after it, only
/// the latest place is requested.
#[derive(Debug, Default)]
pub struct Clicks {
    /// Position of the pointer.
    hovered: Option<PointPx>,
    /// Place of a click whose boxes have not arrived.
    waiting: Option<PointPx>,
    /// Place of the pending request.
    asked: Option<PointPx>,
    /// The last answer.
    told: Option<(PointPx, Vec<BoxPx>)>,
    /// Place of the last click, its boxes, and the index of the box shown.
    clicked: Option<(PointPx, Vec<BoxPx>, usize)>,
}

impl Clicks {
    /// Sets the pointer's position; `None` if it is not over the photo.
    pub fn hover(&mut self, point: Option<PointPx>) {
        self.hovered = point;
    }

    /// Handles a click. Returns the box to show, or waits if the boxes of that place are not known.
    pub fn click(&mut self, point: PointPx) -> Option<BoxPx> {
        self.waiting = Some(point);
        self.show()
    }

    /// Moves `by` boxes on at the place of the last click, and wraps around.
    pub fn step(&mut self, by: isize) -> Option<BoxPx> {
        let (_, boxes, shown) = self.clicked.as_mut()?;
        *shown = (*shown as isize + by).rem_euclid(boxes.len() as isize) as usize;
        Some(boxes[*shown])
    }

    /// Whether a click at this point is a step: at most `reach_px` from the last click.
    pub fn is_step(&self, [x, y]: PointPx, reach_px: f32) -> bool {
        self.clicked.as_ref().is_some_and(|([cx, cy], ..)| (x - cx).hypot(y - cy) <= reach_px)
    }

    /// Forgets the click, after its box was removed or replaced by a dragged one.
    pub fn forget(&mut self) {
        (self.clicked, self.waiting) = (None, None);
    }

    /// The place to request boxes for now; the caller sends the request.
    pub fn question(&mut self) -> Option<PointPx> {
        let wanted = self.waiting.or(self.hovered)?;
        let is_told = self.told.as_ref().is_some_and(|(point, _)| *point == wanted);
        if self.asked.is_some() || is_told {
            return None;
        }
        self.asked = Some(wanted);
        self.asked
    }

    /// Takes an answer; returns the box to show if a click was waiting for it.
    pub fn answer(&mut self, point: PointPx, boxes: Vec<BoxPx>) -> Option<BoxPx> {
        self.asked = None;
        self.told = Some((point, boxes)).filter(|(_, boxes)| !boxes.is_empty());
        self.show()
    }

    /// Resets the requests after a failure.
    pub fn fail(&mut self) {
        (self.asked, self.waiting, self.hovered) = (None, None, None);
    }

    /// The box that a click at the pointer would give, if known.
    pub fn preview(&self, reach_px: f32) -> Option<BoxPx> {
        let hovered = self.hovered?;
        match &self.clicked {
            Some((_, boxes, shown)) if self.is_step(hovered, reach_px) => {
                Some(boxes[(shown + 1) % boxes.len()])
            }
            _ => self.told.as_ref().map(|(_, boxes)| boxes[0]),
        }
    }

    fn show(&mut self) -> Option<BoxPx> {
        let (point, boxes) =
            self.told.as_ref().filter(|(point, _)| self.waiting == Some(*point))?;
        self.clicked = Some((*point, boxes.clone(), 0));
        self.waiting = None;
        Some(boxes[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: BoxPx = [0.0, 0.0, 4.0, 4.0];
    const LARGE: BoxPx = [0.0, 0.0, 9.0, 9.0];

    #[test]
    fn a_click_waits_for_its_boxes_and_the_next_one_is_at_hand() {
        let mut clicks = Clicks::default();
        assert_eq!(clicks.click([2.0, 2.0]), None);
        assert_eq!((clicks.question(), clicks.question()), (Some([2.0, 2.0]), None));
        assert_eq!(clicks.answer([2.0, 2.0], vec![SMALL, LARGE]), Some(SMALL));
        assert!(clicks.is_step([3.0, 2.0], 1.5) && !clicks.is_step([4.0, 2.0], 1.5));
        assert_eq!(
            (clicks.step(1), clicks.step(1), clicks.step(-1)),
            (Some(LARGE), Some(SMALL), Some(LARGE))
        );
        clicks.forget();
        assert_eq!((clicks.is_step([2.0, 2.0], 1.5), clicks.step(1)), (false, None));
    }

    #[test]
    fn a_click_where_the_pointer_was_needs_no_question() {
        let mut clicks = Clicks::default();
        clicks.hover(Some([1.0, 1.0]));
        assert_eq!(clicks.question(), Some([1.0, 1.0]));
        assert_eq!(clicks.answer([1.0, 1.0], vec![SMALL, LARGE]), None, "there was no click");
        assert_eq!(clicks.preview(1.0), Some(SMALL));
        assert_eq!(clicks.click([1.0, 1.0]), Some(SMALL));
        assert_eq!((clicks.preview(1.0), clicks.question()), (Some(LARGE), None));
    }

    #[test]
    fn of_many_places_the_latest_is_asked_for() {
        let mut clicks = Clicks::default();
        clicks.hover(Some([1.0, 1.0]));
        assert_eq!(clicks.question(), Some([1.0, 1.0]));
        clicks.hover(Some([2.0, 2.0]));
        clicks.hover(Some([3.0, 3.0]));
        assert_eq!(clicks.question(), None, "one is open");
        assert_eq!(clicks.answer([1.0, 1.0], vec![SMALL]), None);
        assert_eq!(clicks.question(), Some([3.0, 3.0]));
        clicks.fail();
        assert_eq!(clicks.question(), None);
    }
}
