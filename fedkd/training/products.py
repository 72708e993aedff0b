"""Matrix products of float32 on a processor, by whichever of torch's two libraries makes more.

torch multiplies with MKL, which leaves AVX-512 unused on processors that are not Intel's. oneDNN,
which torch has for convolutions, uses it: on an EPYC it multiplies large matrices twice as fast.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional


class QuickLinear(nn.Linear):
    """``nn.Linear``, faster where autograd does not watch.

    Args:
        like: what it takes the place of; its weight and bias are this one's, too.
    """

    def __init__(self, like: nn.Linear) -> None:
        nn.Module.__init__(self)  # nn.Linear's would draw numbers
        self.in_features, self.out_features = like.in_features, like.out_features
        self.weight, self.bias = like.weight, like.bias
        self.train(like.training)

    def forward(self, input: Tensor) -> Tensor:
        """Return ``[*, made]`` of ``[*, read]``."""
        if torch.is_grad_enabled():
            return super().forward(input)
        return linear(input, self.weight, self.bias)


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``inputs @ weight.T + bias``, ``[*, made]``, of ``[*, read]`` and ``[made, read]``.

    Nothing is kept for autograd.
    """
    if _pays(inputs, weight, from_=_ALONE):
        return _by_onednn(inputs, weight, bias)
    return functional.linear(inputs, weight, bias)


def linear_each(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the same of each client, which is the first axis of all of them."""
    if _pays(inputs[0], weight[0], from_=_TOGETHER):
        return torch.stack([_by_onednn(*one) for one in zip(inputs, weight, bias, strict=True)])
    return torch.baddbmm(bias[:, None], inputs, weight.transpose(1, 2))


def blend(out: Tensor, more: Tensor, *, keep: float, scale: float) -> None:
    """Make ``out`` ``keep`` times itself plus ``scale`` times ``more``."""
    if keep == 0 and scale == 1:
        out.copy_(more)
    elif keep == 0:
        torch.mul(more, scale, out=out)
    elif keep == 1:
        out.add_(more, alpha=scale)
    else:
        out.mul_(keep).add_(more, alpha=scale)


def blend_product(out: Tensor, left: Tensor, right: Tensor, *, keep: float, scale: float) -> None:
    """Blend ``left @ right`` in, ``[rows, n]`` times ``[n, columns]``."""
    if _pays(left, right.t(), from_=_TOGETHER):
        blend(out, _by_onednn(left, right.t(), None), keep=keep, scale=scale)
    else:
        out.addmm_(left, right, beta=keep, alpha=scale)


def blend_products(out: Tensor, left: Tensor, right: Tensor, *, keep: float, scale: float) -> None:
    """Do so for each client; where they lie apart, torch does small ones faster together."""
    if _pays(left[0], right[0].t(), from_=_TOGETHER):
        for one in zip(out, left, right, strict=True):
            blend_product(*one, keep=keep, scale=scale)
    elif out[0].numel() < _SMALL:
        blend(out, torch.bmm(left, right), keep=keep, scale=scale)
    else:
        out.baddbmm_(left, right, beta=keep, alpha=scale)


def _pays(inputs: Tensor, weight: Tensor, *, from_: int) -> bool:
    """Return whether oneDNN is faster, from so many multiplications on."""
    return (
        _ONEDNN_MAKES_MORE
        and inputs.numel() * len(weight) >= from_
        and inputs.dtype == torch.float32
        and inputs.is_cpu
    )


def _by_onednn(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if bias is not None:
        bias = bias.contiguous()  # how it lies is not asked
    made: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return made


def _others_have_avx512() -> bool:
    """Return whether MKL leaves half of this processor unused, and torch has what does not."""
    return (
        torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and _ABOUT.exists()
        and "GenuineIntel" not in _ABOUT.read_text(encoding="utf-8")
    )


_ABOUT = Path("/proc/cpuinfo")
_ONEDNN_MAKES_MORE = _others_have_avx512()
_ALONE, _TOGETHER = 2_000_000, 4_000_000
"""Multiplications from which on it pays: of one product, and of those of which torch makes several
at once, or blends in without another pass."""
_SMALL = 16_384
"""Numbers of a client's matrix below which a call for each client costs more than a copy."""
