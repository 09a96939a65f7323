"""The text inside an exported file: all that a program without pna needs to know.

It is JSON, in an ONNX file under the key `pna` of the model's metadata, in a pt2 file as the extra
file `pna.json`.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pna.bands import Band, read_bands
from pna.errors import PnaError
from pna.labels import IGNORE_INDEX, LabelSpace
from pna.model.config import InferenceSize

KEY = "pna"
"""Key of the metadata of an ONNX file."""
FORMAT = 1

Task = Literal["segmentation", "mask refinement", "upsampling"]
Precision = Literal["float32", "float16", "int8"]


@dataclass(frozen=True)
class Description:
    """The description of an exported file.

    Attributes:
        task: What the network does.
        inputs: Each input's shape, type and range in words, by name, in order.
        outputs: Each output likewise.
        precision: Type in which the network computes; inputs and outputs are float32 at each.
        size: Height and width that the file is fixed to; None leaves them free.
        labels: The classes with names and colors, of a segmentation.
        mean: Mean per channel that the graph subtracts from images in [0, 1].
        std: Standard deviation per channel that it divides by.
        inference_size: Size that images are to be resized to first, which the graph does not do;
            None keeps their own.
        bands: The channels of the images; None are RGB, or unknown.
        num_stages: Number n of stages whose logits P0 to Pn the file returns; None where it
            returns the final logits alone.
        origin: Where the network comes from, in words.
    """

    task: Task
    inputs: dict[str, str]
    outputs: dict[str, str]
    precision: Precision
    size: tuple[int, int] | None = None
    labels: LabelSpace | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    inference_size: InferenceSize | None = None
    bands: tuple[Band, ...] | None = None
    num_stages: int | None = None
    origin: str = ""

    def to_json(self) -> str:
        """Return the text that is written into the file."""
        from pna import __version__

        values = asdict(self) | {
            "labels": None if self.labels is None else self.labels.to_dict(),
            # Pixels of this value are neither trained nor scored; the network never returns it.
            "ignore_index": IGNORE_INDEX,
            "normalization": "inside the graph",
            "format": FORMAT,
            "version": __version__,
        }
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str | None, file: Path) -> Self:
        """Read `to_json` back.

        Args:
            text: The content; None where the file has none.
            file: Named in errors.

        Raises:
            PnaError: The text is missing, damaged, or of another version.
        """
        if text is None:
            raise PnaError(
                f"{file}: expected a file of `pna export`, got one without its description, so "
                "its classes are unknown: export the model again"
            )
        try:
            values: dict[str, Any] = json.loads(text)
            version = values.get("format")
        except (json.JSONDecodeError, AttributeError) as error:
            raise PnaError(f"{file}: its description is damaged: export the model again") from error
        if version != FORMAT:
            raise PnaError(
                f"{file}: expected a description of format {FORMAT}, got {version}; use the "
                "version of pna that wrote it, or export the model again"
            )
        try:
            labels, size = values["labels"], values["size"]
            resized, bands = values["inference_size"], values["bands"]
            found = cls(
                task=values["task"],
                inputs=values["inputs"],
                outputs=values["outputs"],
                precision=values["precision"],
                size=None if size is None else (int(size[0]), int(size[1])),
                labels=None if labels is None else LabelSpace.from_dict(labels),
                mean=tuple(values["mean"]),
                std=tuple(values["std"]),
                inference_size=None if resized is None else InferenceSize(**resized),
                bands=None if bands is None else read_bands(bands),
                num_stages=values["num_stages"],
                origin=values["origin"],
            )
        except (KeyError, TypeError, ValueError) as error:  # PnaError of a label space, too
            raise PnaError(
                f"{file}: its description is damaged ({error}): export the model again"
            ) from error
        if found.task not in get_args(Task):
            raise PnaError(f"{file}: expected a task of {get_args(Task)}, got {found.task!r}")
        return found
