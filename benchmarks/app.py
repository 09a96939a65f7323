"""Seconds from the drop of a photo to its result on the pages, in a browser.

    python benchmarks/app.py [--side 512] [--rounds 7] [--play docs/_build/html/play]

Serves the page, drops a photo of that size in Chromium, and waits for the table of its classes and
for the picture. With `--play` the page that refines masks in the browser itself, as `make docs`
built it: from the click on "Refine" to the result, the first one with loading the network. Writes
`results/app.json` and `app.md`.
"""

import argparse
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image
from trained import write_results

from pna.app.desk import Desk
from pna.app.page import serve
from pna.cli.demo import IMAGES
from pna.lab.machine import describe, sentence
from pna.lab.measure.timing import quartiles

MODEL = "voc-lite"


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        yield browser
        browser.close()


@contextmanager
def photo_of(side: int) -> Iterator[Path]:
    """A square photo."""
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "photo.jpg"
        with Image.open(IMAGES / "photos" / "astronaut.jpg") as image:
            image.resize((side, side)).save(photo)
        yield photo


def measure_app(side: int, rounds: int) -> list[float]:
    """Drop a photo several times, each in a fresh window; the first one warms the browser up."""
    desk = Desk([MODEL], device="cpu")
    desk.warm_up()
    seconds = []
    with photo_of(side) as photo, serve(desk) as address, chromium() as browser:
        for _ in range(rounds + 1):
            page = browser.new_page()
            page.goto(address)
            page.wait_for_selector("#photo input[type=file]", state="attached")
            start = time.perf_counter()
            page.set_input_files("#photo input[type=file]", photo)
            page.wait_for_selector("#legend table")
            page.wait_for_selector("#wipe img >> nth=1")
            seconds.append(time.perf_counter() - start)
            page.close()
    return seconds[1:]


def measure_play(folder: Path, side: int, rounds: int) -> tuple[list[float], list[float]]:
    """Refine a brushed mask: the first time in each window, with loading, and the second."""
    says = "text => document.querySelector('#status').innerText.includes(text)"
    first: list[float] = []
    again: list[float] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with photo_of(side) as photo, chromium() as browser:
        for _ in range(rounds):
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{server.server_port}/")
            page.set_input_files("#photo", photo)
            page.wait_for_function(says, arg="Brush")
            page.focus("#canvas")
            page.keyboard.press("Space")
            for seconds in (first, again):
                start = time.perf_counter()
                page.click("#refine")
                page.wait_for_function(says, arg="Refined in", timeout=120_000)
                seconds.append(time.perf_counter() - start)
                page.keyboard.press("Tab")
                page.focus("#canvas")
                page.keyboard.press("Space")  # the mask is another one: its result is gone
            page.close()
    server.shutdown()
    return first, again


class Quiet(SimpleHTTPRequestHandler):
    """A plain file server that writes no log."""

    def log_message(self, *words: object) -> None:
        """Write nothing."""


def table(results: dict[str, Any]) -> str:
    """The page in Markdown."""
    lines = [
        "# The pages: from a photo to the result",
        "",
        "Made by `python benchmarks/app.py`, the rows of the browser with `--play`. Seconds,",
        "median and quartiles, Chromium on the same machine. `pna app` segments by",
        f"`{MODEL}`, from the drop until picture and classes are shown; the page in the browser",
        "refines a mask, on one thread.",
        "",
        "| what | photo | seconds |",
        "|---|---|---|",
    ]
    for what, rows in results["seconds"].items():
        for side, (low, median, high) in rows.items():
            lines.append(f"| {what} | {side}x{side} | {median:.2f} [{low:.2f}, {high:.2f}] |")
    return "\n".join([*lines, "", f"{sentence(results['machine'])}."]) + "\n"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Seconds from a photo to the result.")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--play", type=Path)
    arguments = parser.parse_args()
    results = {"machine": describe("cpu"), "seconds": {}}
    rows = {"pna app": measure_app(arguments.side, arguments.rounds)}
    if arguments.play is not None:
        first, again = measure_play(arguments.play, arguments.side, arguments.rounds)
        rows |= {"in the browser, first time": first, "in the browser, again": again}
    for what, seconds in rows.items():
        results["seconds"][what] = {str(arguments.side): quartiles(seconds)}
        print(f"{what}: {quartiles(seconds)[1]:.2f} s")
    write_results("app", results, table(results))


if __name__ == "__main__":
    main()
