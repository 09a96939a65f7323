"""The tab that refines the mask of a photo."""

from pathlib import Path
from typing import Any

from PIL import Image

from pna.app.desk import Desk, Refined
from pna.app.views import report, save_mask, shown
from pna.app.widgets import (
    HOUR,
    IN_TURN,
    QUIETLY,
    WIPE,
    new_download_folder,
    photo_box,
    show_errors,
)
from pna.draw import errors_figure, mask_figure
from pna.refinement.masks import RefineConfig

_VIEWS = {"before and after": False, "where the mask is probably wrong": True}
_INTRO = """Drop a photo and its mask: black and white, labels, a palette, colors or shares, as PNG,
TIFF or `.npy`. Pixels change where the network is sure: **strength** says how sure it must be
(raise it for a rough mask), and **radius** how far an edge may move (0: any distance).
"""


def refine_tab(gr: Any, desk: Desk, folder: Path) -> None:
    """Lay out the tab, inside of a tab of Gradio.

    Args:
        gr: Gradio.
        desk: Runs the refiner.
        folder: Gets the file to download.
    """
    gr.Markdown(_INTRO)
    result = gr.State(None, time_to_live=HOUR)
    with gr.Row():
        with gr.Column():
            photo = photo_box(gr, "refine-photo")
            # No image box: its browser shows no array, and turns none of a palette's numbers.
            mask = gr.File(label="Mask", elem_id="refine-mask", type="filepath", height=120)
            strength = gr.Slider(
                0, 1, value=RefineConfig.strength, step=0.05, label="Strength", elem_id="strength"
            )
            radius = gr.Slider(0, 64, value=0, step=1, label="Radius", elem_id="radius")
        with gr.Column():
            wipe = gr.ImageSlider(label="Before and after", elem_id="refine-wipe", **WIPE)
            view = gr.Radio(list(_VIEWS), value=next(iter(_VIEWS)), label="View")
            note = gr.Markdown(elem_id="refine-note")
            button = gr.DownloadButton("Refined mask", interactive=False, elem_id="save-refined")

    @show_errors(gr)
    def refine(path: str | None, mask: str | None, strength: float, radius: int) -> tuple[Any, ...]:
        if path is None or mask is None:
            return None, "", gr.DownloadButton(value=None, interactive=False)
        found = desk.refine(Path(path), Path(mask), strength=strength, radius=int(radius) or None)
        file = save_mask(found, new_download_folder(folder))
        return found, report(found), gr.DownloadButton(value=str(file), interactive=True)

    @show_errors(gr)
    def draw(found: Refined | None, view: str) -> Any:
        if found is None:
            return None
        if _VIEWS[view]:
            errors = errors_figure(found.wrong).convert("RGB")
            return shown(Image.fromarray(found.image)), shown(errors)
        masks = found.given.array, found.mask
        return tuple(shown(mask_figure(found.image, mask)) for mask in masks)

    for trigger in (photo.change, mask.change, strength.release, radius.release):
        trigger(refine, [photo, mask, strength, radius], [result, note, button], **IN_TURN).success(
            draw, [result, view], [wipe], **QUIETLY
        )
    view.input(draw, [result, view], [wipe], **QUIETLY)
