"""A client speaks about rows that are dense in its own data, compared with uniform noise.

The client selector of Selective-FD, Shao et al. 2024, https://arxiv.org/abs/2304.01731, by the
density-ratio estimator KuLSIF, Kanamori et al. 2012, https://doi.org/10.1007/s10994-011-5266-3.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from fedkd.features.base import Features
from fedkd.features.pca import PCA
from fedkd.filters.base import ClientView, Filter, FilterState, filters
from fedkd.filters.geometry import calibration_split

_BLOCK = 4096


def gaussian_kernel(left: Tensor, right: Tensor, *, width: Tensor) -> Tensor:
    """Return exp(-|x - y|^2 / (2 width^2)) of all pairs, float64 ``[left, right]``."""
    distances = torch.cdist(left.double(), right.double())
    return torch.exp(-(distances / width).square() / 2)


def solve_kulsif(
    auxiliary: Tensor, known: Tensor, *, width: Tensor, regularization: float
) -> Tensor:
    """Return KuLSIF's coefficients of the auxiliary rows, float64 ``[n]``.

    alpha = -(K11 / n + lambda I)^-1 K12 1 / (n m lambda): one linear system of size n.

    Args:
        auxiliary: ``[n, d]``, rows drawn from the denominator's density.
        known: ``[m, d]``, rows drawn from the numerator's density.
        width: ``[]``, of the Gaussian kernel, in units of distance.
        regularization: lambda, above 0.
    """
    n, m = auxiliary.shape[0], known.shape[0]
    k11 = gaussian_kernel(auxiliary, auxiliary, width=width)
    k12 = gaussian_kernel(auxiliary, known, width=width)
    identity = torch.eye(n, dtype=torch.float64, device=auxiliary.device)
    system = k11 / n + regularization * identity
    right_side = -k12.sum(dim=1) / (n * m * regularization)
    return torch.linalg.solve(system, right_side)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def density_ratio(rows: Tensor, state: FilterState) -> Tensor:
    """Return r(x) = sum alpha_i k(x, auxiliary_i) + sum k(x, known_j) / (m lambda), ``[n]``.

    Args:
        rows: ``[n, d]``; the ratios come in float64.
        state: ``auxiliary``, ``known``, ``alpha``, ``width`` and ``regularization``.
    """
    scale = 1 / (max(state["known"].shape[0], 1) * state["regularization"])
    blocks: list[Tensor] = []
    for start in range(0, max(rows.shape[0], 1), _BLOCK):
        block = rows[start : start + _BLOCK]
        near_auxiliary = gaussian_kernel(block, state["auxiliary"], width=state["width"])
        near_known = gaussian_kernel(block, state["known"], width=state["width"])
        blocks.append(near_auxiliary @ state["alpha"] + near_known.sum(dim=1) * scale)
    return torch.cat(blocks)


@filters.register("kulsif")
@dataclass(frozen=True)
class KuLSIF(Filter):
    """Keep a row iff its density ratio exceeds a quantile of held-out private ratios.

    There is no rule about one's own contributions. The denominator is uniform over the box that
    the proxy features span; in more than a few dimensions its rows lie far from all data, and the
    ratio is then a kernel density estimate of the known rows. The released demo multiplies by a
    matrix where it should solve; here the system is solved. A client with too few rows, or with
    none that was not contributed, keeps nothing.

    Privacy: which rows are kept tells about the private data, and the state holds up to
    ``max_known`` private rows (as features). No formal guarantee.

    Attributes:
        features: space of the densities.
        n_auxiliary: rows drawn from the uniform density.
        width: of the kernel, in feature distance; None is the median between known rows.
        regularization: lambda; None is ``n_auxiliary ** -0.5``.
        max_known: private rows that stand for the client's density.
        quantile: of held-out private ratios, in (0, 1]; here large keeps little.
        calibration_fraction: share of the uncontributed private rows held out.
    """

    features: Features = field(default_factory=PCA)
    n_auxiliary: Annotated[int, Ge(1)] = 250
    width: Annotated[float, Gt(0)] | None = None
    regularization: Annotated[float, Gt(0)] | None = None
    max_known: Annotated[int, Ge(2)] = 270
    quantile: Annotated[float, Gt(0), Le(1)] = 0.25
    calibration_fraction: Annotated[float, Gt(0), Lt(1)] = 0.1

    @property
    def space(self) -> Features:
        """The space of the densities."""
        return self.features

    def fit(self, view: ClientView, *, rng: torch.Generator) -> FilterState:
        """Return what :func:`density_ratio` needs, and the ``threshold`` ``[]``; float64."""
        auxiliary = self._uniform(view.proxy, rng)
        split = calibration_split(view, fraction=self.calibration_fraction, rng=rng)
        fitted, held_out = split or (view.private[:0], view.private[:0])
        order = torch.randperm(fitted.shape[0], generator=rng).to(fitted.device)
        known = fitted[order[: self.max_known]].double()
        width = known.new_tensor(self.width) if self.width else _median_distance(known)
        penalty = self.regularization or self.n_auxiliary**-0.5
        state = {"auxiliary": auxiliary, "known": known, "width": width}
        state["regularization"] = known.new_tensor(penalty)
        if split is None:
            return state | {
                "alpha": known.new_zeros(self.n_auxiliary),
                "threshold": known.new_tensor(torch.inf),
            }
        state["alpha"] = solve_kulsif(auxiliary, known, width=width, regularization=penalty)
        ratios = density_ratio(held_out, state)
        return state | {"threshold": torch.quantile(ratios, self.quantile)}

    def weights(self, state: FilterState, view: ClientView) -> Tensor:
        """Return ones for kept rows, zeros for all others."""
        return (density_ratio(view.proxy, state) > state["threshold"]).float()

    def _uniform(self, proxy: Tensor, rng: torch.Generator) -> Tensor:
        """Draw from the box of the proxy features, float64 ``[n_auxiliary, d]``."""
        low, high = proxy.double().aminmax(dim=0)
        shape = (self.n_auxiliary, proxy.shape[1])
        draws = torch.rand(shape, generator=rng, dtype=torch.float64).to(proxy.device)
        return low + (high - low) * draws


def _median_distance(rows: Tensor) -> Tensor:
    """Return the median over pairs, ``[]``; 1 when there is no pair or the rows coincide."""
    distances = torch.pdist(rows)
    median = distances.median() if distances.numel() else rows.new_zeros(())
    return median if median > 0 else rows.new_ones(())
