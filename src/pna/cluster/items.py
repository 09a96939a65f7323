"""What is to be segmented: images by path, in Parquet files, or in WebDataset's shards."""

import glob
import hashlib
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pna.data.pairs import IMAGE_SUFFIXES
from pna.errors import MissingFileError, PnaError
from pna.extras import require

_PARQUET, _SHARD, _LIST = (".parquet",), (".tar",), (".txt",)
# Images of a shard that are held at once.
_TOGETHER = 16


class Inputs(NamedTuple):
    """The inputs of a run, by kind.

    Attributes:
        images: Paths of images.
        parquet: Parquet files, with a column `image_path`, or `bytes` beside `name`.
        shards: WebDataset's tar files; every image in them is one.
    """

    images: list[Path]
    parquet: list[Path]
    shards: list[Path]

    @property
    def total(self) -> int | None:
        """Number of images, where it is known before they are read."""
        return None if self.parquet or self.shards else len(self.images)


def find_inputs(paths: Sequence[str | Path]) -> Inputs:
    """Resolve files, folders, patterns and lists.

    Args:
        paths: Images; folders of images, of Parquet files or of shards (without the folders
            inside); patterns, `**` for folders inside; Parquet files; shards; text files of one
            path a line.

    Raises:
        MissingFileError: One leads to nothing.
        PnaError: A list holds no path.
    """
    found: dict[Path, None] = {}
    for text in map(str, paths):
        for file in _expand(text):
            if file.suffix.lower() in _LIST:
                lines = file.read_text(encoding="utf-8-sig").splitlines()
                listed = [Path(line.strip()) for line in lines if line.strip()]
                if not listed:
                    raise PnaError(f"{file} is empty: expected the path of an image a line")
                # Of a list they are taken as they are: looking for millions of files takes hours,
                # and one that is missing is set aside with its error.
                found |= dict.fromkeys(path.absolute() for path in listed)
            else:
                found[file.absolute()] = None
    files = list(found)
    return Inputs(
        [file for file in files if file.suffix.lower() not in (*_PARQUET, *_SHARD)],
        [file for file in files if file.suffix.lower() in _PARQUET],
        [file for file in files if file.suffix.lower() in _SHARD],
    )


def _expand(text: str) -> list[Path]:
    known = (*IMAGE_SUFFIXES, *_PARQUET, *_SHARD)
    path = Path(text)
    if path.is_file():
        return [path]
    if path.is_dir():
        candidates = sorted(path.iterdir())
    else:
        candidates = sorted(map(Path, glob.glob(text, recursive=True)))
    files = [
        f for f in candidates if f.suffix.lower() in known and f.name[0] != "." and f.is_file()
    ]
    if not files:
        raise MissingFileError(f"no images at {text}: expected files ending in {' '.join(known)}")
    return files


def create_dataset(inputs: Inputs) -> Any:
    """Make Ray's data set of all inputs: rows of `source`, a name, and `content`, bytes or none.

    Raises:
        PnaError: A Parquet file cannot be read, or lacks the columns.
    """
    data = require("ray.data")
    parts = []
    if inputs.images:
        table = _table([(str(path), None) for path in inputs.images])
        # Pieces that are small enough to be shared out evenly, and repeated where one is lost.
        pieces = max(1, min(table.num_rows // 16, 10_000))
        parts.append(data.from_arrow(table).repartition(pieces))
    if inputs.parquet:
        for file in inputs.parquet:
            _check_columns(file)
        rows = data.read_parquet([str(path) for path in inputs.parquet], include_paths=True)
        parts.append(rows.map_batches(_of_parquet, batch_format="pyarrow"))
    if inputs.shards:
        shards = data.from_arrow(_table([(str(path), None) for path in inputs.shards]))
        shards = shards.repartition(len(inputs.shards))
        parts.append(shards.map_batches(_of_shards, batch_format="pyarrow", batch_size=1))
    return parts[0].union(*parts[1:]) if len(parts) > 1 else parts[0]


def _table(rows: Sequence[tuple[str, bytes | None]]) -> Any:
    # Typed: left to itself, Ray takes bytes for tensors.
    pyarrow = require("pyarrow")
    sources, contents = zip(*rows, strict=True) if rows else ((), ())
    return pyarrow.table(
        {
            "source": pyarrow.array(sources, pyarrow.string()),
            "content": pyarrow.array(contents, pyarrow.binary()),
        }
    )


def _of_parquet(batch: Any) -> Any:
    columns = set(batch.column_names)
    if {"name", "bytes"} <= columns:
        named = batch.select(["path", "name", "bytes"]).to_pylist()
        return _table([(f"{row['path']}#{row['name']}", row["bytes"] or b"") for row in named])
    return _table([(path, None) for path in batch.column("image_path").to_pylist()])


def _check_columns(file: Path) -> None:
    """Refuse a file without the columns, or in which a name does not tell one image."""
    pyarrow, parquet = require("pyarrow"), require("pyarrow.parquet")
    try:
        columns = set(parquet.read_schema(file).names)
        known = {"name", "bytes"} <= columns
        if not known and "image_path" not in columns:
            raise PnaError(
                f"{file}: expected the columns name and bytes, or image_path, got "
                f"{', '.join(sorted(columns)) or 'none'}"
            )
        column = "name" if known else "image_path"
        values = parquet.read_table(file, columns=[column]).column(0)
    except (OSError, pyarrow.ArrowException) as error:
        raise PnaError(f"can't read {file} as a Parquet file: {error}") from error
    if not (pyarrow.types.is_string(values.type) or pyarrow.types.is_large_string(values.type)):
        raise PnaError(f"{file}: expected text in the column {column}, got {values.type}")
    if values.null_count:
        raise PnaError(f"{file}: {values.null_count} rows have nothing in the column {column}")
    counts = values.value_counts()
    if known and len(counts) < len(values):
        twice = next(str(count["values"]) for count in counts if count["counts"].as_py() > 1)
        raise PnaError(
            f"{file}: several rows have the name {twice!r}, so their results would be one: give "
            "each a name of its own"
        )


def _of_shards(batch: Any) -> Iterator[Any]:
    # By Python's own reader: Ray's decodes the images, of any size, into arrays of one column.
    for path in batch.column("source").to_pylist():
        rows: list[tuple[str, bytes | None]] = []
        try:
            with tarfile.open(path) as shard:
                for member in shard:
                    if not member.isfile() or not member.name.lower().endswith(IMAGE_SUFFIXES):
                        continue
                    content = shard.extractfile(member)
                    assert content is not None  # a file, not a link
                    rows.append((f"{path}#{member.name}", content.read()))
                    if len(rows) == _TOGETHER:
                        yield _table(rows)
                        rows = []
                # A header that is cut off ends an archive without an error.
                is_cut = 0 < Path(path).stat().st_size - shard.offset < tarfile.BLOCKSIZE
        except (tarfile.TarError, OSError):
            is_cut = True
        if is_cut:  # no image either: it is set aside with an error of its own
            rows.append((path, None))
        yield _table(rows)


def result_name(source: str) -> str:
    """Return the name of a source's results: a folder of 256, the stem, and a digest of the whole.

    So sources of one stem keep apart, and no folder holds millions of files.

    Example:
        >>> result_name("/data/a/street.jpg")
        'ec/street-ec4a536d'
    """
    digest = hashlib.sha256(source.encode()).hexdigest()[:8]
    stem = Path(source.rpartition("#")[2]).stem[:100] or "image"
    return f"{digest[:2]}/{stem}-{digest}"
