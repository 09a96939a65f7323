"""The page that refines masks in the browser: load, brush, keys, open, save, bad files."""

import io
import shutil
import threading
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

import play
import pna
from pna.cli.demo import IMAGES

pytest.importorskip("onnxscript", reason="the page needs an ONNX file: pip install 'pna[export]'")
pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("default")]

DOCS = Path(__file__).parent.parent / "docs"
CAT = IMAGES / "photos" / "cat.jpg"
MILLISECONDS = 120_000


class Quiet(SimpleHTTPRequestHandler):
    """A plain file server that writes no log."""

    def log_message(self, *words):
        pass


@pytest.fixture(scope="module")
def address():
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed: it fetches what the page runs on")
    # Where the docs are built, so that it is built once; tests may run in several processes.
    folder = DOCS / "_build" / "html" / "play"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / "play.lock"):
        # In a process of its own: an export takes gigabytes, which this one would keep.
        try:
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                pool.submit(play.build, folder).result()
        except play.RuntimeMissingError as error:
            pytest.skip(str(error))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture
def foreign():
    """Requests to other machines."""
    return []


@pytest.fixture
def page(browser, address, foreign):
    context = browser.new_context(viewport={"width": 1100, "height": 900}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(MILLISECONDS)
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith((address, "data:", "blob:"))
            else foreign.append(request.url)
        ),
    )
    page.goto(address)
    yield page
    context.close()


def says(page, text):
    page.wait_for_function(
        "text => document.querySelector('#status').innerText.includes(text)", arg=text
    )


def refine(page):
    page.click("#refine")
    says(page, "Refined in")


def saved(page):
    """The mask that the page saves: (H, W) bool."""
    with page.expect_download() as found:
        page.click("#save")
    with Image.open(found.value.path()) as image:
        return np.asarray(image)[..., 0] > 127


def test_the_example_is_refined_as_the_library_does(page, address, foreign):
    page.click("#example")
    says(page, "Refine it.")
    given = saved(page)
    assert given.any()
    refine(page)
    found, expected = saved(page), pna.refine(CAT, given, strength=0.5, device="cpu")
    assert (found != given).any()
    assert (found != expected).mean() < 1e-3
    assert foreign == []


def test_strength_0_changes_nothing(page):
    page.click("#example")
    says(page, "Refine it.")
    given = saved(page)
    refine(page)
    page.fill("#strength", "0")
    np.testing.assert_array_equal(saved(page), given)


def test_a_photo_is_brushed_and_refined(page):
    page.set_input_files("#photo", CAT)
    says(page, "Brush roughly")
    assert page.is_disabled("#refine")
    box = page.locator("#canvas").bounding_box()
    page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.5 * box["height"], steps=5)
    page.mouse.up()
    brushed = saved(page)
    assert brushed.shape == (300, 451)
    assert brushed[150, 190:260].all()
    assert not brushed[:100].any()
    refine(page)
    # Erased where it was painted: nothing is left to refine.
    page.check("#erase")
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.down()
    page.fill("#brush", "120")
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.5 * box["height"], steps=20)
    page.mouse.up()
    assert page.is_disabled("#refine")


def test_the_brush_works_by_keys(page):
    page.set_input_files("#photo", CAT)
    says(page, "Brush roughly")
    page.focus("#canvas")
    for key in ("Space", "ArrowRight", "ArrowRight", "Space"):
        page.keyboard.press(key)
    brushed = saved(page)
    assert brushed[150, 225:243].all()
    assert page.is_enabled("#refine")


def test_a_mask_is_opened(page, tmp_path):
    mask = np.zeros((300, 451), np.uint8)
    mask[60:250, 120:330] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    page.set_input_files("#photo", CAT)
    says(page, "Brush roughly")
    page.set_input_files("#mask", tmp_path / "mask.png")
    says(page, "Refine it.")
    np.testing.assert_array_equal(saved(page), mask > 0)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("bad.jpg", b"this is no image", "bad.jpg is no image"),
        ("wide.png", None, "another aspect"),
    ],
)
def test_bad_files_are_told(page, tmp_path, name, content, words):
    if content is None:
        buffer = io.BytesIO()
        Image.new("L", (90, 20), 255).save(buffer, "PNG")
        content = buffer.getvalue()
    (tmp_path / name).write_bytes(content)
    page.set_input_files("#mask", tmp_path / name)
    says(page, "Open the photo first.")
    page.set_input_files("#photo", CAT)
    says(page, "Brush roughly")
    page.set_input_files("#mask", tmp_path / name)
    says(page, words)
    page.click("#example")
    says(page, "Refine it.")


@pytest.mark.parametrize("width", [1100, 390])
def test_nobody_is_shut_out(page, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page.set_viewport_size({"width": width, "height": 844})
    page.click("#example")
    says(page, "Refine it.")
    refine(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = axe.Axe().run(page).response["violations"]
    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
