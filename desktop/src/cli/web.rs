//! `mmgem web`: serves the web page to this machine.

use std::borrow::Cow;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use httparse::Status;
use serde_json::{Value, json};

use crate::globals::Globals;
use crate::library::default_library;
use crate::names::{json_path, printable_path};
use crate::terminal::{note, print, print_json};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mmgem web\n  \
    mmgem web --port 8080 --no-open\n  \
    mmgem web --model runs/large --offer runs/small\n  \
    mmgem web --dir ~/mmgem-page\n\n\
    `cargo web` in a checkout builds the page. An installed program looks for it in its data \
    folder, as mmgem/web. The server listens to this machine only (127.0.0.1), until Ctrl-C.")]
pub struct WebArgs {
    /// Folder of the built page [default: web/dist of the checkout, or an installed copy]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Another model folder for the page's list of models; repeat it for more. The page opens that
    /// of --model first
    #[arg(long, value_name = "DIR")]
    offer: Vec<PathBuf>,
    /// Port to listen on; 0 picks a free one
    #[arg(long, value_name = "N", default_value_t = 7860)]
    port: u16,
    /// Print the address without opening a browser
    #[arg(long)]
    no_open: bool,
}

pub fn run(args: &WebArgs, globals: &Globals) -> Result<()> {
    let site = Site {
        page: find_page(args.dir.as_deref())?,
        models: offered_models(globals.model.as_deref(), &args.offer)?,
    };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    let listener = TcpListener::bind(address).map_err(|cause| {
        anyhow::anyhow!(
            "cannot listen on {address}: {cause}\n  hint: is the server already running? --port 0 picks a free port"
        )
    })?;
    let mut url =
        format!("http://{}/", listener.local_addr().context("the server has no address")?);
    if let (Some(_), Some(first)) = (&globals.model, site.models.first()) {
        url += &format!("?model={}", first.url);
    }
    if globals.json {
        print_json(&json!({ "url": url, "dir": json_path(&site.page) }))?;
    } else {
        print(&url)?;
    }
    let page = printable_path(&site.page);
    note(globals.quiet, format!("serving {page} to this machine; press Ctrl-C to stop"));
    if !args.no_open && open::that_detached(&url).is_err() {
        note(globals.quiet, "cannot start a browser; open the address in one");
    }
    serve(&listener, site)
}

/// The served folders.
struct Site {
    /// Folder of the page, canonical.
    page: PathBuf,
    models: Vec<OfferedModel>,
}

/// A model folder that the server offers to the page.
struct OfferedModel {
    /// Folder on disk, canonical.
    folder: PathBuf,
    /// Name for the user.
    name: String,
    /// URL of the folder, relative to the page.
    url: String,
    /// Size of its files.
    bytes: u64,
}

/// The model of `--model`, then those of `--offer`.
fn offered_models(first: Option<&Path>, others: &[PathBuf]) -> Result<Vec<OfferedModel>> {
    let folders = first.into_iter().chain(others.iter().map(PathBuf::as_path));
    folders.enumerate().map(|(at, folder)| OfferedModel::read(folder, at)).collect()
}

impl OfferedModel {
    /// Lists the model's files, without reading them.
    fn read(folder: &Path, at: usize) -> Result<OfferedModel> {
        let entries = fs::read_dir(folder).with_context(|| {
            format!("cannot list the model\n  folder: {}", printable_path(folder))
        })?;
        let (mut names, mut bytes) = (Vec::new(), 0);
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_of_model(&name) {
                bytes += fs::metadata(entry.path())?.len();
                names.push(name);
            }
        }
        let has_weights = names.iter().any(|name| name.ends_with(".safetensors"));
        let missing = ["config.json", "tokenizer.json"]
            .into_iter()
            .find(|wanted| names.iter().all(|name| name != wanted))
            .or((!has_weights).then_some("model.safetensors"));
        if let Some(missing) = missing {
            bail!(
                "this is not a model folder: {missing} is missing\n  hint: give a folder that \
                 `mmgem export` or `mmgem train` wrote\n  folder: {}",
                printable_path(folder)
            );
        }
        let folder = folder.canonicalize()?;
        let name = folder
            .file_name()
            .map_or_else(|| "model".into(), |name| printable_path(Path::new(name)));
        // A URL escapes other characters.
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let plain: String = name.chars().map(|c| if is_plain(c) { c } else { '-' }).collect();
        Ok(OfferedModel { folder, url: format!("models/here-{at}-{plain}/"), name, bytes })
    }
}

