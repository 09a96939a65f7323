"""Pictures and their masks: finding the files, and matching them by name.

Pairs are matched by the stem of the file name, never by sort order, and a missing partner is an
error that names it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple

from pna.data.errors import DataError

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


class Pair(NamedTuple):
    """A picture and its mask.

    Attributes:
        picture: File of the picture.
        mask: File of the labels.
        name: What the names of both begin with: the stem, less the endings of `match_pairs`.
    """

    picture: Path
    mask: Path
    name: str


class Endings(NamedTuple):
    """How the names of pictures and masks end, where they are told apart by more than a folder.

    Attributes:
        picture: For example `_sat.jpg`.
        mask: For example `_mask.png`.
    """

    picture: str
    mask: str


_missing: ContextVar[list[str] | None] = ContextVar("missing", default=None)


@contextmanager
def collect_missing() -> Iterator[list[str]]:
    """Inside, `match_pairs` puts missing partners on a list and leaves their pairs out.

    For checking a data set: all that is missing is wanted then, and what is there all the same.
    """
    found: list[str] = []
    token = _missing.set(found)
    try:
        yield found
    finally:
        _missing.reset(token)


def existing_folder(folder: Path, *, needed_for: str) -> Path:
    """Returns `folder`, or says what it should hold.

    Raises:
        DataError: If `folder` is not a folder.
    """
    if not folder.is_dir():
        raise DataError(
            f"no folder {folder}: it should hold {needed_for}; check the root folder, "
            "or see the layouts in the data page of the documentation"
        )
    return folder


def read_list(file: Path) -> list[str]:
    """Reads a split list: one stem per line, blank lines skipped.

    Raises:
        DataError: If the file is missing, is not text, is empty, or names a stem twice.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read the split list {file}: {error}; expected a text file with one stem a line"
        ) from error
    stems = [line.strip() for line in lines if line.strip()]
    if not stems:
        raise DataError(f"split list {file} is empty: expected one stem a line")
    stem, count = Counter(stems).most_common(1)[0]
    if count > 1:
        raise DataError(f"split list {file} names {stem!r} {count} times; keep one line")
    return stems


def files_by_stem(folder: Path, *, needed_for: str, ending: str | None = None) -> dict[str, Path]:
    """The files of a folder, sorted by stem.

    Args:
        folder: Where to look.
        needed_for: What it should hold, for the error message.
        ending: What the file names end with, not part of the stem; None takes every picture (see
            `PICTURE_SUFFIXES`).

    Raises:
        DataError: If the folder is missing, or two files share a stem.
    """
    files: dict[str, Path] = {}
    for file in sorted(existing_folder(folder, needed_for=needed_for).iterdir()):
        if file.name.startswith(".") or not _ends(file, ending):
            continue
        stem = file.stem if ending is None else file.name[: -len(ending)]
        if stem in files:
            raise DataError(
                f"{folder} has two files of the stem {stem!r}: {files[stem].name} and "
                f"{file.name}; pairs are matched by stem, so rename or remove one"
            )
        files[stem] = file
    return dict(sorted(files.items()))


def match_pairs(
    picture_folder: Path,
    mask_folder: Path,
    stems: Iterable[str] | None = None,
    *,
    endings: Endings | None = None,
) -> list[Pair]:
    """Matches the files of two folders by stem.

    Args:
        picture_folder: Folder of the pictures.
        mask_folder: Folder of the masks.
        stems: The pairs wanted, in this order; None takes all, sorted by stem, and then every file
            of both folders must have a partner.
        endings: How the file names end; None takes all pictures in both folders.

    Raises:
        DataError: If a folder or a partner is missing, or nothing is left.
    """
    picture_ending, mask_ending = endings or (None, None)
    pictures = files_by_stem(picture_folder, needed_for="pictures", ending=picture_ending)
    masks = files_by_stem(mask_folder, needed_for="masks", ending=mask_ending)
    wanted = sorted({*pictures, *masks}) if stems is None else list(stems)
    if not wanted:
        raise DataError(
            f"no pictures in {picture_folder}, no masks in {mask_folder}: expected files ending in "
            f"{' and '.join(endings) if endings else ' '.join(PICTURE_SUFFIXES)}"
        )
    places = f"pictures are in {picture_folder}, masks in {mask_folder}, matched by stem"
    _report_missing([stem for stem in wanted if stem not in pictures], "picture", places)
    _report_missing([stem for stem in wanted if stem not in masks], "mask", places)
    return [
        Pair(pictures[stem], masks[stem], stem)
        for stem in wanted
        if stem in pictures and stem in masks
    ]


def _ends(file: Path, ending: str | None) -> bool:
    if ending is None:
        return file.suffix.lower() in PICTURE_SUFFIXES
    return file.name.endswith(ending)


def _report_missing(stems: list[str], what: str, places: str) -> None:
    collected = _missing.get()
    if collected is not None:
        collected += [f"no {what} for {stem!r}: {places}" for stem in stems]
    elif stems:
        more = f" (nor for {len(stems) - 1} others)" if len(stems) > 1 else ""
        raise DataError(
            f"no {what} for {stems[0]!r}{more}: {places}; add it, or leave the stem out"
        )
