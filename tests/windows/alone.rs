//! The modules that know Windows and need only the standard library, so that their tests are
//! compiled for Windows in seconds. `tests/windows/run` runs them.

#![allow(dead_code, reason = "the crates use it")]

#[path = "../../desktop/library/src/paths.rs"]
mod paths;
#[path = "../../core/data/src/files/replace.rs"]
mod replace;
#[path = "../../desktop/library/src/uris.rs"]
mod uris;
