"""How alike two small images are to the eye: structural similarity."""

from __future__ import annotations

from numpy.lib.stride_tricks import sliding_window_view

from fedkd.audit.intervals import Floats


def ssim(one: Floats, other: Floats) -> float:
    """Return the structural similarity of two images in [0, 1], ``[channels, height, width]``.

    Wang et al. 2004, with windows of 7 x 7 pixels of equal weight, inside the image only; the mean
    over windows and channels.
    """
    side = min(7, *one.shape[1:])

    def mean(image: Floats) -> Floats:
        return sliding_window_view(image, (side, side), axis=(1, 2)).mean(axis=(-2, -1))

    a, b = mean(one), mean(other)
    correction = side**2 / max(1, side**2 - 1)
    spread_a = correction * (mean(one * one) - a * a)
    spread_b = correction * (mean(other * other) - b * b)
    shared = correction * (mean(one * other) - a * b)
    bright, contrast = 0.01**2, 0.03**2
    top = (2 * a * b + bright) * (2 * shared + contrast)
    return float((top / ((a * a + b * b + bright) * (spread_a + spread_b + contrast))).mean())
