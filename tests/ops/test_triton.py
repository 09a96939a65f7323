"""The fused kernels against the oracle: on a CUDA device, or interpreted on the CPU.

Without `TRITON_INTERPRET=1` these tests need a GPU; `test_triton_offline.py` runs them interpreted.
"""

import os

import pytest
import torch

import golden_cases
from pna.ops import neighborhood_attention, triton, why_not

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"

jit = pytest.importorskip("triton").jit
tl = pytest.importorskip("triton.language")
pytestmark = (
    [pytest.mark.triton]
    if INTERPRETED
    else [
        pytest.mark.cuda,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    ]
)

VALUE_TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
GRAD_TOLERANCE = {torch.float32: 5e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}

# B, heads, H, W, d, dv, window
SHAPES = [
    (1, 1, 1, 1, 8, 8, 3),  # one cell
    (2, 2, 5, 9, 8, 5, 3),
    (1, 1, 9, 10, 16, 16, 1),
    (1, 2, 9, 10, 24, 21, 5),  # four tiles, three of them cut off
    (1, 1, 4, 17, 8, 8, 9),  # lower than the window
    (1, 2, 3, 4, 1, 1, 7),  # smaller than the window on both sides
    (1, 1, 8, 9, 96, 21, 3),
    (1, 1, 5, 9, 21, 130, 3),  # wide values alone
    (1, 1, 9, 5, 256, 128, 3),
]
SLOW_SHAPES = [
    (1, 1, 9, 24, 8, 3, 13),  # keys in windows at both edges: two passes
    (1, 1, 18, 2, 8, 8, 15),
    (1, 1, 3, 17, 8, 4, 21),  # windows that reach past two tiles
    (2, 3, 16, 16, 32, 32, 9),
    (1, 2, 33, 18, 32, 21, 13),
    (1, 1, 40, 41, 8, 8, 15),
    (1, 1, 20, 29, 8, 8, 41),
    (1, 1, 17, 16, 768, 768, 9),
    (3, 4, 7, 50, 40, 200, 7),
    (1, 2, 24, 24, 128, 96, 11),
]
# queries (H, W), keys (h, w), window, dilation
GRIDS = [
    ((6, 10), (3, 5), 3, 1),  # twice as fine; tiles lie alike
    ((9, 4), (3, 2), 5, 1),  # three times as fine and smaller than the window; no tile like another
    ((8, 4), (2, 4), 3, 1),  # equal along one axis
    ((9, 3), (4, 2), 3, 1),  # no whole ratio
    ((4, 3), (9, 6), 3, 1),  # coarser, one axis by a whole ratio
    ((5, 9), (1, 1), 3, 1),
    ((1, 1), (5, 4), 3, 1),
    ((6, 9), (6, 9), 3, 2),
    ((4, 6), (6, 9), 3, 2),  # keys of each phase, different numbers of them
    ((7, 3), (4, 5), 3, 4),  # one key of each phase
]
LARGE_GRIDS = [
    ((24, 40), (6, 10), 5, 1),
    ((32, 64), (16, 8), 5, 1),
    ((17, 33), (25, 9), 3, 1),
    ((33, 17), (17, 9), 5, 1),
    ((17, 20), (6, 7), 9, 1),
    ((17, 24), (34, 60), 3, 1),
    ((4, 5), (60, 61), 5, 1),
    ((33, 35), (33, 35), 5, 3),
    ((34, 35), (10, 14), 5, 2),
    ((20, 40), (40, 20), 3, 3),
]


