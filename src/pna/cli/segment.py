"""`pna segment`: label maps and overlays of pictures, folders and patterns."""

import argparse
import glob
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pna.cli.refine import add_refine_argument, load_model
from pna.cli.views import add_view_arguments, views_of

if TYPE_CHECKING:
    from pna.predict import Prediction, Predictor

HELP = "segment pictures: label maps and overlays"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="pictures, folders (their pictures, not those of folders inside) or quoted patterns "
        "such as 'photos/*.jpg'",
    )
    parser.add_argument(
        "--model", default="voc-lite", help="a bundled model's name or a saved folder (%(default)s)"
    )
    add_refine_argument(parser)
    parser.add_argument(
        "-o", "--out", type=Path, required=True, help="folder to write to, made if missing"
    )
    parser.add_argument(
        "--stages", action="store_true", help="also write NAME_stages.png: P0 to Pn side by side"
    )
    parser.add_argument(
        "--similar",
        type=parse_point,
        metavar="X,Y",
        help="also write NAME_similar.png: what the pixel X,Y (from 0,0 at the top left) looks at",
    )
    parser.add_argument(
        "--scores",
        action="store_true",
        help="also write NAME_scores.npz: `scores` (classes, height, width) float16 softmax, "
        "`classes` their names",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (CUDA where there is one)")
    add_view_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Segment the pictures; 0 if all went well, 1 if some couldn't be segmented."""
    from pna.bench.clock import is_out_of_memory
    from pna.predict import Predictor

    if args.refine is not None and args.similar is not None:
        raise ValueError("--similar shows what PNA looks at, not what --refine does; give one")
    pictures = find_pictures(args.paths)
    check_names(pictures, args.out)
    predictor = Predictor(load_model(args), device=args.device, views=views_of(args))
    args.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for number, path in enumerate(pictures, start=1):
        place = f"[{number}/{len(pictures)}]"
        try:
            print(f"{place} {path}: {segment_one(predictor, path, args)}", flush=True)
        except (ValueError, OSError) as error:  # one broken picture doesn't stop the others
            failed += 1
            print(f"{place} {path}: failed: {error}", file=sys.stderr, flush=True)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            failed += 1
            message = "memory doesn't suffice: look at it in tiles, for example --tile 512,512"
            print(f"{place} {path}: failed: {message}", file=sys.stderr, flush=True)
    if failed:
        print(f"{failed} of {len(pictures)} pictures failed", file=sys.stderr)
    return 1 if failed else 0


def parse_point(text: str) -> tuple[int, int]:
    """Read "X,Y" as a pixel."""
    try:
        x, y = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected a pixel as X,Y, for example 120,80; got {text!r}"
        ) from None
    return x, y


def find_pictures(paths: Sequence[str]) -> list[Path]:
    """Resolve files, folders and patterns into pictures, each one once, in the order given.

    Raises:
        FileNotFoundError: If one of the paths leads to nothing.
    """
    found: dict[Path, Path] = {}  # keyed by the real place: a file named twice is segmented once
    for text in paths:
        for path in _expand(text):
            found.setdefault(path.resolve(), path)
    return list(found.values())


def check_names(pictures: Sequence[Path], out: Path) -> None:
    """Refuse, before any work is done, inputs whose results would overwrite something.

    Raises:
        ValueError: If two pictures have the same stem (in folders a/ and b/, say), or the results
            would land among the pictures.
    """
    taken: dict[str, Path] = {}
    for path in pictures:
        other = taken.setdefault(path.stem.casefold(), path)
        if other is not path:
            raise ValueError(
                f"{other} and {path} would both be written to {out / path.stem}_labels.png; "
                "segment them one after the other, each with its own --out"
            )
        if path.resolve().parent == out.resolve():
            raise ValueError(
                f"--out {out} holds the picture {path.name}: results would be taken for pictures "
                "next time; choose another folder"
            )


def segment_one(predictor: "Predictor", path: Path, args: argparse.Namespace) -> str:
    """Segment one picture, write what was asked for, and say in a line what is in it."""
    import numpy as np

    from pna.draw import overlay, save_labels, similarity_figure, strip

    found = predictor(path, stages=args.stages, similar=args.similar)
    beginning = str(args.out / path.stem)
    save_labels(found.labels, found.label_space, f"{beginning}_labels.png")
    overlay(found.picture, found.labels, found.label_space).save(f"{beginning}_overlay.png")
    if args.stages:
        panels = [(f"P{stage}", labels) for stage, labels in enumerate(found.stages)]
        image = strip(found.picture, panels, found.label_space)
        image.save(f"{beginning}_stages.png")
    if found.similarity is not None:
        image = similarity_figure(found.picture, args.similar, found.similarity)
        image.save(f"{beginning}_similar.png")
    if args.scores:
        names = np.array(found.label_space.classes)
        scores = found.scores.astype(np.float16)
        np.savez_compressed(f"{beginning}_scores.npz", scores=scores, classes=names)
    return describe(found)


def describe(found: "Prediction") -> str:
    """Return size and largest classes, for example "500 x 375, background 81 %, horse 19 %"."""
    import numpy as np

    from pna.draw.palette import count_labels

    height, width = found.labels.shape
    counts = count_labels(found.labels)
    largest = [int(c) for c in np.argsort(-counts, kind="stable")[:4] if counts[c]]
    shares = [
        f"{found.label_space.classes[c]} {100 * counts[c] / found.labels.size:.0f} %"
        for c in largest
    ]
    return ", ".join([f"{width} x {height}", *shares])


def _expand(text: str) -> list[Path]:
    from pna.data.pairs import PICTURE_SUFFIXES

    path = Path(text)
    if path.is_dir():
        inside = sorted(p for p in path.iterdir() if _is_picture(p))
        if not inside:
            raise FileNotFoundError(
                f"no pictures in the folder {path}: expected files ending in "
                f"{', '.join(PICTURE_SUFFIXES)}; folders inside it are not searched"
            )
        return inside
    if path.exists():
        return [path]
    if glob.has_magic(text):
        matches = sorted(p for p in map(Path, glob.glob(text, recursive=True)) if _is_picture(p))
        if not matches:
            raise FileNotFoundError(f"no pictures match the pattern {text!r}")
        return matches
    raise FileNotFoundError(f"no picture or folder at {path}")


def _is_picture(path: Path) -> bool:
    from pna.data.pairs import PICTURE_SUFFIXES

    return path.suffix.lower() in PICTURE_SUFFIXES and path.is_file() and path.name[0] != "."
