//! The system's dialog to choose a folder. On Linux the desktop's portal shows it, through D-Bus;
//! without a portal zenity does.

use std::path::PathBuf;
use std::thread;

use super::messages::{Event, EventSender, FolderUse};

/// Shows the dialog on a thread of its own and sends the user's choice.
pub fn choose_folder(to: FolderUse, events: EventSender) {
    let title = match &to {
        FolderUse::Add => "Add a folder with photos",
        FolderUse::Model => "Open the folder of a model",
        FolderUse::Export(_) => "Copy the photos to a folder",
    };
    let run = move || {
        let folder: Option<PathBuf> = rfd::FileDialog::new().set_title(title).pick_folder();
        events.send(Event::FolderChosen { to, folder });
    };
    thread::Builder::new().name("dialog".into()).spawn(run).expect("a thread can be started");
}
