"""The page itself, by Gradio: its layout, and what each control does."""

import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pna.app.compare import compare_tab
from pna.app.desk import Desk
from pna.app.refine import refine_tab
from pna.app.segment import segment_tab
from pna.app.widgets import HOUR
from pna.errors import PnaError
from pna.extras import require

MOST_MEGABYTES = 50
"""Size of a file that may be uploaded."""
_TEMPORARY = "GRADIO_TEMP_DIR"  # where Gradio looks up its folder
_CSS = """
.pna-legend table { width: 100%; border-collapse: collapse; }
.pna-legend td, .pna-legend th { padding: 0.15em 0.5em; text-align: left; }
button[role="tab"].selected { color: #1a5fb4 !important; }
.or, .min_value, .max_value { color: var(--body-text-color) !important; }
:focus-visible { outline: 3px solid #1a5fb4 !important; outline-offset: 1px; }
"""
_INTRO = """# pna: sharper segmentation, stage by stage

Drop a photo. The network predicts coarsely (P0, stride 32); in each stage after it every pixel
gathers from the neighbors that the image says are alike, down to stride 4. **Click a pixel of the
photo** to see what it gathers from. Images stay on the machine that serves this page.
"""


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
    with gr.Blocks(title="pna", analytics_enabled=False, delete_cache=(HOUR, HOUR)) as page:
        gr.Markdown(_INTRO)
        with gr.Tab("Segment"):
            segment_tab(gr, desk, folder, examples)
        with gr.Tab("Refine a mask"):
            refine_tab(gr, desk, folder)
        with gr.Tab("Compare two models"):
            compare_tab(gr, desk, examples)
    return page