@pytest.fixture(autouse=True)
def sound_interpreter(monkeypatch):
    """Triton's interpreter multiplies bit patterns of bfloat16 and drops carries in rounding.

    And up to Triton 3.6 its loops do not know that NumPy 2.4 makes no index of a (1,) array.
    """
    if not INTERPRETED:
        return
    import numpy as np
    from triton.runtime import interpreter

    def convert(x, source, target, rounding):
        if (source, target) == (tl.bfloat16, tl.float32):
            return x.astype(np.uint32) << 16
        if (source, target) == (tl.float32, tl.bfloat16):
            bits = x.astype(np.float32).view(np.uint32)
            return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
        return plain_convert(x, source, target, rounding)

    def widen(x):
        if x.dtype.scalar != tl.bfloat16:
            return x
        bits = x.data.astype(np.uint32) << 16
        return interpreter.TensorHandle(bits.view(np.float32), tl.float32)

    def dot(self, a, b, *rest):
        return plain_dot(self, widen(a), widen(b), *rest)

    def patch_tensor(tensor, *scope):
        plain_patch_tensor(tensor, *scope)
        tensor.__index__ = lambda self: self.handle.data.item()

    plain_convert = interpreter._convert_float
    plain_dot = interpreter.InterpreterBuilder.create_dot
    plain_patch_tensor = interpreter._patch_lang_tensor
    monkeypatch.setattr(interpreter, "_convert_float", convert)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", dot)
    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch_tensor)


@pytest.fixture
def large_tiles(monkeypatch):
    """The interpreter takes the same time for a large tile as for a small one."""
    if INTERPRETED:
        monkeypatch.setattr(triton, "TILE_H", 16)
        monkeypatch.setattr(triton, "TILE_W", 16)
        monkeypatch.setattr(triton, "BLOCK_N", 1024)


def _inputs(
    B, heads, H, W, d, dv, window, *, keys=None, dtype=torch.float32, has_bias=True
):  # fmt: skip
    torch.manual_seed(0)
    h, w = keys or (H, W)
    shapes = [(B, heads, H, W, d), (B, heads, h, w, d), (B, heads, h, w, dv)]
    shapes += [(heads, 2 * window - 1, 2 * window - 1)] * has_bias
    return [torch.randn(shape).to(DEVICE, dtype) for shape in shapes]


def _grad(inputs):
    """A gradient of the output."""
    query, _, value = inputs[:3]
    return torch.randn(*query.shape[:-1], value.shape[-1]).to(value)


def _values_and_grads(inputs, grad, window, backend, **options):
    copies = [x.detach().clone().requires_grad_() for x in inputs]
    output = neighborhood_attention(*copies, window=window, backend=backend, **options)
    output.backward(grad.to(output.dtype))
    return [output.detach(), *(x.grad for x in copies)]


def _errors(got, expected):
    """Error of the output and of each gradient, relative to the oracle's norm (1 where it is 0)."""
    pairs = [(a.double(), b.double()) for a, b in zip(got, expected, strict=True)]
    return [float((a - b).norm() / (b.norm() if b.norm() > 1e-6 else 1)) for a, b in pairs]


def _check(inputs, grad, window, *, dtype=torch.float32, **options):
    """Compare with the oracle in float64 on the very numbers that the kernels see."""
    exact = [x.double() for x in inputs]
    expected = _values_and_grads(exact, grad.double(), window, "reference", **options)
    got = _values_and_grads(inputs, grad, window, "triton", **options)
    assert [x.dtype for x in got[1:]] == [x.dtype for x in inputs]
    errors = _errors(got, expected)
    assert errors[0] <= VALUE_TOLERANCE[dtype]
    assert max(errors[1:]) <= GRAD_TOLERANCE[dtype]


@pytest.mark.usefixtures("large_tiles")
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[] if case.endswith("_w3") else [pytest.mark.slow])
        for case in golden_cases.names("neighborhood_attention")
    ],
)
def test_golden(case):
    tensors = {name: x.to(DEVICE) for name, x in golden_cases.load(case)[0].items()}
    inputs = [tensors[name] for name in ("query", "key", "value", "bias")]
    window = (tensors["bias"].shape[-1] + 1) // 2
    got = _values_and_grads(inputs, tensors["grad_output"], window, "triton")
    names = ("output", "grad_query", "grad_key", "grad_value", "grad_bias")
    errors = _errors(got, [tensors[name] for name in names])
    assert errors[0] <= 2e-5
    assert max(errors[1:]) <= 1e-4