/// Whether the page may fetch the file of a model folder.
fn is_of_model(name: &str) -> bool {
    let is_weights = name.starts_with("model") && name.ends_with(".safetensors");
    let is_inside = !name.contains(['/', '\\']);
    matches!(name, "config.json" | "tokenizer.json" | "model.safetensors.index.json")
        || (is_weights && is_inside)
}

/// The list of models for the page: those offered here, then those of the built page.
fn model_list(site: &Site) -> String {
    let offered = site.models.iter().map(|OfferedModel { url, name, bytes, .. }| {
        json!({ "folder": url, "name": name, "bytes": bytes })
    });
    let built = fs::read(site.page.join(MODEL_LIST)).ok();
    let built: Option<Value> = built.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let built = built.as_ref().and_then(|list| list["models"].as_array());
    let all: Vec<Value> = offered.chain(built.into_iter().flatten().cloned()).collect();
    format!("{:#}\n", json!({ "format": "mmgem-models-1", "models": all }))
}

/// The list of models. `cargo web` writes it with the models of the page.
const MODEL_LIST: &str = "models.json";

/// Largest request head in bytes. A browser's is a tenth of it.
const HEAD_LIMIT: u64 = 16 << 10;
/// Read timeout. Browsers open connections that they may never use.
const SILENCE_LIMIT: Duration = Duration::from_secs(10);
/// Limit of the bytes after the request, which are read and dropped.
const REST_LIMIT: u64 = 1 << 20;

/// Answers each connection on its own thread. A write waits until the browser reads, and a browser
/// may leave a file half read. With a fixed number of threads, as many such files would block all
/// others.
fn serve(listener: &TcpListener, site: Site) -> ! {
    let site = Arc::new(site);
    loop {
        let Ok((connection, _)) = listener.accept() else {
            // The browser gave up, or too many connections are open: wait and try again.
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        let site = Arc::clone(&site);
        // Errors of a disconnected browser are ignored. If no thread starts, the drop closes the
        // connection.
        let _ = thread::Builder::new().spawn(move || converse(&connection, &site));
    }
}

/// Reads one request and writes its answer.
fn converse(connection: &TcpStream, site: &Site) -> io::Result<()> {
    connection.set_read_timeout(Some(SILENCE_LIMIT))?;
    // Without this, a small file waits until the browser acknowledges the head.
    connection.set_nodelay(true)?;
    let request = read_request(connection)?;
    answer(request.as_ref(), site).write(connection)?;
    hang_up(connection)
}

/// Ends the answer and waits until the browser closes the connection. Closing it while received
/// bytes are unread resets the connection, and the browser loses the rest of the answer.
fn hang_up(connection: &TcpStream) -> io::Result<()> {
    connection.shutdown(Shutdown::Write)?;
    io::copy(&mut connection.take(REST_LIMIT), &mut io::sink())?;
    Ok(())
}

/// Finds the folder of the page: `given`, or the first of these that has an index.html: `web/dist`
/// of the checkout that built this program, `web/dist` of the current folder, the folders beside an
/// installed program, and the user's data folder.
fn find_page(given: Option<&Path>) -> Result<PathBuf> {
    let candidates = match given {
        Some(dir) => vec![dir.to_owned()],
        None => places_of_page(std::env::current_exe().ok().as_deref(), personal_page().as_deref()),
    };
    let found = candidates.iter().find(|dir| dir.join("index.html").is_file());
    let Some(found) = found else { bail!(no_page(given, personal_page().as_deref())) };
    found
        .canonicalize()
        .with_context(|| format!("cannot read the folder\n  folder: {}", printable_path(found)))
}

/// The folder of the page in the user's data folder.
fn personal_page() -> Option<PathBuf> {
    Some(default_library().ok()?.parent()?.join("web"))
}

fn places_of_page(program: Option<&Path>, personal: Option<&Path>) -> Vec<PathBuf> {
    let built_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("../web/dist");
    let mut places = vec![built_in, PathBuf::from("web/dist")];
    if let Some(folder) = program.and_then(Path::parent) {
        places.push(folder.join("mmgem-web"));
        places.push(folder.join("../share/mmgem/web"));
    }
    places.extend(personal.map(Path::to_owned));
    places
}

fn no_page(given: Option<&Path>, personal: Option<&Path>) -> String {
    let place = given.or(personal).map_or_else(|| "web/dist".into(), printable_path);
    let cure = match (given, personal) {
        (None, Some(personal)) => format!("copy web/dist to {}", printable_path(personal)),
        _ => "give its web/dist as --dir".into(),
    };
    format!(
        "the page is not built: index.html is missing\n  hint: run `cargo web` in a checkout of this \
         program, then {cure}\n  folder: {place}"
    )
}

/// The used fields of a request.
struct Request {
    method: String,
    url: String,
    host: String,
}

/// Reads a request. `None` if it is malformed or too long.
fn read_request(connection: impl Read) -> io::Result<Option<Request>> {
    let mut connection = connection.take(HEAD_LIMIT);
    let mut head = Vec::new();
    let mut chunk = [0; 2048];
    loop {
        let size = connection.read(&mut chunk)?;
        head.extend_from_slice(&chunk[..size]);
        match parse_request(&head) {
            Ok(Status::Complete(request)) => return Ok(Some(request)),
            Ok(Status::Partial) if size > 0 => {}
            Ok(Status::Partial) | Err(_) => return Ok(None),
        }
    }
}

fn parse_request(head: &[u8]) -> httparse::Result<Request> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    if request.parse(head)?.is_partial() {
        return Ok(Status::Partial);
    }
    let host = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("Host"));
    Ok(Status::Complete(Request {
        method: request.method.unwrap_or_default().to_owned(),
        url: request.path.unwrap_or_default().to_owned(),
        // A host that is missing or not UTF-8 becomes "", which is not local.
        host: host.and_then(|host| str::from_utf8(host.value).ok()).unwrap_or_default().to_owned(),
    }))
}

