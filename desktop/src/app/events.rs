//! What happens in the window, for tests and scripts: a JSON object a line on stdout with `--json`.

use serde_json::{Map, Value};

use crate::terminal::print;

/// Says what happens, or keeps silent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Events {
    aloud: bool,
}

impl Events {
    pub fn new(aloud: bool) -> Self {
        Self { aloud }
    }

    /// Tells one event with what belongs to it.
    pub fn tell(self, name: &str, facts: &[(&str, Value)]) {
        if self.aloud {
            let mut line = Map::from_iter([("event".to_owned(), name.into())]);
            line.extend(facts.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
            // Whoever read this may be gone; the window stays.
            let _ = print(Value::Object(line));
        }
    }
}
