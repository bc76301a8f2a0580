"""Takes the pictures of the window in desktop/README.md.

Run it after a change of the model or the window.

    cargo build --release --locked --workspace --bin mmgem
    apt install xvfb xdotool imagemagick; pip install pillow
    python tests/window_pictures.py target/release/mmgem assets

It opens `mmgem app` on a virtual screen, with the demo's photos and 300 drawn scenes, and operates
it by key presses and pointer movements. OUT/window.webp shows the hits of a text.
OUT/window-photo.webp shows the first hit with a box dragged around a thing.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import tarfile
import tempfile
import time

from PIL import Image

WIDTH, HEIGHT = 1180, 780
PHOTOS = pathlib.Path(__file__).parent.parent / "assets/demo"
# The cup in coffee.jpg, in pixels.
CUP = [108, 10, 292, 152]
# Centre of the photo view, and the largest size of a photo in it, in pixels.
MIDDLE, ROOM = (430, 377.5), (832, 727)


class Screen:
    """A virtual screen (Xvfb) that takes input and pictures."""

    def __init__(self):
        arguments = ["-displayfd", "1", "-screen", "0", f"{WIDTH}x{HEIGHT}x24", "-nolisten", "tcp", "-noreset"]
        self.server = subprocess.Popen(["Xvfb", *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        display = f":{self.server.stdout.readline().strip()}"
        self.env = {**os.environ, "DISPLAY": display, "LIBGL_ALWAYS_SOFTWARE": "1"}
        for name in ("WAYLAND_DISPLAY", "WAYLAND_SOCKET"):
            self.env.pop(name, None)

    def input(self, *words):
        subprocess.run(["xdotool", *map(str, words)], env=self.env, check=True)

    def picture(self, path):
        time.sleep(3)
        with tempfile.NamedTemporaryFile(suffix=".png") as png:
            subprocess.run(["import", "-window", "root", png.name], env=self.env, check=True)
            Image.open(png.name).convert("RGB").save(path, quality=80, method=6)


class Window:
    """`mmgem app --json`, which prints its events."""

    def __init__(self, screen, mmgem, folder, theme, *arguments):
        command = [mmgem, "app", "--json", "--device", "cpu", "--library", "l.sqlite", "--theme", theme, *arguments]
        self.process = subprocess.Popen(command, cwd=folder, env=screen.env, stdout=subprocess.PIPE, text=True)

    def wait(self, name, right=lambda event: True):
        for line in self.process.stdout:
            event = json.loads(line)
            if event["event"] == name and right(event):
                return event
        raise SystemExit(f"the window ended before it told of {name}")

    def close(self):
        self.process.kill()
        self.process.wait()


def draw(mmgem, folder, n):
    """Draws `n` scenes as photos; returns their records by file name."""
    subprocess.run([mmgem, "scenes", "--out", "shards", "--n", str(n), "--seed", "5", "-q"], cwd=folder, check=True)
    (folder / "photos").mkdir()
    records = {}
    for shard in sorted((folder / "shards").glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                key, _, extension = member.name.rpartition(".")
                data = tar.extractfile(member).read()
                if extension == "json":
                    records[f"scene {key}.png"] = json.loads(data)
                elif extension == "png":
                    (folder / "photos" / f"scene {key}.png").write_bytes(data)
    return records


def thing(record):
    """Box of the campfire, or of the largest thing in a scene without a fire; the cup in a photo."""
    if record is None:
        return CUP
    regions = [region for region in record["regions"] if region["n_boxes"] == 1]
    fires = [region for region in regions if "fire" in region["type"]]
    area = lambda region: (region["box"][2] - region["box"][0]) * (region["box"][3] - region["box"][1])
    return (fires or sorted(regions, key=area, reverse=True))[0]["box"]


def on_screen(box, size):
    scale = min(ROOM[0] / size[0], ROOM[1] / size[1])
    place = lambda i: round(MIDDLE[i % 2] + (box[i] - size[i % 2] / 2) * scale)
    return [place(i) for i in range(4)]


def look_for(screen, window, query):
    screen.input("search", "--sync", "--name", "MM-GEM", "windowfocus", "--sync")
    # Here the pointer hovers over no photo.
    screen.input("mousemove", WIDTH // 2, HEIGHT - 10)
    screen.input("key", "slash")
    screen.input("type", "--delay", 40, query)
    return window.wait("hits", lambda event: event["query"] == query)


def take(screen, mmgem, folder, out, query, n):
    records = draw(mmgem, folder, n)
    photos = sorted(PHOTOS.glob("*.jpg"))
    for photo in photos:
        shutil.copy(photo, folder / "photos")

    window = Window(screen, mmgem, folder, "dark", "photos")
    window.wait("indexed", lambda event: event["encoded"] == n + len(photos))
    look_for(screen, window, query)
    screen.picture(out / "window.webp")
    window.close()

    window = Window(screen, mmgem, folder, "light")
    window.wait("indexed")
    look_for(screen, window, query)
    # The first Return moves to the hits, the second opens the first hit. Each takes a frame.
    for _ in range(2):
        time.sleep(2)
        screen.input("key", "Return")
    photo = pathlib.Path(window.wait("photo")["path"])
    screen.input("key", "c")
    print(f"{photo.name}: {window.wait('caption')['text']}")
    box = thing(records.get(photo.name))
    x0, y0, x1, y1 = on_screen(box, Image.open(folder / "photos" / photo.name).size)
    screen.input("mousemove", x0, y0, "mousedown", 1)
    for step in range(1, 9):
        screen.input("mousemove", x0 + (x1 - x0) * step // 8, y0 + (y1 - y0) * step // 8)
        time.sleep(0.06)
    screen.input("mouseup", 1)
    caption = window.wait("caption")
    print(f"dragged {caption['box']} for {box}: {caption['text']}")
    screen.input("mousemove", WIDTH // 2, HEIGHT - 10)
    screen.picture(out / "window-photo.webp")
    window.close()


def main(mmgem, out, query, n):
    screen = Screen()
    try:
        with tempfile.TemporaryDirectory(prefix="mmgem-") as folder:
            take(screen, mmgem, pathlib.Path(folder), out, query, n)
    finally:
        screen.server.terminate()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mmgem", type=lambda path: str(pathlib.Path(path).resolve()))
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--query", default="a cup of coffee on a table")
    parser.add_argument("--n", type=int, default=300, help="scenes")
    args = parser.parse_args()
    main(args.mmgem, args.out.resolve(), args.query, args.n)
