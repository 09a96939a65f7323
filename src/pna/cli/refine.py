"""`pna refine`: sharpen masks along the edges of their images."""

import argparse
import statistics
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pna.cli.batch import check_names, report_left_out, run_each
from pna.cli.options import add_device_argument
from pna.cli.pairing import find_pairs
from pna.cli.progress import ProgressLine
from pna.cli.rasters import (
    add_band_arguments,
    is_raster,
    raster_options,
    refuse_with_rasters,
)
from pna.errors import PnaError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pna.data.masks.files import MaskFile
    from pna.data.pairs import Pair
    from pna.inference.masks import RefinedMask
    from pna.labels import LabelSpace
    from pna.refinement.masks import RefineConfig
    from pna.refinement.network import RefinesMasks

EPILOG = """\
examples:
  pna refine photo.jpg mask.png -o out
  pna refine photos/ masks/ --compare -o out
  pna refine photo.jpg sam/ -o out
  pna refine 'tiles/*.tif' 'tiles/*_mask.png' --classes roof,road --colors roofs.json -o out
  pna refine scene.tif roofs.tif --radius 8 -o out
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        "image", metavar="IMAGE", help="an image, a folder, or a quoted pattern such as 'a/*.jpg'"
    )
    parser.add_argument(
        "mask",
        metavar="MASK",
        help="its mask, or masks: image files of any kind, .npy or .npz. In two folders image and "
        "mask share a stem, in patterns the text under the star; one image has all masks",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        help="folder for the refined masks, made if missing; they keep name and kind of file",
    )
    parser.add_argument(
        "--model",
        type=Path,
        metavar="FILE",
        help="another mask refiner: weights, .safetensors, or a file of `pna export`, .onnx "
        "(default: the bundled one)",
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help="also write NAME_compare.png: before, after and what changed",
    )
    parser.add_argument(
        "--errors",
        action="store_true",
        help="also write NAME_errors.png: how probable it is that the given mask is wrong, black "
        "0, white 1",
    )
    add_device_argument(parser)
    _add_mask_arguments(parser)
    _add_limit_arguments(parser)
    group = parser.add_argument_group(
        "rasters",
        "Images with a place on the earth, or too large to be read whole. The mask is then one "
        "band of class numbers, and NAME.tif a GeoTIFF; a run that was killed goes on.",
    )
    add_band_arguments(group, "bands to take, from 1: red, green and blue; or one, for gray")


def _add_mask_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what the masks are", "By default it is found in the files.")
    group.add_argument(
        "--kind",
        choices=("binary", "labels", "colors", "soft", "alpha"),
        help="foreground and background, label numbers, colors, shares of foreground, or the "
        "alpha channel of a cut-out",
    )
    group.add_argument(
        "--colors",
        metavar="FILE",
        help="names and colors of the classes: the file of a label space (JSON, or CVAT's "
        "labelmap.txt), or a known name such as camvid",
    )
    group.add_argument(
        "--resize", action="store_true", help="bring masks of another size to that of their images"
    )


def _add_limit_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what may change", "By default all may.")
    group.add_argument(
        "--strength",
        type=float,
        default=0.2,
        metavar="S",
        help="from 0, where nothing changes, to 1, where every pixel gets its most probable class: "
        "a new class must lead the old one by a probability of 1 - S (default: %(default)s)",
    )
    group.add_argument(
        "--radius", type=int, metavar="PX", help="only pixels this near to an edge of the mask"
    )
    group.add_argument(
        "--classes",
        metavar="C,C,...",
        help="only pixels that leave or enter these classes: label numbers, names of --colors, or "
        "colors such as '#ff8000'",
    )


def run(args: argparse.Namespace) -> int:
    """Refine the masks; 0 if all went well, 1 if some could not be refined."""
    from pna.inference.devices import find_device
    from pna.inference.opening import open_mask_refiner
    from pna.labels import read_label_space
    from pna.refinement.masks import RefineConfig

    # All that can be wrong is checked before the refiner is read.
    config = RefineConfig(strength=args.strength, radius=args.radius)
    colors = None if args.colors is None else read_label_space(args.colors)
    found = find_pairs(args.image, args.mask)
    _check_out(found.pairs, args)
    report_left_out(found.skipped)
    if found.without_mask:
        print(f"left out {len(found.without_mask)} images without a mask", file=sys.stderr)
    images = {pair.image for pair in found.pairs}
    rasters = images if raster_options(args) else {path for path in images if is_raster(path)}
    if rasters:
        refuse_with_rasters(args, ("kind", "colors", "resize", "compare", "errors"))
    network = open_mask_refiner(args.model, device=find_device(args.device))
    job = _Job(args, config, colors, rasters, network)
    args.out.mkdir(parents=True, exist_ok=True)
    status = run_each(
        found.pairs, job.refine, noun="masks", debug=args.debug, name=lambda pair: pair.mask
    )
    if job.shares:
        print(job.summary())
    return status


def _check_out(pairs: "list[Pair]", args: argparse.Namespace) -> None:
    from pna.data.pairs import IMAGE_SUFFIXES

    if args.out.suffix.lower() in IMAGE_SUFFIXES and not args.out.is_dir():
        raise PnaError(f"--out {args.out}: expected a folder; the mask in it keeps its name")
    endings = [".*", *(f"_{what}.*" for what in ("compare", "errors") if getattr(args, what))]
    masks = [pair.mask for pair in pairs]
    check_names(masks, args.out, endings=endings, verb="refine", noun="mask")
    images = [pair.image for pair in pairs]
    check_names(images, args.out, endings=(), verb="refine", noun="image")


@dataclass
class _Job:
    """The work on all masks, and what is to be said of them at the end.

    Attributes:
        args: The arguments.
        config: What may change, without the classes, which each mask numbers for itself.
        colors: Names and colors of the classes.
        rasters: The images that are read window by window.
        network: The refiner.
        shares: The share of changed pixels of each mask that was written.
        kinds: How many masks were guessed to be of a kind.
        is_told: Whether it was said that masks change their format.
    """

    args: argparse.Namespace
    config: "RefineConfig"
    colors: "LabelSpace | None"
    rasters: set[Path]
    network: "RefinesMasks"
    shares: dict[Path, float] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    is_told: bool = False

    def refine(self, pair: "Pair") -> str:
        """Refine a mask and write it; return a line on it."""
        return self._refine_raster(pair) if pair.image in self.rasters else self._refine(pair)

    def _refine(self, pair: "Pair") -> str:
        from dataclasses import replace

        import numpy as np

        from pna.data.images import read_image
        from pna.data.masks.arrays import changed_pixels
        from pna.data.masks.classes import find_classes
        from pna.data.masks.files import read_mask
        from pna.data.masks.sizes import fit_to_image
        from pna.inference.masks import RefinedMask, refine_mask

        image = read_image(pair.image)
        mask = read_mask(pair.mask, kind=self.args.kind, colors=self.colors)
        self._tell(mask)
        mask = fit_to_image(mask, image.shape[:2], pair.image, resize=self.args.resize)
        config, classes = self.config, None
        if self.args.classes is not None:
            classes = sorted(find_classes(mask, self.args.classes.split(",")))
            config = replace(config, classes=tuple(classes))
        after, wrong = mask.array, np.zeros(mask.size, np.float32)
        if mask.has_edges:
            after, wrong = refine_mask(self.network, image, mask.array, config)
        self._write(mask, image, RefinedMask(after, wrong))
        share = float(changed_pixels(mask.array, after).mean())
        self.shares[pair.mask] = share
        height, width = mask.size
        text = f"{width} x {height}, {mask.kind}, {_percent(share)} of the pixels changed"
        is_map = mask.array.ndim == 2
        if classes is not None and is_map and not np.isin(mask.array, classes).any():
            text += f": it has none of the classes {self.args.classes}"
        return text

    def _refine_raster(self, pair: "Pair") -> str:
        from dataclasses import replace

        from pna.data.mask_raster import MaskRaster
        from pna.inference.raster.refine import refine_raster

        config = self.config
        if self.args.classes is not None:
            with MaskRaster(pair.mask) as mask:
                config = replace(config, classes=mask.find(self.args.classes.split(",")))
        with ProgressLine(pair.mask.name, "parts") as progress:
            done = refine_raster(
                self.network,
                pair.image,
                pair.mask,
                self.args.out,
                config=config,
                bands=self.args.bands,
                scale=self.args.scale,
                progress=progress,
            )
        if done.guess is not None:
            print(f"{pair.mask}: {done.guess}", file=sys.stderr)
        self.shares[pair.mask] = done.share_changed
        height, width = done.size
        text = f"{width} x {height}, {_percent(done.share_changed)} of the pixels changed"
        if done.num_found:
            text += f"; {done.num_found} of {done.num_blocks} parts were there already"
        return text

    def _write(self, mask: "MaskFile", image: "npt.NDArray[np.uint8]", done: "RefinedMask") -> None:
        """Write a refined mask, and the images that were asked for."""
        from pna.data.masks.files import write_mask
        from pna.draw import change_figure, errors_figure, write_image

        out, stem = self.args.out, mask.path.stem
        write_mask(mask, done.mask, out / (stem + mask.form.suffix), image=image)
        if self.args.compare:
            figure = change_figure(image, mask.array, done.mask, names=_names(mask))
            write_image(figure, out / f"{stem}_compare.png")
        if self.args.errors:
            write_image(errors_figure(done.wrong), out / f"{stem}_errors.png")

    def _tell(self, mask: "MaskFile") -> None:
        """Say how a mask was read, once for each kind, and once that a format changes."""
        if mask.guess is not None:
            self.kinds[mask.kind] += 1
            if self.kinds[mask.kind] == 1:
                print(f"{mask.path}: {mask.guess}", file=sys.stderr)
        if not self.is_told and mask.path.suffix.lower() != mask.form.suffix.lower():
            self.is_told = True
            suffix = mask.form.suffix
            print(f"masks like {mask.path.name} are written as {suffix} files", file=sys.stderr)

    def summary(self) -> str:
        """Return a line on all masks: their number, the changed pixels, the folder."""
        values = list(self.shares.values())
        line = f"refined {len(values)} masks: {_percent(statistics.median(values))} of the pixels "
        line += "changed in the median"
        if len(values) == 1:
            line = f"refined 1 mask: {_percent(values[0])} of the pixels changed"
        elif max(values) > 0:
            largest = max(self.shares, key=self.shares.__getitem__)
            line += f", {_percent(self.shares[largest])} at most ({largest.name})"
        if len(self.kinds) > 1:
            guesses = ", ".join(f"{count} {kind}" for kind, count in self.kinds.most_common())
            line += f"; guessed {guesses}, --kind takes all for one"
        return f"{line}; in {self.args.out}"


def _names(mask: "MaskFile") -> dict[int, str]:
    """Return the names of the classes of a mask by label, where it has any."""
    if mask.labels is not None:
        return dict(enumerate(mask.labels.classes))
    if mask.form.levels is not None:
        return {label: str(level) for label, level in enumerate(mask.form.levels)}
    return {}


def _percent(share: float) -> str:
    """Format a share in two digits: 12 %, 0.013 %, and 0 % only for none."""
    if 0 < share < 1e-5:  # a pixel of a large image
        return "less than 0.001 %"
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"
