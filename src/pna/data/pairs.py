"""Images and their masks: finding the files, and matching them by name.

Pairs are matched by the stem of the file name, never by sort order, and a missing partner is an
error that names it. Stems are compared in Unicode's composed form (NFC): macOS writes "é" as two
characters, and a list or a mask from another system as one.
"""

import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple

from pna.data.errors import DataError, DataWarning

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


class Pair(NamedTuple):
    """An image and its mask.

    Attributes:
        image: File of the image.
        mask: File of the labels.
        name: The stem that both share, composed (NFC), without the endings of `match_pairs`.
    """

    image: Path
    mask: Path
    name: str


class Endings(NamedTuple):
    """How the names of images and masks end, where they are told apart by more than a folder.

    Attributes:
        image: For example `_sat.jpg`.
        mask: For example `_mask.png`.
    """

    image: str
    mask: str


_MAX_SEARCHES = 20  # for similar names, in one check

# A context variable: data sets need no argument for it, and threads do not see each other's.
_missing: ContextVar[list[str] | None] = ContextVar("missing", default=None)


@contextmanager
def collect_missing() -> Iterator[list[str]]:
    """Collect missing partners instead of failing at the first.

    Inside, `match_pairs` puts a message for each missing partner on the list and leaves the pair
    out: a check of a data set lists all that is missing and reads the rest.
    """
    found: list[str] = []
    token = _missing.set(found)
    try:
        yield found
    finally:
        _missing.reset(token)


def composed(stem: str) -> str:
    """Return a stem in the form in which stems are compared (NFC)."""
    return unicodedata.normalize("NFC", stem)


