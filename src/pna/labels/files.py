"""Label spaces in files: JSON of `LabelSpace.to_dict`, and CVAT's `labelmap.txt`."""

import json
import re
from pathlib import Path

from pna.errors import MissingFileError, PnaError
from pna.labels.known import LABEL_SPACES
from pna.labels.space import IGNORE_COLOR, LabelSpace

# CVAT writes "name:red,green,blue:parts:actions"; only a name may hold more colons.
_LABELMAP_LINE = re.compile(r"(?P<name>.+?):(?P<color>\d+,\d+,\d+)(:[^:]*){0,2}")


def read_label_space(source: str | Path) -> LabelSpace:
    """Find a label space by name, or read it from a file.

    A file holds the JSON of `LabelSpace.to_dict`, or, if its name ends in `.txt`, the lines of
    CVAT's `labelmap.txt` (`name:red,green,blue:parts:actions`; comments begin with `#`). An entry
    of a labelmap in Pascal VOC's void color stands for ignored pixels and is no class. UTF-8, with
    or without a byte order mark.

    Args:
        source: A key of `LABEL_SPACES`, or a path; `~` stands for the home folder.

    Raises:
        MissingFileError: If it is neither.
        PnaError: If the file holds no label space; the message names it.

    Example:
        >>> read_label_space("camvid").classes[:2]
        ('sky', 'building')
    """
    if str(source) in LABEL_SPACES:
        return LABEL_SPACES[str(source)]
    path = Path(source).expanduser()
    if not path.is_file():
        raise MissingFileError(
            f"{source}: expected the JSON file of a label space, CVAT's labelmap.txt, or one of "
            f"{', '.join(LABEL_SPACES)}; there is none"
        )
    is_labelmap = path.suffix.lower() == ".txt"
    kind = "the lines of a labelmap.txt" if is_labelmap else "the JSON of a label space"
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows editors put a byte order mark first
        if is_labelmap:
            return _read_labelmap(text, name=path.stem)
        return LabelSpace.from_dict(json.loads(text))
    except ValueError as error:  # not text, not JSON, or no label space
        raise PnaError(f"{path}: expected {kind}: {error}") from error


def _read_labelmap(text: str, name: str) -> LabelSpace:
    classes: list[str] = []
    colors: list[tuple[int, ...]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        entry = _LABELMAP_LINE.fullmatch(line.strip())
        if entry is None:
            raise PnaError(
                f"line {number}: expected name:red,green,blue:parts:actions, got {line!r}"
            )
        color = tuple(map(int, entry["color"].split(",")))
        # Void is kept out here: a label space refuses a class of that color.
        if color != IGNORE_COLOR:
            classes.append(entry["name"])
            colors.append(color)
    return LabelSpace(name, tuple(classes), tuple(colors))  # type: ignore[arg-type]
