//! Layout of the grid: rows of cells, and headings between them.

use std::ops::Range;

/// Gap between cells and around them, in points.
const GAP: f32 = 10.0;
/// Height of the line below a thumbnail, in points.
pub const LINE: f32 = 20.0;
/// Height of a heading, in points.
pub const HEADING: f32 = 34.0;

/// The cells of a grid. All have the same size, so 100,000 cells cost no more than the visible
/// ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    pub n_cells: usize,
    pub n_columns: usize,
    /// Width of a cell, and height of its picture, in points.
    pub side: f32,
    /// Ascending; the first begins at cell 0.
    runs: Vec<Run>,
}

/// Rows of cells below a heading, or without one.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Run {
    /// Its first cell.
    first: usize,
    /// Top of its first row, without the gap above the grid.
    top: f64,
    has_heading: bool,
}

impl Grid {
    /// Fills `width` with as many columns of cells of at least `least_side` points as fit.
    /// `headings` has the first cell below each heading, ascending.
    pub fn new(n_cells: usize, width: f32, least_side: f32, headings: &[usize]) -> Self {
        let n_columns = (((width - GAP) / (least_side + GAP)) as usize).max(1);
        let side = ((width - GAP) / n_columns as f32 - GAP).floor().max(16.0);
        let mut grid = Self { n_cells, n_columns, side, runs: Vec::new() };
        let plain = (headings.first() != Some(&0)).then_some((0, false));
        let mut top = 0.0;
        for (first, has_heading) in plain.into_iter().chain(headings.iter().map(|at| (*at, true))) {
            if let Some(run) = grid.runs.last() {
                top = run.top + (first - run.first).div_ceil(n_columns) as f64 * grid.row_height();
            }
            top += if has_heading { f64::from(HEADING) } else { 0.0 };
            grid.runs.push(Run { first, top, has_heading });
        }
        grid
    }

    pub fn row_height(&self) -> f64 {
        f64::from(self.side + LINE + GAP)
    }

    /// The run of a cell.
    fn run_of(&self, cell: usize) -> usize {
        self.runs.partition_point(|run| run.first <= cell) - 1
    }

    /// The run at a height, without the gap above the grid.
    fn run_at(&self, y: f64) -> usize {
        self.runs.partition_point(|run| run.top <= y).saturating_sub(1)
    }

    /// The cells of a run.
    fn cells_of(&self, run: usize) -> Range<usize> {
        let end = self.runs.get(run + 1).map_or(self.n_cells, |next| next.first);
        self.runs[run].first..end
    }

    fn n_rows(&self, run: usize) -> usize {
        self.cells_of(run).len().div_ceil(self.n_columns)
    }

    /// Row and column of a cell in its run.
    fn row_of(&self, cell: usize) -> (usize, usize, usize) {
        let run = self.run_of(cell);
        let at = cell - self.runs[run].first;
        (run, at / self.n_columns, at % self.n_columns)
    }

    /// Height of all rows, in points.
    pub fn height(&self) -> f64 {
        let last = self.runs.len() - 1;
        self.runs[last].top + self.n_rows(last) as f64 * self.row_height() + f64::from(GAP)
    }

    /// Cells that are at least partly visible when the grid is scrolled down by `top` points.
    pub fn visible(&self, top: f64, height: f64) -> Range<usize> {
        let cell_at = |y: f64, rows_more: usize| {
            let run = self.run_at(y);
            let row = ((y - self.runs[run].top).max(0.0) / self.row_height()) as usize + rows_more;
            let cells = self.cells_of(run);
            (cells.start + row * self.n_columns).min(cells.end)
        };
        let first = cell_at((top - f64::from(GAP)).max(0.0), 0);
        let end = cell_at((top + height).max(0.0), 1);
        first..end.max(first)
    }

    /// Headings that may be visible: their index, and their top edge relative to the visible part.
    pub fn headings(&self, top: f64, height: f64) -> impl Iterator<Item = (usize, f32)> {
        let with_heading = self.runs.iter().filter(|run| run.has_heading).enumerate();
        with_heading.filter_map(move |(at, run)| {
            let y = run.top + f64::from(GAP) - f64::from(HEADING) - top;
            (y > -f64::from(HEADING) && y < height).then_some((at, y as f32))
        })
    }

