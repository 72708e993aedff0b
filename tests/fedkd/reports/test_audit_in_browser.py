"""The audit's page as people see it: in Chromium, on a desk and on a phone."""

from __future__ import annotations

import pytest
from PIL import Image

from fedkd.reports.audit.report import write_audit
from tests.fedkd.reports import audit_sample
from tests.fedkd.reports.browser import look

LEAST_TEXT = 7.0
"""Pixels high: smaller words in pictures cannot be read."""


@pytest.mark.browser
@pytest.mark.parametrize("name", ["full", "minimal", "hostile"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_the_screen(tmp_path, name, width):
    result = getattr(audit_sample, name)()
    page = write_audit(result, tmp_path / "audit")["report_html"]
    seen = look(page, width=width, folder=tmp_path)
    assert seen["width"] <= width, "the page scrolls sideways"
    assert seen["requests"] == []
    assert "What may be claimed" in seen["words"]
    if width == 1280 and name != "hostile":  # on a phone, small tables scroll by themselves
        assert max(seen["cut"], default=0) <= 1, "a table is cut off"
    assert bool(seen["svg"]) == bool(result["channels"])
    assert all(wide > 200 and high > 100 for wide, high in seen["svg"])
    assert min(seen["text"], default=LEAST_TEXT) >= LEAST_TEXT
    with Image.open(seen["picture"]) as picture:
        colors = picture.convert("RGB").getcolors(maxcolors=1 << 24)
    assert colors is not None
    assert len(colors) > 50, "nothing was drawn"
