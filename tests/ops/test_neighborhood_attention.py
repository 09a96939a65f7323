"""The operator: golden values, the definition, parity of the backends, compilers, bad input."""

from fractions import Fraction
from math import floor

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import golden_cases
from pna.ops import (
    BACKENDS,
    blocked,
    neighborhood_attention,
    numba,
    numba_plan,
    reference,
    why_not,
    windows,
)

ON_CPU = [name for name in BACKENDS if why_not(name, torch.zeros((1,) * 5)) is None]
VALUE_TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 1e-2}
GRAD_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 2e-2}


# Grid of queries, grid of keys, window, dilation.
CASES = {
    "equal": ((9, 12), (9, 12), 5, 1),
    "up by 2": ((12, 18), (6, 9), 5, 1),
    "up by 3": ((15, 21), (5, 7), 3, 1),
    "up by 4": ((36, 20), (9, 5), 3, 1),
    "up by no whole number": ((45, 31), (23, 16), 5, 1),
    "down by 2": ((7, 9), (14, 18), 5, 1),
    "down by 3": ((5, 7), (15, 21), 3, 1),
    "down by no whole number": ((10, 13), (23, 16), 3, 1),
    "up along rows, down along columns": ((15, 6), (5, 12), 3, 1),
    "other grid along columns alone": ((6, 14), (6, 7), 3, 1),
    "one query": ((1, 1), (6, 7), 3, 1),
    "one key": ((5, 7), (1, 1), 3, 1),
    "keys in no window": ((2, 2), (19, 23), 1, 1),
    "window larger than the map": ((9, 7), (4, 3), 9, 1),
    "whole map": ((8, 6), (5, 4), None, 1),
    "dilated by 2": ((11, 9), (11, 9), 3, 2),
    "dilated by 3": ((13, 10), (13, 10), 3, 3),
    "dilated by 2, up by 2": ((14, 20), (7, 10), 3, 2),
    "dilated by 3, down by 2": ((6, 7), (13, 15), 3, 3),
    "dilated window larger than the map": ((13, 9), (11, 7), 9, 2),
    "dilated beyond the map": ((8, 6), (4, 3), 5, 5),
}
cases = pytest.mark.parametrize("case", CASES)


def _inputs(B, heads, H, W, d, dv, window, *, keys=None, dtype=torch.float64, seed=0):
    """Query, key, value and bias; the grid of keys is that of queries unless given."""
    torch.manual_seed(seed)
    shapes = [(B, heads, H, W, d)] + [(B, heads, *(keys or (H, W)), x) for x in (d, dv)]
    tensors = [torch.randn(shape, dtype=dtype) for shape in shapes]
    side = 2 * window - 1
    return [x.requires_grad_() for x in (*tensors, torch.randn(heads, side, side, dtype=dtype))]


def _case(name, *, dtype=torch.float64):
    """Inputs of a case, gradient of the output, and the options of the call."""
    grid, keys, window, dilation = CASES[name]
    side = window or max(keys) // 2 * 2 + 1
    inputs = _inputs(2, 2, *grid, 4, 3, side, keys=keys, dtype=dtype)
    grad = torch.randn(2, 2, *grid, 3, dtype=dtype)
    return inputs, grad, {"window": window, "dilation": dilation}


def _values_and_grads(inputs, grad, **options):
    copies = [x.detach().clone().requires_grad_() for x in inputs]
    output = neighborhood_attention(*copies, **options)
    output.backward(grad)
    return [output.detach(), *(x.grad for x in copies)]


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("case", golden_cases.names("neighborhood_attention"))
def test_golden(case, backend):
    tensors, _ = golden_cases.load(case)
    window = (tensors["bias"].shape[-1] + 1) // 2
    inputs = [tensors[name] for name in ("query", "key", "value", "bias")]
    got = _values_and_grads(inputs, tensors["grad_output"], window=window, backend=backend)
    errors = [
        golden_cases.relative_error(a, tensors[name])
        for a, name in zip(
            got,
            ("output", "grad_query", "grad_key", "grad_value", "grad_bias"),
            strict=True,
        )
    ]
    assert errors[0] <= 2e-5
    assert max(errors[1:]) <= 1e-4


