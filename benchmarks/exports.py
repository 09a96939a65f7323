"""Exported files: size, seconds of the export, and parity by engine, model and image size.

    python benchmarks/exports.py [MODEL ...] [--formats onnx half int8 pt2]
    python benchmarks/exports.py voc-lite --formats int8 --voc PATH

MODEL is a bundled model, a preset of the library or the lab (with weights at random),
`mask-refiner` or `upsampler`. Each file is run by the engines that read it: ONNX Runtime and
OpenVINO, or PyTorch (pt2); int8 by the first alone. With `--voc` the int8 file is calibrated on 64
images of VOC's `train`, and both it and the float32 file are scored on `val`. Writes
`results/exports.json` and `exports.md`; rows of other models stay.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor
from trained import read_results, write_results

import pna
from pna.cli.demo import IMAGES
from pna.data import create_dataset
from pna.evaluate import evaluate
from pna.export.graph import Exportable, segmentation_graph
from pna.export.onnx_segmenter import OnnxSegmenter
from pna.export.parity import Run, compare
from pna.export.refiners import mask_graph, upsampling_graph
from pna.export.write import ExportReport, write_graph
from pna.inference.refine import bundled_mask_refiner
from pna.inference.upsample import bundled_upsampler
from pna.lab.baselines import PRESETS
from pna.lab.machine import describe, sentence

NAME = "exports"
BUNDLED = ("voc-lite", "damage-lite")
"""Models that are exported as int8, too: a loss of score means something with trained weights."""
MODELS = (
    *BUNDLED,
    *("fcn", "fcn-os8", "fpn", "psp", "deeplabv3", "deeplabv3plus", "upernet"),
    *("lite-fcn", "lite", "fcn-pna-nam", "fcn-pna", "fcn-pna-gather"),
    *("fpn-pna", "psp-pna", "deeplabv3-pna", "upernet-pna"),
    *("mask-refiner", "upsampler"),
)
FORMATS = ("onnx", "half", "int8", "pt2")


def make_graph(name: str) -> Exportable:
    """A network with the inputs of all sizes that its file is compared at."""
    if name == "mask-refiner":
        return mask_graph(bundled_mask_refiner(torch.device("cpu")))
    if name == "upsampler":
        return upsampling_graph(bundled_upsampler(torch.device("cpu")))
    return segmentation_graph(make_model(name))


def make_model(name: str) -> pna.Segmenter:
    """A bundled model, or a preset with weights at random."""
    if name in BUNDLED:
        return cast(pna.Segmenter, pna.load(name))
    torch.manual_seed(0)
    return pna.create_model(name, 21, encoder_weights=None, presets=PRESETS)


def export(name: str, kind: str, file: Path) -> ExportReport:
    """Write the file of a format."""
    if kind == "half":
        return pna.export_model(make_model(name), file, precision="float16")
    if kind == "int8":
        photos = sorted((IMAGES / ("photos" if name == "voc-lite" else "damage/images")).iterdir())
        images = [Image.open(photo) for photo in photos]
        return pna.export_model(make_model(name), file, precision="int8", calibration=images)
    graph = make_graph(name)
    return write_graph(graph, graph.module, file, to="pt2" if kind == "pt2" else "onnx")


def run_openvino(file: Path, outputs: Sequence[str]) -> Run:
    """Run a file by OpenVINO, in float32 arithmetic."""
    import openvino

    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled: Any = openvino.Core().compile_model(str(file), "CPU", exact)

    def run(inputs: tuple[Tensor, ...]) -> list[Tensor]:
        found = compiled([x.numpy() for x in inputs])
        return [torch.from_numpy(found[name].copy()) for name in outputs]

    return run


def measure(name: str, kind: str, folder: Path) -> dict[str, Any]:
    """Export a model, and compare the file by each engine."""
    file = folder / f"model.{'pt2' if kind == 'pt2' else 'onnx'}"
    start = time.perf_counter()
    report = export(name, kind, file)
    row: dict[str, Any] = {
        "seconds": time.perf_counter() - start,
        "bytes": file.stat().st_size,
        "machine": describe("cpu"),
    }
    if report.loss is not None:
        return {**row, "loss": str(report.loss)}
    engine = "PyTorch" if kind == "pt2" else "ONNX Runtime"
    engines = {engine: report.parity}
    if kind == "onnx":
        graph = make_graph(name)
        try:
            run = run_openvino(file, graph.outputs)
        except RuntimeError as error:
            lacking = str(error).partition("No conversion rule found for operations: ")[2]
            row["refused"] = f"has no {lacking.partition(chr(10))[0]}" if lacking else str(error)
        else:
            engines["OpenVINO"] = [
                compare(graph.module, run, inputs, graph.outputs) for inputs in graph.examples
            ]
    row["parity"] = {
        engine: {"x".join(map(str, one.shape)): one.difference for one in parity}
        for engine, parity in engines.items()
    }
    return row


def measure_int8(name: str, voc: Path, folder: Path) -> dict[str, Any]:
    """Export a bundled model as int8, and score both files on VOC."""
    train, val = (create_dataset("voc2012", voc, split=split) for split in ("train", "val"))
    images = [train.read_raw(i)[0].permute(1, 2, 0).numpy() for i in range(64)]
    start = time.perf_counter()
    report = pna.export_model(
        make_model(name),
        folder / "int8.onnx",
        stages=True,  # which a report of scores holds
        precision="int8",
        calibration=images,
    )
    seconds = time.perf_counter() - start
    whole = pna.export_model(make_model(name), folder / "float32.onnx", stages=True).file
    scores = {}
    for kind, file in (("float32", whole), ("int8", report.file)):
        final = evaluate(OnnxSegmenter(file), val, progress=False).final
        scores[kind] = {"miou": final.miou, "boundary_miou": final.boundary_miou}
    return {
        "seconds": seconds,
        "bytes": report.file.stat().st_size,
        "machine": describe("cpu"),
        "loss": str(report.loss),
        "scores": scores,
    }


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The page in Markdown."""
    sizes = dict.fromkeys(
        size
        for kinds in results.values()
        for row in kinds.values()
        for parity in row.get("parity", {}).values()
        for size in parity
    )
    lines = [
        "# Exported files",
        "",
        "Made by `python benchmarks/exports.py [MODEL ...]`. Largest difference of an output from",
        "PyTorch's, as a share of its largest value, by the shape of the images; `half` computes",
        "in float16. Seconds of an export are with the comparison, on a busy machine; none where",
        "it was paused for other measurements. int8: against the float32 file on the images of the",
        "calibration (the bundled ones, or 64 of VOC's `train`).",
        "",
        f"| model | file | MB | seconds | engine | {' | '.join(sizes)} |",
        f"|---|---|--:|--:|---|{'--:|' * len(sizes)}",
    ]
    for name, kinds in results.items():
        for kind, row in kinds.items():
            seconds = "–" if row["seconds"] is None else f"{row['seconds']:.0f}"
            begin = f"| {name} | {kind} | {row['bytes'] / 1e6:.1f} | {seconds} |"
            if "loss" in row:
                text = row["loss"]
                if "scores" in row:
                    told = [
                        f"{100 * found['miou']:.1f} / {100 * found['boundary_miou']:.1f} ({kind})"
                        for kind, found in row["scores"].items()
                    ]
                    text += f"; mIoU / boundary IoU on VOC val: {', '.join(told)}"
                lines.append(f"{begin} ONNX Runtime | {text} |{' |' * (len(sizes) - 1)}")
            for engine, parity in row.get("parity", {}).items():
                cells = " | ".join(
                    f"{parity[size]:.0e}" if size in parity else "" for size in sizes
                )
                lines.append(f"{begin} {engine} | {cells} |")
            if "refused" in row:
                lines.append(f"{begin} OpenVINO | {row['refused']} |{' |' * (len(sizes) - 1)}")
    machines: dict[str, dict[str, Any]] = {}
    for kinds in results.values():
        for row in kinds.values():
            machines.setdefault(row["machine"]["processor"], row["machine"])
    return "\n".join([*lines, "", *(f"{sentence(one)}." for one in machines.values())]) + "\n"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Export models, and compare the files.")
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    parser.add_argument("--voc", type=Path, help="the folder of VOC, to calibrate and score int8")
    args = parser.parse_args()
    results = read_results(NAME)
    for name in args.models:
        for kind in args.formats:
            if kind == "int8" and name not in BUNDLED:
                continue
            if kind == "half" and name in ("mask-refiner", "upsampler"):
                continue
            with tempfile.TemporaryDirectory() as folder:
                results.setdefault(name, {})[kind] = (
                    measure_int8(name, args.voc, Path(folder))
                    if args.voc and kind == "int8"
                    else measure(name, kind, Path(folder))
                )
            print(name, kind, results[name][kind], flush=True)
            write_results(NAME, results, table(results))


if __name__ == "__main__":
    main()
