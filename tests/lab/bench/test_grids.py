"""Suite `grids`: its layouts, and the check of their results."""

from dataclasses import replace

import pytest
import torch

from pna.errors import PnaError
from pna.lab.bench import grids
from pna.lab.bench.grids import Layout, Settings, attend, layouts, measure
from pna.lab.bench.trial import Channels, make_case
from pna.ops import neighborhood_attention

SETTINGS = Settings("cpu", cells=12, channels=((2, 8, 4),), backends=("blocked",), rounds=1)


def ignore(line):
    """Log nothing."""


def test_the_base_has_one_grid():
    base, *others = layouts(128)
    assert base == Layout(128, 128, 9)
    assert [(x.queries, x.keys) for x in others] == [
        (128, 64), (128, 64), (128, 32), (128, 65), (64, 128), (128, 64)
    ]  # fmt: skip
    assert [str(x) for x in (base, others[-1])] == [
        "128 on 128, window 9",
        "128 on 64 repeated to 128, window 5",
    ]


@pytest.mark.parametrize("cells", [0, 2, 10])
def test_cells_that_cannot_be_quartered(cells):
    with pytest.raises(PnaError, match=r"^expected cells per side in a multiple of 4, got"):
        layouts(cells)


def test_repeated_keys_hold_the_keys_of_the_coarse_window():
    """Without a bias, which is read at other places, the results are those across the grids."""
    case = make_case(12, 6, Channels(2, 8, 4), window=5, batch=2, device="cpu", dtype="float32")
    query, key, value, bias, *_ = (x.detach() for x in case[:4])
    nothing = torch.zeros_like(bias)
    repeated = attend(query, key, value, nothing, 5, case.scale, backend="reference", repeat=2)
    across = neighborhood_attention(query, key, value, window=5, backend="reference")
    torch.testing.assert_close(repeated, across)


def test_wrong_results_are_not_timed(monkeypatch):
    def doubles_the_bias(query, key, value, bias, **options):
        is_wrong = options["backend"] != "reference" and query.shape != key.shape
        factor = 2 if is_wrong else 1
        return neighborhood_attention(query, key, value, factor * bias, **options)

    monkeypatch.setattr(grids, "neighborhood_attention", doubles_the_bias)
    rows = [row for row in measure(SETTINGS, ignore).rows if row["task"] == "forward"]
    assert [row["layout"] for row in rows if "ms" in row] == [
        "12 on 12, window 9",
        "12 on 6 repeated to 12, window 5",
    ]
    reasons = [row["why_not"] for row in rows if "ms" not in row]
    assert len(reasons) == 5
    assert all(reason.startswith("its result differs from the reference") for reason in reasons)


def test_every_backend_is_compared_with_itself():
    report = measure(replace(SETTINGS, backends=("reference", "blocked")), ignore)
    (columns,) = {table.columns for table in report.tables}
    assert columns == (
        "cells per side", "reference, ms", "reference / base", "blocked, ms", "blocked / base"
    )  # fmt: skip
    for row in report.rows:
        if row["layout"] == "12 on 12, window 9":
            assert row["ratio"] == [1, 1, 1]
