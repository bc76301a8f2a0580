//! `mmgem web`: serves the page on this machine.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::json;
use tiny_http::{Header, Method, Request, Response, Server};

use crate::args::Globals;
use crate::terminal::{note, print, print_json};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mmgem web\n  \
    mmgem web --port 8080 --no-open\n  \
    mmgem web --dir ~/mmgem-page\n\n\
    `cargo web` builds the page. It is served to this machine only (127.0.0.1), until Ctrl-C.")]
pub struct WebArgs {
    /// Folder of the built page; web/dist of the checkout without
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Port; 0 takes a free one
    #[arg(long, value_name = "N", default_value_t = 7860)]
    port: u16,
    /// Print the address and leave the browser alone
    #[arg(long)]
    no_open: bool,
}

pub fn run(args: &WebArgs, globals: &Globals) -> Result<()> {
    let dir = find_page(args.dir.as_deref())?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    let server = Server::http(address).map_err(|cause| {
        anyhow::anyhow!(
            "cannot listen on {address}: {cause}\n  hint: is it running already? --port 0 takes a free port"
        )
    })?;
    let url = format!("http://{}/", server.server_addr());
    if globals.json {
        print_json(&json!({ "url": url, "dir": dir }))?;
    } else {
        print(&url)?;
    }
    note(globals.quiet, format!("serving {} to this machine; Ctrl-C ends it", dir.display()));
    if !args.no_open && open::that_detached(&url).is_err() {
        note(globals.quiet, "no browser could be started: open the address in one");
    }
    serve(&server, dir)
}

/// Answers each request on a thread of its own. Writing waits for the browser to read, and a browser may leave a
/// file half read for as long as it likes: with any fixed number of threads, so many of those hang the rest.
fn serve(server: &Server, dir: PathBuf) -> Result<()> {
    let dir: Arc<Path> = dir.into();
    loop {
        let request = server.recv().context("the server cannot take connections any more")?;
        let dir = Arc::clone(&dir);
        // A browser that went away is its own affair; a request that gets no thread is answered with 500 by its drop.
        let _ = thread::Builder::new().spawn(move || answer(request, &dir));
    }
}

/// The folder given, or the checkout's that this program was built in, or the one below the current folder.
fn find_page(given: Option<&Path>) -> Result<PathBuf> {
    let built_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("../web/dist");
    let candidates = match given {
        Some(dir) => vec![dir.to_owned()],
        None => vec![built_in, PathBuf::from("web/dist")],
    };
    let found = candidates.iter().find(|dir| dir.join("index.html").is_file());
    let wanted = &candidates[candidates.len() - 1];
    ensure!(
        found.is_some(),
        "the page is not built: there is no index.html\n  hint: run `cargo web` in the checkout, or name the folder \
         of a built page with --dir\n  folder: {}",
        wanted.display()
    );
    let found = found.expect("checked above");
    found.canonicalize().with_context(|| format!("cannot read the folder\n  folder: {}", found.display()))
}

fn answer(request: Request, dir: &Path) -> std::io::Result<()> {
    if !matches!(request.method(), Method::Get | Method::Head) {
        return request.respond(Response::from_string("only GET and HEAD\n").with_status_code(405));
    }
    if !is_local(host_of(&request)) {
        return request
            .respond(Response::from_string("this page is for this machine only\n").with_status_code(403));
    }
    let file = file_of(dir, request.url()).and_then(|path| Some((fs::File::open(&path).ok()?, path)));
    let Some((file, path)) = file else {
        return request.respond(Response::from_string("there is no such file\n").with_status_code(404));
    };
    let mut response = Response::from_file(file);
    for (name, value) in HEADERS {
        response.add_header(header(name, value));
    }
    response.add_header(header("Content-Type", mime_type(&path)));
    request.respond(response)
}

/// The page may use its own origin and nothing else, and no other page may use it.
const HEADERS: [(&str, &str); 7] = [
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Embedder-Policy", "require-corp"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; style-src 'self'; img-src 'self' \
         blob: data:; media-src 'self' blob:; connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action \
         'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    // The browser asks whether a file has changed each time: a new build shows at once.
    ("Cache-Control", "no-cache"),
];

fn header(name: &str, value: &str) -> Header {
    Header::from_bytes(name, value).expect("ASCII without line breaks")
}

fn host_of(request: &Request) -> &str {
    let host = request.headers().iter().find(|header| header.field.equiv("Host"));
    host.map_or("", |header| header.value.as_str())
}

/// Whether the browser asked for this machine by one of its own names: a foreign name that leads here is an
/// attack (DNS rebinding).
fn is_local(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _port)| name);
    matches!(name, "127.0.0.1" | "localhost")
}

/// The file of a URL inside the folder; a folder's is its `index.html`.
fn file_of(dir: &Path, url: &str) -> Option<PathBuf> {
    let path = url.split(['?', '#']).next().unwrap_or_default().trim_start_matches('/');
    // No name in the page has a character that has to be escaped.
    let inside = |part: Component| matches!(part, Component::Normal(_));
    if path.contains(['%', '\\']) || !Path::new(path).components().all(inside) {
        return None;
    }
    let file = dir.join(path);
    let file = if file.is_dir() { file.join("index.html") } else { file };
    // A link that leads out of the folder is none of ours.
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
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpStream;
    use std::time::Duration;

    use super::*;

    /// A connection on which a file was asked for, and nothing of the answer read.
    fn ask(address: SocketAddr, file: &str) -> BufReader<TcpStream> {
        let mut connection = TcpStream::connect(address).expect("the server listens");
        connection.set_read_timeout(Some(Duration::from_secs(20))).expect("not zero");
        write!(connection, "GET /{file} HTTP/1.1\r\nHost: {address}\r\n\r\n").expect("the server listens");
        BufReader::new(connection)
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
        large.set_len(LARGER_THAN_SOCKETS_HOLD).expect("a file with nothing in it");
        let server = Server::http((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = server.server_addr().to_ip().expect("an internet address");
        thread::spawn(move || serve(&server, dir));

        let mut stalled: Vec<_> = (0..12).map(|_| ask(address, "large")).collect();
        for connection in &mut stalled {
            assert_eq!(status(connection), "HTTP/1.1 200 OK");
        }
        let mut kept_alive: Vec<_> = (0..12).map(|_| ask(address, "index.html")).collect();
        for connection in &mut kept_alive {
            assert_eq!(status(connection), "HTTP/1.1 200 OK");
        }
        let mut first = stalled.swap_remove(0);
        let mut rest = Vec::new();
        first.get_mut().shutdown(std::net::Shutdown::Write).expect("still open");
        first.read_to_end(&mut rest).expect("what was left half read is still to be had");
        assert!(rest.len() as u64 > LARGER_THAN_SOCKETS_HOLD);
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
        for url in
            ["/../secret", "/lib/../../secret", "/%2e%2e/secret", "//etc/passwd", "/..\\secret", "/nothing"]
        {
            assert_eq!(file(url), None, "{url}");
        }
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
        assert!(error.contains("cargo web"), "{error}");
    }
}
