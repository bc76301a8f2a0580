use std::fs;
use std::sync::mpsc::channel;

use mmgem_scenes::scene;

use mmgem_core::image::Rgb;

use super::*;
use crate::draw::png_bytes;
use crate::library::Mark;
use crate::window::messages::{IndexEvent, Marked};

/// The worker with the embedded model, over a folder with drawn photos and a damaged one.
struct Desk {
    folder: tempfile::TempDir,
    requests: Sender<Request>,
    events: Receiver<Event>,
}

fn search(number: u64, text: &str) -> Request {
    Request::Search(Search {
        number,
        target: Target::Text(text.into()),
        filters: String::new(),
        folder: None,
        by_region: false,
        marked: Marked::Shown,
    })
}

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for index in 0..4 {
            let scene = scene(11, index);
            let photo =
                Rgb::from_raw(scene.width, scene.height, scene.rgb).expect("three bytes a pixel");
            let bytes = png_bytes(&photo).expect("encodes");
            fs::write(folder.path().join(format!("{index}.png")), bytes).expect("writable");
        }
        fs::write(folder.path().join("bad.jpg"), b"no photo").expect("writable");
        let (requests, queue) = channel();
        let (sender, events) = channel();
        let globals = Globals {
            device: DeviceChoice::Cpu,
            model: None,
            json: false,
            quiet: true,
            strict: false,
        };
        let library = folder.path().join("library.sqlite");
        let sender = EventSender::new(sender, || {});
        start(globals, library, queue, requests.clone(), sender, Arc::default());
        Self { folder, requests, events }
    }

    fn send(&self, request: Request) {
        self.requests.send(request).expect("the thread reads");
    }

    /// Waits for a message that `wanted` accepts; skips others.
    #[track_caller]
    fn wait<T>(&self, wanted: impl Fn(Event) -> Option<T>) -> T {
        loop {
            let event = self.events.recv_timeout(Duration::from_secs(120)).expect("an event");
            if let Event::Failed { why, .. } | Event::Broken(why) | Event::Problem(why) = &event {
                panic!("{why}");
            }
            if let Some(found) = wanted(event) {
                return found;
            }
        }
    }

    fn hits(&self, wanted: u64) -> Vec<Ranked> {
        self.wait(|event| match event {
            Event::Hits { number, hits, .. } if number == wanted => Some(hits),
            Event::NoHits { why, .. } => panic!("{why}"),
            _ => None,
        })
    }
}

#[test]
fn a_folder_is_indexed_searched_and_looked_into() {
    let desk = Desk::new();
    desk.send(Request::OpenModel(None));
    desk.wait(|event| matches!(event, Event::Ready(_)).then_some(()));
    let folder = desk.folder.path().to_owned();
    desk.send(Request::Index(vec![folder.clone(), folder.join("missing")]));
    let mut problems = Vec::new();
    let summary = loop {
        match desk.wait(|event| if let Event::Index(event) = event { Some(event) } else { None }) {
            IndexEvent::Problem(path, why) => problems.push((path, why)),
            IndexEvent::Ended(result) => break result.expect("writable"),
            _ => {}
        }
    };
    assert_eq!((summary.encoded, summary.unreadable), (4, 1));
    let names: Vec<_> =
        problems.iter().map(|(path, _)| path.file_name().expect("a name")).collect();
    assert_eq!(names, ["missing", "bad.jpg"], "{problems:?}");
    let catalogue = desk.wait(|event| match event {
        Event::Catalogue(catalogue) if catalogue.photos.len() == 4 => Some(catalogue),
        _ => None,
    });
    assert_eq!((catalogue.folders.len(), catalogue.problems.len()), (1, 1));

    desk.send(search(1, "a red circle"));
    let hits = desk.hits(1);
    assert!(hits.len() == 4 && hits.is_sorted_by(|a, b| a.score >= b.score), "{hits:?}");
    let first = &catalogue.photos[&hits[0].content];
    desk.send(search(2, &format!("\"{}\"", first.paths[0].display())));
    assert_eq!(desk.hits(2)[0].content, hits[0].content, "a photo is most like itself");
    desk.send(search(3, "path:1.png"));
    assert_eq!(desk.hits(3).len(), 1, "a filter alone");

    let hidden = hits[1].content;
    let change = MarkChange { hidden: Some(true), ..MarkChange::default() };
    desk.send(Request::Mark { contents: vec![hidden], change });
    let marks = desk.wait(|event| match event {
        Event::Marks(marks) => Some(marks),
        _ => None,
    });
    assert_eq!(marks.get(&hidden), Some(&Mark { hidden: true, favourite: false }));
    for (number, marked, n) in [(30, Marked::Shown, 3), (31, Marked::Hidden, 1)] {
        let Request::Search(search) = search(number, "a red circle") else { unreachable!() };
        desk.send(Request::Search(Search { marked, ..search }));
        let hits = desk.hits(number);
        assert_eq!(hits.len(), n);
        assert_eq!(hits.iter().any(|hit| hit.content == hidden), marked == Marked::Hidden);
    }

    desk.send(Request::OpenPhoto { number: 4, path: first.paths[0].clone() });
    let size_px = desk.wait(|event| match event {
        Event::PhotoDecoded { number: 4, size_px, .. } => Some(size_px),
        _ => None,
    });
    assert_eq!(size_px, first.size_px);
    let box_px = Some([0.0, 0.0, 60.0, 50.0]);
    desk.send(Request::Caption { number: 4, box_px });
    let caption = desk.wait(|event| match event {
        Event::Caption { box_px: of, text, done: true, .. } if of == box_px => Some(text),
        _ => None,
    });
    assert!(!caption.is_empty());
    desk.send(Request::Locate { number: 4, text: "a red circle".into() });
    let [x0, y0, x1, y1] = desk.wait(|event| match event {
        Event::Located { box_px, .. } => Some(box_px),
        _ => None,
    });
    assert!(x0 < x1 && y0 < y1 && x1 <= size_px[0] as f32 && y1 <= size_px[1] as f32);
}

#[test]
fn what_a_newer_request_makes_pointless_is_left_out() {
    let desk = Desk::new();
    // All requests wait while the model is opened.
    desk.send(Request::OpenModel(None));
    (1..=5).for_each(|number| desk.send(search(number, "dog")));
    desk.send(Request::OpenPhoto { number: 6, path: desk.folder.path().join("0.png") });
    desk.send(Request::Caption { number: 6, box_px: None });
    desk.send(Request::OpenPhoto { number: 7, path: desk.folder.path().join("1.png") });
    desk.send(search(8, "cat"));
    let (mut searches, mut looks) = (Vec::new(), Vec::new());
    while searches.last() != Some(&8) {
        match desk.wait(Some) {
            Event::Hits { number, .. } => searches.push(number),
            Event::PhotoDecoded { number, .. } => looks.push(number),
            Event::Caption { .. } => panic!("a caption of a photo that is no longer open"),
            _ => {}
        }
    }
    assert_eq!((searches, looks), (vec![8], vec![7]));
}

#[test]
fn a_model_that_is_none_is_told() {
    let desk = Desk::new();
    desk.send(Request::OpenModel(Some(desk.folder.path().to_owned())));
    match desk.events.recv_timeout(Duration::from_secs(60)) {
        Ok(Event::Broken(why)) => assert!(why.contains("config.json is missing"), "{why}"),
        other => panic!("{other:?}"),
    }
}
