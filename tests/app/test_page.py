"""The page in a browser: load, drop, slide, click, download, bad files, several users."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pna
from pna.app.desk import Desk
from pna.cli.demo import IMAGES

pytest.importorskip("gradio", reason="gradio is not installed")
pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("default")]

CAT = IMAGES / "photos" / "cat.jpg"
SECONDS = 60_000  # milliseconds; a result takes one or two on an idle core


@pytest.fixture(scope="module")
def address():
    from pna.app.page import serve

    desk = Desk(["voc-lite", "damage-lite"], device="cpu")
    desk.warm_up()
    with serve(desk, examples=[CAT]) as found:
        yield found


@pytest.fixture
def page(browser, address):
    """A fresh visitor."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(SECONDS)
    page.goto(address)
    page.wait_for_selector("#photo input[type=file]", state="attached")
    yield page
    context.close()


def drop(page, file, box="#photo"):
    page.set_input_files(f"{box} input[type=file]", file)


def segmented(page, file=CAT):
    drop(page, file)
    # The files come last, after all controls have been set.
    page.wait_for_selector("#legend table")
    page.wait_for_selector("#save-labels:not([disabled])")
    return page


def legend(page):
    return page.inner_text("#legend")


def picture(page):
    return page.locator("#wipe img").last.evaluate("image => image.src")


def download(page, name):
    page.wait_for_selector(f"#save-{name}:not([disabled])")
    with page.expect_download() as found:
        page.click(f"#save-{name}")
    return Path(found.value.path())


def test_a_photo_that_is_dropped_is_segmented(page):
    segmented(page)
    expected = pna.Predictor("voc-lite", device="cpu")(CAT)
    assert "cat" in legend(page)
    share = 100 * (expected.labels == expected.label_space.classes.index("cat")).mean()
    assert f"{share:.1f} %" in legend(page)
    assert "451 x 300 pixels" in page.inner_text("#times")
    assert page.locator("#wipe img").count() == 2


def test_an_example_is_segmented(page):
    page.get_by_role("button", name="cat", exact=True).first.click()
    page.wait_for_selector("#legend table")
    assert "cat" in legend(page)


def test_the_slider_shows_the_stages(page):
    segmented(page)
    expected = pna.Predictor("voc-lite", device="cpu")(CAT, stages=True)
    cat = expected.label_space.classes.index("cat")
    for stage, labels in enumerate(expected.stages):
        page.locator("#stage input[type=range]").fill(str(stage))
        share = f"{100 * (labels == cat).mean():.1f} %"
        page.wait_for_function(
            "share => document.querySelector('#legend').innerText.includes(share)", arg=share
        )


def test_the_slider_works_by_keys(page):
    segmented(page)
    before = legend(page)
    slider = page.locator("#stage input[type=range]")
    slider.focus()
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    assert slider.input_value() == "0"
    page.wait_for_function(
        "before => document.querySelector('#legend').innerText != before", arg=before
    )


def test_the_views_differ(page):
    segmented(page)
    pictures = set()
    for view in ("overlay", "edges", "confidence"):
        before = picture(page)
        if pictures:  # the first is there already
            page.get_by_label(view, exact=True).check()
            page.wait_for_function(
                "before => [...document.querySelectorAll('#wipe img')].at(-1).src != before",
                arg=before,
            )
        pictures.add(picture(page))
    assert len(pictures) == 3


def test_a_click_shows_what_a_pixel_gathers_from(page):
    segmented(page)
    photo = page.locator("#photo img").first
    box = photo.bounding_box()
    photo.click(position={"x": 0.5 * box["width"], "y": 0.25 * box["height"]})
    page.wait_for_selector("#around img")
    words = page.inner_text("#around-note")
    x, y = json.loads(f"[{words.partition('(')[2].partition(')')[0]}]")
    assert abs(x - 225) <= 3
    assert abs(y - 75) <= 3


def test_downloads_hold_the_stage_that_is_shown(page):
    segmented(page)
    expected = pna.Predictor("voc-lite", device="cpu")(CAT, stages=True).stages
    for stage in (4, 0):
        page.locator("#stage input[type=range]").fill(str(stage))
        for _ in range(40):  # the files are written after the picture is shown
            with Image.open(download(page, "labels")) as image:
                is_there = np.array_equal(np.asarray(image), expected[stage])
            if is_there:
                break
            page.wait_for_timeout(250)
        assert is_there
    with Image.open(download(page, "overlay")) as image:
        assert image.size == (451, 300)
    assert download(page, "polygons").read_bytes().startswith(b"SQLite format 3")


def test_another_model_is_taken(page):
    segmented(page)
    page.locator("#model input").click()
    page.get_by_role("option", name="damage-lite").click()
    page.wait_for_function("() => document.querySelector('#legend').innerText.includes('spalling')")


@pytest.mark.parametrize("content", [b"this is no image", b"\xff\xd8\xff\xe0 a broken one"])
def test_a_bad_file_is_shown_as_an_error(page, tmp_path, content):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(content)
    drop(page, bad)
    page.wait_for_selector(".toast-body.error, .toast-wrap .error")
    assert page.locator("#legend table").count() == 0
    # The page goes on.
    page.goto(page.url)
    page.wait_for_selector("#photo input[type=file]", state="attached")
    segmented(page)


def test_two_users_at_once_have_their_own_results(browser, page, address):
    context = browser.new_context()
    other = context.new_page()
    other.set_default_timeout(SECONDS)
    other.goto(address)
    other.wait_for_selector("#photo input[type=file]", state="attached")
    drop(page, CAT)
    drop(other, IMAGES / "photos" / "astronaut.jpg")
    page.wait_for_selector("#legend table")
    other.wait_for_selector("#legend table")
    assert "cat" in legend(page)
    assert "person" in legend(other)
    assert "person" not in legend(page).split()[:8]
    context.close()


