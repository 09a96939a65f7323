"""Work on many files: finding them, checking the names of results, and one file after the other."""

import glob
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from pna.cli import is_for_users
from pna.errors import MissingFileError, PnaError, UnsupportedError

Item = TypeVar("Item")


def run_each(
    items: Sequence[Item],
    work: Callable[[Item], str],
    *,
    noun: str,
    debug: bool,
    name: Callable[[Item], object] = str,
    hint: Callable[[Exception], str] = lambda error: "",
) -> int:
    """Work on each item and print a line on it; one that fails does not stop the others.

    An `UnsupportedError` holds for all of them, and passes.

    Args:
        items: To work on.
        work: Does the work and returns the text of the line.
        noun: The word for the items in messages.
        debug: Let errors pass, with their tracebacks.
        name: Returns the name of an item.
        hint: Returns what to add to the message of an error.

    Returns:
        The exit status: 0 if all went well, 1 if some failed.
    """
    failed = 0
    for number, item in enumerate(items, start=1):
        begin = f"[{number}/{len(items)}] {name(item)}"
        try:
            print(f"{begin}: {work(item)}", flush=True)
        except (PnaError, OSError) as error:
            if debug or not is_for_users(error) or isinstance(error, UnsupportedError):
                raise
            failed += 1
            print(f"{begin}: failed: {error}{hint(error)}", file=sys.stderr, flush=True)
    if failed:
        print(f"{failed} of {len(items)} {noun} failed", file=sys.stderr)
    return 1 if failed else 0


def in_order(results: Iterable[tuple[int, Item]]) -> Iterator[Item]:
    """Yield numbered results in the order of their numbers, from 0.

    Example:
        >>> list(in_order([(1, "b"), (0, "a"), (2, "c")]))
        ['a', 'b', 'c']
    """
    held: dict[int, Item] = {}
    due = 0
    for number, result in results:
        held[number] = result
        while due in held:
            yield held.pop(due)
            due += 1


def check_names(
    paths: Sequence[Path], out: Path, *, endings: Sequence[str], verb: str, noun: str
) -> None:
    """Refuse, before any work is done, inputs whose results would overwrite something.

    Args:
        paths: The inputs.
        out: The folder of the results.
        endings: What follows the stem of an input in the names of its results.
        verb: The work, for the error message.
        noun: The word for an input in the error message.

    Raises:
        PnaError: Two inputs have results of one name (in folders a/ and b/, say), the results would
            land among the inputs, or `out` is a file.
    """
    if out.exists() and not out.is_dir():
        raise PnaError(f"--out {out} is a file: expected a folder, or a name that is free")
    taken: dict[str, Path] = {}
    for path in paths:
        for ending in endings:
            # Some file systems (macOS, Windows) take "A.png" and "a.png" for one file.
            other = taken.setdefault(f"{path.stem}{ending}".casefold(), path)
            if other is not path:
                raise PnaError(
                    f"{other} and {path} would both be written to {out / path.stem}{ending}; "
                    f"{verb} them one after the other, each with its own --out"
                )
        if path.resolve().parent == out.resolve():
            raise PnaError(
                f"--out {out} holds the {noun} {path.name}: results would be taken for {noun}s "
                "next time; choose another folder"
            )


def find_images(
    paths: Sequence[str], suffixes: Sequence[str] | None = None
) -> tuple[list[Path], list[Path]]:
    """Resolve files, folders and patterns into images.

    Args:
        paths: Files of any ending, folders and patterns.
        suffixes: Endings of the files wanted of folders and patterns; None takes those of images.

    Returns:
        The images, each one once, in the order given; and the files of folders and patterns that
        are left out, because their names do not end as those of images do.

    Raises:
        MissingFileError: One of the paths leads to no image.
    """
    found: dict[Path, Path] = {}  # by the resolved path: a file named twice is taken once
    skipped: dict[Path, Path] = {}
    for text in paths:
        images, others = expand(text, suffixes=suffixes)
        found |= {path.resolve(): path for path in images if path.resolve() not in found}
        skipped |= {path.resolve(): path for path in others}
    # A file that is named itself is read, though a folder that holds it leaves it out.
    return list(found.values()), [path for key, path in skipped.items() if key not in found]


def expand(
    text: str, *, noun: str = "image", suffixes: Sequence[str] | None = None
) -> tuple[list[Path], list[Path]]:
    """List the images, and the other files, of a file, folder or pattern.

    Args:
        text: The path or pattern.
        noun: The word for the files in error messages.
        suffixes: Endings of the files wanted; None takes those of images.

    Raises:
        MissingFileError: It leads to none.
    """
    suffixes = _image_suffixes() if suffixes is None else suffixes
    path = Path(text)
    if path.is_dir():
        images, others = _split(path.iterdir(), suffixes)
        if not images:
            found = f"; found {_name_some(others)}" if others else ""
            raise MissingFileError(
                f"no {noun}s in the folder {path}: expected files ending in "
                f"{', '.join(suffixes)}{found}; folders inside it are not searched"
            )
        return images, others
    if path.exists():
        return [path], []  # of any ending: it was named
    if glob.has_magic(text):
        images, others = _split(map(Path, glob.glob(text, recursive=True)), suffixes)
        if not images:
            found = f", only {_name_some(others)}" if others else ""
            raise MissingFileError(f"no {noun}s match the pattern {text!r}{found}")
        return images, others
    raise MissingFileError(f"no {noun} or folder at {path}")


def report_left_out(skipped: Sequence[Path], suffixes: Sequence[str] | None = None) -> None:
    """Name files that are left out for their endings, if there are any."""
    if skipped:
        print(
            f"left out {_name_some(skipped)}: not ending in "
            f"{', '.join(suffixes or _image_suffixes())}; a file that is named itself is read "
            "whatever its ending",
            file=sys.stderr,
        )


def _image_suffixes() -> tuple[str, ...]:
    from pna.data.pairs import IMAGE_SUFFIXES

    return IMAGE_SUFFIXES


def _split(paths: Iterable[Path], suffixes: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Sort files into those of the endings wanted and others; leave out hidden ones."""
    files = sorted(path for path in paths if path.is_file() and path.name[0] != ".")
    wanted = [path for path in files if path.suffix.lower() in suffixes]
    return wanted, [path for path in files if path.suffix.lower() not in suffixes]


def _name_some(files: Sequence[Path]) -> str:
    names = ", ".join(path.name for path in files[:5])
    return names if len(files) <= 5 else f"{names} and {len(files) - 5} more"
