//! Checks of the program against its reference.

pub mod parity;
pub mod trace;