@pytest.mark.parametrize(
    "shape", SHAPES + [pytest.param(shape, marks=pytest.mark.slow) for shape in SLOW_SHAPES]
)
def test_equals_reference(shape):
    inputs = _inputs(*shape)
    _check(inputs, torch.randn_like(inputs[2]), shape[-1])


@pytest.mark.parametrize(("queries", "keys", "window", "dilation"), GRIDS)
def test_equals_reference_across_grids(queries, keys, window, dilation):
    inputs = _inputs(1, 2, *queries, 8, 5, window, keys=keys)
    _check(inputs, _grad(inputs), window, dilation=dilation)


@pytest.mark.slow
@pytest.mark.usefixtures("large_tiles")
@pytest.mark.parametrize(("queries", "keys", "window", "dilation"), LARGE_GRIDS)
def test_equals_reference_across_large_grids(queries, keys, window, dilation):
    inputs = _inputs(2, 1, *queries, 8, 5, window, keys=keys)
    _check(inputs, _grad(inputs), window, dilation=dilation)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("queries", "keys", "window", "dilation"), GRIDS)
def test_half_precision_across_grids(queries, keys, window, dilation, dtype):
    inputs = _inputs(2, 1, *queries, 24, 21, window, keys=keys, dtype=dtype)
    _check(inputs, _grad(inputs), window, dtype=dtype, dilation=dilation)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(40, 130), (256, 128)])
def test_wide_heads_across_grids(shape):
    inputs = _inputs(1, 1, 9, 6, *shape, 3, keys=(4, 3))
    _check(inputs, _grad(inputs), 3)


def test_half_precision_twice_as_fine():
    inputs = _inputs(1, 1, 8, 10, 16, 16, 3, keys=(4, 5), dtype=torch.float16)
    _check(inputs, _grad(inputs), 3, dtype=torch.float16)


def test_whole_coarser_map_without_bias():
    inputs = _inputs(1, 2, 6, 5, 8, 8, 5, keys=(3, 4), has_bias=False)
    _check(inputs, _grad(inputs), None)


@pytest.mark.slow
def test_axes_whose_positions_need_64_bits(monkeypatch):
    if INTERPRETED:  # for few programs
        for name, size in (("TILE_H", 1), ("TILE_W", 256), ("BLOCK_N", 512)):
            monkeypatch.setattr(triton, name, size)
    inputs = _inputs(1, 1, 1, 33500, 4, 3, 3, keys=(1, 33000))
    outputs = [
        neighborhood_attention(*inputs, window=3, backend=x) for x in ("triton", "reference")
    ]
    assert _errors(outputs[:1], outputs[1:])[0] <= VALUE_TOLERANCE[torch.float32]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_half_precision_in_every_shape(shape, dtype):
    inputs = _inputs(*shape, dtype=dtype)
    _check(inputs, torch.randn_like(inputs[2]), shape[-1], dtype=dtype)


@pytest.mark.parametrize(
    "dtype", [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.slow)]
)
def test_half_precision(dtype):
    inputs = _inputs(1, 1, 9, 10, 32, 32, 7, dtype=dtype)
    _check(inputs, torch.randn_like(inputs[2]), 7, dtype=dtype)


def test_without_bias_and_with_scale():
    inputs = _inputs(1, 2, 9, 7, 8, 8, 5, has_bias=False)
    _check(inputs, torch.randn_like(inputs[2]), 5, scale=0.7)


def test_logits_as_values_under_autocast():
    """Carried logits: queries and keys come from a half-precision layer, values and bias do not."""
    query, key, value, bias = _inputs(1, 1, 9, 6, 16, 21, 5)
    query, key = query.bfloat16(), key.bfloat16()
    inputs, grad = [query, key, value, bias], torch.randn_like(value)
    with torch.autocast(DEVICE, torch.bfloat16):
        output = neighborhood_attention(*inputs, window=5, backend="triton")
        assert output.dtype == torch.float32
        _check(inputs, grad, 5, dtype=torch.bfloat16)


