"""`pna segment`: label maps and overlays of images, folders and patterns."""

import argparse
import glob
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pna.cli import is_for_users
from pna.cli.options import add_device_argument, add_tiling_arguments, load_model, tiling_of
from pna.errors import MissingFileError, PnaError

if TYPE_CHECKING:
    from pna.inference.predictor import Prediction

EPILOG = """\
examples:
  pna segment photo.jpg -o out
  pna segment photos/ --model voc-lite --stages --similar 318,170 -o out
  pna segment 'tiles/*.tif' --model runs/own/model --tile 1024,1024 -o out
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="images, folders (without the folders inside) or quoted patterns such as "
        "'photos/*.jpg'",
    )
    parser.add_argument(
        "--model",
        default="voc-lite",
        help="a bundled model's name or a saved model's folder (default: %(default)s)",
    )
    parser.add_argument(
        "-o", "--out", type=Path, required=True, help="folder for the results, made if missing"
    )
    parser.add_argument(
        "--stages", action="store_true", help="also write NAME_stages.png: P0 to Pn side by side"
    )
    parser.add_argument(
        "--similar",
        type=parse_point,
        metavar="X,Y",
        help="also write NAME_similar.png: the neighborhood weights of this pixel at each stage; "
        "0,0 is at the top left",
    )
    parser.add_argument(
        "--scores",
        action="store_true",
        help="also write NAME_scores.npz: `scores`, float16 probabilities (classes, height, "
        "width), and `classes`, their names",
    )
    add_device_argument(parser)
    add_tiling_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Segment the images; 0 if all went well, 1 if some could not be segmented."""
    from pna.inference.predictor import ImageTooLargeError, Predictor

    # All names are checked before the model is read: hours later an overwrite would be too late.
    images, skipped = find_images(args.paths)
    check_names(images, args.out)
    if skipped:
        print(
            f"left out {_name_some(skipped)}: not ending in {_suffixes()}; a file that is named "
            "itself is read whatever its ending",
            file=sys.stderr,
        )
    tiling = tiling_of(args)
    predictor = Predictor(load_model(args), device=args.device, tiling=tiling)
    args.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for number, path in enumerate(images, start=1):
        begin = f"[{number}/{len(images)}] {path}"
        try:
            prediction = predictor(
                path, stages=args.stages, similar=args.similar, scores=args.scores
            )
            write_results(prediction, args.out, path.stem, point=args.similar)
            print(f"{begin}: {describe(prediction)}", flush=True)
        except (PnaError, OSError) as error:  # one broken image does not stop the others
            if args.debug or not is_for_users(error):
                raise
            hint = ""
            if isinstance(error, ImageTooLargeError) and args.similar is None:
                hint = "; on the command line: --tile 512,512"
            failed += 1
            print(f"{begin}: failed: {error}{hint}", file=sys.stderr, flush=True)
    if failed:
        print(f"{failed} of {len(images)} images failed", file=sys.stderr)
    return 1 if failed else 0


def write_results(
    prediction: "Prediction", out: Path, stem: str, *, point: tuple[int, int] | None = None
) -> None:
    """Write STEM_labels.png and STEM_overlay.png, and a file for whatever else was asked for.

    Args:
        prediction: From a `Predictor`.
        out: An existing folder.
        stem: Beginning of the files' names.
        point: The pixel (x, y) of the prediction's similarity.
    """
    import numpy as np

    from pna.draw import overlay, save_labels, similarity_figure, strip, write_image
    from pna.files import write_atomically

    image, space = prediction.image, prediction.label_space
    save_labels(prediction.labels, space, out / f"{stem}_labels.png")
    write_image(overlay(image, prediction.labels, space), out / f"{stem}_overlay.png")
    if prediction.stages:
        panels = [(f"P{stage}", labels) for stage, labels in enumerate(prediction.stages)]
        write_image(strip(image, panels, space), out / f"{stem}_stages.png")
    if prediction.similarity is not None:
        assert point is not None
        figure = similarity_figure(image, point, prediction.similarity)
        write_image(figure, out / f"{stem}_similar.png")
    if prediction.scores is not None:
        # Three digits are enough for a probability, at half the size.
        scores, classes = prediction.scores.astype(np.float16), np.array(space.classes)

        def save(beside: Path) -> None:
            np.savez_compressed(beside, scores=scores, classes=classes)

        write_atomically(out / f"{stem}_scores.npz", save)


