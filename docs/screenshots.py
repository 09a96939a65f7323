"""Take the screenshots of the page on the app, in a headless Chromium.

python docs/screenshots.py writes docs/images/app_refine.png and play.png; `make docs` comes before.
"""

import shutil
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

import pna
from pna.app.desk import Desk
from pna.app.page import serve

FOLDER = Path(__file__).parent
ASTRONAUT = FOLDER.parent / "src/pna/bundled/images/photos/astronaut.jpg"
PAGE = FOLDER / "_build" / "html" / "play"
MILLISECONDS = 120_000
PERSON = 15  # in VOC


def take(page: Any, name: str) -> None:
    """Write what a page shows, in 256 colors: a third of the size."""
    file = FOLDER / "images" / name
    page.screenshot(path=file, full_page=True)
    Image.open(file).convert("RGB").quantize(256).save(file, optimize=True)


def take_app(browser: Any, folder: Path) -> None:
    """Refine the coarse prediction of a person in the app."""
    coarse = pna.Predictor("voc-lite", device="cpu")(ASTRONAUT, stages=True).stages[0]
    Image.fromarray((coarse == PERSON).astype(np.uint8) * 255).save(folder / "person.png")
    desk = Desk(["voc-lite", "damage-lite"], device="cpu")
    desk.warm_up()
    with serve(desk, examples=[ASTRONAUT]) as address:
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(MILLISECONDS)
        page.goto(address)
        page.get_by_role("tab", name="Refine a mask").click()
        page.set_input_files("#refine-photo input[type=file]", ASTRONAUT)
        page.set_input_files("#refine-mask input[type=file]", folder / "person.png")
        page.wait_for_selector("#refine-wipe img")
        page.wait_for_selector("#save-refined:not([disabled])")
        page.wait_for_timeout(1000)  # until all is drawn
        take(page, "app_refine.png")
        page.close()


def take_play(browser: Any) -> None:
    """Refine the example of the page without a server."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(PAGE))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    page.set_default_timeout(MILLISECONDS)
    page.goto(f"http://127.0.0.1:{server.server_port}/")
    page.click("#example")
    for _ in range(2):  # the first time the network is loaded, too
        page.click("#refine")
        page.wait_for_timeout(500)  # until the last result is no longer told
        page.wait_for_function("document.querySelector('#status').innerText.includes('Refined in')")
    page.fill("#wipe", "50")
    page.wait_for_timeout(1000)
    take(page, "play.png")
    page.close()
    server.shutdown()


def main() -> None:
    """Take both."""
    if not PAGE.is_dir():
        raise SystemExit(f"no page at {PAGE}: make docs builds it")
    with sync_playwright() as running, tempfile.TemporaryDirectory() as folder:
        browser = running.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        take_app(browser, Path(folder))
        take_play(browser)
        browser.close()


if __name__ == "__main__":
    main()
