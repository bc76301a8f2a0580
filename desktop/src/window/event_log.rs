//! EventLog in the window, for tests and scripts: with `--json`, one JSON object a line on stdout.

use serde_json::{Map, Value};

use crate::terminal::print;

/// Prints events, or nothing without `--json`.
#[derive(Clone, Copy, Debug, Default)]
pub struct EventLog {
    aloud: bool,
}

impl EventLog {
    pub fn new(aloud: bool) -> Self {
        Self { aloud }
    }

    /// Prints one event with its fields.
    pub fn print(self, name: &str, facts: &[(&str, Value)]) {
        if self.aloud {
            let mut line = Map::from_iter([("event".to_owned(), name.into())]);
            line.extend(facts.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
            // A closed stdout must not end the window.
            let _ = print(Value::Object(line));
        }
    }
}