def existing_folder(folder: Path, *, needed_for: str) -> Path:
    """Return `folder` if it exists.

    Args:
        folder: The folder.
        needed_for: Its contents, for the error message.

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
    """Read a split list: one stem per line, blank lines skipped, UTF-8.

    Raises:
        DataError: If the file is missing, is not text, is empty, or names a stem twice.

    Example:
        >>> from tempfile import mkdtemp
        >>> file = Path(mkdtemp()) / "val.txt"
        >>> _ = file.write_text("10001\\n10007\\n")
        >>> read_list(file)
        ['10001', '10007']
    """
    try:
        # utf-8-sig: Windows editors put a byte order mark first, which is no part of a stem.
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read the split list {file}: {error}; expected a text file with one stem a line"
        ) from error
    stems = [composed(line.strip()) for line in lines if line.strip()]
    if not stems:
        raise DataError(f"split list {file} is empty: expected one stem a line")
    stem, count = Counter(stems).most_common(1)[0]
    if count > 1:
        raise DataError(f"split list {file} names {stem!r} {count} times; keep one line")
    return stems


def files_by_stem(
    folder: Path,
    *,
    needed_for: str,
    ending: str | None = None,
    suffixes: tuple[str, ...] = IMAGE_SUFFIXES,
) -> dict[str, Path]:
    """Return the files of a folder by stem, sorted; hidden files are left out.

    Args:
        folder: The folder.
        needed_for: Its contents, for the error message.
        ending: End of the file names, no part of the stem; None takes every file whose suffix is in
            `suffixes`.
        suffixes: The suffixes that are read, in lower case.

    Raises:
        DataError: If the folder is missing, or two files share a stem.
    """
    files: dict[str, Path] = {}
    # Sorted, so that the two files of one stem are named in the same order everywhere.
    for file in sorted(existing_folder(folder, needed_for=needed_for).iterdir()):
        if file.name.startswith(".") or not _has_ending(file, ending, suffixes):
            continue
        stem = composed(file.stem if ending is None else file.name[: -len(ending)])
        if stem in files:
            raise DataError(
                f"{folder} has two files of the stem {stem!r}: {files[stem].name} and "
                f"{file.name}; pairs are matched by stem, so rename or remove one"
            )
        files[stem] = file
    return dict(sorted(files.items()))


def match_pairs(
    image_folder: Path,
    mask_folder: Path,
    stems: Iterable[str] | None = None,
    *,
    endings: Endings | None = None,
    mask_suffixes: tuple[str, ...] = IMAGE_SUFFIXES,
) -> list[Pair]:
    """Match the files of two folders by stem.

    Args:
        image_folder: Folder of the images.
        mask_folder: Folder of the masks.
        stems: The pairs wanted, in this order; None takes all, sorted by stem, and then every file
            of both folders must have a partner.
        endings: How the file names end; None takes all images in both folders.
        mask_suffixes: The suffixes of masks, where `endings` is None.

    Raises:
        DataError: If a folder or a partner is missing, or nothing is left. The message names files
            that may be the missing partner under another name.
    """
    image_ending, mask_ending = endings or (None, None)
    images = files_by_stem(image_folder, needed_for="images", ending=image_ending)
    masks = files_by_stem(
        mask_folder, needed_for="masks", ending=mask_ending, suffixes=mask_suffixes
    )
    # Of both folders: a mask without an image is as much an error as an image without a mask.
    wanted = sorted({*images, *masks}) if stems is None else list(map(composed, stems))
    if not wanted:
        raise DataError(
            f"no images in {image_folder}, no masks in {mask_folder}: expected files ending in "
            f"{' and '.join(endings) if endings else ' '.join(IMAGE_SUFFIXES)}"
            f"{_other_files([image_folder, mask_folder])}; folders inside them are not searched"
        )
    places = f"images are in {image_folder}, masks in {mask_folder}, matched by stem"
    paired = {stem for stem in wanted if stem in images and stem in masks}
    for what, files, others, folder, ending in (
        ("image", images, masks, image_folder, image_ending),
        ("mask", masks, images, mask_folder, mask_ending),
    ):
        # In a folder of images and masks, the image of a stem is no candidate for its mask.
        taken = {files[stem] for stem in paired} | set(others.values())
        missing = [stem for stem in wanted if stem not in files]
        collected = _missing.get()
        if collected is not None:
            for number, stem in enumerate(missing):
                # Listing the folder for each of thousands of missing files would take hours.
                near = _similar_files(stem, folder, ending, taken) if number < _MAX_SEARCHES else ""
                collected.append(f"no {what} for {stem!r}: {places}{near}")
        elif missing:
            more = f" (nor for {len(missing) - 1} others)" if len(missing) > 1 else ""
            remedy = _similar_files(missing[0], folder, ending, taken)
            remedy = remedy or "; add it, or leave the stem out"
            raise DataError(f"no {what} for {missing[0]!r}{more}: {places}{remedy}")
    if stems is None and endings is None:
        _warn_of_unread_pairs(image_folder, mask_folder)
    return [Pair(images[stem], masks[stem], stem) for stem in wanted if stem in paired]


def _has_ending(file: Path, ending: str | None, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> bool:
    if ending is None:
        return file.suffix.lower() in suffixes
    return file.name.endswith(ending)


def _similar_files(stem: str, folder: Path, ending: str | None, taken: set[Path]) -> str:
    """Name files without a partner that may be the one of `stem` under another name."""
    if ending is None and stem.lower().endswith(IMAGE_SUFFIXES):
        return f"; stems have no ending: expected {stem.rpartition('.')[0]!r} in the list"
    similar = []
    for file in sorted(folder.iterdir()):
        name = composed(file.name)
        short, long = sorted(
            (stem, name if name.startswith(stem) else composed(file.stem)), key=len
        )
        # "a" is similar to "a.gif" and "a_mask", but not to "ab".
        if file not in taken and long.startswith(short) and not long[len(short) :][:1].isalnum():
            similar.append(file.name)
    if not similar:
        return ""
    wanted = stem + ending if ending else f"the stem {stem!r} and one of {' '.join(IMAGE_SUFFIXES)}"
    listed = ", ".join(similar[:3]) + (" ..." if len(similar) > 3 else "")
    return f"; {folder} holds {listed}: rename or convert it, expected {wanted}"


def _other_files(folders: Iterable[Path]) -> str:
    entries = [entry for folder in folders for entry in folder.iterdir() if entry.name[0] != "."]
    suffixes = Counter(entry.suffix for entry in entries if entry.is_file())
    listed = ", ".join(
        f"{count} {f'of {suffix}' if suffix else 'without one'}"
        for suffix, count in suffixes.most_common(5)
    )
    inner = sorted({entry.name for entry in entries if entry.is_dir()})
    return (f"; found files with other endings: {listed}" if listed else "") + (
        f"; found folders: {', '.join(inner[:5])}" if inner else ""
    )


def _warn_of_unread_pairs(image_folder: Path, mask_folder: Path) -> None:
    """Warn of pairs whose two files both have endings that are not read."""
    # An image without a mask is an error. Here both are passed over, which nothing else reports.
    unread: list[dict[str, str]] = []
    for folder in (image_folder, mask_folder):
        files = [file for file in folder.iterdir() if file.is_file() and file.name[0] != "."]
        unread.append(
            {composed(file.stem): file.name for file in files if not _has_ending(file, None)}
        )
    stems = sorted(unread[0].keys() & unread[1].keys())
    if image_folder != mask_folder and stems:
        warnings.warn(
            f"{len(stems)} pairs are left out, such as {image_folder / unread[0][stems[0]]} and "
            f"{mask_folder / unread[1][stems[0]]}: only {' '.join(IMAGE_SUFFIXES)} are read; "
            "convert them",
            DataWarning,
            stacklevel=4,
        )
