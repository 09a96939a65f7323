"""Images and masks of a command: two files, one image with many masks, or pairs matched by name."""

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pna.cli.batch import expand
from pna.errors import PnaError

if TYPE_CHECKING:
    from pna.data.pairs import Pair


class FoundPairs(NamedTuple):
    """Images with their masks.

    Attributes:
        pairs: By the name of the mask.
        skipped: Files that are left out, because they do not end as images or masks do.
        without_mask: Images that no mask belongs to.
    """

    pairs: "list[Pair]"
    skipped: list[Path]
    without_mask: list[Path]


def find_pairs(image: str, mask: str) -> FoundPairs:
    """Match images and masks.

    Two files belong together whatever their names, and so do an image and all masks of a folder or
    pattern, as segment-anything writes them. In folders an image and a mask share their
    stem; of a pattern with one star the text under the star takes the stem's place, so that
    "a_*.jpg" and "b_*_mask.png" match. An image without a mask is left out.

    Args:
        image: A file, a folder or a pattern.
        mask: Likewise.

    Raises:
        MissingFileError: One of them leads to no file.
        PnaError: A mask has no image, or two files have one name.
    """
    from pna.data.masks.files import ARRAY_SUFFIXES
    from pna.data.pairs import IMAGE_SUFFIXES, Pair, match_pairs

    suffixes = (*IMAGE_SUFFIXES, *ARRAY_SUFFIXES)
    masks, skipped = expand(mask, noun="mask", suffixes=suffixes)
    images, others = expand(image)
    if Path(image).is_file():
        masks = [path for path in masks if path != images[0]]  # "a/*.png" takes in "a/photo.png"
        if not masks:
            raise PnaError(f"got {image} for the image and, by {mask}, for the only mask")
        return FoundPairs([Pair(images[0], path, path.stem) for path in masks], skipped, [])
    if Path(mask).is_file():
        raise PnaError(
            f"got the mask {mask} for the images of {image}: expected an image for each mask; give "
            "the image of this one, or a folder or pattern of masks, matched by name"
        )
    if Path(image).is_dir() and Path(mask).is_dir():
        if Path(image).samefile(mask):
            raise PnaError(
                f"got the folder {image} for images and masks: give a pattern for each, such as "
                f"'{image}/*.jpg' and '{image}/*_mask.png'"
            )
        stems = [path.stem for path in masks]
        pairs = match_pairs(Path(image), Path(mask), stems, mask_suffixes=suffixes)
    else:
        is_mask = set(masks)  # "a/*.png" takes in what "a/*_mask.png" does
        images = [path for path in images if path not in is_mask]
        pairs = _match(_by_name(image, images), _by_name(mask, masks), image, mask)
    taken = {pair.image for pair in pairs}
    without_mask = [path for path in images if path not in taken]
    return FoundPairs(pairs, [*skipped, *others], without_mask)


def _by_name(text: str, files: Sequence[Path]) -> dict[str, Path]:
    """Return files by what names them in a pattern: the text under its star, or the stem."""
    from pna.data.pairs import composed

    pattern = "" if Path(text).is_dir() else Path(text).name
    before, star, after = pattern.partition("*")
    if not star or glob.has_magic(before + after):
        before = after = ""
    named: dict[str, Path] = {}
    for path in files:
        # A pattern such as "a_*" leaves the ending of the file to its star.
        end = len(path.name) - len(after) if "." in after else len(path.stem)
        name = composed(path.name[len(before) : end])
        if name in named:
            raise PnaError(
                f"{named[name]} and {path} have one name, {name!r}, by which images and masks are "
                "matched: rename one, or give a narrower pattern"
            )
        named[name] = path
    return named


def _match(images: dict[str, Path], masks: dict[str, Path], image: str, mask: str) -> "list[Pair]":
    from pna.data.errors import DataError
    from pna.data.pairs import Pair

    missing = [name for name in masks if name not in images]
    if missing:
        more = f" (nor for {len(missing) - 1} others)" if len(missing) > 1 else ""
        near = ", ".join(path.name for path in list(images.values())[:3])
        near += ", ..." if len(images) > 3 else ""
        raise DataError(
            f"no image for {missing[0]!r}, the mask {masks[missing[0]]}{more}: images are those of "
            f"{image!r} ({near or 'none'}), masks those of {mask!r}; add it, or give patterns with "
            "one star each for the part that both names share"
        )
    return [Pair(images[name], path, name) for name, path in masks.items()]
