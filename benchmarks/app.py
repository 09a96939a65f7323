"""Seconds from the drop of a photo to its result on the page, in a browser.

    python benchmarks/app.py [--side 512] [--rounds 7]

Serves the page, drops a photo of that size in Chromium, and waits for the table of its classes and
for the picture. Writes `results/app.json` and `app.md`.
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image
from trained import RESULTS

from pna.app.desk import Desk
from pna.app.page import serve
from pna.cli.demo import IMAGES
from pna.files import write_text_atomically
from pna.lab.machine import describe, sentence
from pna.lab.measure.timing import quartiles

MODEL = "voc-lite"


def measure(side: int, rounds: int) -> list[float]:
    """Drop a photo several times, each in a fresh window; the first one warms the browser up."""
    from playwright.sync_api import sync_playwright

    desk = Desk([MODEL], device="cpu")
    desk.warm_up()
    seconds = []
    with tempfile.TemporaryDirectory() as folder, serve(desk) as address:
        photo = Path(folder) / "photo.jpg"
        with Image.open(IMAGES / "photos" / "astronaut.jpg") as image:
            image.resize((side, side)).save(photo)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
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
            browser.close()
    return seconds[1:]


def table(results: dict[str, Any]) -> str:
    """The page in Markdown."""
    lines = [
        "# The page: from the drop to the result",
        "",
        "Made by `python benchmarks/app.py`. Seconds until picture and classes are shown: median",
        f"and quartiles, `{MODEL}`, Chromium on the same machine.",
        "",
        "| photo | seconds |",
        "|---|---|",
    ]
    for side, result in results.items():
        low, median, high = result["seconds"]
        lines.append(f"| {side}x{side} | {median:.2f} [{low:.2f}, {high:.2f}] |")
    machines = {sentence(result["machine"]) for result in results.values()}
    return "\n".join([*lines, "", *(f"{machine}." for machine in sorted(machines))]) + "\n"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Seconds from the drop to the result.")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    file = RESULTS / "app.json"
    results = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    machine = describe("cpu")
    seconds = quartiles(measure(arguments.side, arguments.rounds))
    results[str(arguments.side)] = {"seconds": seconds, "machine": machine}
    print(f"{arguments.side}x{arguments.side}: {seconds[1]:.2f} s")
    write_text_atomically(file, json.dumps(results, indent=1) + "\n")
    write_text_atomically(file.with_suffix(".md"), table(results))


if __name__ == "__main__":
    main()
