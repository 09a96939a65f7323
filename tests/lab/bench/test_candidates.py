"""Candidates: backends, flex_attention, operators in files; and checks of their results."""

import pytest
import torch

from pna.lab.bench.candidates import EAGER_SCORES, Candidate, backends, flex, load_operator
from pna.lab.bench.trial import Channels, floors, make_call, make_case, why_unfit
from pna.ops import BACKENDS, neighborhood_attention


def _case(size=9, heads=2, window=5):
    channels = Channels(heads)
    return make_case(size, size, channels, window=window, batch=2, device="cpu", dtype="float32")


def _reference(query, key, value, bias, window, scale):
    return neighborhood_attention(
        query, key, value, bias, window=window, scale=scale, backend="reference"
    )


def test_every_backend_has_a_function_or_a_reason():
    found = backends(_case().query)
    assert [candidate.name for candidate in found] == list(BACKENDS)
    assert all((candidate.operator is None) == bool(candidate.why_not) for candidate in found)
    assert all(candidate.is_ours for candidate in found)


@pytest.mark.parametrize("task", ["forward", "forward+backward"])
def test_the_reference_is_fit(task):
    case = _case()
    (candidate,) = (
        candidate for candidate in backends(case.query) if candidate.name == "reference"
    )
    assert why_unfit(candidate, case, task) is None


@pytest.mark.parametrize(("size", "window"), [((9, 7), 5), ((3, 6), 5)])
def test_flex_attention_computes_the_same(size, window):
    query, key, value = (torch.randn(2, 2, *size, 8) for _ in range(3))
    bias = torch.randn(2, 2 * window - 1, 2 * window - 1)
    compiled, eager = flex(query, window, compiled=False)
    assert compiled == Candidate("flex compiled", None, "compiling was turned off")
    found = eager.operator(query, key, value, bias, window, 0.3)
    true = _reference(query, key, value, bias, window, 0.3)
    torch.testing.assert_close(found, true, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the compiler has its own
def test_compiled_flex_attention_is_fit():
    case = _case(size=16)
    compiled, _ = flex(case.query, 5, compiled=True)
    assert why_unfit(compiled, case, "forward") is None


def test_uncompiled_flex_attention_refuses_large_maps():
    query = torch.empty(1, 1, 65, 64, 8)
    assert EAGER_SCORES < (65 * 64) ** 2
    *_, eager = flex(query, 5, compiled=False)
    assert eager.operator is None
    assert "stores all 1.7e+07 scores" in eager.why_not


def test_another_result_is_unfit():
    def forgets_the_bias(query, key, value, bias, window, scale):
        return _reference(query, key, value, None, window, scale)

    reason = why_unfit(Candidate("other", forgets_the_bias), _case(), "forward")
    assert reason.startswith("its result differs from the reference by")
    assert reason.endswith("allowed is 1e-04")


def test_failures_of_others_are_results_and_ours_are_defects():
    def fails(*inputs):
        raise KeyError("tile\nand more")

    case = _case()
    assert why_unfit(Candidate("other", fails), case, "forward").startswith("KeyError: ")
    with pytest.raises(KeyError, match="tile"):
        why_unfit(Candidate("ours", fails, is_ours=True), case, "forward")


def test_lack_of_memory_is_a_result():
    def grabs(*inputs):
        return torch.empty(2**60)

    assert why_unfit(Candidate("ours", grabs, is_ours=True), _case(), "forward") == "out of memory"


def test_timed_calls():
    case = _case()
    assert not make_call(_reference, case, "forward")().requires_grad
    grads = make_call(_reference, case, "forward+backward")()
    assert [grad.shape for grad in grads] == [x.shape for x in case[:4]]
    assert all(x.grad is None for x in case[:4])  # nothing adds up from call to call


def test_matrix_multiply_floor_is_the_useful_work():
    query = torch.empty(2, 3, 4, 16, 32)  # the window of 9 has 4 rows and 9 columns
    (forward,) = floors(query, 9, "forward")
    assert forward.name == "matmul floor"
    probe = forward.probe()
    work = 4 * 2 * 3 * (4 * 16) * (4 * 9) * 32
    assert forward.share == pytest.approx(work / (2 * probe.shape[0] ** 3))
    (both,) = floors(query, 9, "forward+backward")
    assert both.share == pytest.approx(3 * forward.share)


def test_an_operator_in_a_file(tmp_path):
    path = tmp_path / "tiles.py"
    path.write_text("def neighborhood_attention(query, *others):\n    return query\n")
    candidate = load_operator(path)
    assert candidate.name == "tiles"
    assert candidate.operator(1, 2) == 1
    assert not candidate.is_ours


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.py", None, r"none.py: expected a Python file with an operator, found no file"),
        ("empty.py", "", r"empty.py: expected a function neighborhood_attention\(query, key"),
        ("broken.py", "1 / 0", r"broken.py: fails when it is loaded \(ZeroDivisionError"),
        ("notes.txt", "hello", r"notes.txt: expected a Python file"),
    ],
)
def test_unusable_files(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_operator(tmp_path / name)
