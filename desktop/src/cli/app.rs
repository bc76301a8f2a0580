//! `mmgem app`: the window.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::globals::Globals;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mmgem app\n  \
    mmgem app ~/Pictures\n  \
    mmgem app holidays --library photos.sqlite --model runs/mine/model --theme light\n\n\
    The window indexes folders while you search. It also checks the folders of earlier starts for \
    changes. No data leaves this machine, and no photo is changed. With --json every event is a \
    line on stdout.")]
pub struct AppArgs {
    /// Folders with photos, including subfolders; remembered for the next start
    #[arg(value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// Library file [default: the one in the platform's data folder]
    #[arg(long, value_name = "FILE")]
    library: Option<PathBuf>,
    /// Colour theme [default: the last choice in the window, else the system's]
    #[cfg(feature = "app")]
    #[arg(long, value_name = "THEME")]
    theme: Option<crate::window::Theme>,
    /// Graphics API that draws the window
    #[cfg(feature = "app")]
    #[arg(long, value_name = "NAME", default_value = "auto")]
    renderer: crate::window::Renderer,
}

#[cfg(feature = "app")]
pub fn run(args: &AppArgs, globals: &Globals) -> Result<()> {
    let library = args.library.clone().map_or_else(crate::library::default_library, Ok)?;
    crate::window::run(args.dirs.clone(), library, args.theme, args.renderer, globals)
}

#[cfg(not(feature = "app"))]
pub fn run(_args: &AppArgs, _globals: &Globals) -> Result<()> {
    anyhow::bail!(
        "this program was built without the window\n  hint: build it with `--features app`, or use \
         `mmgem index` and `mmgem search` in a terminal"
    )
}
