"""Parity with the authors' modules, and reading their refinement heads."""

import pytest
import torch

import golden_cases
from pna.model.checkpoints.refinement import SELF_AGGREGATION_NAMES, head_from_authors
from pna.model.pna.sam import SelfAggregation

LEVELS = ("res2", "res3", "res4", "res5")


def _head_case(name):
    tensors, config = golden_cases.load(name)
    head = head_from_authors(golden_cases.state(tensors), upsample=config["upsample"])
    features = [tensors[f"feature.{level}"].clone().requires_grad_() for level in LEVELS]
    return tensors, head, features, tensors["coarse"].clone().requires_grad_()


@pytest.mark.parametrize("case", golden_cases.names("head"))
def test_golden_head(case):
    tensors, head, features, coarse = _head_case(case)
    predictions = head(features, coarse)
    for m, prediction in enumerate(predictions, 1):
        assert golden_cases.relative_error(prediction, tensors[f"stage.{m}"]) <= 2e-4
    torch.autograd.backward(predictions, [tensors[f"grad_stage.{m}"] for m in range(1, 5)])
    errors = {
        name: golden_cases.relative_error(x.grad, tensors[f"grad.{name}"])
        for name, x in [
            *((f"feature.{level}", x) for level, x in zip(LEVELS, features, strict=True)),
            ("coarse", coarse),
        ]
    }
    gradients = from_authors_gradients(tensors, head)
    errors |= {name: golden_cases.relative_error(*pair) for name, pair in gradients.items()}
    assert len(errors) >= 25
    assert max(errors.values()) <= 1e-3, max(errors, key=errors.get)


def from_authors_gradients(tensors, head):
    """Pairs of our and their gradients by our names: theirs are read as if they were weights."""
    state = golden_cases.state(tensors)
    theirs = {
        name: tensors.get(f"grad.state.{name}", torch.full_like(x, torch.nan))
        for name, x in state.items()
    }
    expected = dict(head_from_authors(theirs).named_parameters())
    return {
        name: (x.grad, expected[name].detach())
        for name, x in head.named_parameters()
        if not expected[name].isnan().any()  # the cases hold the gradients of some parameters
    }


def self_aggregation_state(state):
    """Their parameters of one SAM block under our names."""
    renamed = {}
    for name, tensor in state.items():
        module, _, leaf = name.rpartition(".")
        key = SELF_AGGREGATION_NAMES.get(name) or f"{SELF_AGGREGATION_NAMES[module]}.{leaf}"
        is_pointwise = tensor.ndim == 4 and "depthwise" not in key
        renamed[key] = tensor.flatten(1) if is_pointwise else tensor
    return renamed


@pytest.mark.parametrize("case", golden_cases.names("self_aggregation"))
def test_golden_self_aggregation(case):
    tensors, _ = golden_cases.load(case)
    width = tensors["input"].shape[1]
    module = SelfAggregation(width)
    module.load_state_dict(self_aggregation_state(golden_cases.state(tensors)))
    output = module(tensors["input"].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    assert golden_cases.relative_error(output, tensors["output"]) <= 2e-4


def _renamed(state, *, reverse):
    numbers = {level: 3 - i if reverse else i for i, level in enumerate(LEVELS)}
    renamed = {"module.backbone.conv1.weight": torch.zeros(3)}
    for name, tensor in state.items():
        for level, number in numbers.items():
            name = name.replace(f".{level}.", f".pna{number}.")
        renamed[f"module.decode_head.{name}"] = tensor
    return renamed


@pytest.mark.parametrize("reverse", [False, True])
def test_the_other_branch_and_prefixes(reverse):
    tensors, head, features, coarse = _head_case("head_nearest_nam")
    other = head_from_authors(_renamed(golden_cases.state(tensors), reverse=reverse))
    expected = head(features, coarse)[-1]
    torch.testing.assert_close(other(features, coarse)[-1], expected)


def test_reads_the_options_off_the_tensors():
    tensors, config = golden_cases.load("head_nearest_nam")
    state = golden_cases.state(tensors)
    for level in LEVELS:
        state[f"patch_embeds.{level}.bias"] = torch.zeros(
            state[f"patch_embeds.{level}.weight"].shape[0]
        )
        state[f"value_embeds.{level}.bias"] = state[f"patch_embeds.{level}.bias"]
    head = head_from_authors(state)
    assert head.in_channels == tuple(config["in_channels"])
    assert set(head.config.window) == {config["window"]}
    assert head.stages[0].fusion.self_aggregation is None
    assert head.stages[0].embed_feature.bias is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {}, "none at all"),
        (lambda s: {"encoder.weight": torch.zeros(1)}, "names like encoder.weight"),
        (lambda s: {**s, "stages.res2.blocks.0.attn.extra": torch.zeros(1)}, "attn.extra"),
        (lambda s: {k: v for k, v in s.items() if "res3.blocks.0.mlp.fc2" not in k}, "mlp.fc2"),
        (lambda s: {k: v for k, v in s.items() if "rpb" not in k}, "lacks .*attn.rpb"),
        (
            lambda s: {k: v for k, v in s.items() if "patch_embeds.res4" not in k},
            "patch_embeds.res4",
        ),
    ],
)
def test_bad_checkpoints(change, message):
    tensors, _ = golden_cases.load("head_nearest_nam")
    with pytest.raises(ValueError, match=message):
        head_from_authors(change(golden_cases.state(tensors)))
