//! The real window on a virtual screen with software OpenGL, then Vulkan, driven by key and pointer
//! events.
//!
//! `MMGEM_SCREENSHOTS=DIR` keeps the screenshots.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mmgem_scenes::scene;
use serde_json::Value;
use tempfile::TempDir;

use super::{mmgem, text};

const N_PHOTOS: u64 = 40;
/// Time limit of the slowest event, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// A process that is killed at the end of the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A virtual screen.
struct Screen {
    server: Running,
    display: String,
    _only_one: MutexGuard<'static, ()>,
}

impl Drop for Screen {
    /// Ends the server by SIGTERM, so that it removes its lock file. Two servers that find a stale
    /// lock file may both take its display.
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.server.0.id().to_string()).status();
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.server.0.try_wait().is_ok_and(|ended| ended.is_none())
            && Instant::now() < deadline
        {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Screen {
    /// Starts the server. `None` if a needed tool is missing.
    fn open() -> Option<Self> {
        for (tool, argument) in [("Xvfb", "-help"), ("xdotool", "version"), ("import", "-version")]
        {
            let start = Command::new(tool)
                .arg(argument)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            if start.is_err() {
                eprintln!(
                    "SKIPPED: the window is not tested: {tool} is missing (apt: xvfb, xdotool, imagemagick)"
                );
                return None;
            }
        }
        static ONE: Mutex<()> = Mutex::new(());
        let only_one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut server = Command::new("Xvfb");
        // Without `-noreset` it restarts after its last client leaves, and rejects new clients
        // meanwhile.
        server.args([
            "-displayfd",
            "1",
            "-screen",
            "0",
            "1180x780x24",
            "-nolisten",
            "tcp",
            "-noreset",
        ]);
        let mut server =
            server.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("Xvfb starts");
        let mut number = String::new();
        let stdout = server.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut number).expect("Xvfb prints its display");
        Some(Self {
            server: Running(server),
            display: format!(":{}", number.trim()),
            _only_one: only_one,
        })
    }

    fn on_it<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("DISPLAY", &self.display).env("LIBGL_ALWAYS_SOFTWARE", "1");
        command.env_remove("WAYLAND_DISPLAY").env_remove("WAYLAND_SOCKET")
    }

    /// Sends keys and pointer events, in xdotool's syntax.
    fn input(&self, words: &[&str]) {
        let mut xdotool = Command::new("xdotool");
        let output = self.on_it(xdotool.args(words)).output().expect("xdotool starts");
        assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
    }

    /// Takes a screenshot.
    fn screenshot(&self, name: &str, folder: &Path) -> image::RgbImage {
        let keep = std::env::var_os("MMGEM_SCREENSHOTS").map(PathBuf::from);
        let file = keep.as_deref().unwrap_or(folder).join(format!("{name}.png"));
        let mut import = Command::new("import");
        let import = self.on_it(import.args(["-window", "root"]).arg(&file)).status();
        assert!(import.expect("import starts").success());
        image::open(&file).expect("a picture was taken").to_rgb8()
    }
}

/// The window and its events.
struct Window {
    process: Running,
    events: Receiver<Value>,
}

impl Window {
    fn open(screen: &Screen, folder: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(mmgem());
        command.current_dir(folder).args([
            "app",
            "--json",
            "--device",
            "cpu",
            "--library",
            "l.sqlite",
        ]);
        command.args(arguments).stdout(Stdio::piped());
        let mut process = screen.on_it(&mut command).spawn().expect("the program starts");
        let lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        let (sender, events) = channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let event = serde_json::from_str(&line).expect("a JSON object a line");
                if sender.send(event).is_err() {
                    break;
                }
            }
        });
        Self { process: Running(process), events }
    }

    /// Waits for an event of this name that satisfies `right`.
    #[track_caller]
    fn wait(&mut self, name: &str, right: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(event) if event["event"] == name && right(&event) => return event,
                Ok(event) => seen.push(event),
                Err(_) => {
                    let ended = self.process.0.try_wait();
                    panic!("no {name} came, only {seen:?}; the program: {ended:?}");
                }
            }
        }
    }
}

