"""How noisy a noisy vote is: what a privacy budget leaves of it, before anybody has trained."""

from __future__ import annotations

import math


def noise_per_sum(noise_multiplier: float, *, n_rows: int) -> float:
    """Return the standard deviation of the noise on each class of each row's sum over clients.

    Each client gives a row at most one vote, or a probability vector. Replacing the client moves a
    row's sums by at most sqrt(2) in L2 norm, and those of all ``n_rows`` by sqrt(2 n_rows), which
    ``noise_multiplier`` is relative to.
    """
    return noise_multiplier * math.sqrt(2 * n_rows)


def unanimous_error(n_clients: int, *, noise_std: float, n_classes: int) -> float:
    """Return the chance that a vote on which all clients agree comes out wrong.

    Exact up to quadrature: 1 - E[Phi(n_clients / noise_std + x) ^ (n_classes - 1)] for a standard
    normal x, the noise of the class that has all the votes. Real clients disagree, so it is the
    least error that any federation of this size can have.

    Args:
        n_clients: votes for the right class; all others have none.
        noise_std: standard deviation of the noise on each count; see :func:`noise_per_sum`.
        n_classes: how many classes there are.
    """
    from scipy.integrate import quad
    from scipy.special import log_ndtr

    if noise_std <= 0:
        return 0.0
    lead = n_clients / noise_std

    def beaten(x: float) -> float:
        density = math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
        return -density * math.expm1((n_classes - 1) * float(log_ndtr(lead + x)))

    chance, _ = quad(beaten, -40, 40, points=[-min(lead / 2, 39), 0], epsabs=1e-12, limit=200)
    return float(chance)
