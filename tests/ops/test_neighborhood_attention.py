"""The operator: golden values, parity of the backends, odd shapes, compilers, bad input."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import golden_cases
from pna.ops import BACKENDS, blocked, neighborhood_attention, numba, reference, why_not, windows

ON_CPU = [name for name in BACKENDS if why_not(name, torch.zeros((1,) * 5), window=1) is None]
VALUE_TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 1e-2}
GRAD_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 2e-2}


def _inputs(B, heads, H, W, d, dv, window, *, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    shapes = [(B, heads, H, W, d)] * 2 + [(B, heads, H, W, dv)]
    tensors = [torch.randn(shape, dtype=dtype) for shape in shapes]
    side = 2 * window - 1
    return [x.requires_grad_() for x in (*tensors, torch.randn(heads, side, side, dtype=dtype))]


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


def _brute_force(query, key, value, bias, window):
    """The definition, one query at a time."""
    H, W, d = query.shape[2:]
    output = torch.zeros_like(value)
    for i in range(H):
        for j in range(W):
            h, w = min(window, H), min(window, W)
            top = min(max(i - window // 2, 0), H - h)
            left = min(max(j - window // 2, 0), W - w)
            k = key[:, :, top : top + h, left : left + w].flatten(2, 3)
            v = value[:, :, top : top + h, left : left + w].flatten(2, 3)
            y = torch.arange(top, top + h)[:, None] - i + window - 1
            x = torch.arange(left, left + w)[None] - j + window - 1
            scores = (query[:, :, i, j, None] * k).sum(-1) * d**-0.5 + bias[:, y, x].flatten(1)
            output[:, :, i, j] = (scores.softmax(-1)[..., None] * v).sum(-2)
    return output


@pytest.mark.parametrize(("H", "W", "window"), [(1, 1, 3), (2, 7, 5), (6, 5, 3), (4, 4, 9)])
def test_reference_is_the_definition(H, W, window):
    inputs = _inputs(2, 2, H, W, 3, 4, window)
    expected = _brute_force(*inputs, window)
    got = neighborhood_attention(*inputs, window=window, backend="reference")
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("window", [1, 3, 5])
def test_gradcheck_of_the_oracle(window):
    inputs = _inputs(1, 2, 4, 3, 2, 3, window)
    assert torch.autograd.gradcheck(
        lambda *x: neighborhood_attention(*x, window=window, backend="reference"), inputs
    )


@settings(max_examples=60, deadline=None)
@given(
    B=st.integers(1, 2),
    heads=st.integers(1, 3),
    H=st.integers(1, 35),
    W=st.integers(1, 35),
    d=st.sampled_from([1, 3, 8]),
    dv=st.sampled_from([1, 5, 21]),
    window=st.sampled_from([1, 3, 5, 7, 9, 13, 41]),
    budget=st.sampled_from([1, 50_000, blocked.BLOCK_SCORES]),
)
def test_blocked_equals_reference(B, heads, H, W, d, dv, window, budget):
    inputs = _inputs(B, heads, H, W, d, dv, window)
    grad = torch.randn_like(inputs[2])
    expected = _values_and_grads(inputs, grad, window=window, backend="reference")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocked, "BLOCK_SCORES", budget)
        got = _values_and_grads(inputs, grad, window=window, backend="blocked")
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@settings(max_examples=40, deadline=None)
@given(
    B=st.integers(1, 2),
    heads=st.integers(1, 3),
    H=st.integers(1, 45),
    W=st.integers(1, 75),
    d=st.sampled_from([1, 3, 8, 32]),
    dv=st.sampled_from([1, 5, 21]),
    window=st.sampled_from([1, 3, 5, 7, 9, 13, 41]),
)
def test_numba_equals_reference(B, heads, H, W, d, dv, window):
    inputs = [
        x.detach().requires_grad_()
        for x in _inputs(B, heads, H, W, d, dv, window, dtype=torch.float32)
    ]
    grad = torch.randn_like(inputs[2])
    # Blocked in float64 stands for the reference, which it equals to 1e-9 and which is hungry.
    expected = _values_and_grads(
        [x.double() for x in inputs], grad.double(), window=window, backend="blocked"
    )
    got = _values_and_grads(inputs, grad, window=window, backend="numba")
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


@pytest.mark.parametrize("window", [1, 3, 9, 13, 41])
def test_bands_of_one_phase_share_no_keys(window):
    """Threads add to the gradients of the keys that their bands touch, without a lock."""
    rows = numba.band_rows(window)
    for H in range(1, 6 * rows):
        start = windows.window_start(torch.arange(H), H, window)
        bands = numba.cut_bands(torch.empty(1, 1, H, 1, 1), rows)
        assert [b[2] for b in bands[1:]] == [b[3] for b in bands[:-1]]
        touched = [
            (start[i].item(), start[end - 1].item() + min(window, H)) for _, _, i, end in bands
        ]
        for (_, end), (begin, _) in zip(touched, touched[2:], strict=False):
            assert end <= begin


@pytest.mark.parametrize("backend", ["blocked", "numba"])
@pytest.mark.parametrize("dtype", list(VALUE_TOLERANCE))
def test_dtypes(dtype, backend):
    if reason := why_not(backend, torch.zeros(1, 1, 1, 1, 1, dtype=dtype), window=7):
        assert "float64" in reason
        return
    inputs = _inputs(1, 2, 19, 23, 16, 16, 7)
    grad = torch.randn_like(inputs[2])
    expected = _values_and_grads(inputs, grad, window=7, backend="reference")
    got = _values_and_grads(
        [x.to(dtype) for x in inputs], grad.to(dtype), window=7, backend=backend
    )
    assert {x.dtype for x in got} == {dtype}
    errors = [golden_cases.relative_error(a, b) for a, b in zip(got, expected, strict=True)]
    assert errors[0] <= VALUE_TOLERANCE[dtype]
    assert max(errors[1:]) <= GRAD_TOLERANCE[dtype]


@pytest.mark.parametrize("backend", ON_CPU)
def test_without_bias_and_with_scale(backend):
    query, key, value, _ = _inputs(1, 1, 9, 12, 4, 4, 3, dtype=torch.float32)
    zero = torch.zeros(1, 5, 5, dtype=query.dtype)
    got = neighborhood_attention(query, key, value, window=3, scale=0.3, backend=backend)
    expected = _brute_force(query * 0.3 * 4**0.5, key, value, zero, 3)
    torch.testing.assert_close(got, expected)
    (grad,) = torch.autograd.grad(got.sum(), query)
    assert grad.shape == query.shape


@pytest.mark.parametrize("backend", ON_CPU)
def test_non_contiguous_input(backend):
    inputs = _inputs(2, 3, 17, 11, 8, 8, 5, dtype=torch.float32)
    grad = torch.randn_like(inputs[2])
    expected = _values_and_grads(inputs, grad, window=5, backend=backend)
    strided = [x.permute(0, 2, 3, 1, 4).contiguous().permute(0, 3, 1, 2, 4) for x in inputs[:3]]
    strided.append(inputs[3].transpose(1, 2).contiguous().transpose(1, 2))
    assert not strided[0].is_contiguous()
    grad = grad.transpose(2, 3).contiguous().transpose(2, 3)
    got = _values_and_grads(strided, grad, window=5, backend=backend)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_bias_reads_key_minus_query():
    """A bias that only likes the cell two to the right shifts the map by two."""
    value = torch.arange(12.0).reshape(1, 1, 1, 12, 1)
    zero = torch.zeros(1, 1, 1, 12, 4)
    bias = torch.zeros(1, 9, 9)
    bias[0, 4, 4 + 2] = 50.0
    for backend in ON_CPU:
        got = neighborhood_attention(zero, zero, value, bias, window=5, backend=backend)
        assert got.flatten()[:10].tolist() == pytest.approx(list(range(2, 12)))


@pytest.mark.parametrize("backend", ["blocked", "numba"])
@pytest.mark.parametrize("wrong", ["window_starts_late", "bias_transposed"])
def test_a_wrong_kernel_fails(wrong, backend, monkeypatch):
    """Backend and oracle disagree by far when either has a window or a bias wrong."""
    inputs = [x.float() for x in _inputs(1, 1, 12, 12, 4, 4, 5)]
    got = neighborhood_attention(*inputs, window=5, backend=backend)
    if wrong == "bias_transposed":
        inputs[3] = inputs[3].transpose(1, 2)
    else:
        monkeypatch.setattr(
            reference,
            "window_start",
            lambda position, n, window: torch.minimum(
                windows.window_start(position, n, window) + 1, position.clamp(max=n - window)
            ),
        )
    expected = neighborhood_attention(*inputs, window=5, backend="reference")
    assert golden_cases.relative_error(got, expected) > 0.05


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of opcheck's own copies
@pytest.mark.parametrize("backend", [blocked, numba])
def test_opcheck(backend):
    inputs = _inputs(1, 2, 9, 11, 4, 6, 5, dtype=torch.float32)
    torch.library.opcheck(backend.attention, (*inputs, 5, 0.5))
    torch.library.opcheck(backend.attention, (*inputs[:3], None, 5, 0.5))
    grad = torch.randn_like(inputs[2])
    torch.library.opcheck(
        backend.attention_backward,
        (grad, *(x.detach() for x in inputs), 5, 0.5),
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.parametrize("backend", [blocked, numba])
def test_compiled_code_learns_the_right_strides(backend):
    """Heads come as tiling of channels-last maps: what a fake call promises must hold for them."""
    maps = [torch.randn(1, 9, 11, 2, 4).permute(0, 3, 1, 2, 4) for _ in range(4)]
    inputs = (*maps, torch.randn(2, 9, 9), 5, 0.5)
    for operator, arguments in (
        (backend.attention, inputs[1:]),
        (backend.attention_backward, inputs),
    ):
        torch.library.opcheck(operator, arguments, test_utils="test_faketensor")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("backend", ["blocked", "numba"])
def test_compiles_whole_with_dynamic_sizes(backend):
    compiled = torch.compile(neighborhood_attention, fullgraph=True, dynamic=True)
    for H, W in ((9, 14), (17, 10), (24, 33)):
        inputs = _inputs(1, 2, H, W, 4, 4, 5, dtype=torch.float32)
        grad = torch.randn_like(inputs[2])
        expected = _values_and_grads(inputs, grad, window=5)
        output = compiled(*inputs, window=5, backend=backend)
        output.backward(grad)
        torch.testing.assert_close(output, expected[0])
        for x, grad_of_x in zip(inputs, expected[1:], strict=True):
            torch.testing.assert_close(x.grad, grad_of_x)


def test_exports_with_dynamic_sizes():
    class Operator(torch.nn.Module):
        def forward(self, query, key, value, bias):
            return neighborhood_attention(query, key, value, bias, window=5)

    inputs = [x.detach() for x in _inputs(1, 2, 13, 18, 4, 4, 5, dtype=torch.float32)]
    H, W = torch.export.Dim("H", min=9, max=512), torch.export.Dim("W", min=9, max=512)
    shape = {2: H, 3: W}
    program = torch.export.export(
        Operator(), tuple(inputs), dynamic_shapes=(shape, shape, shape, {})
    )
    assert "_attention" not in program.graph_module.code
    for H, W in ((13, 18), (29, 9), (16, 40)):
        inputs = [x.detach() for x in _inputs(1, 2, H, W, 4, 4, 5, dtype=torch.float32)]
        torch.testing.assert_close(
            program.module()(*inputs), neighborhood_attention(*inputs, window=5)
        )


def test_memory_is_bounded_by_the_block():
    """The largest tensor that a forward and backward pass makes does not grow with the map."""

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for x in torch.utils._pytree.tree_leaves(result):
                if isinstance(x, torch.Tensor):
                    self.numel = max(self.numel, x.untyped_storage().nbytes() // 4)
            return result

    inputs = [x.detach() for x in _inputs(1, 2, 136, 144, 4, 4, 5, dtype=torch.float32)]
    grad = torch.randn_like(inputs[2])
    plain = (*inputs, 5, 0.5)
    forward = blocked._forward
    backward = blocked._backward
    with pytest.MonkeyPatch.context() as patch, Largest() as largest:
        patch.setattr(blocked, "BLOCK_SCORES", 2 * 64 * 144 * 4)
        forward(*plain)
        backward(grad, *plain)
    attention_map = 2 * 136 * 144 * 25
    assert largest.numel <= 2 * max(grad.numel(), 2 * 64 * 144 * 4) < attention_map


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": 4}, "odd window"),
        ({"window": 0}, "odd window"),
        ({"key": torch.zeros(1, 2, 4, 5, 3)}, r"expected query and key \(B, heads, H, W, d\)"),
        ({"value": torch.zeros(1, 2, 5, 4, 3)}, "value"),
        ({"bias": torch.zeros(2, 3, 3)}, r"\(2, 9, 9\)"),
        ({"query": torch.zeros(2, 4, 4, 3)}, r"\(2, 4, 4, 3\)"),
        ({"backend": "cutlass"}, "known are triton, numba, blocked, reference, auto"),
        ({"value": torch.zeros(1, 2, 4, 4, 3, dtype=torch.int64)}, "floating point"),
        ({"value": torch.zeros(1, 2, 4, 4, 3, device="meta")}, "one device"),
    ],
)
def test_bad_input(change, message):
    call = dict.fromkeys(("query", "key", "value"), torch.zeros(1, 2, 4, 4, 3))
    call |= {"bias": torch.zeros(2, 9, 9), "window": 5, **change}
    with pytest.raises(ValueError, match=message):
        neighborhood_attention(**call)


def test_without_numba(monkeypatch):
    monkeypatch.setattr("pna.ops.numba._IS_INSTALLED", False)
    query = torch.zeros(1, 1, 2, 2, 2)
    assert "pip install numba" in why_not("numba", query, window=3)
    assert neighborhood_attention(query, query, query, window=3).shape == query.shape


def test_why_not():
    query = torch.zeros(1, 1, 2, 2, 2)
    assert why_not("blocked", query, window=3) is None
    assert why_not("numba", query, window=3) is None
    assert "not on meta" in why_not("numba", query.to("meta"), window=3)
    assert why_not("reference", query.to(torch.float8_e4m3fn), window=3) is None
    assert "float8" in why_not("blocked", query.to(torch.float8_e4m3fn), window=3)
    eight = query.to(torch.float8_e4m3fn)
    with pytest.raises(ValueError, match="cannot serve this call"):
        neighborhood_attention(eight, eight, eight, window=3, backend="blocked")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_onnx_with_dynamic_sizes(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")

    class Operator(torch.nn.Module):
        def forward(self, query, key, value, bias):
            return neighborhood_attention(query, key, value, bias, window=5)

    inputs = [x.detach() for x in _inputs(1, 2, 13, 18, 4, 4, 5, dtype=torch.float32)]
    shape = {2: torch.export.Dim("H", min=9, max=512), 3: torch.export.Dim("W", min=9, max=512)}
    names = ["query", "key", "value", "bias"]
    torch.onnx.export(
        Operator(),
        tuple(inputs),
        tmp_path / "operator.onnx",
        dynamo=True,
        input_names=names,
        dynamic_shapes=(shape, shape, shape, {}),
    )
    session = onnxruntime.InferenceSession(tmp_path / "operator.onnx")
    for H, W in ((13, 18), (29, 9), (16, 40)):
        inputs = [x.detach() for x in _inputs(1, 2, H, W, 4, 4, 5, dtype=torch.float32)]
        feed = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        (got,) = session.run(None, feed)
        torch.testing.assert_close(
            torch.from_numpy(got), neighborhood_attention(*inputs, window=5), rtol=1e-4, atol=1e-5
        )
