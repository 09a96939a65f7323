"""Segmentation models into files: traced, written beside the target, compared, then renamed."""

import os
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from pna.data.images import ImageLike
from pna.errors import PnaError
from pna.export.description import KEY, Description, Precision
from pna.export.graph import Exportable, segmentation_graph, trace
from pna.export.int8 import Int8Loss, calibration_tensors, quantize
from pna.export.parity import Parity, Run, check, compare
from pna.export.session import Session
from pna.extras import require
from pna.files import write_atomically
from pna.model.segmenter import BaseSegmenter

Target = Literal["onnx", "pt2"]


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how it compares with the network in PyTorch.

    Attributes:
        file: The file.
        description: The text inside it.
        parity: One for each size; of an int8 file that of its float32 graph.
        loss: What int8 costs; None for other types.
    """

    file: Path
    description: Description
    parity: list[Parity]
    loss: Int8Loss | None = None


def export_model(
    model: BaseSegmenter,
    file: str | Path,
    *,
    to: Target = "onnx",
    stages: bool = False,
    precision: Precision = "float32",
    size: tuple[int, int] | None = None,
    calibration: Sequence[ImageLike] = (),
) -> ExportReport:
    """Write a segmentation model into one file that runs without pna.

    The file takes images (B, 3, H, W) float32 in [0, 1] of any height and width and returns logits
    of the same size: normalization, padding and the cut are inside. It also holds names and colors
    of the classes. It is compared with the network at several sizes before it gets its name.

    Args:
        model: Any segmenter; it is copied and stays as it is.
        file: Ends in .onnx or .pt2, as `to` says; its folder exists. A file of that name is
            replaced.
        to: "onnx", which needs `pip install "pna[export]"`, or "pt2", `torch.export`'s own.
        stages: Also return the logits of P0 to P(n-1), at the size of the image, as `p0`, ....
        precision: "float32", "float16", or "int8" (ONNX alone, with calibration images).
        size: Height and width that all images will have, for a network that takes no other or that
            has no graph for free sizes; batches then have one image. None leaves all free.
        calibration: Images for "int8", as `pna.Predictor` takes them: a few dozen of those that the
            model will see.

    Returns:
        The comparison at each size.

    Raises:
        PnaError: An option does not fit, a package is missing, the network has no graph, or the
            graph computes something else. There is then no new file.
        OSError: The file cannot be written.

    Example:
        >>> import tempfile, pna
        >>> model = pna.create_model("lite-fcn", 3, encoder="test_resnet", encoder_weights=None)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = pna.export_model(model, f"{folder}/model.pt2", to="pt2")
        >>> len(report.parity), max(each.difference for each in report.parity) < 1e-3
        (5, True)
    """
    path = Path(file)
    check_target(path, to)
    if precision not in get_args(Precision):
        raise PnaError(f"expected a precision of {get_args(Precision)}, got {precision!r}")
    if precision == "int8" and (to != "onnx" or not calibration):
        raise PnaError(
            'int8 needs to="onnx" and calibration images, got '
            f"to={to!r} and {len(calibration)} images: pass some that the model will see"
        )
    if precision != "int8" and calibration:
        raise PnaError(f'calibration images are for precision="int8", got {precision!r}')
    if size is not None and min(size) < 1:
        raise PnaError(f"expected a size (height, width) of at least (1, 1), got {size}")
    if model.refiner is not None and model.refiner.no_graph is not None:
        name = type(model.refiner).__name__
        raise PnaError(f"{name} on {model.origin} cannot be exported: {model.refiner.no_graph}")
    if precision != "int8":
        graph = segmentation_graph(model, stages=stages, precision=precision, size=size)
        network = graph.module
        if precision == "float16":  # compared with the network as it was trained
            network = segmentation_graph(model, stages=stages, size=size).module
        return write_graph(graph, network, path, to=to)
    images = calibration_tensors(calibration, model, size)
    plain = segmentation_graph(model, stages=stages, size=size)
    description = segmentation_graph(model, stages=stages, precision="int8", size=size).description
    with TemporaryDirectory() as folder:
        whole = Path(folder) / "float32.onnx"
        report = write_graph(plain, plain.module, whole, to="onnx")
        losses: list[Int8Loss] = []
        write_atomically(
            path, lambda beside: losses.append(quantize(whole, beside, images, description))
        )
    return ExportReport(path, description, report.parity, losses[0])


def write_graph(graph: Exportable, network: nn.Module, file: Path, *, to: Target) -> ExportReport:
    """Trace a graph, write it, and compare the file with the network.

    Args:
        graph: What is written.
        network: What it is compared with, in float32.
        file: As for `export_model`.
        to: The format.

    Raises:
        PnaError: As for `export_model`.
    """
    if to == "onnx":  # before the trace, which may take a minute
        for package in ("onnx", "onnxscript", "onnxruntime"):
            require(package)
    program = trace(graph)
    parity: list[Parity] = []

    def write(beside: Path) -> None:
        run = (_write_onnx if to == "onnx" else _write_pt2)(program, graph, beside)
        for inputs in graph.examples:
            parity.append(compare(network, run, inputs, graph.outputs))
        check(parity, graph.description.precision, str(file))

    write_atomically(file, write)
    return ExportReport(file, graph.description, parity)


def check_target(file: Path, to: Target) -> None:
    """Refuse a file whose name or folder does not fit, before any work.

    Raises:
        PnaError: The format is unknown, the name has another ending or is that of a folder, or its
            folder is missing or cannot be written into.
    """
    if to not in get_args(Target):
        raise PnaError(f"expected a format of {get_args(Target)}, got {to!r}")
    if file.suffix != f".{to}":
        raise PnaError(f"{file}: expected a name that ends in .{to}, the format to write")
    folder = file.absolute().parent
    if not folder.is_dir():
        raise PnaError(f"{file}: there is no folder {folder}: make it first")
    if file.is_dir():
        raise PnaError(f"{file} is a folder, expected the name of a file: name another one")
    if not os.access(folder, os.W_OK):
        raise PnaError(f"{file}: files cannot be written into {folder}: name another folder")


def _write_onnx(program: torch.export.ExportedProgram, graph: Exportable, file: Path) -> Run:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter, about its own deprecations
            written: Any = torch.onnx.export(
                program,
                input_names=graph.inputs,
                output_names=graph.outputs,
                dynamo=True,
                verbose=False,
                optimize=False,  # takes minutes
            )
            _simplify(written.model)
    except torch.onnx.errors.OnnxExporterError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # the first one names the operator
            cause = cause.__cause__
        raise PnaError(
            f"{graph.description.origin}: a part of it has no translation to ONNX "
            f'({str(cause).strip().partition(chr(10))[0]}): export it to pt2 (to="pt2", on the '
            "command line --to pt2)"
        ) from error
    _name_sizes(written.model, graph)
    written.model.metadata_props[KEY] = graph.description.to_json()
    written.save(file, external_data=False)
    return Session(file).run


def _simplify(model: Any) -> None:
    """Compute once what several nodes need, and constants not at all: two in three nodes go.

    Runtimes do the rest when they open a file: fused operators, constants of their own.
    """
    from onnx_ir.passes import common
    from onnxscript.optimizer import fold_constants

    common.InlinePass()(model)
    common.CommonSubexpressionEliminationPass()(model)
    fold_constants(model)
    common.RemoveUnusedNodesPass()(model)
    common.CommonSubexpressionEliminationPass()(model)


def _name_sizes(model: Any, graph: Exportable) -> None:
    """Call the free sizes batch, height and width, wherever the graph states a shape."""
    names = {
        str(value.shape[axis]): name
        for value, axes in zip(model.graph.inputs, graph.free, strict=True)
        for axis, name in axes.items()
    }
    values = [*model.graph.inputs, *(x for node in model.graph for x in node.outputs)]
    for value in values:
        for axis, side in enumerate(value.shape or ()):
            if not isinstance(side, int) and side.value is not None:
                text = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), side.value)
                value.shape[axis] = text


def _write_pt2(program: torch.export.ExportedProgram, graph: Exportable, file: Path) -> Run:
    text = graph.description.to_json()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about weights on other devices
        program.example_inputs = None  # they would be saved too, megabytes of images
        torch.export.save(program, file, extra_files={f"{KEY}.json": text})
    # Its guards would refuse sizes at which the graph has just been compared.
    module = torch.export.load(file).module(check_guards=False)

    def run(inputs: tuple[Tensor, ...]) -> Sequence[Tensor]:
        return cast(Callable[..., Sequence[Tensor]], module)(*inputs)

    return run