fn answer(request: Option<&Request>, site: &Site) -> Answer {
    let Some(request) = request else {
        return Answer::refusal("400 Bad Request", "this is not an HTTP request\n");
    };
    if !matches!(request.method.as_str(), "GET" | "HEAD") {
        return Answer::refusal("405 Method Not Allowed", "only GET and HEAD\n");
    }
    if !is_local(&request.host) {
        return Answer::refusal("403 Forbidden", "this page is for this machine only\n");
    }
    let answer = if path_of(&request.url) == MODEL_LIST {
        Some(Answer::model_list(site))
    } else {
        served_file(site, &request.url).and_then(|path| Answer::file(&path).ok())
    };
    let answer =
        answer.unwrap_or_else(|| Answer::refusal("404 Not Found", "there is no such file\n"));
    Answer { head_only: request.method == "HEAD", ..answer }
}

struct Answer {
    status: &'static str,
    mime_type: &'static str,
    size: u64,
    body: Body,
    head_only: bool,
}

enum Body {
    File(fs::File),
    Text(Cow<'static, str>),
}

impl Answer {
    fn file(path: &Path) -> io::Result<Answer> {
        let file = fs::File::open(path)?;
        let size = file.metadata()?.len();
        let body = Body::File(file);
        Ok(Answer { status: "200 OK", mime_type: mime_type(path), size, body, head_only: false })
    }

    fn refusal(status: &'static str, why: &'static str) -> Answer {
        let (size, body) = (why.len() as u64, Body::Text(why.into()));
        Answer { status, mime_type: "text/plain; charset=utf-8", size, body, head_only: false }
    }

    fn model_list(site: &Site) -> Answer {
        let text = model_list(site);
        let (size, body) = (text.len() as u64, Body::Text(text.into()));
        let mime_type = mime_type(Path::new(MODEL_LIST));
        Answer { status: "200 OK", mime_type, size, body, head_only: false }
    }

    fn write(self, mut connection: impl Write) -> io::Result<()> {
        connection.write_all(self.head().as_bytes())?;
        match self.body {
            _ if self.head_only => Ok(()),
            Body::Text(text) => connection.write_all(text.as_bytes()),
            // At most the announced size, in case the file grows.
            Body::File(file) => io::copy(&mut file.take(self.size), &mut connection).map(drop),
        }
    }

