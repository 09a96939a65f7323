"""The tab that compares two models on a photo."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pna.app.desk import Desk
from pna.app.views import compare, draw, shown
from pna.app.widgets import IN_TURN, WIPE, example_buttons, photo_box, show_errors


def compare_tab(gr: Any, desk: Desk, examples: Sequence[Path]) -> None:
    """Lay out the tab: see `segment_tab`."""
    names = list(desk.names)
    with gr.Row():
        with gr.Column():
            photo = photo_box(gr, "compare-photo")
            one = gr.Dropdown(names, value=names[0], label="Left", elem_id="left")
            other = gr.Dropdown(names, value=names[-1], label="Right", elem_id="right")
            example_buttons(gr, examples, photo)
        with gr.Column():
            wipe = gr.ImageSlider(label="Left and right", elem_id="compare-wipe", **WIPE)
            note = gr.Markdown(elem_id="difference")

    @show_errors(gr)
    def run(path: str | None, left: str, right: str) -> tuple[Any, str]:
        if path is None:
            return None, ""
        results = desk.segment(Path(path), left), desk.segment(Path(path), right)
        pictures = tuple(shown(draw(found, len(found.stages) - 1, "overlay")) for found in results)
        return pictures, compare(*results)

    for trigger in (photo.change, one.change, other.change):
        trigger(run, [photo, one, other], [wipe, note], **IN_TURN)