fn write_photos(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    fs::create_dir(folder).expect("writable");
    let write = |index| {
        let scene = scene(5, index);
        let photo = image::RgbImage::from_raw(scene.width, scene.height, scene.rgb)
            .expect("rows of pixels");
        let path = folder.join(format!("scene {index:02}.png"));
        photo.save(&path).expect("writable");
        (path.clone(), fs::read(path).expect("just written"))
    };
    (0..N_PHOTOS).map(write).collect()
}

/// The JSON result of the same program in a terminal.
fn in_terminal(folder: &Path, arguments: &[&str]) -> Value {
    let mut command = Command::new(mmgem());
    let output = command
        .current_dir(folder)
        .args(arguments)
        .args(["--json", "-q", "--device", "cpu"])
        .output();
    let output = output.expect("the program starts");
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON document")
}

fn lightness(picture: &image::RgbImage) -> f64 {
    picture.as_raw().iter().map(|value| f64::from(*value)).sum::<f64>()
        / picture.as_raw().len() as f64
}

fn n_colors(picture: &image::RgbImage) -> usize {
    picture.pixels().map(|pixel| pixel.0).collect::<std::collections::HashSet<_>>().len()
}

#[test]
fn the_window_searches_describes_and_locates_under_real_keys_and_pointer() {
    let Some(screen) = Screen::open() else { return };
    let folder = TempDir::new().expect("a temporary folder");
    let photos = write_photos(&folder.path().join("photos"));

    let mut window = Window::open(&screen, folder.path(), &["photos", "--theme", "dark"]);
    let adapters = in_terminal(folder.path(), &["info", "--devices"])["wgpu"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let has_gpu = adapters.iter().any(|adapter| adapter["device_type"] != "software");
    window.wait("opened", |event| (event["renderer"] == "gl") != has_gpu);
    window.wait("indexed", |event| event["encoded"] == N_PHOTOS && event["problems"] == 0);
    window.wait("hits", |event| event["n"].as_u64().is_some_and(|n| n + 2 >= N_PHOTOS));
    screen.input(&["search", "--sync", "--name", "MM-GEM", "windowfocus", "--sync"]);
    // A place where the pointer hovers over nothing.
    screen.input(&["mousemove", "590", "770"]);

    screen.input(&["key", "slash"]);
    screen.input(&["type", "--delay", "40", "a red circle"]);
    let hits = window.wait("hits", |event| event["query"] == "a red circle");
    let wanted =
        in_terminal(folder.path(), &["search", "a red circle", "--library", "l.sqlite", "-k", "5"]);
    let wanted: Vec<&Value> =
        wanted.as_array().expect("hits").iter().map(|hit| &hit["path"]).collect();
    assert_eq!(hits["first"].as_array().expect("paths").iter().collect::<Vec<_>>(), wanted);
    thread::sleep(Duration::from_secs(3));
    let picture = screen.screenshot("search-dark", folder.path());
    assert!(
        n_colors(&picture) > 1000 && lightness(&picture) < 110.0,
        "{} {}",
        n_colors(&picture),
        lightness(&picture)
    );

    // The window counts two keys within one slow frame as one.
    screen.input(&["key", "Return"]);
    thread::sleep(Duration::from_secs(1));
    screen.input(&["key", "Return"]);
    let photo = window.wait("photo", |_| true)["path"].as_str().expect("a path").to_owned();
    assert_eq!(photo, wanted[0].as_str().expect("a path"));
    screen.input(&["mousemove", "330", "260", "mousedown", "1"]);
    for x in (360..=540).step_by(30) {
        screen.input(&["mousemove", &x.to_string(), &(260 + (x - 330) * 4 / 5).to_string()]);
        thread::sleep(Duration::from_millis(60));
    }
    screen.input(&["mouseup", "1"]);
    let caption = window.wait("caption", |_| true);
    let box_px: Vec<String> = caption["box"]
        .as_array()
        .expect("a box")
        .iter()
        .map(|x| x.as_f64().expect("a number").to_string())
        .collect();
    let wanted = in_terminal(folder.path(), &["caption", &photo, "--box", &box_px.join(",")]);
    assert_eq!(caption["text"], wanted[0]["caption"]);

    screen.input(&["key", "slash"]);
    screen.input(&["type", "--delay", "40", "a red circle"]);
    screen.input(&["key", "Return"]);
    let located = window.wait("located", |event| event["text"] == "a red circle");
    let wanted = in_terminal(
        folder.path(),
        &["localize", &photo, "--text", "a red circle", "--out", "heat.png"],
    );
    assert_eq!(located["box"], wanted["box"]);
    thread::sleep(Duration::from_secs(3));
    screen.screenshot("photo-dark", folder.path());
    drop(window);

    let renderer = if adapters.is_empty() { "gl" } else { "wgpu" };
    if adapters.is_empty() {
        eprintln!(
            "SKIPPED: the window is not drawn by wgpu: no adapter (apt: mesa-vulkan-drivers)"
        );
    }
    let mut window =
        Window::open(&screen, folder.path(), &["--theme", "light", "--renderer", renderer]);
    window.wait("opened", |event| (event["renderer"] == "gl") == adapters.is_empty());
    screen.input(&["mousemove", "590", "770"]);
    window.wait("indexed", |event| event["encoded"] == 0);
    thread::sleep(Duration::from_secs(3));
    let picture = screen.screenshot("all-light", folder.path());
    assert!(
        n_colors(&picture) > 1000 && lightness(&picture) > 140.0,
        "{} {}",
        n_colors(&picture),
        lightness(&picture)
    );
    drop(window);

    for (path, bytes) in &photos {
        assert!(fs::read(path).expect("still there") == *bytes, "{} was changed", path.display());
    }
    let n_files = fs::read_dir(folder.path().join("photos")).expect("still there").count();
    assert_eq!(n_files, photos.len(), "nothing was written beside the photos");
}

#[test]
fn without_opengl_the_window_says_so() {
    let Some(screen) = Screen::open() else { return };
    let folder = TempDir::new().expect("a temporary folder");
    let mut command = Command::new(mmgem());
    command.current_dir(folder.path()).args(["app", "--library", "l.sqlite"]);
    // Paths without drivers.
    screen.on_it(&mut command).env("LIBGL_DRIVERS_PATH", "/nowhere");
    command
        .env("__GLX_VENDOR_LIBRARY_NAME", "mesa")
        .env("__EGL_VENDOR_LIBRARY_FILENAMES", "/nowhere");
    let output = command.output().expect("the program starts");
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("OpenGL: ") && stderr.contains("mmgem search"), "{stderr}");
}

#[test]
fn without_a_desktop_the_window_says_so() {
    let folder = TempDir::new().expect("a temporary folder");
    let mut command = Command::new(mmgem());
    command.current_dir(folder.path()).args(["app", "--library", "l.sqlite"]);
    for variable in ["DISPLAY", "WAYLAND_DISPLAY", "WAYLAND_SOCKET"] {
        command.env_remove(variable);
    }
    if !cfg!(target_os = "linux") {
        eprintln!("SKIPPED: this system always has a desktop");
        return;
    }
    let output = command.output().expect("the program starts");
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("mmgem app needs a desktop") && stderr.contains("mmgem search"),
        "{stderr}"
    );
    assert!(stderr.contains("neither DISPLAY nor WAYLAND_DISPLAY is set"), "{stderr}");
    assert!(!stderr.contains(".rs:"), "a path inside a library: {stderr}");
}