    /// Left and top edge of a cell, relative to the top left of the visible part.
    pub fn place(&self, cell: usize, top: f64) -> [f32; 2] {
        let (run, row, column) = self.row_of(cell);
        // In f64, because f32 cannot resolve half points far down the grid.
        let y = f64::from(GAP) + self.runs[run].top + row as f64 * self.row_height() - top;
        [GAP + column as f32 * (self.side + GAP), y as f32]
    }

    /// Cells that a rectangle touches: `[x0, y0, x1, y1]` from the top left of the whole grid.
    pub fn touched(&self, [x0, y0, x1, y1]: [f64; 4]) -> Vec<usize> {
        let touches = |cell: &usize| {
            let [x, y] = self.place(*cell, 0.0).map(f64::from);
            let (width, height) = (f64::from(self.side), f64::from(self.side + LINE));
            x < x1 && x + width > x0 && y < y1 && y + height > y0
        };
        self.visible(y0, y1 - y0).filter(touches).collect()
    }

    /// The scroll position that makes a cell fully visible; `top` if it is visible already.
    pub fn scrolled_to(&self, cell: usize, top: f64, height: f64) -> f64 {
        let (run, row, _) = self.row_of(cell);
        let Run { top: run_top, has_heading, .. } = self.runs[run];
        let heading = if has_heading && row == 0 { f64::from(HEADING) } else { 0.0 };
        let start = run_top + row as f64 * self.row_height() - heading;
        let end = start + heading + self.row_height() + f64::from(GAP);
        if start < top || height < self.row_height() {
            start
        } else if end > top + height {
            end - height
        } else {
            top
        }
    }

    /// The cell that a step from `from` leads to.
    pub fn step(&self, from: usize, step: Step, page_height: f64) -> usize {
        let last = self.n_cells.saturating_sub(1);
        let n_rows = ((page_height / self.row_height()) as usize).max(1);
        match step {
            Step::Left => from.saturating_sub(1),
            Step::Right => (from + 1).min(last),
            Step::Up => self.above(from),
            Step::Down => self.below(from),
            Step::PageUp => (0..n_rows).fold(from, |at, _| self.above(at)),
            Step::PageDown => (0..n_rows).fold(from, |at, _| self.below(at)),
            Step::First => 0,
            Step::Last => last,
        }
    }

    /// The cell above, also across a heading; `cell` itself in the first row.
    fn above(&self, cell: usize) -> usize {
        let (run, row, column) = self.row_of(cell);
        if row > 0 {
            return cell - self.n_columns;
        }
        let Some(above) = run.checked_sub(1) else { return cell };
        let cells = self.cells_of(above);
        let last_row = cells.start + (self.n_rows(above) - 1) * self.n_columns;
        (last_row + column).min(cells.end - 1)
    }

    /// The cell below, or the last one of a shorter row; `cell` itself in the last row.
    fn below(&self, cell: usize) -> usize {
        let (run, row, column) = self.row_of(cell);
        if row + 1 < self.n_rows(run) {
            return (cell + self.n_columns).min(self.cells_of(run).end - 1);
        }
        if run + 1 == self.runs.len() {
            return cell;
        }
        let cells = self.cells_of(run + 1);
        (cells.start + column).min(cells.end - 1)
    }
}