def _axis(query, queries, keys, window, dilation):
    """Keys of a window along one axis, and the shares of the entries that each of them reads."""
    c = Fraction(2 * query + 1, 2) * keys / queries - Fraction(1, 2)
    nearest = floor(c + Fraction(1, 2))
    phase = range(nearest % dilation, keys, dilation)
    size = max(1, min(window, keys // dilation))
    first = min(max(nearest // dilation - window // 2, 0), len(phase) - size)
    window_keys = list(phase[first : first + size])
    shares = torch.zeros(size, 2 * window - 1, dtype=torch.float64)
    for row, key in zip(shares, window_keys, strict=True):
        place = min(max((key - c) / dilation + window - 1, 0), 2 * window - 2)
        row[floor(place)] += float(1 - place % 1)
        row[min(floor(place) + 1, 2 * window - 2)] += float(place % 1)
    return window_keys, shares


def _definition(query, key, value, bias, *, window, dilation=1, scale=None):
    """The definition in fractions, one query at a time."""
    (H, W), (h, w) = query.shape[2:4], key.shape[2:4]
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    window = max(h, w) // 2 * 2 + 1 if window is None else window
    columns = [_axis(j, W, w, window, dilation) for j in range(W)]
    rows = [_axis(i, H, h, window, dilation) for i in range(H)]
    output = []
    for i, (y, row_shares) in enumerate(rows):
        for j, (x, column_shares) in enumerate(columns):
            k, v = (z[:, :, y][:, :, :, x].flatten(2, 3) for z in (key, value))
            scores = scale * (query[:, :, i, j, None] * k).sum(-1)
            if bias is not None:
                scores = scores + (row_shares.to(bias) @ bias @ column_shares.to(bias).mT).flatten(
                    1
                )
            output.append((scores.softmax(-1)[..., None] * v).sum(-2))
    return torch.stack(output, 2).unflatten(2, (H, W))


def _definition_and_grads(inputs, grad, **options):
    copies = [x.detach().clone().requires_grad_() for x in inputs]
    output = _definition(*copies, **options)
    output.backward(grad)
    return [output.detach(), *(x.grad for x in copies)]


@cases
def test_reference_is_the_definition(case):
    inputs, grad, options = _case(case)
    expected = _definition_and_grads(inputs, grad, **options)
    got = _values_and_grads(inputs, grad, **options, backend="reference")
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@cases
@pytest.mark.parametrize("backend", [name for name in ON_CPU if name != "reference"])
def test_backends_equal_reference(backend, case):
    inputs, grad, options = _case(case, dtype=torch.float32)
    exact = [x.double() for x in inputs]
    expected = _values_and_grads(exact, grad.double(), **options, backend="reference")
    got = _values_and_grads(inputs, grad, **options, backend=backend)
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape
        # An absolute bound too: with one key per window the gradients of queries are 0.
        assert (a - b).norm() <= 2e-6 * b.norm() + 1e-6


@pytest.mark.parametrize("backend", ["reference", "blocked"])
@pytest.mark.parametrize(
    ("grid", "keys", "window", "dilation"),
    [
        ((4, 3), (4, 3), 1, 1),
        ((4, 3), (4, 3), 3, 1),
        ((4, 4), (2, 3), 3, 1),
        ((2, 2), (4, 3), 3, 1),
        ((3, 4), (4, 4), 3, 2),
    ],
)
def test_gradcheck(backend, grid, keys, window, dilation):
    inputs = _inputs(1, 2, *grid, 2, 3, window, keys=keys)
    assert torch.autograd.gradcheck(
        lambda *x: neighborhood_attention(*x, window=window, dilation=dilation, backend=backend),
        inputs,
    )


def test_reference_is_differentiable_twice():
    inputs = _inputs(1, 1, 3, 2, 1, 1, 3, keys=(2, 1))
    assert torch.autograd.gradgradcheck(
        lambda *x: neighborhood_attention(*x, window=3, backend="reference"), inputs
    )


def _sizes(largest):
    """Two grids: equal, in a whole ratio, or any."""
    side = st.integers(1, largest)
    any_two = st.tuples(side, side, side, side)
    equal = st.tuples(side, side).map(lambda x: x * 2)
    coarse = st.tuples(st.integers(1, largest // 3), st.integers(1, largest // 3))
    ratio = st.sampled_from([(2, 2), (3, 3), (3, 1), (2, 3)])
    up = st.tuples(coarse, ratio).map(lambda x: (x[0][0] * x[1][0], x[0][1] * x[1][1], *x[0]))
    return equal | up | up.map(lambda x: x[2:] + x[:2]) | any_two


@settings(max_examples=80, deadline=None)
@given(
    B=st.integers(1, 2),
    heads=st.integers(1, 3),
    sizes=_sizes(35),
    d=st.sampled_from([1, 3, 8]),
    dv=st.sampled_from([1, 5, 21]),
    window=st.sampled_from([1, 3, 5, 7, 9, 13, 41]),
    dilation=st.sampled_from([1, 1, 2, 3]),
    budget=st.sampled_from([1, 50_000, blocked.BLOCK_SCORES]),
)
def test_blocked_equals_reference(B, heads, sizes, d, dv, window, dilation, budget):
    H, W, *keys = sizes
    inputs = _inputs(B, heads, H, W, d, dv, window, keys=keys)
    grad = torch.randn(B, heads, H, W, dv, dtype=torch.float64)
    options = {"window": window, "dilation": dilation}
    expected = _values_and_grads(inputs, grad, **options, backend="reference")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocked, "BLOCK_SCORES", budget)
        got = _values_and_grads(inputs, grad, **options, backend="blocked")
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@settings(max_examples=60, deadline=None)
@given(
    B=st.integers(1, 2),
    heads=st.integers(1, 3),
    sizes=_sizes(60),
    d=st.sampled_from([1, 3, 8, 32]),
    dv=st.sampled_from([1, 5, 21]),
    window=st.sampled_from([1, 3, 5, 7, 9, 13, 41]),
    dilation=st.sampled_from([1, 1, 2, 3]),
)
def test_numba_equals_reference(B, heads, sizes, d, dv, window, dilation):
    H, W, *keys = sizes
    inputs = _inputs(B, heads, H, W, d, dv, window, keys=keys, dtype=torch.float32)
    grad = torch.randn(B, heads, H, W, dv)
    options = {"window": window, "dilation": dilation}
    # Blocked in float64 stands for the reference, which it equals to 1e-9 and which is hungry.
    expected = _values_and_grads(
        [x.double() for x in inputs], grad.double(), **options, backend="blocked"
    )
    got = _values_and_grads(inputs, grad, **options, backend="numba")
    for a, b in zip(got, expected, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm() + 1e-6


def test_numba_is_repeatable():
    inputs = _inputs(2, 3, 50, 70, 8, 8, 9, dtype=torch.float32)
    grad = torch.randn_like(inputs[2])
    first = _values_and_grads(inputs, grad, window=9, backend="numba")
    for a, b in zip(first, _values_and_grads(inputs, grad, window=9, backend="numba"), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numba_shows_what_is_not_finite(bad):
    query, key, value, bias = (x.detach() for x in _inputs(1, 1, 20, 20, 8, 8, 3))
    query[0, 0, 10, 10, 0] = bad
    got = neighborhood_attention(
        query.float(), key.float(), value.float(), bias.float(), window=3, backend="numba"
    )
    expected = neighborhood_attention(query, key, value, bias, window=3, backend="reference")
    assert torch.equal(got.isnan(), expected.isnan())
    assert got.isnan().any()


@settings(max_examples=150, deadline=None)
@given(
    queries=st.integers(1, 150),
    keys=st.integers(1, 150),
    window=st.sampled_from([1, 3, 9, 13, 41]),
    dilation=st.integers(1, 4),
)
@example(queries=58, keys=58, window=13, dilation=1)
@example(queries=80, keys=80, window=41, dilation=1)
def test_bands_of_one_turn_share_no_keys(queries, keys, window, dilation):
    """Threads add to the gradients of the keys that their bands touch, without a lock."""
    start = windows.window_start(torch.arange(queries), queries, keys, window, dilation)
    size = windows.window_size(keys, window, dilation)
    rows = numba_plan.plan_rows(queries, keys, window, dilation)
    seen, touched = [], ([set()], [set()])
    for first, end, turn in numba_plan.cut_rows(queries, keys, window, dilation, True):
        seen += rows.query[first:end].tolist()
        held = {int(start[i]) + y * dilation for i in seen[first:] for y in range(size)}
        # Positions in the plan are those of the definition.
        top, bottom = rows.start[first], rows.start[end - 1] + size
        assert held <= set(rows.key[top:bottom].tolist())
        touched[turn].append(held)
    assert sorted(seen) == list(range(queries))
    for bands in touched:
        assert sum(map(len, bands)) == len(set().union(*bands))


@pytest.mark.parametrize("keys", [(19, 23), (10, 12)])
@pytest.mark.parametrize("backend", ["blocked", "numba"])
@pytest.mark.parametrize("dtype", list(VALUE_TOLERANCE))
def test_dtypes(dtype, backend, keys):
    if reason := why_not(backend, torch.zeros(1, 1, 1, 1, 1, dtype=dtype)):
        assert "float64" in reason
        return
    inputs = _inputs(1, 2, 19, 23, 16, 16, 7, keys=keys)
    grad = torch.randn(1, 2, 19, 23, 16, dtype=torch.float64)
    expected = _values_and_grads(inputs, grad, window=7, backend="reference")
    got = _values_and_grads(
        [x.to(dtype) for x in inputs], grad.to(dtype), window=7, backend=backend
    )
    assert {x.dtype for x in got} == {dtype}
    errors = [golden_cases.relative_error(a, b) for a, b in zip(got, expected, strict=True)]
    assert errors[0] <= VALUE_TOLERANCE[dtype]
    assert max(errors[1:]) <= GRAD_TOLERANCE[dtype]


@pytest.mark.parametrize("keys", [(9, 12), (5, 4)])
@pytest.mark.parametrize("backend", ON_CPU)
def test_without_bias_and_with_scale(backend, keys):
    query, key, value, _ = _inputs(1, 1, 9, 12, 4, 4, 3, keys=keys, dtype=torch.float32)
    got = neighborhood_attention(query, key, value, window=3, scale=0.3, backend=backend)
    expected = _definition(query, key, value, None, window=3, scale=0.3)
    torch.testing.assert_close(got, expected)
    (grad,) = torch.autograd.grad(got.sum(), query)
    assert grad.shape == query.shape


@pytest.mark.parametrize("keys", [(17, 11), (8, 7)])
@pytest.mark.parametrize("backend", ON_CPU)
def test_non_contiguous_input(backend, keys):
    inputs = _inputs(2, 3, 17, 11, 8, 8, 5, keys=keys, dtype=torch.float32)
    grad = torch.randn(2, 3, 17, 11, 8)
    expected = _values_and_grads(inputs, grad, window=5, backend=backend)
    strided = [x.permute(0, 2, 3, 1, 4).contiguous().permute(0, 3, 1, 2, 4) for x in inputs[:3]]
    strided.append(inputs[3].transpose(1, 2).contiguous().transpose(1, 2))
    assert not strided[0].is_contiguous()
    grad = grad.transpose(2, 3).contiguous().transpose(2, 3)
    got = _values_and_grads(strided, grad, window=5, backend=backend)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("keys", [(5, 6), (4, 8)])
def test_the_whole_map_is_plain_attention(backend, keys):
    query, key, value, _ = _inputs(2, 2, 9, 7, 8, 5, 1, keys=keys, dtype=torch.float32)
    got = neighborhood_attention(query, key, value, window=None, backend=backend)
    flat = (x.flatten(2, 3) for x in (query, key, value))
    expected = torch.nn.functional.scaled_dot_product_attention(*flat)
    torch.testing.assert_close(got.flatten(2, 3), expected)


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("times", [1, 3])
def test_an_infinite_bias_hides_keys_that_read_it_whole(backend, times):
    """At odd ratios queries in the middle of a key read whole entries, as all do on equal grids."""
    query, key, value, bias = _inputs(1, 1, 5 * times, 6 * times, 4, 3, 3, keys=(5, 6))
    finite = bias.detach().float().clone()
    finite[:, :2], finite[:, :, 3:] = -1e4, -1e4
    infinite = finite.clone()
    infinite[finite == -1e4] = float("-inf")
    got, expected = (
        neighborhood_attention(
            query.float(), key.float(), value.float(), table, window=3, backend=backend
        )[:, :, times // 2 :: times, times // 2 :: times]
        for table in (infinite, finite)
    )
    torch.testing.assert_close(got, expected)


def test_bias_reads_key_minus_query():
    """A bias that only likes the cell two to the right shifts the map by two."""
    value = torch.arange(12.0).reshape(1, 1, 1, 12, 1)
    zero = torch.zeros(1, 1, 1, 12, 4)
    bias = torch.zeros(1, 9, 9)
    bias[0, 4, 4 + 2] = 50.0
    for backend in ON_CPU:
        got = neighborhood_attention(zero, zero, value, bias, window=5, backend=backend)
        assert got.flatten()[:10].tolist() == pytest.approx(list(range(2, 12)))


def _nearest_rounded_down(position, queries, keys):
    return ((2 * position + 1) * keys - queries).clamp(min=0) // (2 * queries)


def _late_start(position, queries, keys, window, dilation):
    start = windows.window_start(position, queries, keys, window, dilation)
    return (start + 1).clamp(max=keys - window)


def _start_that_wraps_around(position, queries, keys, window, dilation):
    return (windows.nearest_key(position, queries, keys) - window // 2).clamp(max=keys - window)


def _whole_entries(*arguments):
    entries = windows.table_positions(*arguments)
    return entries._replace(share=torch.zeros_like(entries.share))


def _mirrored_share(*arguments):
    entries = windows.table_positions(*arguments)
    return entries._replace(share=1 - entries.share)


def _entries_of_the_nearest_key(*arguments):
    """As if queries stood in the center of their nearest keys."""
    position, key, queries, keys, window, *_ = arguments
    nearest = windows.nearest_key(position, queries, keys)
    lower = (key - nearest + window - 1).clamp(0, 2 * window - 2)
    return windows.Positions(lower, lower, torch.zeros(1, dtype=arguments[-1]))


WRONG = {
    "the nearest key is rounded down": (windows, "nearest_key", _nearest_rounded_down),
    "the window starts late": (reference, "window_start", _late_start),
    "the window does not shift": (reference, "window_start", _start_that_wraps_around),
    "the share is ignored": (reference, "table_positions", _whole_entries),
    "the share is mirrored": (reference, "table_positions", _mirrored_share),
    "queries stand in their keys": (reference, "table_positions", _entries_of_the_nearest_key),
    "rows and columns of the bias": None,
    "rows and columns of the keys": None,
}


@pytest.mark.parametrize("backend", ["definition", *(x for x in ON_CPU if x != "reference")])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_kernel_fails(wrong, backend, monkeypatch):
    """A backend and the oracle disagree by far when either is wrong, in every result."""
    inputs = _inputs(1, 1, 14, 14, 4, 4, 3, keys=(7, 7), dtype=torch.float32)
    inputs[3] = (3 * inputs[3]).detach()
    grad = torch.randn(1, 1, 14, 14, 4)
    if backend == "definition":
        got = _definition_and_grads(inputs, grad, window=3)
    else:
        got = _values_and_grads(inputs, grad, window=3, backend=backend)
    expected = _values_and_grads(inputs, grad, window=3, backend="reference")
    assert max(map(golden_cases.relative_error, got, expected)) < 1e-5

    if WRONG[wrong]:
        monkeypatch.setattr(*WRONG[wrong])
    elif "bias" in wrong:
        inputs[3] = inputs[3].mT
    else:
        inputs[1], inputs[2] = (x.transpose(2, 3) for x in inputs[1:3])
    expected = _values_and_grads(inputs, grad, window=3, backend="reference")
    assert min(map(golden_cases.relative_error, got, expected)) > 0.05


@pytest.mark.parametrize("backend", ["blocked", "numba"])
def test_a_wrong_kernel_fails_on_equal_grids(backend, monkeypatch):
    inputs = _inputs(1, 1, 12, 12, 4, 4, 5, dtype=torch.float32)
    got = neighborhood_attention(*inputs, window=5, backend=backend)
    monkeypatch.setattr(reference, "window_start", _late_start)
    expected = neighborhood_attention(*inputs, window=5, backend="reference")
    assert golden_cases.relative_error(got, expected) > 0.05


@pytest.mark.parametrize("backend", ["blocked", "numba"])
def test_a_wrong_dilation_fails(backend):
    inputs = _inputs(1, 1, 12, 12, 4, 4, 3, keys=(9, 9), dtype=torch.float32)
    got, expected = (
        neighborhood_attention(*inputs, window=3, dilation=dilation, backend=name)
        for dilation, name in ((2, backend), (1, "reference"))
    )
    assert golden_cases.relative_error(got, expected) > 0.05


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of opcheck's own copies
@pytest.mark.parametrize("backend", [blocked, numba])
@pytest.mark.parametrize(
    ("keys", "window", "dilation"), [((9, 11), 5, 1), ((5, 6), 5, 1), ((18, 13), 3, 2)]
)
def test_opcheck(backend, keys, window, dilation):
    inputs = _inputs(1, 2, 9, 11, 4, 6, window, keys=keys, dtype=torch.float32)
    options = (window, dilation, 0.5)
    torch.library.opcheck(backend.attention, (*inputs, *options))
    torch.library.opcheck(backend.attention, (*inputs[:3], None, *options))
    grad = torch.randn(1, 2, 9, 11, 6)
    torch.library.opcheck(
        backend.attention_backward,
        (grad, *(x.detach() for x in inputs), *options),
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.parametrize("keys", [(9, 11), (5, 6)])
@pytest.mark.parametrize("backend", [blocked, numba])
def test_compiled_code_learns_the_right_strides(backend, keys):
    """Heads come as tiling of channels-last maps: what a fake call promises must hold for them."""
    grad, query, key, value = (
        torch.randn(1, *grid, 2, 4).permute(0, 3, 1, 2, 4)
        for grid in ((9, 11), (9, 11), keys, keys)
    )
    inputs = (query, key, value, torch.randn(2, 9, 9), 5, 1, 0.5)
    for operator, arguments in (
        (backend.attention, inputs),
        (backend.attention_backward, (grad, *inputs)),
    ):
        torch.library.opcheck(operator, arguments, test_utils="test_faketensor")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("backend", ["blocked", "numba"])
def test_compiles_whole_with_dynamic_sizes(backend):
    compiled = torch.compile(neighborhood_attention, fullgraph=True, dynamic=True)
    for H, W, *keys, dilation in (
        (9, 14, 9, 14, 1),
        (17, 10, 9, 12, 1),
        (24, 33, 12, 11, 2),
        (13, 8, 25, 31, 2),
    ):
        inputs = _inputs(1, 2, H, W, 4, 4, 5, keys=keys, dtype=torch.float32)
        grad = torch.randn(1, 2, H, W, 4)
        options = {"window": 5, "dilation": dilation}
        expected = _values_and_grads(inputs, grad, **options, backend="reference")
        output = compiled(*inputs, **options, backend=backend)
        output.backward(grad)
        torch.testing.assert_close(output, expected[0], rtol=1e-4, atol=1e-5)
        for x, grad_of_x in zip(inputs, expected[1:], strict=True):
            torch.testing.assert_close(x.grad, grad_of_x, rtol=1e-4, atol=2e-5)


class Operator(torch.nn.Module):
    """The operator with fixed options, for exports."""

    def __init__(self, **options):
        super().__init__()
        self.options = options

    def forward(self, query, key, value, bias):
        return neighborhood_attention(query, key, value, bias, **self.options)


def _dynamic_shapes(kind):
    """Sizes that a graph leaves free: one grid, the finer of two twice the other, or any two."""
    h, w, H, W = (torch.export.Dim(name, min=9, max=512) for name in "hwHW")
    query = {"equal": {2: h, 3: w}, "twice": {2: 2 * h, 3: 2 * w}, "any": {2: H, 3: W}}[kind]
    return query, {2: h, 3: w}, {2: h, 3: w}, {}


# What is exported, the options, and sizes (H, W, h, w): the traced ones first.
EXPORTS = {
    "equal": ({"window": 5}, [(13, 18, 13, 18), (29, 9, 29, 9), (16, 40, 16, 40)]),
    "twice": ({"window": 5}, [(26, 36, 13, 18), (18, 22, 9, 11), (32, 80, 16, 40)]),
    "any": ({"window": 5}, [(26, 36, 13, 18), (29, 9, 16, 40), (13, 18, 13, 18), (33, 9, 9, 27)]),
    "any, dilated": (
        {"window": 3, "dilation": 2}, [(26, 36, 13, 18), (29, 9, 16, 40), (13, 18, 13, 18)]
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    ["equal", "twice", *(pytest.param(x, marks=pytest.mark.slow) for x in list(EXPORTS)[2:])],
)
def test_exports_with_dynamic_sizes(kind):
    options, sizes = EXPORTS[kind]

    def inputs(H, W, *keys):
        made = _inputs(1, 2, H, W, 4, 4, options["window"], keys=keys, dtype=torch.float32)
        return tuple(x.detach() for x in made)

    program = torch.export.export(
        Operator(**options),
        inputs(*sizes[0]),
        dynamic_shapes=_dynamic_shapes(kind.split(",")[0]),
    )
    assert "_attention" not in program.graph_module.code
    for size in sizes:
        expected = neighborhood_attention(*inputs(*size), **options)
        torch.testing.assert_close(program.module()(*inputs(*size)), expected)


@pytest.mark.parametrize(("kind", "keys"), [("equal", 12), ("twice", 9)])
def test_tiles_of_a_graph_for_free_sizes_have_a_number_of_keys(kind, keys):
    """A trace with an expression of the sizes in its place takes minutes longer."""
    options, sizes = EXPORTS[kind]
    H, W, *rest = sizes[0]
    example = _inputs(1, 2, H, W, 4, 4, options["window"], keys=rest, dtype=torch.float32)
    program = torch.export.export(
        Operator(**options),
        tuple(x.detach() for x in example),
        dynamic_shapes=_dynamic_shapes(kind),
    )
    (softmax,) = [node for node in program.graph.nodes if "softmax" in str(node.target)]
    assert softmax.meta["val"].shape[-2:] == (blocked.TILE**2, keys**2)


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """Bytes of the largest memory that operators make, apart from that of given tensors."""

    def __init__(self, given):
        super().__init__()
        self.given = {x.untyped_storage().data_ptr() for x in given}
        self.nbytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for x in torch.utils._pytree.tree_leaves(result):
            if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in self.given:
                self.nbytes = max(self.nbytes, x.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize(
    ("keys", "dilation"), [((72, 80), 1), ((36, 40), 1), ((31, 55), 1), ((36, 40), 2)]
)
def test_memory_is_bounded_by_the_block(keys, dilation, monkeypatch):
    """No attention map, and no key or value once per query: not even half of one."""
    d, budget = 24, 64 * 400
    monkeypatch.setattr(blocked, "BLOCK_SCORES", budget)
    made = _inputs(1, 1, 72, 80, d, 1, 5, keys=keys, dtype=torch.float32)
    inputs = [x.detach() for x in made]
    grad = torch.randn(1, 1, 72, 80, 1)
    with Largest(inputs) as forward:
        blocked._forward(*inputs, 5, dilation, 0.5)
    with Largest((grad, *inputs)) as backward:
        blocked._backward(grad, *inputs, 5, dilation, 0.5)
    attention_map, repeated_keys = 4 * 72 * 80 * 25, 4 * 72 * 80 * d
    assert forward.nbytes < min(attention_map, repeated_keys) / 2
    # The gradient of the queries has their size.
    assert backward.nbytes <= 4 * 72 * 80 * d


def _zeros(*shape, **options):
    return torch.zeros(1, 2, *shape, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": 4}, "expected an odd window >= 1, or None for the whole map .* window=4$"),
        ({"window": 0}, "expected an odd window >= 1, .* window=0$"),
        ({"window": -3}, "expected an odd window >= 1, .* window=-3$"),
        ({"window": 5.0}, "expected an odd window >= 1, .* window=5.0$"),
        ({"window": True}, "expected an odd window >= 1, .* window=True$"),
        ({"dilation": 0}, "expected a dilation, a whole number >= 1, got dilation=0$"),
        ({"dilation": 2.0}, "expected a dilation, a whole number >= 1, got dilation=2.0$"),
        ({"dilation": True}, "expected a dilation, a whole number >= 1, got dilation=True$"),
        (
            {"query": torch.zeros(2, 4, 4, 3)},
            r"expected query \(B, heads, H, W, d\), key .*4, 4, 3",
        ),
        ({"key": _zeros(4, 4, 8)}, "expected query and key of one batch size, .* width d, got"),
        ({"query": torch.zeros(1, 3, 4, 4, 3)}, "expected query and key of one batch size"),
        ({"key": _zeros(4, 5, 3)}, "expected one value per key, on the same grid"),
        ({"value": _zeros(5, 4, 3)}, "expected one value per key, on the same grid"),
        ({"value": torch.zeros(1, 1, 4, 4, 3)}, "expected one value per key"),
        ({"value": _zeros(4, 4, 0)}, "expected no empty dimension, got"),
        ({"query": _zeros(0, 4, 3)}, "expected no empty dimension, got"),
        ({"key": _zeros(0, 4, 3), "value": _zeros(0, 4, 3)}, "expected no empty dimension, got"),
        (
            {"bias": torch.zeros(2, 3, 3)},
            r"expected bias .*\(2, 9, 9\) for window=5, got .*2, 3, 3",
        ),
        ({"bias": torch.zeros(1, 9, 9)}, r"expected bias .*\(2, 9, 9\) for window=5"),
        (
            {"window": None, "bias": torch.zeros(2, 7, 7)},
            r"expected bias .*\(2, 9, 9\) for window=None, got .*; window=None is 5 here,",
        ),
        ({"backend": "cutlass"}, "unknown .*known are triton, numba, blocked, reference, auto"),
        ({"value": _zeros(4, 4, 3, dtype=torch.int64)}, "expected floating point, got"),
        ({"value": _zeros(4, 4, 3, device="meta")}, "expected one device, got"),
    ],
)
def test_bad_input(change, message):
    call = dict.fromkeys(("query", "key", "value"), _zeros(4, 4, 3))
    call |= {"bias": torch.zeros(2, 9, 9), "window": 5, **change}
    with pytest.raises(ValueError, match=f"^{message}"):
        neighborhood_attention(**call)


def test_without_numba(monkeypatch):
    monkeypatch.setattr("pna.ops.numba._IS_INSTALLED", False)
    query = torch.zeros(1, 1, 2, 2, 2)
    assert "pip install numba" in why_not("numba", query)
    assert neighborhood_attention(query, query, query, window=3).shape == query.shape


def test_why_not():
    query = torch.zeros(1, 1, 2, 2, 2)
    assert why_not("blocked", query) is None
    assert why_not("numba", query) is None
    assert "not on meta" in why_not("numba", query.to("meta"))
    assert why_not("reference", query.to(torch.float8_e4m3fn)) is None
    assert "float8" in why_not("blocked", query.to(torch.float8_e4m3fn))
    eight = query.to(torch.float8_e4m3fn)
    with pytest.raises(ValueError, match="cannot serve this call"):
        neighborhood_attention(eight, eight, eight, window=3, backend="blocked")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("kind", EXPORTS)
def test_onnx_with_dynamic_sizes(kind, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    options, sizes = EXPORTS[kind]

    def inputs(H, W, *keys):
        made = _inputs(1, 2, H, W, 4, 4, options["window"], keys=keys, dtype=torch.float32)
        return tuple(x.detach() for x in made)

    names = ["query", "key", "value", "bias"]
    torch.onnx.export(
        Operator(**options),
        inputs(*sizes[0]),
        tmp_path / "operator.onnx",
        dynamo=True,
        input_names=names,
        dynamic_shapes=_dynamic_shapes(kind.split(",")[0]),
    )
    session = onnxruntime.InferenceSession(tmp_path / "operator.onnx")
    for size in sizes:
        feed = {name: x.numpy() for name, x in zip(names, inputs(*size), strict=True)}
        (got,) = session.run(None, feed)
        expected = neighborhood_attention(*inputs(*size), **options)
        torch.testing.assert_close(torch.from_numpy(got), expected, rtol=1e-4, atol=1e-5)