    fn head(&self) -> String {
        let mut head = format!("HTTP/1.1 {}\r\n", self.status);
        let size = self.size.to_string();
        let own = [
            ("Connection", "close"),
            ("Content-Length", &size),
            ("Content-Type", self.mime_type),
            ("Allow", "GET, HEAD"),
        ];
        for (name, value) in own.into_iter().chain(HEADERS) {
            head += &format!("{name}: {value}\r\n");
        }
        head + "\r\n"
    }
}

/// These headers allow the page to use only its own origin, and no other page to embed it.
const HEADERS: [(&str, &str); 7] = [
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Embedder-Policy", "require-corp"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; style-src 'self'; img-src 'self' \
         blob: data:; media-src 'self' blob:; connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action \
         'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    // The browser revalidates every file, so that a new build shows at once.
    ("Cache-Control", "no-cache"),
];

/// Whether the `Host` header has a local name. A foreign name that resolves to this machine is an
/// attack (DNS rebinding).
fn is_local(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _port)| name);
    matches!(name, "127.0.0.1" | "localhost")
}

/// The path of a URL, without a slash at its start.
fn path_of(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or_default().trim_start_matches('/')
}

/// The file of a URL: of an offered model, else of the page. `None` if there is no such file.
fn served_file(site: &Site, url: &str) -> Option<PathBuf> {
    let path = path_of(url);
    let of_model = |model: &OfferedModel| {
        let name = path.strip_prefix(&model.url).filter(|name| is_of_model(name))?;
        let file = model.folder.join(name);
        file.is_file().then_some(file)
    };
    site.models.iter().find_map(of_model).or_else(|| file_of(&site.page, url))
}

/// The file of a URL inside `dir`. The URL of a folder gives its `index.html`. `None` if there is
/// no such file.
fn file_of(dir: &Path, url: &str) -> Option<PathBuf> {
    let path = path_of(url);
    // No file of the page has a name with an escaped character.
    let inside = |part: Component| matches!(part, Component::Normal(_));
    if path.contains(['%', '\\']) || !Path::new(path).components().all(inside) {
        return None;
    }
    let file = dir.join(path);
    let file = if file.is_dir() { file.join("index.html") } else { file };
    // Reject a symbolic link to a file outside of the folder.
    file.canonicalize().ok().filter(|file| file.is_file() && file.starts_with(dir))
}