def test_queries_and_keys_of_different_dtypes():
    query, key, value, bias = _inputs(1, 1, 5, 6, 16, 4, 3)
    _check([query, key.half(), value, bias], torch.randn_like(value), 3, dtype=torch.float16)


def test_values_in_float64():
    query, key, value, bias = _inputs(1, 1, 5, 6, 16, 4, 3)
    with pytest.raises(ValueError, match=r"got query.dtype=torch.float32, value.dtype=.*float64"):
        neighborhood_attention(query, key, value.double(), bias, window=3, backend="triton")


def test_strides_as_they_come():
    inputs = _inputs(1, 2, 5, 9, 8, 8, 5)
    grad = torch.ones((), device=DEVICE).expand(inputs[2].shape)  # all strides are 0
    strided = [x.permute(0, 2, 3, 1, 4).contiguous().permute(0, 3, 1, 2, 4) for x in inputs[:2]]
    strided.append(inputs[2].transpose(3, 4).contiguous().transpose(3, 4))
    strided.append(inputs[3].transpose(1, 2).contiguous().transpose(1, 2))
    assert not any(x.is_contiguous() for x in strided)
    output = neighborhood_attention(*strided, window=5, backend="triton")
    assert output.stride() == strided[2].stride()
    _check(strided, grad, 5)


@pytest.mark.slow
@pytest.mark.parametrize("keys", [(9, 7), (5, 3)])
def test_twice_the_same_bits(keys):
    inputs = _inputs(2, 1, 9, 7, 16, 16, 5, keys=keys)
    grad = _grad(inputs)
    first, second = (_values_and_grads(inputs, grad, 5, "triton") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("queries", "keys", "programs"),
    [
        ((9, 9), (9, 9), 10),  # four tiles in two splits
        pytest.param((16, 16), (8, 2), 6, marks=pytest.mark.slow),
        # No tile like another: launches of two.
        pytest.param((9, 10), (4, 5), 3, marks=pytest.mark.slow),
    ],
)
def test_bias_is_summed_over_splits_of_tiles(queries, keys, programs, monkeypatch):
    monkeypatch.setattr(triton, "BIAS_PROGRAMS", programs)
    inputs = _inputs(2, 1, *queries, 16, 16, 3, keys=keys)
    _check(inputs, _grad(inputs), 3)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of opcheck's own copies
@pytest.mark.parametrize("keys", [(3, 4), pytest.param((2, 5), marks=pytest.mark.slow)])
def test_opcheck(keys):
    inputs = [x.requires_grad_() for x in _inputs(1, 1, 3, 4, 4, 6, 3, keys=keys)]
    torch.library.opcheck(triton.triton_attention, (*inputs, 3, 1, 0.5))
    torch.library.opcheck(triton.triton_attention, (*inputs[:3], None, 3, 2, 0.5))
    plain = [x.detach() for x in inputs]
    output, lse = triton.triton_attention(*plain, 3, 1, 0.5)
    torch.library.opcheck(
        triton.triton_attention_backward,
        (torch.randn_like(output), *plain, output, lse, 3, 1, 0.5),
        test_utils=("test_schema", "test_faketensor"),
    )


def _is_exporting(x):
    return x + torch.compiler.is_exporting()


def test_compiles_whole_with_dynamic_sizes():
    backend = "aot_eager" if INTERPRETED else "inductor"
    compiled = torch.compile(neighborhood_attention, fullgraph=True, dynamic=True, backend=backend)
    if torch.compile(_is_exporting, backend="eager")(torch.zeros(1)).item():
        # torch 2.9 takes every compilation for an export, where Triton is refused.
        with pytest.raises(torch._dynamo.exc.Unsupported, match="an exported graph has to run"):
            compiled(*_inputs(1, 2, 5, 9, 4, 4, 3), window=3, backend="triton")
        return
    for queries, keys in (((5, 9), None), ((9, 4), None), ((6, 8), (3, 4)), ((5, 6), (7, 2))):
        inputs = [x.requires_grad_() for x in _inputs(1, 2, *queries, 4, 4, 3, keys=keys)]
        grad = _grad(inputs)
        expected = _values_and_grads(inputs, grad, 3, "reference")
        output = compiled(*inputs, window=3, backend="triton")
        output.backward(grad)
        assert max(_errors([output.detach(), *(x.grad for x in inputs)], expected)) < 1e-5


