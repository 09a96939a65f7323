"""Places: written, read, and followed through the output of a module."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from pna.errors import PnaError
from pna.model.cascade.taps import Place, Tap, follow, parse_place, run_tapped, tensors_in


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (Place(""), ""),
        (Place("", ("out",)), "[out]"),
        (Place("encoder.layer1"), "encoder.layer1"),
        (Place("encoder", (2,)), "encoder[2]"),
        (Place("body", ("0",)), "body['0']"),
        (Place("body", ("0", 0, "-1", -1)), "body['0'][0]['-1'][-1]"),
        (Place("body", ("it's [1]", 'so "is" this', "")), None),
    ],
)
def test_written_and_read(place, text):
    assert text in (None, str(place))
    assert parse_place(str(place)) == place


@pytest.mark.parametrize("name", ["encoder[2", "encoder[[2]", "encoder]", "a[1]b", "a['0]"])
def test_not_read(name):
    with pytest.raises(PnaError, match="^expected a module's name"):
        parse_place(name)


@dataclass
class Output:
    logits: torch.Tensor
    others: tuple[torch.Tensor, ...]


def test_every_kind_of_output():
    a, b, c = torch.rand(1), torch.rand(2), torch.rand(3)
    recursive = SimpleNamespace(logits=a, number=3)
    recursive.itself = recursive
    for output, expected in (
        (a, {(): a}),
        ([a, (b, None)], {(0,): a, (1, 0): b}),
        ({"out": a, "0": [b], 0: c, None: a}, {("out",): a, ("0", 0): b, (0,): c}),
        (Output(a, (b, c)), {("logits",): a, ("others", 0): b, ("others", 1): c}),
        (recursive, {("logits",): a}),
        (None, {}),
    ):
        found = dict(tensors_in(output))
        assert found.keys() == expected.keys()
        for keys, tensor in found.items():
            assert tensor is expected[keys]
            assert follow(output, keys) is tensor


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Identity()

    def forward(self, images):
        return {"out": self.body({"0": images, "last": images.permute(0, 2, 3, 1)})["0"] + 1}


def test_taken_out():
    images = torch.rand(1, 3, 4, 5)
    names = ("body['0']", "body[last]", "[out]")
    taps = [Tap(parse_place(name), is_channels_last="last" in name) for name in names]
    output, tensors = run_tapped(Network(), images, taps)
    assert tensors[2] is output["out"]
    for tensor, expected in zip(tensors, (images, images, images + 1), strict=True):
        torch.testing.assert_close(tensor, expected)


def test_another_structure():
    for name in ("body[1]", "body", "[logits]"):
        with pytest.raises(PnaError, match="^expected a tensor at '.*got an output of type dict"):
            run_tapped(Network(), torch.rand(1, 3, 4, 5), [Tap(parse_place(name))])
