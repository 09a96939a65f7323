"""Rasters: whether seams show, and what memory and time grow to.

    python benchmarks/rasters.py seams IMAGE [IMAGE ...] [--model NAME]
    python benchmarks/rasters.py memory --sides 2000 4000 8000 [--memory 2GB] [--model NAME]

`seams` runs images whole, then in tiles at several overlaps, and writes the share of pixels whose
class differs. `memory` segments rasters of noise of several sizes, each in a process of its own,
and writes the most memory that the process took. Both write `results/rasters.json` and
`rasters.md`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from trained import read_results, write_results

import pna
from pna.lab.machine import describe, sentence

OVERLAPS = (0.0, 0.125, 0.25, 0.5)
TILES = (512, 1024)
_NAME = "rasters"


def seams(images: list[Path], model: str) -> list[dict[str, Any]]:
    """Compare the labels of tiles with those of the whole image."""
    network, rows = pna.load(model), []
    for image in images:
        whole = pna.Predictor(network)(image).labels
        for tile in TILES:
            for overlap in OVERLAPS:
                tiling = pna.TilingConfig(tile=(tile, tile), overlap=overlap)
                labels = pna.Predictor(network, tiling=tiling)(image).labels
                share = float((labels != whole).mean())
                row = {
                    "image": image.name,
                    "size": list(whole.shape),
                    "classes": len(np.unique(whole)),
                    "tile": tile,
                    "overlap": overlap,
                    "differing": share,
                }
                print(row, flush=True)
                rows.append(row)
    return rows


def memory(sides: list[int], limit: str, model: str) -> list[dict[str, Any]]:
    """Segment square rasters of several sizes, and measure each process."""
    rows = []
    for side in sides:
        with tempfile.TemporaryDirectory() as folder:
            words = [sys.executable, __file__, "_one", folder, str(side), limit, model]
            found = subprocess.run(words, check=True, capture_output=True, text=True)
            row = {"side": side, "memory": limit, **json.loads(found.stdout.splitlines()[-1])}
        print(row, flush=True)
        rows.append(row)
    return rows


def _one(folder: Path, side: int, limit: str, model: str) -> None:
    """Segment one raster of noise; print the process's peak, in bytes, and its time."""
    import resource

    import rasterio

    random = np.random.default_rng(0)
    path = folder / "noise.tif"
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(1, 0, 0, 0, -1, 0)}
    with rasterio.open(
        path, "w", driver="GTiff", count=3, height=side, width=side, dtype="uint8", tiled=True,
        blockxsize=512, blockysize=512, **place,
    ) as file:  # fmt: skip
        for top in range(0, side, 512):
            rows = min(512, side - top)
            small = random.integers(0, 256, (3, rows // 16 + 1, side // 16 + 1), dtype=np.uint8)
            values = small.repeat(16, axis=1).repeat(16, axis=2)[:, :rows, :side]
            file.write(values, window=((top, top + rows), (0, side)))
    report = pna.segment_raster(pna.load(model), path, folder / "out", memory=limit)
    print(
        json.dumps(
            {
                "peak": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
                "tile": report.tile[0],
                "blocks": report.num_blocks,
            }
        )
    )


def write(kind: str, model: str, rows: list[dict[str, Any]]) -> None:
    """Replace the rows of one kind, and write the tables."""
    content = read_results(_NAME)
    content[kind] = {"model": model, "rows": rows, "machine": describe("cpu")}
    write_results(_NAME, content, _tables(content))


def _tables(content: dict[str, Any]) -> str:
    parts = ["# Rasters\n"]
    if "seams" in content:
        parts.append(
            "Share of pixels whose class in tiles is not that of the whole image "
            f"(`{content['seams']['model']}`):\n"
        )
        head = " | ".join(f"{tile}, {100 * o:g} %" for tile in TILES for o in OVERLAPS)
        parts.append(
            f"| image | classes | {head} |\n|---|---|{'---|' * len(TILES) * len(OVERLAPS)}"
        )
        names = dict.fromkeys(row["image"] for row in content["seams"]["rows"])
        for name in names:
            rows = [row for row in content["seams"]["rows"] if row["image"] == name]
            H, W = rows[0]["size"]
            cells = " | ".join(f"{100 * row['differing']:.3f} %" for row in rows)
            parts.append(f"| {name}, {W}x{H} | {rows[0]['classes']} | {cells} |")
        parts.append("\nColumns: side of a tile, overlap.\n")
        parts.append(f"{sentence(content['seams']['machine'])}\n")
    if "memory" in content:
        parts.append(f"Square rasters of noise (`{content['memory']['model']}`):\n")
        parts.append(
            "| side | allowed | peak of the process | tile | blocks |\n|---|---|---|---|---|"
        )
        for row in content["memory"]["rows"]:
            parts.append(
                f"| {row['side']:,} | {row['memory']} | {row['peak'] / 1e9:.2f} GB | {row['tile']} "
                f"| {row['blocks']} |"
            )
        parts.append(f"\n{sentence(content['memory']['machine'])}\n")
    return "\n".join(parts)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("_one")
    for name, kind in (("folder", Path), ("side", int), ("limit", str), ("model", str)):
        one.add_argument(name, type=kind)
    seam = commands.add_parser("seams")
    seam.add_argument("images", nargs="+", type=Path)
    grow = commands.add_parser("memory")
    grow.add_argument("--sides", nargs="+", type=int, required=True)
    grow.add_argument("--memory", default="2GB")
    for command in (seam, grow):
        command.add_argument("--model", default="voc-lite")
    args = parser.parse_args()
    if args.command == "_one":
        _one(args.folder, args.side, args.limit, args.model)
    elif args.command == "seams":
        write("seams", args.model, seams(args.images, args.model))
    else:
        write("memory", args.model, memory(args.sides, args.memory, args.model))


if __name__ == "__main__":
    main()
