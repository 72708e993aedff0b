"""Look at a page in headless Chromium: how wide it is laid out, and a picture of it."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
MEASURE = """
<!DOCTYPE html><body style="margin:0"><iframe src="{uri}" style="border:0;width:{width}px;
height:{height}px"></iframe><pre id="found"></pre><script>
addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument;
  const boxes = [...page.querySelectorAll("svg")].map(svg => svg.getBoundingClientRect());
  const small = [...page.querySelectorAll("svg text")].map(t => t.getBoundingClientRect().height);
  document.getElementById("found").textContent = JSON.stringify({{
    width: page.documentElement.scrollWidth, height: page.documentElement.scrollHeight,
    svg: boxes.map(box => [box.width, box.height]), text: small.filter(h => h > 0),
    cut: [...page.querySelectorAll(".wide")].map(box => box.scrollWidth - box.clientWidth),
    words: page.body.innerText, requests: page.defaultView.performance
      .getEntriesByType("resource").map(e => e.name),
  }});
}});
</script>
"""


def chromium() -> str:
    """Return the browser's path; fail where there is none."""
    found = os.environ.get("FEDKD_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.fail(
            f"none of {', '.join(NAMES)} was found: `make chromium` installs one on Debian; "
            "elsewhere install Chromium or set FEDKD_CHROMIUM to its path"
        )
    return found


def look(page: Path, *, width: int, folder: Path) -> dict[str, Any]:
    """Lay a page out ``width`` pixels wide.

    Args:
        page: an HTML file.
        width: of the window, in CSS pixels.
        folder: where the picture and the browser's profile go.

    Returns:
        ``width`` and ``height`` of the contents, ``svg`` sizes, how much of each table is ``cut``
        off, heights of ``text`` in pictures,
        the visible ``words``, ``requests`` made, and the path of the ``picture``.
    """
    wrapper = folder / f"look{width}.html"
    uri = html.escape(page.resolve().as_uri())
    wrapper.write_text(MEASURE.format(uri=uri, width=width, height=9000), encoding="utf-8")
    command = [
        chromium(), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        "--disable-dev-shm-usage", "--allow-file-access-from-files", "--no-first-run",
        f"--user-data-dir={folder / 'profile'}", f"--window-size={max(width, 500)},9000",
        "--virtual-time-budget=5000",
    ]  # fmt: skip
    dom = subprocess.run(
        [*command, "--dump-dom", wrapper.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    measured = re.search(r'<pre id="found">(.+?)</pre>', dom.stdout, re.DOTALL)
    assert measured, dom.stdout[-2000:] + dom.stderr[-2000:]
    picture = folder / f"look{width}.png"
    subprocess.run(
        [*command, f"--screenshot={picture}", wrapper.as_uri()],
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    return {**json.loads(html.unescape(measured[1])), "picture": picture}