def test_auto_leaves_it_out():
    """Until a CUDA row stands under the results, nobody gets it without naming it."""
    inputs = _inputs(1, 1, 3, 4, 4, 4, 3)
    assert why_not("triton", inputs[0]) is None
    output = neighborhood_attention(*[x.requires_grad_() for x in inputs], window=3)
    assert "triton_attention" not in output.grad_fn.name()


def test_compiled_code_learns_the_right_strides():
    """Heads come as views of channels-last maps: what a fake call promises must hold for them."""
    x = torch.randn(1, 3, 4, 2, 12, device=DEVICE).permute(0, 3, 1, 2, 4)
    query, key, value = x.chunk(3, -1)
    inputs = (query, key, value, torch.randn(2, 5, 5, device=DEVICE))
    output, lse = triton.triton_attention(*inputs, 3, 1, 0.5)
    for operator, arguments in (
        (triton.triton_attention, inputs),
        (triton.triton_attention_backward, (output, *inputs, output, lse)),
    ):
        torch.library.opcheck(operator, (*arguments, 3, 1, 0.5), test_utils="test_faketensor")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Input #")  # that it is no float64
def test_gradcheck_in_float32():
    inputs = [x.requires_grad_() for x in _inputs(1, 1, 5, 6, 4, 3, 3)]
    assert torch.autograd.gradcheck(
        lambda *x: neighborhood_attention(*x, window=3, backend="triton"),
        inputs,
        eps=1e-2,
        atol=5e-3,
        rtol=5e-3,
        fast_mode=True,
    )


@jit
def late_start(position, N, n, WINDOW: tl.constexpr, DILATION: tl.constexpr, BITS: tl.constexpr):
    return tl.maximum(tl.minimum(position - WINDOW // 2 + 1, n - WINDOW), 0)


@jit
def last_query_inside(
    key, N, n, WINDOW: tl.constexpr, DILATION: tl.constexpr, BITS: tl.constexpr
):  # fmt: skip
    """Forgets that windows shift at the edge."""
    return tl.minimum(key + WINDOW // 2, N - 1)


@jit
def nearest_key_above(position, N, n, BITS: tl.constexpr):
    """Takes the lower edge of the next query for the center of this one."""
    return tl.minimum((position + 1) * n // N, n - 1)


@jit
def nearest_entry(position, N, n, DILATION: tl.constexpr, BITS: tl.constexpr):
    """Reads no second entry of the bias table."""
    return (2 * position + 1) * n // (2 * N), 0 * position, (0 * position).to(tl.float32)


@pytest.mark.slow
@pytest.mark.skipif(not INTERPRETED, reason="a compiled kernel cannot be exchanged")
@pytest.mark.parametrize(
    ("name", "wrong", "keys"),
    [
        ("window_start", late_start, (9, 12)),
        ("last_query", last_query_inside, (9, 12)),
        ("bias", None, (9, 12)),
        ("nearest_key", nearest_key_above, (6, 6)),
        ("_table_place", nearest_entry, (6, 6)),
    ],
)
def test_a_wrong_kernel_fails(name, wrong, keys, monkeypatch):
    from pna.ops import triton_kernels

    inputs = _inputs(1, 1, 9, 12, 8, 8, 5, keys=keys)
    grad = _grad(inputs)
    expected = _values_and_grads(inputs, grad, 5, "reference")
    if name == "bias":
        inputs[3] = inputs[3].transpose(1, 2)
    else:
        monkeypatch.setattr(triton_kernels, name, wrong)
    errors = _errors(_values_and_grads(inputs, grad, 5, "triton"), expected)
    assert max(errors) > 0.05
    if name == "last_query":  # the forward pass does not depend on it
        assert errors[0] < 1e-5
        assert min(errors[2], errors[3]) > 0.01