def describe(prediction: "Prediction") -> str:
    """Return size and largest classes, for example "500 x 375, background 81 %, horse 19 %"."""
    import numpy as np

    from pna.draw.palette import count_labels

    height, width = prediction.labels.shape
    counts = count_labels(prediction.labels)  # (256,)
    largest = [int(c) for c in np.argsort(-counts, kind="stable")[:4] if counts[c]]
    shares = [
        f"{prediction.label_space.classes[c]} {100 * counts[c] / prediction.labels.size:.0f} %"
        for c in largest
    ]
    return ", ".join([f"{width} x {height}", *shares])


def parse_point(text: str) -> tuple[int, int]:
    """Read "X,Y" as a pixel."""
    try:
        x, y = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected a pixel as X,Y, for example 120,80; got {text!r}"
        ) from None
    return x, y


def find_images(paths: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Resolve files, folders and patterns into images.

    Returns:
        The images, each one once, in the order given; and the files of folders and patterns that
        are left out, because their names do not end as those of images do.

    Raises:
        MissingFileError: One of the paths leads to no image.
    """
    found: dict[Path, Path] = {}  # by the resolved path: a file named twice is segmented once
    skipped: dict[Path, Path] = {}
    for text in paths:
        images, others = _expand(text)
        found |= {path.resolve(): path for path in images if path.resolve() not in found}
        skipped |= {path.resolve(): path for path in others}
    # A file that is named itself is read, though a folder that holds it leaves it out.
    return list(found.values()), [path for key, path in skipped.items() if key not in found]


def check_names(images: Sequence[Path], out: Path) -> None:
    """Refuse, before any work is done, inputs whose results would overwrite something.

    Raises:
        PnaError: Two images have the same stem (in folders a/ and b/, say), or the results would
            land among the images.
    """
    taken: dict[str, Path] = {}
    for path in images:
        # Some file systems (macOS, Windows) take "A.png" and "a.png" for one file.
        other = taken.setdefault(path.stem.casefold(), path)
        if other is not path:
            raise PnaError(
                f"{other} and {path} would both be written to {out / path.stem}_labels.png; "
                "segment them one after the other, each with its own --out"
            )
        if path.resolve().parent == out.resolve():
            raise PnaError(
                f"--out {out} holds the image {path.name}: results would be taken for images "
                "next time; choose another folder"
            )


def _expand(text: str) -> tuple[list[Path], list[Path]]:
    """List the images, and the other files, of a file, folder or pattern."""
    path = Path(text)
    if path.is_dir():
        images, others = _split(path.iterdir())
        if not images:
            found = f"; found {_name_some(others)}" if others else ""
            raise MissingFileError(
                f"no images in the folder {path}: expected files ending in {_suffixes()}{found}; "
                "folders inside it are not searched"
            )
        return images, others
    if path.exists():
        return [path], []  # of any ending: it was named
    if glob.has_magic(text):
        images, others = _split(map(Path, glob.glob(text, recursive=True)))
        if not images:
            found = f", only {_name_some(others)}" if others else ""
            raise MissingFileError(f"no images match the pattern {text!r}{found}")
        return images, others
    raise MissingFileError(f"no image or folder at {path}")


def _split(paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Sort files into those that end as images do and others; leave out hidden ones."""
    from pna.data.pairs import IMAGE_SUFFIXES

    files = sorted(path for path in paths if path.is_file() and path.name[0] != ".")
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    return images, [path for path in files if path.suffix.lower() not in IMAGE_SUFFIXES]


def _name_some(files: Sequence[Path]) -> str:
    names = ", ".join(path.name for path in files[:5])
    return names if len(files) <= 5 else f"{names} and {len(files) - 5} more"


def _suffixes() -> str:
    from pna.data.pairs import IMAGE_SUFFIXES

    return ", ".join(IMAGE_SUFFIXES)
