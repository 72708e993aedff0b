"""Parts of a page that every report is made of."""

from __future__ import annotations

from fedkd.reports.page import table


def test_on_a_phone_a_row_is_named_once():
    made = str(table(["client", "rounds"], [["client 0", "3"], ["all", "5"]], caption="who"))
    assert '<th scope="row" role="rowheader" data-label="">client 0</th>' in made
    assert '<th scope="row" role="rowheader" data-label="client">all</th>' in made
    assert made.count('data-label="rounds"') == 2
