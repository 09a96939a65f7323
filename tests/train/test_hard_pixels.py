import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pna.train.hard_pixels import find_cut


def alone(counts):
    return counts


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(
    values=st.lists(
        st.floats(0, 2.0**90, width=32, allow_subnormal=False) | st.sampled_from([0.0, 0.5]),
        min_size=1,
    ),
    data=st.data(),
)
def test_the_mean_is_that_of_the_largest(dtype, values, data):
    losses = torch.tensor(values, dtype=dtype)
    number = data.draw(st.integers(1, len(values)))
    cut = find_cut(losses, number, alone)
    largest = losses.double().sort(descending=True).values[:number]
    assert float(cut.loss) == float(largest[-1])
    torch.testing.assert_close(cut.mean(losses.double()), largest.mean())


def test_equal_losses_share_what_is_left():
    losses = torch.tensor([3.0, 1.0, 1.0, 1.0, 0.0], requires_grad=True)
    cut = find_cut(losses, 2, alone)
    assert (float(cut.loss), cut.tie) == (1.0, pytest.approx(1 / 3))
    cut.mean(losses).backward()
    torch.testing.assert_close(losses.grad, torch.tensor([1, 1 / 3, 1 / 3, 1 / 3, 0]) / 2)


def test_processes_find_the_cut_of_them_all():
    """Three processes, one without a pixel; their sums are played back, round by round."""
    everyone = [torch.rand(7), torch.rand(5), torch.empty(0)]
    recorded = []

    def record(counts):
        recorded.append(counts)
        return counts

    whole = find_cut(torch.cat(everyone), 4, record)
    for losses in everyone:
        rounds = iter(recorded)
        assert find_cut(losses, 4, lambda counts, rounds=rounds: next(rounds)) == whole
    parts = sum(whole.mean(losses) for losses in everyone)
    torch.testing.assert_close(parts, torch.cat(everyone).topk(4).values.mean())


@pytest.mark.parametrize(
    "bad", [float("nan"), -float("nan"), float("inf")], ids=["nan", "-nan", "inf"]
)
def test_what_is_not_finite_is_not_hidden(bad):
    losses = torch.tensor([1.0, bad, 2.0])
    assert not find_cut(losses, 1, alone).mean(losses).isfinite()
