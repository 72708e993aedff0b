"""Write the four forms of an audit report: JSON, HTML, Markdown and PDF."""

from __future__ import annotations

import json
import math
from importlib.resources import files
from pathlib import Path
from typing import Any

from fedkd.reports.audit.figures import draw
from fedkd.reports.audit.html import audit_page
from fedkd.reports.audit.markdown import audit_markdown
from fedkd.reports.audit.pdf import audit_pdf


def write_audit(result: dict[str, Any], folder: Path) -> dict[str, Path]:
    """Write ``audit.json``, ``audit.html``, ``audit.md`` and ``audit.pdf``.

    What is not finite is written as null: JSON has no other numbers.

    Args:
        result: of an audit, as :func:`audit_schema` describes it.
        folder: made when it is not there.

    Returns:
        paths: ``report_json``, ``report_html``, ``report_md``, ``report_pdf``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored = finite(result)
    drawn = draw(stored)
    written = {
        "json": json.dumps(stored, indent=2, allow_nan=False, ensure_ascii=True) + "\n",
        "html": audit_page(stored, drawn),
        "md": audit_markdown(stored),
    }
    paths = {f"report_{form}": folder / f"audit.{form}" for form in (*written, "pdf")}
    for form, content in written.items():
        paths[f"report_{form}"].write_text(content, encoding="utf-8")
    audit_pdf(stored, drawn, paths["report_pdf"])
    return paths


def audit_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of ``audit.json``."""
    text = files("fedkd.reports.audit").joinpath("audit.schema.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def finite(value: Any) -> Any:
    """Return plain data with None for every number that is not finite, tuples as lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
