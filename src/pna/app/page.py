"""The page itself, by Gradio: its layout, and what each control does."""

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from pna.app.desk import Desk, Result
from pna.app.views import VIEWS, View, compare, draw, legend, save, shown, times
from pna.errors import PnaError
from pna.extras import require

P = ParamSpec("P")
T = TypeVar("T")

MOST_MEGABYTES = 50
"""Size of a file that may be uploaded."""
_HOUR = 3600
_DOWNLOADS = "result-"  # folders of files to download; Gradio removes those of uploads alone
_TEMPORARY = "GRADIO_TEMP_DIR"  # where Gradio looks up its folder
# Networks share cores and memory: whoever comes second waits, and sees the queue.
_IN_TURN: dict[str, Any] = {"concurrency_id": "network", "concurrency_limit": 1}
# Whoever drags the slider sees where it stops: of what comes meanwhile the last one counts.
_QUIETLY: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last"}

_CSS = """
.pna-legend table { width: 100%; border-collapse: collapse; }
.pna-legend td, .pna-legend th { padding: 0.15em 0.5em; text-align: left; }
button[role="tab"].selected { color: #1a5fb4 !important; }
:focus-visible { outline: 3px solid #1a5fb4 !important; outline-offset: 1px; }
"""
_INTRO = """# pna: sharper segmentation, stage by stage

Drop a photo. The network predicts coarsely (P0, stride 32); in each stage after it every pixel
gathers from the neighbors that the image says are alike, down to stride 4. **Click a pixel of the
photo** to see what it gathers from. Images stay on the machine that serves this page.
"""
_CLICK = "Click a pixel of the photo, after it has been segmented."
_WIPE: dict[str, Any] = {"interactive": False, "buttons": ["fullscreen"], "max_height": 700}


@contextmanager
def serve(
    desk: Desk,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    examples: Sequence[Path] = (),
) -> Iterator[str]:
    """Serve the page while the block runs.

    Uploads and downloads lie in a folder of their own, which is removed in the end.

    Args:
        desk: Runs the models.
        host: Address to listen at; 0.0.0.0 is every one of the machine.
        port: Its port; None takes a free one from 7860 on.
        examples: Images to try.

    Yields:
        The page's address.

    Raises:
        PnaError: Gradio is not installed, or the port is taken.
    """
    gr = require("gradio")
    _check_address(host, port)
    with _folder_of_uploads() as folder:
        page = build(desk, folder, examples=examples)
        # Fonts of the system: Gradio's own would be fetched from the network.
        theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
        try:
            _, address, _ = page.queue(max_size=20).launch(
                server_name=host,
                server_port=port,
                prevent_thread_lock=True,
                max_file_size=f"{MOST_MEGABYTES}mb",
                footer_links=[],
                theme=theme,
                css=_CSS,
                quiet=True,
            )
        except OSError as error:
            raise PnaError(
                f"cannot serve at {host}, port {port or '7860 to 7959'}: {error}"
            ) from error
        try:
            yield str(address)
        finally:
            page.close(verbose=False)


def _check_address(host: str, port: int | None) -> None:
    """Try to listen, since Gradio would go through a hundred ports first."""
    if port is not None and not 1 <= port <= 65535:
        raise PnaError(f"expected a port from 1 to 65535, got {port}")
    try:
        socket.create_server((host, port or 0)).close()
    except OSError as error:
        what = f"port {port}" if port else "any port"
        raise PnaError(
            f"cannot serve at {host}, {what}: {error.strerror or error}; choose another by "
            "--host and --port"
        ) from error


@contextmanager
def _folder_of_uploads() -> Iterator[Path]:
    """Make Gradio keep its files in a folder that is removed in the end."""
    before = os.environ.get(_TEMPORARY)
    with tempfile.TemporaryDirectory(prefix="pna-app-") as folder:
        os.environ[_TEMPORARY] = folder
        try:
            yield Path(folder)
        finally:
            if before is None:
                del os.environ[_TEMPORARY]
            else:
                os.environ[_TEMPORARY] = before


def build(desk: Desk, folder: Path, *, examples: Sequence[Path] = ()) -> Any:
    """Lay the page out.

    Args:
        desk: Runs the models.
        folder: Gets the files to download.
        examples: Images to try.

    Returns:
        A `gradio.Blocks`.

    Raises:
        PnaError: Gradio is not installed.
    """
    gr = require("gradio")
    with gr.Blocks(title="pna", analytics_enabled=False, delete_cache=(_HOUR, _HOUR)) as page:
        gr.Markdown(_INTRO)
        with gr.Tab("Segment"):
            _segment_tab(gr, desk, folder, examples)
        with gr.Tab("Compare two models"):
            _compare_tab(gr, desk, examples)
    return page


