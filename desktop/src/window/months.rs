//! Months of photos.

use std::ops::Range;

use crate::library::{date_in_words, start_of_day};

/// Year, and month from 1.
pub type Month = (i64, u8);

const NAMES: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// The name of a month from 1.
pub fn name_of(month: u8) -> &'static str {
    NAMES[usize::from(month) - 1]
}

/// A month in the syntax of `after:`, and the next month in the syntax of `before:`.
pub fn limits_of((year, month): Month) -> [String; 2] {
    let (next_year, next_month) = next((year, month));
    [format!("{year:04}-{month:02}"), format!("{next_year:04}-{next_month:02}")]
}

fn next((year, month): Month) -> Month {
    if month == 12 { (year + 1, 1) } else { (year, month + 1) }
}

/// Finds the months of seconds; neighbours in the order of dates mostly share a month.
#[derive(Default)]
pub struct Months {
    /// The last month and the seconds in it.
    last: Option<(Range<i64>, Month)>,
}

impl Months {
    /// The month of a second, by the clock that counted it.
    pub fn of(&mut self, secs: i64) -> Option<Month> {
        if let Some((seconds, month)) = &self.last
            && seconds.contains(&secs)
        {
            return Some(*month);
        }
        let month = month_of(secs)?;
        let start = |(year, month): Month| start_of_day(year, month.into(), 1);
        if let (Some(from), Some(to)) = (start(month), start(next(month))) {
            self.last = Some((from..to, month));
        }
        Some(month)
    }
}

fn month_of(secs: i64) -> Option<Month> {
    // `2024-05-17`, or `-0001-05-17` before the first year.
    let date = date_in_words(secs);
    let mut parts = date.rsplitn(3, '-').skip(1);
    let (month, year) = (parts.next()?, parts.next()?);
    Some((year.parse().ok()?, month.parse().ok().filter(|month| (1..=12).contains(month))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_are_those_of_the_calendar() {
        let mut months = Months::default();
        let second = |year, month, day| start_of_day(year, month, day).expect("in the calendar");
        for (secs, wanted) in [
            (second(2024, 3, 1), (2024, 3)),
            (second(2024, 3, 1) - 1, (2024, 2)),
            (second(2024, 2, 1), (2024, 2)),
            (second(2023, 12, 31), (2023, 12)),
            (second(1969, 12, 31), (1969, 12)),
        ] {
            assert_eq!(months.of(secs), Some(wanted));
        }
        assert_eq!((name_of(1), name_of(12)), ("January", "December"));
        assert_eq!(limits_of((2023, 12)), ["2023-12", "2024-01"]);
    }
}
