"""Label spaces: what the classes of a data set are called, drawn as, and which ones are scored.

A label map holds class indices `0 .. K-1` and `IGNORE_INDEX` for pixels nobody trains on or scores.
It is stored as an 8-bit PNG, so a label space has at most 255 classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

Color = tuple[int, int, int]

IGNORE_INDEX: Final = 255
IGNORE_COLOR: Final[Color] = (224, 224, 192)  # Pascal VOC's cream "void", entry 255 of its map


@dataclass(frozen=True)
class LabelSpace:
    """The classes of a data set, in the order of their indices.

    Args:
        name: Short name, used in reports and file names.
        classes: K class names, all different, 1 <= K <= 255.
        colors: K colours (red, green, blue), each 0..255, all different and none the ignore colour.
        scored: Indices of the classes in the mean IoU, ascending; empty means all of them, and
            after construction the tuple is never empty.

    Raises:
        ValueError: If lengths differ, or a name, colour or index repeats or is out of range.
    """

    name: str
    classes: tuple[str, ...]
    colors: tuple[Color, ...]
    scored: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "colors", tuple(tuple(color) for color in self.colors))
        object.__setattr__(self, "scored", tuple(self.scored or range(len(self.classes))))
        self._check_classes()
        self._check_colors()
        if list(self.scored) != sorted(set(self.scored) & set(range(self.num_classes))):
            raise ValueError(
                f"label space {self.name!r}: scored must be ascending, different indices in "
                f"0..{self.num_classes - 1}, got {self.scored}"
            )

    def _check_classes(self) -> None:
        if not 1 <= self.num_classes <= IGNORE_INDEX:
            raise ValueError(
                f"label space {self.name!r}: expected 1 to {IGNORE_INDEX} classes (labels are "
                f"8-bit and {IGNORE_INDEX} is ignored), got {self.num_classes}"
            )
        repeated = sorted({name for name in self.classes if self.classes.count(name) > 1})
        if repeated:
            raise ValueError(f"label space {self.name!r}: class names repeat: {repeated}")

    def _check_colors(self) -> None:
        if len(self.colors) != self.num_classes:
            raise ValueError(
                f"label space {self.name!r}: expected one colour per class, got "
                f"{len(self.colors)} colours for {self.num_classes} classes"
            )
        for index, color in enumerate(self.colors):
            if len(color) != 3 or not all(0 <= value <= 255 for value in color):
                raise ValueError(
                    f"label space {self.name!r}: colour {color} of class {self.classes[index]!r} "
                    "is not three numbers in 0..255"
                )
            if color == IGNORE_COLOR or color in self.colors[:index]:
                raise ValueError(
                    f"label space {self.name!r}: colour {color} of class {self.classes[index]!r} "
                    "is taken by another class or by ignored pixels; choose another"
                )

    @property
    def num_classes(self) -> int:
        """The number of classes K, ignored pixels not counted."""
        return len(self.classes)

    def palette(self) -> list[int]:
        """The palette of a label PNG: 768 numbers, black past the classes, ignore colour last."""
        entries: list[Color] = [(0, 0, 0)] * 256
        entries[: self.num_classes] = self.colors
        entries[IGNORE_INDEX] = IGNORE_COLOR
        return [value for color in entries for value in color]

    def to_dict(self) -> dict[str, Any]:
        """A dictionary of plain lists and strings, ready for JSON."""
        return {
            "name": self.name,
            "classes": list(self.classes),
            "colors": [list(color) for color in self.colors],
            "scored": list(self.scored),
        }

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> "LabelSpace":
        """Reads what `to_dict` wrote; `scored` may be left out.

        Raises:
            ValueError: If a key is missing or unknown, or the values do not fit together.
        """
        required, known = {"name", "classes", "colors"}, {"name", "classes", "colors", "scored"}
        if not required <= entries.keys() <= known:
            raise ValueError(
                f"a label space has the keys {sorted(known)} (scored is optional), "
                f"got {sorted(entries)}"
            )
        return cls(
            name=entries["name"],
            classes=tuple(entries["classes"]),
            colors=tuple(tuple(color) for color in entries["colors"]),
            scored=tuple(entries.get("scored") or ()),
        )

    def encode_colors(self, rgb: "NDArray[uint8]", *, source: str = "") -> "NDArray[uint8]":
        """Turns a colour mask into labels; colours must match exactly.

        Args:
            rgb: Colour mask (H, W, 3), uint8.
            source: Where the mask comes from, for the error message.

        Returns:
            Labels (H, W), uint8; the ignore colour becomes `IGNORE_INDEX`.

        Raises:
            ValueError: If a pixel has a colour that no class has.
        """
        import numpy as np

        table = np.array([*self.colors, IGNORE_COLOR], dtype=np.uint32)
        values = np.array([*range(self.num_classes), IGNORE_INDEX], dtype=np.uint8)
        shifts = np.array([16, 8, 0], dtype=np.uint32)
        codes = (table << shifts).sum(axis=1)
        order = np.argsort(codes)
        codes, values = codes[order], values[order]
        pixels = (rgb.astype(np.uint32) << shifts).sum(axis=-1)  # (H, W)
        place = np.minimum(np.searchsorted(codes, pixels), len(codes) - 1)
        unknown = pixels[codes[place] != pixels]
        if unknown.size:
            raise ValueError(self._unknown_colors(unknown, source))
        labels: NDArray[uint8] = values[place]
        return labels

    def _unknown_colors(self, codes: "NDArray[Any]", source: str) -> str:
        import numpy as np

        found, counts = np.unique(codes, return_counts=True)
        worst = np.argsort(-counts, kind="stable")[:3]
        listed = ", ".join(
            f"{(int(found[i]) >> 16, int(found[i]) >> 8 & 255, int(found[i]) & 255)} "
            f"at {counts[i]} pixels"
            for i in worst
        )
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        known = dict(zip(self.classes, self.colors, strict=True))
        return (
            f"{source or 'colour mask'}: unknown colours: {listed}{more}; label space "
            f"{self.name!r} has {known} and {IGNORE_COLOR} for ignored pixels. Colours must match "
            "exactly: save masks as PNG without anti-aliasing, or correct the label space"
        )

    def decode(self, labels: "NDArray[Any]") -> "NDArray[uint8]":
        """Turns labels into a colour mask.

        Args:
            labels: Labels (H, W) of any integer type, 0..K-1 or `IGNORE_INDEX`.

        Returns:
            Colours (H, W, 3), uint8.

        Raises:
            ValueError: If a label is neither a class nor `IGNORE_INDEX`.
        """
        import numpy as np

        bad = out_of_range(labels, self.num_classes)
        if bad:
            raise ValueError(
                f"labels {bad} are no classes of {self.name!r}: "
                f"expected 0..{self.num_classes - 1} or {IGNORE_INDEX}"
            )
        table = np.array(self.palette(), dtype=np.uint8).reshape(256, 3)
        rgb: NDArray[uint8] = table[labels]
        return rgb


def out_of_range(labels: "NDArray[Any]", num_classes: int) -> list[int]:
    """The values in an integer array that are neither a class nor `IGNORE_INDEX`, ascending."""
    import numpy as np

    bad = ((labels < 0) | (labels >= num_classes)) & (labels != IGNORE_INDEX)
    return [int(value) for value in np.unique(labels[bad])]


def voc_color(index: int) -> Color:
    """Entry `index` (0..255) of the Pascal VOC colour map; all 256 colours differ.

    The bits of the index are dealt out in turn to red, green and blue, highest bit of the colour
    first (VOCdevkit, `VOClabelcolormap`).
    """
    channels = [0, 0, 0]
    for bit in range(8):
        channels[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
    return channels[0], channels[1], channels[2]


def generic(num_classes: int) -> LabelSpace:
    """A label space for data without one: `class_0 ..` in the colours of the VOC map."""
    return LabelSpace(
        name=f"generic-{num_classes}",
        classes=tuple(f"class_{index}" for index in range(num_classes)),
        colors=tuple(voc_color(index) for index in range(num_classes)),
    )