def _segment_tab(gr: Any, desk: Desk, folder: Path, examples: Sequence[Path]) -> None:
    names = list(desk.names)
    result = gr.State(None, time_to_live=_HOUR)
    with gr.Row():
        with gr.Column():
            photo = _photo(gr, "photo")
            model = gr.Dropdown(names, value=names[0], label="Model", elem_id="model")
            _examples(gr, examples, photo)
        with gr.Column():
            wipe = gr.ImageSlider(label="Before and after", elem_id="wipe", **_WIPE)
            stage = gr.Slider(0, 4, value=4, step=1, label="Stage", elem_id="stage")
            view = gr.Radio(list(VIEWS), value=VIEWS[0], label="View", elem_id="view")
            note = gr.Markdown(elem_id="times")
            classes = gr.HTML(elem_id="legend", elem_classes="pna-legend")
            with gr.Row():
                buttons = [
                    gr.DownloadButton(name, interactive=False, elem_id=f"save-{name.lower()}")
                    for name in ("Labels", "Overlay", "Polygons")
                ]
    gr.Markdown("## Neighborhoods of a pixel")
    around_note = gr.Markdown(_CLICK, elem_id="around-note")
    around = gr.Image(
        label="Neighborhoods of a pixel",
        elem_id="around",
        show_label=False,
        interactive=False,
        visible=False,
        buttons=["fullscreen"],
    )

    @_shown(gr)
    def segment(path: str | None, name: str, view: View) -> tuple[Any, ...]:
        if path is None:
            return None, None, gr.skip(), "", "", gr.Image(visible=False), _CLICK
        found = desk.segment(Path(path), name)
        last = len(found.stages) - 1
        slider = gr.Slider(maximum=max(1, last), value=last, interactive=last > 0)
        return (
            found,
            _wiped(found, last, view),
            slider,
            times(found),
            legend(found, last),
            gr.Image(visible=False),
            _CLICK,
        )

    @_shown(gr)
    def redraw(found: Result | None, stage: int, view: View) -> tuple[Any, ...]:
        if found is None:
            return gr.skip(), gr.skip()
        return _wiped(found, stage, view), legend(found, stage)

    @_shown(gr)
    def write(found: Result | None, stage: int) -> list[Any]:
        if found is None:
            return [gr.DownloadButton(value=None, interactive=False) for _ in buttons]
        for old in folder.glob(f"{_DOWNLOADS}*"):
            if time.time() - old.stat().st_mtime > _HOUR:
                shutil.rmtree(old, ignore_errors=True)
        files = save(found, stage, Path(tempfile.mkdtemp(prefix=_DOWNLOADS, dir=folder)))
        return [
            gr.DownloadButton(value=str(files[key]), interactive=True)
            if key in files
            else gr.DownloadButton(value=None, interactive=False)
            for key in ("labels", "overlay", "polygons")
        ]

    @_shown(gr)
    def look(found: Result | None, event: gr.SelectData) -> tuple[Any, str]:
        if found is None:
            raise PnaError("there is no result yet: wait for it, then click a pixel")
        x, y = event.index
        figure, words = desk.similar(found, (int(x), int(y)))
        return gr.Image(figure, visible=True), words

    outputs = [result, wipe, stage, note, classes, around, around_note]
    for trigger in (photo.change, model.change):
        trigger(segment, [photo, model, view], outputs, **_IN_TURN).success(
            write, [result, stage], buttons, **_QUIETLY
        )
    for trigger in (stage.input, view.input):
        trigger(
            redraw,
            [result, stage, view],
            [wipe, classes],
            **_QUIETLY,
        ).success(write, [result, stage], buttons, **_QUIETLY)
    photo.select(look, [result], [around, around_note], **_IN_TURN)


def _compare_tab(gr: Any, desk: Desk, examples: Sequence[Path]) -> None:
    names = list(desk.names)
    with gr.Row():
        with gr.Column():
            photo = _photo(gr, "compare-photo")
            one = gr.Dropdown(names, value=names[0], label="Left", elem_id="left")
            other = gr.Dropdown(names, value=names[-1], label="Right", elem_id="right")
            _examples(gr, examples, photo)
        with gr.Column():
            wipe = gr.ImageSlider(label="Left and right", elem_id="compare-wipe", **_WIPE)
            note = gr.Markdown(elem_id="difference")

    @_shown(gr)
    def run(path: str | None, left: str, right: str) -> tuple[Any, str]:
        if path is None:
            return None, ""
        results = desk.segment(Path(path), left), desk.segment(Path(path), right)
        pictures = tuple(shown(draw(found, len(found.stages) - 1, "overlay")) for found in results)
        return pictures, compare(*results)

    for trigger in (photo.change, one.change, other.change):
        trigger(run, [photo, one, other], [wipe, note], **_IN_TURN)


def _photo(gr: Any, name: str) -> Any:
    """Make a box for a photo, which passes its file on as it is."""
    photo = gr.Image(
        label="Photo",
        elem_id=name,
        type="filepath",
        sources=["upload", "clipboard"],
        buttons=["fullscreen"],
    )
    # Gradio would open it by Pillow first, and raise where it is damaged.
    photo.preprocess = lambda payload: None if payload is None else payload.path
    return photo


def _examples(gr: Any, paths: Sequence[Path], photo: Any) -> None:
    if paths:
        names = [path.stem for path in paths]
        gr.Examples([[str(path)] for path in paths], [photo], example_labels=names)


def _wiped(found: Result, stage: int, view: View) -> tuple[Any, Any]:
    """Return the photo and the picture of a stage, for the wipe."""
    from PIL import Image

    return shown(Image.fromarray(found.image)), shown(draw(found, stage, view))


def _shown(gr: Any) -> Callable[[Callable[P, T]], Callable[P, T]]:
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
