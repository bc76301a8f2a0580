//! The program's HTML pages: self-contained files, without network and script.
//!
//! `tour` is the page of `mmgem demo`, `hits` of `mmgem search --html`, `evaluation` of
//! `mmgem eval --report`. `markup` and `picture` have their common parts.

pub mod evaluation;
pub mod hits;
mod markup;
pub mod picture;
pub mod tour;
