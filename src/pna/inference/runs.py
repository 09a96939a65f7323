"""What a run depends on, on file beside its results: no other run goes on from them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pna.errors import PnaError
from pna.export.onnx_segmenter import OnnxSegmenter
from pna.files import file_digest
from pna.model.segmenter import BaseSegmenter
from pna.model.state import state_digest


def read_run(file: Path, run: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what was written about a run when it began; None if none began.

    Args:
        file: A JSON object; under "run" is what the results depend on.
        run: What those of this run depend on.

    Raises:
        PnaError: Another run began there, or the file is damaged.
    """
    if not file.exists():
        return None
    try:
        before: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PnaError(f"{file} is damaged: remove the folder to start anew") from error
    now = json.loads(json.dumps(run))  # tuples become lists
    if changed := [key for key in now if before["run"].get(key) != now[key]]:
        raise PnaError(
            f"{file.parent} holds what another run began, with another {', '.join(changed)}: "
            "finish that one by its own options, choose another folder, or remove it"
        )
    return before


def fingerprint(model: BaseSegmenter) -> str:
    """Return a digest of a model's weights, or of the file that it runs from."""
    if isinstance(model, OnnxSegmenter):
        return file_digest(model.file)
    return state_digest(model.state_dict(), model.origin)
