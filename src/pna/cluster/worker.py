"""A replica of the model on a worker: images in, result files and rows of the manifest out."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pna.cluster.items import result_name
from pna.extras import require
from pna.files import write_text_atomically
from pna.inference.tiling import TilingConfig

if TYPE_CHECKING:
    from pna.inference.predictor import Prediction

_DAMAGED_SHARD = "the archive is damaged: the images behind the fault are left out"


class Worker:
    """Segments batches of images; Ray makes one in each of its actors.

    Args:
        model: Name or path.
        out: Folder of the results.
        device: Such as "cpu" or "cuda".
        tiling: As for `Predictor`.
        scores: Also write the probabilities.
        batch_size: Images of one size that run together.
    """

    def __init__(
        self,
        model: str,
        out: str,
        device: str,
        tiling: TilingConfig,
        scores: bool,
        batch_size: int = 1,
    ) -> None:
        import torch

        from pna.inference.predictor import Predictor

        # Ray sets the variable to the cores that this actor has; numba and OpenMP follow it.
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        self.predictor = Predictor(model, device=device, tiling=tiling, batch_size=batch_size)
        self.out = Path(out)
        self.scores = scores

    def __call__(self, batch: Any) -> Any:
        """Segment a batch.

        Args:
            batch: A pyarrow table of `source` and `content`, bytes or null.

        Returns:
            A table with a row for each image: its `status`, done, found or failed, and its `line`
            of the manifest or of the list of errors.
        """
        images = batch.to_pylist()
        entries = [Path(f"{self.out / result_name(image['source'])}.json") for image in images]
        # An entry is written last, so all results are there.
        rows = {i: ("found", about) for i, entry in enumerate(entries) if (about := _read(entry))}
        new = [i for i in range(len(images)) if i not in rows]
        contents = (
            images[i]["source"] if images[i]["content"] is None else images[i]["content"]
            for i in new
        )
        for number, result in self.predictor.each(contents, scores=self.scores):
            i = new[number]
            source = images[i]["source"]
            # What is wrong with one image does not stop the others; a full disk stops them all.
            if isinstance(result, Exception):
                error = _DAMAGED_SHARD if source.endswith(".tar") else str(result)
                rows[i] = "failed", {"source": source, "error": error}
            else:
                rows[i] = "done", self._write(source, result, entries[i])
        pyarrow = require("pyarrow")
        in_turn = [rows[i] for i in range(len(images))]
        return pyarrow.table(
            {
                "status": pyarrow.array([status for status, _ in in_turn], pyarrow.string()),
                "line": pyarrow.array([json.dumps(line) for _, line in in_turn], pyarrow.string()),
            }
        )

    def _write(self, source: str, prediction: "Prediction", entry: Path) -> dict[str, Any]:
        from pna.draw import save_labels
        from pna.draw.palette import count_labels

        entry.parent.mkdir(parents=True, exist_ok=True)
        file = entry.with_name(f"{entry.stem}_labels.png")
        space = prediction.label_space
        save_labels(prediction.labels, space, file)
        if prediction.scores is not None:
            prediction.save_scores(entry.with_name(f"{entry.stem}_scores.npz"))
        counts = count_labels(prediction.labels)
        about = {
            "source": source,
            "file": str(file.relative_to(self.out)),
            "size": list(prediction.labels.shape),
            "pixels": {name: int(counts[i]) for i, name in enumerate(space.classes) if counts[i]},
        }
        write_text_atomically(entry, json.dumps(about))
        return about


def _read(entry: Path) -> dict[str, Any] | None:
    """Return an entry; None where there is none, or a fault of the machine cut it off."""
    try:
        found: dict[str, Any] = json.loads(entry.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found