def test_two_models_are_compared(page):
    page.get_by_role("tab", name="Compare two models").click()
    drop(page, CAT, "#compare-photo")
    page.wait_for_function(
        "() => document.querySelector('#difference').innerText.includes('differ')"
    )
    assert page.locator("#compare-wipe img").count() == 2


@pytest.fixture
def coarse(tmp_path):
    """A mask of the cat in two labels, in blocks of 16 pixels."""
    model = pna.Predictor("voc-lite", device="cpu")
    labels = model(CAT).labels
    small = Image.fromarray((labels > 0).astype(np.uint8) * 255).resize((28, 19))
    file = tmp_path / "cat_mask.png"
    Image.fromarray((np.asarray(small.resize((451, 300), 0)) > 127) * np.uint8(9)).save(file)
    return file


def refine(page, mask, photo=CAT):
    page.get_by_role("tab", name="Refine a mask").click()
    drop(page, photo, "#refine-photo")
    page.set_input_files("#refine-mask input[type=file]", mask)


def test_a_mask_is_refined(page, coarse):
    refine(page, coarse)
    with Image.open(download(page, "refined")) as image:
        found = np.asarray(image)
    given = np.asarray(Image.open(coarse))
    np.testing.assert_array_equal(found, pna.refine(CAT, given, device="cpu"))
    changed = f"{100 * (found != given).mean():.2g} % changed"
    assert changed in page.inner_text("#refine-note")
    page.wait_for_selector("#refine-wipe img")
    assert page.locator("#refine-wipe img").count() == 2
    before = page.locator("#refine-wipe img").last.get_attribute("src")
    page.get_by_label("where the mask is probably wrong").check()
    page.wait_for_function(
        "before => [...document.querySelectorAll('#refine-wipe img')].at(-1).src != before",
        arg=before,
    )


def test_a_mask_of_another_size_is_an_error(page, tmp_path):
    Image.new("L", (20, 30)).save(tmp_path / "mask.png")
    refine(page, tmp_path / "mask.png")
    page.wait_for_selector(".toast-body.error, .toast-wrap .error")
    assert "mask.png" in page.inner_text(".toast-wrap")
    assert str(tmp_path) not in page.inner_text(".toast-wrap")


@pytest.mark.parametrize("width", [1280, 390])
def test_nobody_is_shut_out(page, width):
    """Axe finds nothing serious, and a phone needs no scrolling to the side."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page.set_viewport_size({"width": width, "height": 844})
    segmented(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = axe.Axe().run(page).response["violations"]
    serious = [
        (one["id"], [node["html"][:120] for node in one["nodes"]])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
    assert serious == []


def test_nobody_is_shut_out_of_the_other_tabs(page, coarse):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    refine(page, coarse)
    page.wait_for_selector("#refine-wipe img")
    for compares in (False, True):
        if compares:
            page.get_by_role("tab", name="Compare two models").click()
            drop(page, CAT, "#compare-photo")
            page.wait_for_selector("#compare-wipe img")
        found = axe.Axe().run(page).response["violations"]
        assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []


def test_nothing_is_fetched_from_elsewhere(browser, address):
    context = browser.new_context()
    page, foreign = context.new_page(), []
    page.on(
        "request",
        lambda request: (
            foreign.append(request.url)
            if not request.url.startswith((address, "data:", "blob:"))
            else None
        ),
    )
    page.goto(address)
    page.wait_for_selector("#photo input[type=file]", state="attached")
    segmented(page)
    context.close()
    assert foreign == []


def test_a_port_that_is_taken(address):
    from pna.app.page import serve

    port = int(address.rstrip("/").rpartition(":")[2])
    words = f"cannot serve at 127.0.0.1, port {port}"
    with (
        pytest.raises(pna.PnaError, match=words),
        serve(Desk(["voc-lite"], device="cpu"), port=port),
    ):
        pass


def test_the_folder_of_uploads_is_removed(browser):
    from pna.app.page import serve

    with serve(Desk(["voc-lite"], device="cpu")) as found:
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        page = browser.new_page()
        page.set_default_timeout(SECONDS)
        page.goto(found)
        page.wait_for_selector("#photo input[type=file]", state="attached")
        segmented(page)
        assert list(folder.rglob("cat.jpg"))
        page.close()
    assert not folder.exists()
    assert os.environ.get("GRADIO_TEMP_DIR") != str(folder)


def test_files_of_the_machine_are_not_read(address):
    """A visitor may name any path in a request of his own; only uploads are opened."""
    import httpx

    def call(path):
        file = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
        url = f"{address}gradio_api/call/segment"
        event = httpx.post(url, json={"data": [file, "voc-lite", "overlay"]}).json()["event_id"]
        return httpx.get(f"{url}/{event}", timeout=60).text

    with CAT.open("rb") as file:
        (uploaded,) = httpx.post(f"{address}gradio_api/upload", files={"files": file}).json()
    assert call(uploaded).startswith("event: complete")
    # The first is an image that could be read.
    for path in (IMAGES / "photos" / "astronaut.jpg", pna.__file__):
        assert call(path).startswith("event: error")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"port": 99999}, "expected a port from 1 to 65535"),
        ({"host": "192.0.2.1"}, "cannot serve at 192.0.2.1, any port"),
    ],
)
def test_addresses_that_cannot_be(options, words):
    from pna.app.page import serve

    with pytest.raises(pna.PnaError, match=words), serve(Desk(["voc-lite"]), **options):
        pass
