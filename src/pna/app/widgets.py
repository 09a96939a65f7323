"""Parts that the tabs of the page share: boxes, settings, errors, files to download."""

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from pna.errors import PnaError

P = ParamSpec("P")
T = TypeVar("T")

HOUR = 3600
"""Seconds that results and downloads are kept."""
# Networks share cores and memory: whoever comes second waits, and sees the queue.
IN_TURN: dict[str, Any] = {"concurrency_id": "network", "concurrency_limit": 1}
# Whoever drags the slider sees where it stops: of what comes meanwhile the last one counts.
QUIETLY: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last"}
WIPE: dict[str, Any] = {"interactive": False, "buttons": ["fullscreen"], "max_height": 700}

_DOWNLOADS = "result-"  # folders of files to download; Gradio removes those of uploads alone


def photo_box(gr: Any, name: str, label: str = "Photo") -> Any:
    """Make a box for an image, which passes its file on as it is."""
    box = gr.Image(
        label=label,
        elem_id=name,
        type="filepath",
        sources=["upload", "clipboard"],
        buttons=["fullscreen"],
    )
    # Gradio would open it by Pillow first, and raise where it is damaged.
    box.preprocess = lambda payload: None if payload is None else payload.path
    return box


def example_buttons(gr: Any, paths: Sequence[Path], photo: Any) -> None:
    """Offer images to try, if there are any."""
    if paths:
        names = [path.stem for path in paths]
        gr.Examples([[str(path)] for path in paths], [photo], example_labels=names)


def new_download_folder(folder: Path) -> Path:
    """Make a folder for files to download, and remove those that are an hour old."""
    for old in folder.glob(f"{_DOWNLOADS}*"):
        if time.time() - old.stat().st_mtime > HOUR:
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=_DOWNLOADS, dir=folder))


def show_errors(gr: Any) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Show the errors that are meant for users, instead of raising them."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return function(*args, **kwargs)
            except PnaError as error:
                raise gr.Error(str(error), duration=None, print_exception=False) from error

        return run

    return decorate
