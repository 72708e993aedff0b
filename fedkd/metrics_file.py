"""A run's long-format table as a Parquet file, written without pandas, which is slow to import.

``pyarrow.array`` would import it, to see whether it was given a column of pandas'; so columns are
made of the bytes that Arrow lays down for them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from fedkd.results import Measurement

METRICS = "metrics.parquet"
_STRINGS = {"pandas_type": "object", "numpy_type": "string"}
_FOR_PANDAS = {
    "index_columns": [],
    "column_indexes": [],
    "columns": [{"name": "name", "field_name": "name", "metadata": None, **_STRINGS}],
    "pandas_version": "2.2.0",
}
"""By which pandas reads ``name`` as its type ``string``, in all its versions."""


def write_metrics(path: Path, rows: Sequence[Measurement]) -> None:
    """Write columns ``round`` and ``client`` (int32), ``name`` (string) and ``value`` (float64)."""
    columns = {
        "round": _numbers(pa.int32(), np.array([row.round for row in rows], np.int32)),
        "client": _numbers(pa.int32(), np.array([row.client for row in rows], np.int32)),
        "name": _texts([row.name for row in rows]),
        "value": _numbers(pa.float64(), np.array([row.value for row in rows], np.float64)),
    }
    table = pa.Table.from_arrays(list(columns.values()), names=list(columns))
    parquet.write_table(table.replace_schema_metadata({"pandas": json.dumps(_FOR_PANDAS)}), path)


def _numbers(kind: Any, values: NDArray[np.generic]) -> Any:
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def _texts(texts: Sequence[str]) -> Any:
    parts = [text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, parts)], dtype=np.int32)
    return pa.StringArray.from_buffers(
        len(parts), pa.py_buffer(ends), pa.py_buffer(b"".join(parts))
    )
