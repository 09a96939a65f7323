"""A row of a comparison may be a network of another library."""

import pytest

from pna.compare.comparison import Comparison
from pna.compare.files import load_comparison

UNET = {"library": "smp", "name": "Unet", "options": {"encoder_name": "resnet18"}}


def comparison(**row):
    return Comparison.model_validate(
        {
            "title": "t",
            "data": {"name": "camvid", "root": "data/camvid"},
            "schedule": {"steps": 2},
            "encoder": "resnet18",
            "overrides": {"window": 7, "coarse_channels": 64},
            "models": [{"name": "unet", **row}],
        }
    )


def test_it_takes_the_refinements_settings_alone():
    found = comparison(cascade=UNET, overrides={"widths": [32, 32, 32, 32]})
    section = found.model_of(found.models[0])
    assert (section.preset, section.encoder) == (None, None)
    assert section.title == "Unet (smp) + PNA"
    assert (section.overrides.window, section.overrides.widths) == (7, (32, 32, 32, 32))
    assert section.overrides.coarse_channels is None


def test_refused(tmp_path):
    with pytest.raises(ValueError, match="unet: expected a preset or a cascade, got both"):
        comparison(cascade=UNET, preset="lite")
    found = comparison().model_dump_json()
    (tmp_path / "c.yaml").write_text(found)  # JSON is YAML
    with pytest.raises(ValueError, match="unet: expected a preset of .*got None"):
        load_comparison(tmp_path / "c.yaml")
