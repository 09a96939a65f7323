"""Scripts of the documentation's pages, in a browser."""

from pathlib import Path

import pytest

STATIC = Path(__file__).parents[1] / "docs" / "_static"
pytestmark = pytest.mark.browser

TABLE = """
<table><thead><tr><th>model</th><th>mIoU</th><th>seeds</th></tr></thead><tbody>
<tr><td>DeepLabV3</td><td>66.8 ± 0.8</td><td>3</td></tr>
<tr><td>FCN-32</td><td>7.25</td><td>1,200</td></tr>
<tr><td>PNA</td><td></td><td>20</td></tr>
<tr><td>decoder</td><td>−1.5</td><td>100</td></tr>
</tbody></table>
<table><thead><tr><th>a</th></tr></thead><tbody><tr><td>1</td></tr></tbody></table>
<table><thead><tr><th>b</th><th>c</th></tr></thead><tbody>
<tr><td>x</td><td>3</td></tr><tr><td></td><td>1</td></tr><tr><td>y</td><td>2</td></tr>
</tbody></table>
"""
WIPE = '<div class="wipe"><img alt="a"><img alt="b"><input type="range" value="50"></div>'


@pytest.fixture
def page(browser):
    page = browser.new_page()
    yield page
    page.close()


def show(page, html, script):
    code = (STATIC / script).read_text(encoding="utf-8")
    css = (STATIC / "pna.css").read_text(encoding="utf-8")
    page.set_content(f"<style>{css}</style>{html}<script>{code}</script>")


def column(page, number):
    cells = f"table:first-of-type tbody tr td:nth-child({number})"
    return page.locator(cells).all_inner_texts()


def test_a_column_of_numbers_sorts_by_size(page):
    show(page, TABLE, "tables.js")
    page.get_by_role("button", name="mIoU").click()
    # Without a number a row comes last, whatever the order.
    assert column(page, 1) == ["decoder", "FCN-32", "DeepLabV3", "PNA"]
    assert page.locator("th").nth(1).get_attribute("aria-sort") == "ascending"
    page.get_by_role("button", name="mIoU").click()
    assert column(page, 1) == ["DeepLabV3", "FCN-32", "decoder", "PNA"]
    assert page.locator("th").nth(1).get_attribute("aria-sort") == "descending"


def test_thousands_have_commas(page):
    show(page, TABLE, "tables.js")
    page.get_by_role("button", name="seeds").click()
    assert column(page, 3) == ["3", "20", "100", "1,200"]


def test_words_with_digits_sort_by_letters_and_by_keys(page):
    show(page, TABLE, "tables.js")
    page.get_by_role("button", name="seeds").click()
    page.get_by_role("button", name="model").focus()
    page.keyboard.press("Enter")
    assert column(page, 1) == ["decoder", "DeepLabV3", "FCN-32", "PNA"]
    assert page.locator("th").nth(2).get_attribute("aria-sort") is None


def test_tables_of_one_row_or_of_rows_that_belong_together_do_not_sort(page):
    show(page, TABLE, "tables.js")
    for name in ("a", "b", "c"):
        assert page.get_by_role("button", name=name, exact=True).count() == 0


def test_the_wipe_follows_its_slider(page):
    show(page, WIPE, "wipe.js")
    at = "() => document.querySelector('.wipe').style.getPropertyValue('--at')"
    assert page.evaluate(at) == "50%"
    page.locator("input").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate(at) == "51%"
    page.locator("input").fill("0")
    clip = page.locator("img").nth(1).evaluate("image => getComputedStyle(image).clipPath")
    assert clip == "inset(0px 0px 0px 0%)"
