"""The tab that segments a photo, stage by stage."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from pna.app.desk import Desk, Result
from pna.app.views import VIEWS, View, draw, legend, save, shown, times
from pna.app.widgets import (
    HOUR,
    IN_TURN,
    QUIETLY,
    WIPE,
    example_buttons,
    new_download_folder,
    photo_box,
    show_errors,
)
from pna.errors import PnaError

_CLICK = "Click a pixel of the photo, after it has been segmented."


def segment_tab(gr: Any, desk: Desk, folder: Path, examples: Sequence[Path]) -> None:
    """Lay out the tab, inside of a tab of Gradio.

    Args:
        gr: Gradio.
        desk: Runs the models.
        folder: Gets the files to download.
        examples: Images to try.
    """
    names = list(desk.names)
    result = gr.State(None, time_to_live=HOUR)
    with gr.Row():
        with gr.Column():
            photo = photo_box(gr, "photo")
            model = gr.Dropdown(names, value=names[0], label="Model", elem_id="model")
            example_buttons(gr, examples, photo)
        with gr.Column():
            wipe = gr.ImageSlider(label="Before and after", elem_id="wipe", **WIPE)
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

    @show_errors(gr)
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

    @show_errors(gr)
    def redraw(found: Result | None, stage: int, view: View) -> tuple[Any, ...]:
        if found is None:
            return gr.skip(), gr.skip()
        return _wiped(found, stage, view), legend(found, stage)

    @show_errors(gr)
    def write(found: Result | None, stage: int) -> list[Any]:
        if found is None:
            return [gr.DownloadButton(value=None, interactive=False) for _ in buttons]
        files = save(found, stage, new_download_folder(folder))
        return [
            gr.DownloadButton(value=str(files[key]), interactive=True)
            if key in files
            else gr.DownloadButton(value=None, interactive=False)
            for key in ("labels", "overlay", "polygons")
        ]

    @show_errors(gr)
    def look(found: Result | None, event: gr.SelectData) -> tuple[Any, str]:
        if found is None:
            raise PnaError("there is no result yet: wait for it, then click a pixel")
        x, y = event.index
        figure, words = desk.similar(found, (int(x), int(y)))
        return gr.Image(figure, visible=True), words

    outputs = [result, wipe, stage, note, classes, around, around_note]
    for trigger in (photo.change, model.change):
        trigger(segment, [photo, model, view], outputs, **IN_TURN).success(
            write, [result, stage], buttons, **QUIETLY
        )
    for trigger in (stage.input, view.input):
        trigger(
            redraw,
            [result, stage, view],
            [wipe, classes],
            **QUIETLY,
        ).success(write, [result, stage], buttons, **QUIETLY)
    photo.select(look, [result], [around, around_note], **IN_TURN)


def _wiped(found: Result, stage: int, view: View) -> tuple[Any, Any]:
    """Return the photo and the picture of a stage, for the wipe."""
    return shown(Image.fromarray(found.image)), shown(draw(found, stage, view))
