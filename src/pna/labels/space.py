"""Label spaces: names, colors and scored classes of a data set.

A label map holds class indices `0 .. K-1` and `IGNORE_INDEX` for pixels that are neither trained on
nor scored. It is stored as an 8-bit PNG, so a label space has at most 255 classes.
"""

import operator
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pna.errors import PnaError

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

Color = tuple[int, int, int]

IGNORE_INDEX: Final = 255
IGNORE_COLOR: Final[Color] = (224, 224, 192)  # Pascal VOC's cream "void", entry 255 of its map


@dataclass(frozen=True)
class LabelSpace:
    """The classes of a data set, in the order of their indices.

    Sequences of any kind are taken, numpy's too, and kept as tuples of plain integers and strings.

    Args:
        name: Short name, used in reports and file names.
        classes: K class names, all different, 1 <= K <= 255. Names are data: any character but
            line breaks and other control characters.
        colors: K colors, all different and none the ignore color: three whole numbers in 0..255
            (red, green, blue), or a string like "#ff8000".
        scored: Indices of the classes in the mean IoU, ascending; empty means all of them, and
            after construction the tuple is never empty.

    Raises:
        PnaError: If lengths differ, or a name, color or index has the wrong form, repeats or is out
            of range.

    Example:
        >>> roofs = LabelSpace("roofs", ("ground", "roof"), ((0, 0, 0), "#c83c28"))
        >>> roofs.num_classes, roofs.colors[1], roofs.scored
        (2, (200, 60, 40), (0, 1))
    """

    name: str
    classes: tuple[str, ...]
    colors: tuple[Color, ...]
    scored: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise PnaError(f"a label space's name is a string, got {self.name!r}")
        # A frozen dataclass is set like this. The order matters: colors and scored indices are
        # checked against the classes that were read.
        object.__setattr__(self, "classes", self._read_classes())
        object.__setattr__(self, "colors", self._read_colors())
        object.__setattr__(self, "scored", self._read_scored())

    def _read_classes(self) -> tuple[str, ...]:
        here = f"label space {self.name!r}"
        given: Any = self.classes
        # A string is iterable too: "road" would be four classes.
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise PnaError(f"{here}: classes are a sequence of names, got {given!r}")
        classes = tuple(given)
        for name in classes:
            if not isinstance(name, str):
                raise PnaError(
                    f"{here}: class names are strings, got {name!r} of type "
                    f"{type(name).__name__}: write it in quotes"
                )
            # Reports, tables and file headers hold a name on one line.
            if not name.strip() or any(
                unicodedata.category(sign) in ("Cc", "Zl", "Zp") for sign in name
            ):
                raise PnaError(
                    f"{here}: class name {name!r} is empty or holds a line break or another "
                    "control character; write it on one line"
                )
        if not 1 <= len(classes) <= IGNORE_INDEX:
            raise PnaError(
                f"{here}: expected 1 to {IGNORE_INDEX} classes (labels are 8-bit and "
                f"{IGNORE_INDEX} is ignored), got {len(classes)}"
            )
        repeated = sorted({name for name in classes if classes.count(name) > 1})
        if repeated:
            raise PnaError(f"{here}: class names repeat: {repeated}")
        return classes

    def _read_colors(self) -> tuple[Color, ...]:
        here = f"label space {self.name!r}"
        given: Any = self.colors
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise PnaError(f"{here}: colors are a sequence of colors, got {given!r}")
        given = tuple(given)
        if len(given) != len(self.classes):
            raise PnaError(
                f"{here}: expected one color per class, got {len(given)} colors for "
                f"{len(self.classes)} classes"
            )
        colors: list[Color] = []
        for name, value in zip(self.classes, given, strict=True):
            try:
                color = read_color(value)
            except PnaError as error:
                raise PnaError(f"{here}: class {name!r}: {error}") from None
            if color == IGNORE_COLOR or color in colors:
                raise PnaError(
                    f"{here}: color {color} of class {name!r} is taken by another class or by "
                    "ignored pixels; choose another"
                )
            colors.append(color)
        return tuple(colors)

    def _read_scored(self) -> tuple[int, ...]:
        everything = tuple(range(len(self.classes)))
        try:
            scored = tuple(operator.index(index) for index in self.scored) or everything
        except TypeError:  # not a sequence, or not of integers
            scored = ()
        if not scored or list(scored) != sorted(set(scored) & set(everything)):
            raise PnaError(
                f"label space {self.name!r}: scored must be ascending, different indices in "
                f"0..{len(everything) - 1}, got {self.scored!r}"
            )
        return scored

    @property
    def num_classes(self) -> int:
        """The number of classes K, ignored pixels not counted."""
        return len(self.classes)

    @property
    def is_generic(self) -> bool:
        """Whether the classes have the names of `generic`, so no names of their own."""
        return self.classes == _generic_names(self.num_classes)

    def palette(self) -> list[int]:
        """Return the palette of a label PNG.

        Returns:
            768 numbers: black past the classes, the ignore color last.
        """
        entries: list[Color] = [(0, 0, 0)] * 256
        entries[: self.num_classes] = self.colors
        entries[IGNORE_INDEX] = IGNORE_COLOR
        return [value for color in entries for value in color]

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary of plain lists and strings, ready for JSON."""
        return {
            "name": self.name,
            "classes": list(self.classes),
            "colors": [list(color) for color in self.colors],
            "scored": list(self.scored),
        }

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> "LabelSpace":
        """Make a label space from the dictionary of `to_dict`; `scored` may be left out.

        Raises:
            PnaError: If a key is missing or unknown, or the values do not fit together.

        Example:
            >>> LabelSpace.from_dict({"name": "a", "classes": ["x"], "colors": [[1, 2, 3]]}).colors
            ((1, 2, 3),)
        """
        required, known = {"name", "classes", "colors"}, {"name", "classes", "colors", "scored"}
        if not isinstance(entries, Mapping):
            raise PnaError(
                f"a label space is a mapping with the keys {sorted(known)}, got a "
                f"{type(entries).__name__}"
            )
        if not required <= entries.keys() <= known:
            raise PnaError(
                f"a label space has the keys {sorted(known)} (scored is optional), "
                f"got {sorted(map(str, entries))}"
            )
        return cls(
            name=entries["name"],
            classes=entries["classes"],
            colors=entries["colors"],
            scored=entries.get("scored") or (),
        )

    def encode_colors(
        self, rgb: "NDArray[uint8]", *, ignore: Color | None = None, source: str = "color mask"
    ) -> "NDArray[uint8]":
        """Turn a color mask into labels; colors must match exactly.

        Args:
            rgb: Color mask (H, W, 3), uint8.
            ignore: Another color of ignored pixels, besides `IGNORE_COLOR`; no class has it.
            source: Name of the mask in the error message.

        Returns:
            Labels (H, W), uint8; ignored pixels hold `IGNORE_INDEX`.

        Raises:
            PnaError: If a pixel has a color that no class has.

        Example:
            >>> import numpy as np
            >>> roofs = LabelSpace("roofs", ("ground", "roof"), ((0, 0, 0), (200, 60, 40)))
            >>> roofs.encode_colors(np.array([[[200, 60, 40], [224, 224, 192]]], np.uint8)).tolist()
            [[1, 255]]
        """
        import numpy as np  # here, since a model needs label spaces but no arrays

        ignored = [IGNORE_COLOR] if ignore in (None, IGNORE_COLOR) else [IGNORE_COLOR, ignore]
        table = np.array([*self.colors, *ignored], dtype=np.uint32)
        values = np.array(
            [*range(self.num_classes), *[IGNORE_INDEX] * len(ignored)], dtype=np.uint8
        )
        # A color is one number of 24 bits, so a mask is looked up by one binary search per pixel.
        shifts = np.array([16, 8, 0], dtype=np.uint32)
        codes = (table << shifts).sum(axis=1)
        order = np.argsort(codes)  # the binary search needs ascending codes
        codes, values = codes[order], values[order]
        pixels = (rgb.astype(np.uint32) << shifts).sum(axis=-1)  # (H, W)
        # Past the last code there is no entry; the comparison below finds the color unknown.
        entry = np.minimum(np.searchsorted(codes, pixels), len(codes) - 1)
        unknown = pixels[codes[entry] != pixels]
        if unknown.size:
            raise PnaError(self._unknown_colors(unknown, source))
        labels: NDArray[uint8] = values[entry]  # (H, W)
        return labels

    def _unknown_colors(self, codes: "NDArray[Any]", source: str) -> str:
        import numpy as np

        found, counts = np.unique(codes, return_counts=True)
        # The most frequent ones: an anti-aliased mask has thousands of colors at its edges.
        worst = np.argsort(-counts, kind="stable")[:3]
        listed = ", ".join(
            f"{(int(found[i]) >> 16, int(found[i]) >> 8 & 255, int(found[i]) & 255)} "
            f"at {counts[i]} pixels"
            for i in worst
        )
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        known = dict(zip(self.classes, self.colors, strict=True))
        return (
            f"{source}: unknown colors: {listed}{more}; label space "
            f"{self.name!r} has {known} and {IGNORE_COLOR} for ignored pixels. Colors must match "
            "exactly: save masks as PNG without anti-aliasing, or correct the label space"
        )

    def decode(self, labels: "NDArray[Any]") -> "NDArray[uint8]":
        """Turn labels into a color mask.

        Args:
            labels: Labels (H, W) of any integer type, 0..K-1 or `IGNORE_INDEX`.

        Returns:
            Colors (H, W, 3), uint8.

        Raises:
            PnaError: If a label is neither a class nor `IGNORE_INDEX`.

        Example:
            >>> import numpy as np
            >>> roofs = LabelSpace("roofs", ("ground", "roof"), ((0, 0, 0), (200, 60, 40)))
            >>> roofs.decode(np.array([[1]])).tolist()
            [[[200, 60, 40]]]
        """
        import numpy as np

        bad = out_of_range(labels, self.num_classes)
        if bad:
            raise PnaError(
                f"labels {bad} are no classes of {self.name!r}: "
                f"expected 0..{self.num_classes - 1} or {IGNORE_INDEX}"
            )
        table = np.array(self.palette(), dtype=np.uint8).reshape(256, 3)
        rgb: NDArray[uint8] = table[labels]  # (H, W, 3)
        return rgb


def read_color(value: Any) -> Color:
    """Read a color as people write it: three whole numbers of any kind, or "#rrggbb".

    Raises:
        PnaError: If it is neither. Fractions are refused, not scaled.

    Example:
        >>> read_color("#ff8000"), read_color([255, 128, 0])
        ((255, 128, 0), (255, 128, 0))
    """
    expected = f"color {value!r} is not three numbers in 0..255 (red, green, blue) or '#rrggbb'"
    if isinstance(value, str):
        digits = value.removeprefix("#")
        if (
            len(digits) != 6
            or not value.startswith("#")
            or set(digits) - set("0123456789abcdefABCDEF")
        ):
            raise PnaError(expected)
        red, green, blue = bytes.fromhex(digits)
        return red, green, blue
    try:
        # operator.index takes every integer type and no float: 1.0 may mean 1 or white.
        channels = [operator.index(channel) for channel in value]
    except TypeError:
        raise PnaError(f"{expected}; scale fractions to whole numbers in 0..255") from None
    if len(channels) != 3 or not all(0 <= channel <= 255 for channel in channels):
        raise PnaError(expected)
    return channels[0], channels[1], channels[2]


def out_of_range(labels: "NDArray[Any]", num_classes: int) -> list[int]:
    """List the values of an integer array that are neither a class nor `IGNORE_INDEX`.

    Args:
        labels: Integers of any type and shape.
        num_classes: Number of classes K.

    Returns:
        Each value once, ascending.

    Example:
        >>> import numpy as np
        >>> out_of_range(np.array([0, 3, 255, 3]), num_classes=3)
        [3]
    """
    import numpy as np

    # Compared in the type at hand: a cast to bytes first would turn 256 into class 0.
    bad = ((labels < 0) | (labels >= num_classes)) & (labels != IGNORE_INDEX)
    return [int(value) for value in np.unique(labels[bad])]


def voc_color(index: int) -> Color:
    """Return entry `index` (0..255) of the Pascal VOC color map; all 256 colors differ.

    Example:
        >>> voc_color(1), voc_color(15)
        ((128, 0, 0), (192, 128, 128))
    """
    # The bits of the index are dealt out in turn to red, green and blue, the highest bit of the
    # color first (VOCdevkit, `VOClabelcolormap`).
    channels = [0, 0, 0]
    for bit in range(8):
        channels[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
    return channels[0], channels[1], channels[2]


def _generic_names(num_classes: int) -> tuple[str, ...]:
    return tuple(f"class_{index}" for index in range(num_classes))


def generic(num_classes: int) -> LabelSpace:
    """Make a label space for classes without names: `class_0 ..` in the colors of the VOC map.

    Example:
        >>> generic(2).classes
        ('class_0', 'class_1')
    """
    return LabelSpace(
        name=f"generic-{num_classes}",
        classes=_generic_names(num_classes),
        colors=tuple(map(voc_color, range(num_classes))),
    )


def choose_labels(num_classes: int | None, labels: LabelSpace | None) -> LabelSpace:
    """Return the label space that was given, or a generic one for a number of classes.

    Raises:
        PnaError: If neither was given, or they differ.

    Example:
        >>> choose_labels(2, None).name
        'generic-2'
    """
    if labels is None:
        if num_classes is None:
            raise PnaError("expected num_classes or labels, got neither")
        return generic(num_classes)
    if num_classes not in (None, labels.num_classes):
        raise PnaError(
            f"got num_classes={num_classes}, but labels {labels.name!r} has {labels.num_classes}"
        )
    return labels
