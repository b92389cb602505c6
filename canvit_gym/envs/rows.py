"""One row of what a vector environment says of all of them."""

from __future__ import annotations

from typing import Any

import numpy as np


def row(values: dict[str, Any], i: int) -> dict[str, Any]:
    """Row i of nested dicts of arrays, without Gymnasium's masks (`_key`). Single numbers are
    Python's own, as Gymnasium's wrappers expect them; arrays and tensors stay what they are."""
    return {
        key: row(value, i) if isinstance(value, dict) else _plain(value[i])
        for key, value in values.items()
        if not key.startswith("_")
    }


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
