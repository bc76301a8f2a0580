//! `mmgem app`: the window.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::args::Globals;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mmgem app\n  \
    mmgem app ~/Pictures\n  \
    mmgem app holidays --library photos.sqlite --model runs/mine/model --theme light\n\n\
    Folders are indexed while one searches; those of earlier starts are looked through for changes.\n\
    Nothing leaves this machine, and no photo is changed. With --json every event is a line on stdout.")]
pub struct AppArgs {
    /// Folders with photos, searched to the bottom; remembered
    #[arg(value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// The library; in the platform's data folder without
    #[arg(long, value_name = "FILE")]
    library: Option<PathBuf>,
    /// Dark or light; remembered when it is chosen in the window
    #[cfg(feature = "app")]
    #[arg(long, value_name = "THEME")]
    theme: Option<crate::app::Theme>,
    /// What draws the window
    #[cfg(feature = "app")]
    #[arg(long, value_name = "NAME", default_value = "auto")]
    renderer: crate::app::Renderer,
}

#[cfg(feature = "app")]
pub fn run(args: AppArgs, globals: &Globals) -> Result<()> {
    let library = args.library.map_or_else(crate::library::default_library, Ok)?;
    crate::app::run(args.dirs, library, args.theme, args.renderer, globals)
}

#[cfg(not(feature = "app"))]
pub fn run(_args: AppArgs, _globals: &Globals) -> Result<()> {
    anyhow::bail!(
        "this program was built without its window\n  hint: build it with `--features app`; `mmgem index` and `mmgem search` \
         do the same in a terminal"
    )
}
