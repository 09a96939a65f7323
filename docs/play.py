"""Build the page that refines masks in the browser: `python docs/play.py FOLDER`.

FOLDER gets the files of `docs/play`, the bundled mask refiner as an ONNX file, and ONNX Runtime for
browsers from npm, in the versions of `package-lock.json`. Any file server serves it.
"""

import logging
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import pna
from pna.cli.demo import IMAGES
from pna.errors import PnaError
from pna.export.refiners import export_mask_refiner
from pna.inference.refine import bundled_mask_refiner

SOURCE = Path(__file__).parent / "play"
MODEL = "mask-refiner.onnx"
PAGE = ("index.html", "play.css", "play.js", "worker.js")
RUNTIME = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)


class RuntimeMissingError(PnaError):
    """npm could not fetch ONNX Runtime."""


def build(folder: Path) -> None:
    """Write the page into a folder.

    Raises:
        RuntimeMissingError: npm cannot fetch what it is to.
    """
    runtime = folder / "ort"
    runtime.mkdir(parents=True, exist_ok=True)
    for name in PAGE:
        shutil.copy(SOURCE / name, folder)
    shutil.copy(IMAGES / "photos" / "cat.jpg", folder)
    # A rough mask: the cat at stride 32.
    coarse = pna.Predictor("voc-lite", device="cpu")(folder / "cat.jpg", stages=True).stages[0]
    Image.fromarray((coarse > 0).astype(np.uint8) * 255).save(folder / "cat_mask.png")
    if not all((runtime / name).is_file() for name in RUNTIME):
        _fetch_runtime(runtime)
    # The export takes minutes: not again for the same weights.
    logging.getLogger("onnx_ir").setLevel(logging.WARNING)  # it tells every step to Sphinx's log
    network, made_of = bundled_mask_refiner(torch.device("cpu")), folder / "mask-refiner.txt"
    if not made_of.is_file() or made_of.read_text() != network.fingerprint:
        export_mask_refiner(network, folder / MODEL)
        made_of.write_text(network.fingerprint)


def _fetch_runtime(runtime: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(SOURCE / name, scratch)
        done = subprocess.run(
            ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=scratch,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeMissingError(f"npm ci failed in {SOURCE}: {done.stderr.strip()[-500:]}")
        for name in RUNTIME:
            shutil.copy(Path(scratch) / "node_modules" / "onnxruntime-web" / "dist" / name, runtime)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