fn mime_type(path: &Path) -> &'static str {
    match path.extension().and_then(|extension| extension.to_str()).unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" => "application/json",
        "webmanifest" => "application/manifest+json",
        "wasm" => "application/wasm",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" => "image/jpeg",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;

    /// Serves a folder in the background. Returns the address.
    fn start(dir: PathBuf) -> SocketAddr {
        start_site(Site { page: dir, models: Vec::new() })
    }

    fn start_site(site: Site) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("it listens");
        thread::spawn(move || serve(&listener, site));
        address
    }

    /// Sends a text on a new connection, without reading the answer.
    fn send(address: SocketAddr, text: &str) -> BufReader<TcpStream> {
        let mut connection = TcpStream::connect(address).expect("the server listens");
        connection.set_read_timeout(Some(Duration::from_secs(20))).expect("not zero");
        connection.write_all(text.as_bytes()).expect("the server reads it");
        BufReader::new(connection)
    }

    fn ask(address: SocketAddr, file: &str) -> BufReader<TcpStream> {
        send(address, &format!("GET /{file} HTTP/1.1\r\nHost: {address}\r\n\r\n"))
    }

    /// The first line of the answer.
    fn status(connection: &mut BufReader<TcpStream>) -> String {
        let mut line = String::new();
        connection.read_line(&mut line).expect("the server answers in time");
        line.trim().to_owned()
    }

    #[test]
    fn browsers_that_leave_files_half_read_do_not_hold_up_the_next_one() {
        const LARGER_THAN_SOCKETS_HOLD: u64 = 64 << 20;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let dir = folder.path().canonicalize().expect("it is there");
        fs::write(dir.join("index.html"), "the page").expect("writable");
        let large = fs::File::create(dir.join("large")).expect("writable");
        large.set_len(LARGER_THAN_SOCKETS_HOLD).expect("a sparse file");
        let address = start(dir);

        let mut stalled: Vec<_> = (0..12).map(|_| ask(address, "large")).collect();
        for connection in &mut stalled {
            assert_eq!(status(connection), "HTTP/1.1 200 OK");
        }
        let mut kept_open: Vec<_> = (0..12).map(|_| ask(address, "index.html")).collect();
        for connection in &mut kept_open {
            assert_eq!(status(connection), "HTTP/1.1 200 OK");
        }
        let mut first = stalled.swap_remove(0);
        let mut rest = Vec::new();
        first.get_mut().shutdown(Shutdown::Write).expect("still open");
        first.read_to_end(&mut rest).expect("the rest of a half-read file is still sent");
        assert!(rest.len() as u64 > LARGER_THAN_SOCKETS_HOLD);
    }

    #[test]
    fn each_request_gets_one_whole_answer() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let dir = folder.path().canonicalize().expect("it is there");
        fs::write(dir.join("index.html"), "the page").expect("writable");
        let address = start(dir);
        let host = "Host: localhost\r\n";
        for (request, status, body) in [
            (format!("GET / HTTP/1.1\r\n{host}\r\n"), "200 OK", "the page"),
            (format!("HEAD / HTTP/1.1\r\n{host}\r\n"), "200 OK", ""),
            (
                format!("GET /none HTTP/1.1\r\n{host}\r\n"),
                "404 Not Found",
                "there is no such file\n",
            ),
            (
                format!("POST / HTTP/1.1\r\n{host}\r\nbody"),
                "405 Method Not Allowed",
                "only GET and HEAD\n",
            ),
            (
                "GET / HTTP/1.1\r\n\r\n".into(),
                "403 Forbidden",
                "this page is for this machine only\n",
            ),
        ] {
            let mut answer = String::new();
            send(address, &request)
                .read_to_string(&mut answer)
                .expect("the server answers in time");
            let (head, rest) = answer.split_once("\r\n\r\n").expect("a head ends in an empty line");
            assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{head}");
            assert!(head.contains("\r\nCross-Origin-Embedder-Policy: require-corp\r\n"), "{head}");
            let size = if request.starts_with("HEAD") { "the page".len() } else { body.len() };
            assert!(head.contains(&format!("\r\nContent-Length: {size}\r\n")), "{head}");
            assert_eq!(rest, body, "{request}");
        }
    }

    #[test]
    fn a_malformed_or_endless_head_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let address = start(folder.path().canonicalize().expect("it is there"));
        // The server answers the endless head while most of it is unread; the answer must still
        // arrive.
        let endless = format!("GET / HTTP/1.1\r\nCookie: {}", "a".repeat(1 << 19));
        for head in ["no request\r\n\r\n", "GET / HTTP/1.1\r\nno header\r\n\r\n", &endless] {
            let mut answer = String::new();
            send(address, head).read_to_string(&mut answer).expect("the server answers in time");
            assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
            assert!(answer.ends_with("this is not an HTTP request\n"), "{answer}");
        }
    }

    #[test]
    fn files_of_the_folder_are_served_and_no_others() {
        let outside = tempfile::tempdir().expect("a temporary folder");
        let dir = outside.path().canonicalize().expect("it is there").join("page");
        fs::create_dir_all(dir.join("lib")).expect("writable");
        for file in ["index.html", "lib/a.wasm", "../secret"] {
            fs::write(dir.join(file), "").expect("writable");
        }
        let file = |url: &str| file_of(&dir, url);
        assert_eq!(file("/"), Some(dir.join("index.html")));
        assert_eq!(file("/?model=other"), Some(dir.join("index.html")));
        assert_eq!(file("/lib/a.wasm"), Some(dir.join("lib/a.wasm")));
        for url in [
            "/../secret",
            "/lib/../../secret",
            "/%2e%2e/secret",
            "//etc/passwd",
            "/..\\secret",
            "/nothing",
        ] {
            assert_eq!(file(url), None, "{url}");
        }
    }

    /// Writes files of these names below `folder`, each with its name as its text.
    fn write_files(folder: &Path, names: &[&str]) {
        fs::create_dir_all(folder).expect("writable");
        for name in names {
            fs::write(folder.join(name), name).expect("writable");
        }
    }

    const MODEL: [&str; 3] = ["config.json", "tokenizer.json", "model.safetensors"];

    #[test]
    fn offered_models_are_listed_before_those_of_the_page_and_their_files_are_served() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let page = folder.path().canonicalize().expect("it is there").join("page");
        write_files(&page, &["index.html"]);
        let own = r#"{"models": [{"folder": "model/", "name": "the embedded model", "bytes": 7}]}"#;
        fs::write(page.join("models.json"), own).expect("writable");
        let (large, small) = (folder.path().join("my large"), folder.path().join("small"));
        write_files(&large, &MODEL);
        write_files(&large, &["secret.txt"]);
        write_files(&large.join("model"), &["other.safetensors"]);
        write_files(&small, &MODEL);
        let models = offered_models(Some(&large), &[small]).expect("two models");
        let address = start_site(Site { page, models });
        let body = |file: &str| {
            let mut answer = String::new();
            ask(address, file).read_to_string(&mut answer).expect("the server answers in time");
            let (_, body) = answer.split_once("\r\n\r\n").expect("a head ends in an empty line");
            body.to_owned()
        };

        let list: Value = serde_json::from_str(&body("models.json")).expect("JSON");
        let bytes = MODEL.iter().map(|name| name.len()).sum::<usize>();
        let wanted = json!([
            { "folder": "models/here-0-my-large/", "name": "my large", "bytes": bytes },
            { "folder": "models/here-1-small/", "name": "small", "bytes": bytes },
            { "folder": "model/", "name": "the embedded model", "bytes": 7 },
        ]);
        assert_eq!(list["models"], wanted);
        for name in MODEL {
            assert_eq!(body(&format!("models/here-0-my-large/{name}")), name);
        }
        for name in ["secret.txt", "", "model/other.safetensors", "model/../secret.txt"] {
            let answer = body(&format!("models/here-0-my-large/{name}"));
            assert_eq!(answer, "there is no such file\n", "{name}");
        }
    }

    #[test]
    fn a_folder_without_weights_is_not_offered_as_a_model() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        write_files(folder.path(), &MODEL[..2]);
        let error = offered_models(None, &[folder.path().into()]).err().expect("no weights");
        let error = error.to_string();
        assert!(
            error.contains("model.safetensors is missing") && error.contains("mmgem export"),
            "{error}"
        );
    }

    #[test]
    fn a_foreign_name_for_this_machine_is_refused() {
        for (host, local) in [
            ("127.0.0.1:7860", true),
            ("localhost:7860", true),
            ("localhost", true),
            ("evil.example:7860", false),
            ("", false),
        ] {
            assert_eq!(is_local(host), local, "{host}");
        }
    }

    #[test]
    fn a_page_that_is_not_built_says_how() {
        let empty = tempfile::tempdir().expect("a temporary folder");
        let error = find_page(Some(empty.path())).expect_err("empty").to_string();
        assert!(error.contains("cargo web") && error.contains("--dir"), "{error}");
        let error = no_page(None, Some(Path::new("/data/mmgem/web")));
        assert!(
            error.contains("cargo web") && error.contains("copy web/dist to /data/mmgem/web"),
            "{error}"
        );
    }

    #[test]
    fn an_installed_program_finds_its_page() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let program = folder.path().join("bin/mmgem");
        let personal = folder.path().join("data/web");
        for place in ["bin/mmgem-web", "share/mmgem/web", "data/web"] {
            let place = folder.path().join(place);
            fs::create_dir_all(&place).expect("writable");
            fs::write(place.join("index.html"), "the page").expect("writable");
            let found = places_of_page(Some(&program), Some(&personal));
            let found = found
                .iter()
                .skip(2)
                .find(|dir| dir.join("index.html").is_file())
                .expect("it is there");
            assert_eq!(found.canonicalize().expect("there"), place.canonicalize().expect("there"));
            fs::remove_dir_all(&place).expect("writable");
            fs::create_dir_all(folder.path().join("bin")).expect("writable");
        }
    }
}
