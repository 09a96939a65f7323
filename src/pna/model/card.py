"""Model cards: the README that the hub shows, made of a model, its scores and its recipe."""

from collections.abc import Mapping
from typing import Any

from pna.labels import LabelSpace
from pna.model.config import CascadeConfig, ModelConfig

_USE = """\
## Use

```bash
pip install pna
pna segment photo.jpg --model {repository} -o out
```

```python
import pna

predictor = pna.Predictor("{repository}")
prediction = predictor("photo.jpg")
prediction.labels  # (H, W) uint8, classes in the order below; 255 is ignored
```
"""


def model_card(
    config: ModelConfig | CascadeConfig,
    labels: LabelSpace,
    repository: str,
    *,
    scores: Mapping[str, Any] | None = None,
    recipe: str | None = None,
    license: str | None = None,
) -> str:
    """Write the card of a model.

    Args:
        config: What rebuilds the model.
        labels: Its classes.
        repository: OWNER/NAME.
        scores: The content of `scores.json`, as `Report.to_dict` returns it.
        recipe: The YAML of the training.
        license: Name of the license of the weights as the hub spells it, such as "apache-2.0".

    Returns:
        Markdown, with the hub's metadata at its head.

    Example:
        >>> import pna
        >>> model = pna.load("voc-lite")
        >>> card = model_card(model.config, model.labels, "me/voc-lite")
        >>> card.splitlines()[0], "library_name: pna" in card
        ('---', True)
    """
    name = repository.rpartition("/")[2]
    parts = [f"# {name}", _describe(config, labels), _USE.format(repository=repository)]
    if scores is not None:
        parts.append(_score_table(scores))
    rows = [
        f"| {index} | {class_name} | {red}, {green}, {blue} |"
        for index, (class_name, (red, green, blue)) in enumerate(
            zip(labels.classes, labels.colors, strict=True)
        )
    ]
    parts.append("## Classes\n\n| index | class | color (RGB) |\n|---|---|---|\n" + "\n".join(rows))
    if recipe is not None:
        parts.append(f"## Recipe\n\n```yaml\n{recipe.strip()}\n```")
    return f"---\n{_metadata(config, name, scores, license)}\n---\n\n" + "\n\n".join(parts) + "\n"


def _describe(config: ModelConfig | CascadeConfig, labels: LabelSpace) -> str:
    method = "Progressive Neighborhood Aggregation (PNA; Liu, Wei, Zhang, AAAI 2023)"
    if isinstance(config, ModelConfig):
        refined = f", refined by {method}" if config.pna is not None else ""
        what = f"Preset `{config.preset}` of pna on `{config.encoder}`{refined}"
    else:
        what = f"A network of another library, refined by {method}"
    return f"{what}: semantic segmentation into the {labels.num_classes} classes of {labels.name}."


def _score_table(scores: Mapping[str, Any]) -> str:
    count, available = scores["num_images"], scores["num_available"]
    images = f"{count} images" if count == available else f"{count} of {available} images"
    lines = [
        "## Scores",
        "",
        f"{scores['dataset']}, {images}; in per cent. P0 is the coarse prediction, the last row "
        "the model's output.",
        "",
        "| stage | mIoU | boundary IoU |",
        "|---|---|---|",
    ]
    lines += [
        f"| {stage} | {_percent(values['miou'])} | {_percent(values['boundary_miou'])} |"
        for stage, values in scores["stages"].items()
    ]
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _metadata(
    config: ModelConfig | CascadeConfig,
    name: str,
    scores: Mapping[str, Any] | None,
    license: str | None,
) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = None
    if scores is not None:
        last = list(scores["stages"].values())[-1]
        results = [
            EvalResult(
                task_type="image-segmentation",
                dataset_type=str(scores["labels"]["name"]),
                dataset_name=str(scores["dataset"]),
                metric_type=kind,
                metric_name=title,
                metric_value=round(100 * last[kind], 2),
            )
            for kind, title in (("miou", "mIoU"), ("boundary_miou", "boundary IoU"))
            if last[kind] is not None
        ]
    tags = ["semantic-segmentation"]
    if isinstance(config, CascadeConfig) or config.pna is not None:
        tags.append("pna")
    data = ModelCardData(
        license=license,
        library_name="pna",
        pipeline_tag="image-segmentation",
        tags=tags,
        model_name=name,
        eval_results=results,
    )
    text: str = data.to_yaml()
    return text
