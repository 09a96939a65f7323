"""A replica of the model on a worker: images in, result files and rows of the manifest out."""

import json
import os
from pathlib import Path
from typing import Any

from pna.cluster.items import result_name
from pna.errors import PnaError
from pna.extras import require
from pna.files import write_text_atomically
from pna.inference.tiling import TilingConfig


class Worker:
    """Segments batches of images; Ray makes one in each of its actors.

    Args:
        model: Name or path.
        out: Folder of the results.
        device: Such as "cpu" or "cuda".
        tiling: As for `Predictor`.
        scores: Also write the probabilities.
    """

    def __init__(
        self, model: str, out: str, device: str, tiling: TilingConfig, scores: bool
    ) -> None:
        import torch

        from pna.inference.predictor import Predictor

        # Ray sets the variable to the cores that this actor has; numba and OpenMP follow it.
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        self.predictor = Predictor(model, device=device, tiling=tiling)
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
        rows = [self._take(row["source"], row["content"]) for row in batch.to_pylist()]
        statuses, entries = zip(*rows, strict=True)
        lines = [json.dumps(entry) for entry in entries]
        return require("pyarrow").table({"status": list(statuses), "line": lines})

    def _take(self, source: str, content: bytes | None) -> tuple[str, dict[str, Any]]:
        entry = Path(f"{self.out / result_name(source)}.json")
        if entry.exists():  # written last, so all results are there
            found: dict[str, Any] = json.loads(entry.read_text(encoding="utf-8"))
            return "found", found
        try:
            return "done", self._segment(source, content, entry)
        # What is wrong with one image does not stop the others; a full disk stops them all.
        except PnaError as error:
            return "failed", {"source": source, "error": str(error)}
        except OSError as error:
            if error.filename != source:
                raise
            return "failed", {"source": source, "error": str(error)}

    def _segment(self, source: str, content: bytes | None, entry: Path) -> dict[str, Any]:
        from pna.draw import save_labels
        from pna.draw.palette import count_labels

        prediction = self.predictor(source if content is None else content, scores=self.scores)
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
