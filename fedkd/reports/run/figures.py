"""Draw the pictures of a run's report: curves by round, bytes, and the consensus against the truth.

They are small enough to be read at the width of a phone without scrolling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fedkd.reports.figures import (
    ACCURACY,
    BITS,
    RATES,
    draw_bytes,
    draw_curve,
    draw_rates,
)
from fedkd.reports.page import Html, figure
from fedkd.reports.pictures import drawing, svg
from fedkd.reports.plotting import PALETTE, finish, marker, new_figure, settle
from fedkd.reports.run.confusion import MATRIX, Confusion

WIDTH, HEIGHT = 660, 450
"""Pixels of a figure at 150 dots an inch: 4.4 by 3 inches."""
THIN = 100
"""Up to so many clients have a line each."""
NAMED = 40
"""Up to so many classes, every class is named at the axes."""


def curve_figures(table: Any) -> list[Html]:
    """Return accuracy and, of text, bits per character by round; nothing when not measured."""
    measured, found = set(table["name"]), list[Html]()
    for curve in (BITS, ACCURACY):
        of_curve = {curve.name, f"teacher_{curve.name}", f"server_{curve.name}"}
        if of_curve & measured:
            n_clients = table[table["name"] == curve.name]["client"].nunique()
            single = "a thin line for each client, " if 1 < n_clients <= THIN else ""
            caption = (
                f"{_first_up(curve.text)}, after each round's training: {single}the band reaches "
                "from the lowest to the highest client."
            )
            picture = _picture(
                lambda axes, curve=curve: draw_curve(axes, table, curve, thin=THIN),
                name=curve.name.replace("_", "-"),
                description=f"{curve.text} by round",
            )
            found.append(figure(picture, caption=caption))
    return found


def proxy_figures(table: Any) -> list[Html]:
    """Return coverage with the filter's rates, and keepers per row; nothing when not measured."""
    measured, found = set(table["name"]), list[Html]()
    rates = [name for name in RATES if name in measured]
    if rates:
        picture = _picture(
            lambda axes: draw_rates(axes, table, rates),
            name="coverage",
            description="coverage and the filter's rates by round",
        )
        found.append(figure(picture, caption=_rates_caption(rates)))
    if "keepers_per_row" in measured:
        picture = _picture(
            lambda axes: _draw_keepers(axes, table),
            name="keepers",
            description="keepers of a proxy row by round",
        )
        caption = "Keepers: clients that kept a row, mean over all proxy rows."
        found.append(figure(picture, caption=caption))
    return found


def bytes_figure(table: Any) -> Html:
    """Return the serialized bytes of every round by kind and direction; nothing without any."""
    if not table["name"].str.startswith("bytes_").any():
        return Html("")
    picture = _picture(
        lambda axes: draw_bytes(axes, table),
        name="bytes",
        description="kilobytes a round by kind and direction",
    )
    caption = (
        "kB a round, all clients together; ↑ to the server, ↓ to the clients. Round 0 sets up."
    )
    return figure(picture, caption=caption)


def confusion_figure(confusion: Confusion) -> Html:
    """Return the shares of each true class's covered rows, by the class that the consensus says."""
    picture = _picture(
        lambda axes: _draw_confusion(axes, confusion),
        name="confusion",
        description="what the consensus says of rows of each true class",
        square=True,
    )
    caption = (
        f"Round {confusion.round}: of the covered rows of each true class, the percentage that "
        "the consensus gives to each class. Rows without a keeper are not counted."
    )
    if len(confusion.counts) > NAMED:
        caption += " Classes stand by number."
    return figure(picture, caption=caption)


def _picture(
    draw: Callable[[Any], None], *, name: str, description: str, square: bool = False
) -> Html:
    with drawing():
        made = new_figure(WIDTH, WIDTH if square else HEIGHT)
        axes = made.add_subplot()
        draw(axes)
        axes.set_title("")
        settle(made)
        return svg(made, name=name, description=description)


def _draw_keepers(axes: Any, table: Any) -> None:
    keepers = table[table["name"] == "keepers_per_row"].set_index("round")["value"]
    axes.plot(keepers.index, keepers, color=PALETTE[0], marker=marker(keepers), markersize=4)
    axes.set_ylim(bottom=0)
    finish(axes, "")


def _draw_confusion(axes: Any, confusion: Confusion) -> None:
    counts = confusion.counts
    covered = counts.sum(axis=1, keepdims=True)
    shares = 100 * counts / covered.clip(min=1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100, interpolation="none")
    axes.grid(visible=False)
    axes.set_xlabel("the consensus says")
    axes.set_ylabel("true class")
    n_classes = len(counts)
    if n_classes <= NAMED:
        names = [_short(word) for word in confusion.words]
        upright = 90 if max(len(name) for name in names) > 2 else 0
        for axis, rotation in ((axes.xaxis, upright), (axes.yaxis, 0)):
            axis.set_ticks(range(n_classes), names)
            axis.set_tick_params(length=0, rotation=rotation, labelsize=8)
    if n_classes > MATRIX:
        return
    for true in range(n_classes):
        for said in range(n_classes):
            share = shares[true, said]
            color = "white" if share > 55 else "#333333"
            if counts[true, said]:
                axes.text(said, true, f"{share:.0f}", ha="center", va="center", color=color, size=8)


def _rates_caption(rates: Sequence[str]) -> str:
    meanings = {
        "coverage": "of all proxy rows",
        "keep_precision": "of all keeps, those by clients that hold the row's class",
        "keep_recall": "of the keeps that such clients could have made, those that they made",
    }
    return "Percent. " + "; ".join(f"“{RATES[n]}”: {meanings[n]}" for n in rates) + "."


def _short(word: str) -> str:
    return word if len(word) <= 14 else f"{word[:13]}…"


def _first_up(words: str) -> str:
    return words[:1].upper() + words[1:]
