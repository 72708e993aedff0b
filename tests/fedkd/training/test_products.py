"""Products are the same by either library, and the faster one is called where it is faster."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fedkd.training import products
from fedkd.training.products import QuickLinear, blend_product, blend_products, linear, linear_each

LARGE, SMALL = (128, 300, 110), (3, 7, 5)
"""Rows, numbers read and numbers made: of more multiplications than it takes, and of fewer."""


BOTH = hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""Whether this torch has oneDNN; one without never calls it."""


@pytest.fixture(params=[True, False] if BOTH else [False])
def faster(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(products, "_ONEDNN_MAKES_MORE", request.param)
    return request.param


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    made: list[torch.dtype] = []
    real = products._by_onednn

    def counted(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        made.append(inputs.dtype)
        return real(inputs, weight, bias)

    monkeypatch.setattr(products, "_by_onednn", counted)
    return made


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _close(found: Tensor, exact: Tensor) -> None:
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("sizes", [LARGE, SMALL])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("turned", [True, False])
def test_linear(faster, calls, sizes, with_bias, turned):
    n, read, made = sizes
    inputs = _draw(read, n).t() if turned else _draw(n, read)
    weight = _draw(read, made, seed=1).t() if turned else _draw(made, read, seed=1)
    bias = _draw(made, seed=2) if with_bias else None
    exact = inputs.double() @ weight.double().t() + (0 if bias is None else bias.double())
    _close(linear(inputs, weight, bias), exact)
    assert len(calls) == (faster and sizes == LARGE)


def test_positions_have_rows_of_their_own(faster, calls):
    inputs, weight = _draw(8, 16, 300), _draw(110, 300, seed=1)
    _close(linear(inputs, weight), inputs.double() @ weight.double().t())
    assert len(calls) == faster


@pytest.mark.parametrize("sizes", [LARGE, SMALL])
def test_linear_of_each_client(faster, calls, sizes):
    n, read, made = sizes
    inputs, bias = _draw(3, n, read), _draw(3, made, seed=2)
    rows = _draw(3, made * read + 9, seed=1)  # as parameters lie: apart, and at any place
    weight = rows[:, 4 : 4 + made * read].view(3, made, read)
    exact = inputs.double() @ weight.double().transpose(1, 2) + bias.double()[:, None]
    _close(linear_each(inputs, weight, bias), exact)
    assert len(calls) == 3 * (faster and sizes == LARGE)


@pytest.mark.parametrize("sizes", [LARGE, SMALL])
@pytest.mark.parametrize(("keep", "scale"), [(0, 1), (0, 0.5), (1, -0.1), (0.9, 1), (0.9, -2)])
def test_products_are_blended_in(faster, calls, sizes, keep, scale):
    n, read, made = sizes
    slopes, inputs = _draw(2, n, made), _draw(2, n, read, seed=1)
    there = _draw(2, made * read + 9, seed=2)
    if keep == 0:
        there.fill_(float("nan"))  # it may hold anything
    exact = scale * (slopes.double().transpose(1, 2) @ inputs.double())
    if keep:
        exact += keep * there[:, 4 : 4 + made * read].view(exact.shape).double()
    for together in (True, False):
        rows = there.clone()
        out = rows[:, 4 : 4 + made * read].view(2, made, read)
        if together:
            blend_products(out, slopes.transpose(1, 2), inputs, keep=keep, scale=scale)
        else:
            for one, slope, x in zip(out, slopes, inputs, strict=True):
                blend_product(one, slope.t(), x, keep=keep, scale=scale)
        _close(out, exact)
        around = torch.cat([rows[:, :4], rows[:, 4 + made * read :]], dim=1)
        before = torch.cat([there[:, :4], there[:, 4 + made * read :]], dim=1)
        assert torch.equal(around.isnan(), before.isnan())
        assert torch.equal(around.nan_to_num(), before.nan_to_num())
    assert len(calls) == 4 * (faster and sizes == LARGE)


@pytest.mark.parametrize("bias", [_draw(220)[::2], _draw(1).expand(110)])
def test_a_bias_lies_anywhere(faster, calls, bias):
    inputs, weight = _draw(128, 300), _draw(110, 300, seed=1)
    exact = inputs.double() @ weight.double().t() + bias.double()
    _close(linear(inputs, weight, bias), exact)
    assert len(calls) == faster


def test_what_is_blended_in_pays_later(calls, monkeypatch):
    monkeypatch.setattr(products, "_ONEDNN_MAKES_MORE", BOTH)
    inputs, weight = _draw(100, 300), _draw(100, 300, seed=1)
    linear(inputs, weight)
    assert len(calls) == BOTH
    blend_product(torch.zeros(100, 100), inputs, weight.t(), keep=0, scale=1)
    assert len(calls) == BOTH


@pytest.mark.parametrize(
    ("level", "vendor", "expected"),
    [
        ("AVX512", "AuthenticAMD", True),
        ("AVX512", "GenuineIntel", False),
        ("AVX2", "AuthenticAMD", False),
    ],
)
def test_onednn_is_for_what_mkl_leaves_unused(tmp_path, monkeypatch, level, vendor, expected):
    about = tmp_path / "cpuinfo"
    monkeypatch.setattr(products, "_ABOUT", about)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: level)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    assert not products._others_have_avx512()  # who made it is not known
    about.write_text(f"processor : 0\nvendor_id : {vendor}\n")
    assert products._others_have_avx512() == (expected and BOTH)


def test_other_numbers_are_multiplied_by_torch(calls, monkeypatch):
    monkeypatch.setattr(products, "_ONEDNN_MAKES_MORE", True)
    n, read, made = LARGE
    for dtype in (torch.float64, torch.bfloat16):
        linear(_draw(n, read).to(dtype), _draw(made, read).to(dtype))
    assert calls == []


def test_a_product_of_what_is_not_finite_is_not(faster):
    n, read, made = LARGE
    inputs = _draw(n, read)
    inputs[3, 4], inputs[5, 6] = float("nan"), float("inf")
    found = linear(inputs, _draw(made, read, seed=1))
    assert found[3].isnan().all()
    assert not found[5].isfinite().any()
    assert found[[0, 1, 2, 4, 6]].isfinite().all()


@pytest.mark.parametrize("with_bias", [True, False])
def test_a_quick_layer_is_the_layer(faster, calls, with_bias):
    n, read, made = LARGE
    layer, inputs = nn.Linear(read, made, bias=with_bias), _draw(n, read)
    state = torch.get_rng_state()
    quick = QuickLinear(layer)
    assert torch.equal(state, torch.get_rng_state())
    assert quick.weight is layer.weight
    assert quick.bias is layer.bias
    assert repr(quick).endswith(f"(in_features={read}, out_features={made}, bias={with_bias})")
    with torch.no_grad():
        torch.testing.assert_close(quick(inputs), layer(inputs), rtol=1e-5, atol=1e-5)
    assert len(calls) == faster
    assert torch.equal(quick(inputs), layer(inputs))  # autograd watches
    (found,) = torch.autograd.grad(quick(inputs).sum(), [layer.weight])
    torch.testing.assert_close(found, inputs.sum(dim=0).expand(made, read))
    assert len(calls) == faster