/// A move of the selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Left,
    Right,
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_fill_the_width() {
        let grid = Grid::new(100, 1000.0, 150.0, &[]);
        assert_eq!((grid.n_columns, grid.side, grid.n_rows(0)), (6, 155.0, 17));
        assert_eq!(Grid::new(5, 40.0, 150.0, &[]).n_columns, 1);
    }

    #[test]
    fn only_rows_that_are_seen_are_visible_wherever_one_is() {
        let grid = Grid::new(100_000, 1000.0, 150.0, &[]);
        let row = grid.row_height();
        assert_eq!(grid.visible(0.0, 3.0 * row), 0..24);
        let middle = 8_000.0 * row + 15.0;
        let seen = grid.visible(middle, 3.0 * row);
        assert_eq!(seen, 8_000 * 6..8_004 * 6);
        let [_, y] = grid.place(seen.start, middle);
        assert_eq!(y, GAP - 15.0, "to the point, also far down");
        assert_eq!(grid.visible(grid.height() - 2.0 * row, 2.0 * row).end, 100_000);
        assert_eq!(Grid::new(0, 1000.0, 150.0, &[]).visible(0.0, 500.0), 0..0);
    }

    #[test]
    fn scrolling_shows_a_cell_and_does_nothing_when_it_is_seen() {
        let grid = Grid::new(1000, 1000.0, 150.0, &[]);
        let row = grid.row_height();
        assert_eq!(grid.scrolled_to(0, 0.0, 3.0 * row), 0.0);
        assert_eq!(grid.scrolled_to(12, row, 3.0 * row), row);
        assert_eq!(grid.scrolled_to(6, 5.0 * row, 3.0 * row), row);
        let top = grid.scrolled_to(60, 0.0, 3.0 * row);
        assert_eq!(top, 8.0 * row + f64::from(GAP));
        assert!(grid.visible(top, 3.0 * row).contains(&60));
    }

    #[test]
    fn steps_stay_in_the_grid() {
        let grid = Grid::new(20, 1000.0, 150.0, &[]);
        let check = |from, step, to| {
            assert_eq!(grid.step(from, step, 2.0 * grid.row_height()), to, "{step:?}")
        };
        check(0, Step::Left, 0);
        check(19, Step::Right, 19);
        check(3, Step::Up, 3);
        check(7, Step::Up, 1);
        check(7, Step::Down, 13);
        check(17, Step::Down, 19);
        check(19, Step::Down, 19);
        check(1, Step::PageDown, 13);
        check(13, Step::PageUp, 1);
        check(5, Step::Last, 19);
        check(5, Step::First, 0);
        assert_eq!(Grid::new(0, 1000.0, 150.0, &[]).step(0, Step::Down, 100.0), 0);
    }

    /// 20 cells in 6 columns: rows 0..6, 6..8 | 8..9 | 9..15, 15..20.
    fn with_headings() -> Grid {
        Grid::new(20, 1000.0, 150.0, &[0, 8, 9])
    }

    #[test]
    fn each_heading_begins_a_row() {
        let grid = with_headings();
        let (row, heading) = (grid.row_height(), f64::from(HEADING));
        let y = |cell| f64::from(grid.place(cell, 0.0)[1]) - f64::from(GAP);
        assert_eq!([y(0), y(6), y(8)], [heading, heading + row, 2.0 * heading + 2.0 * row]);
        assert_eq!((y(9), grid.place(9, 0.0)[0]), (3.0 * heading + 3.0 * row, GAP));
        assert_eq!(grid.height(), 3.0 * heading + 5.0 * row + f64::from(GAP));
        let tops: Vec<(usize, f32)> = grid.headings(0.0, 2.0 * row).collect();
        assert_eq!(tops, [(0, GAP)]);
        assert_eq!(
            grid.headings(y(8) - 5.0, row + 30.0).map(|(at, _)| at).collect::<Vec<_>>(),
            [1, 2]
        );
        for top in [0.0, 50.0, 300.0, 500.0, 700.0] {
            let seen = grid.visible(top, 200.0);
            for cell in 0..20 {
                let [_, y] = grid.place(cell, top);
                if y < 200.0 && y + grid.side + LINE > 0.0 {
                    assert!(seen.contains(&cell), "{cell} at {top}: {seen:?}");
                }
            }
        }
        let plain_first = Grid::new(20, 1000.0, 150.0, &[5]);
        assert_eq!(f64::from(plain_first.place(0, 0.0)[1]), f64::from(GAP));
        assert_eq!(plain_first.headings(0.0, 999.0).count(), 1);
    }

    #[test]
    fn steps_cross_headings_in_their_column() {
        let grid = with_headings();
        let step = |from, step| grid.step(from, step, 2.0 * grid.row_height());
        assert_eq!((step(1, Step::Down), step(7, Step::Down), step(8, Step::Down)), (7, 8, 9));
        assert_eq!((step(9, Step::Up), step(8, Step::Up), step(14, Step::Up)), (8, 6, 8));
        assert_eq!((step(19, Step::Down), step(1, Step::PageDown)), (19, 8));
        assert_eq!(grid.scrolled_to(9, 9999.0, 400.0), grid.runs[2].top - f64::from(HEADING));
    }

    #[test]
    fn a_rectangle_touches_the_cells_under_it() {
        let grid = with_headings();
        let [x, y] = grid.place(6, 0.0).map(f64::from);
        assert_eq!(grid.touched([x, y, x + 1.0, y + 1.0]), [6]);
        assert_eq!(grid.touched([x, y - 15.0, x + 170.0, y + 1.0]), [0, 1, 6, 7]);
        assert_eq!(grid.touched([0.0, 0.0, 5.0, 9999.0]), [0usize; 0], "between the edge and them");
        assert_eq!(grid.touched([0.0, 0.0, 9999.0, 9999.0]).len(), 20);
    }
}
