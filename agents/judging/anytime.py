"""The worth of a policy at fewer glimpses, had it stopped once the belief was sure enough.

From the evidence alone, because a recorded episode says what was believed after each glimpse. That
is free, and a policy that stops by itself should do better.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from canvit_agents.judging.evidence import Evidence, Trajectories
from canvit_agents.judging.statistics import Tally

_THRESHOLDS = 21


def glimpses_after(seen: Trajectories) -> np.ndarray:
    """How many glimpses each scene got up to t0 .. tT: int64 [N, T + 1]."""
    return seen.taken.cumsum(axis=1)


def stop_when_sure(evidence: Evidence, *, metric: str, tally: Tally) -> dict[str, Any]:
    """The curve of stopping at the first t at which the task's confidence reaches a threshold, as
    JSON values.

    thresholds: ascending, so that they make steps of even size in glimpses, from t0 to never. Of
    each: glimpses, the mean over scenes, and the metric by its name, of `tally`.
    """
    seen, potential = evidence.seen, evidence.settings["confidence"]
    confidence = np.maximum.accumulate(seen.potentials[potential].astype(np.float64), axis=1)
    last = seen.num_glimpses - 1
    thresholds = np.quantile(confidence[:, : max(last, 1)], np.linspace(0, 1, _THRESHOLDS))
    sure = confidence[..., None] >= thresholds
    sure[:, last] = True  # there is no more to see
    stops = sure.argmax(axis=1)  # [N, thresholds]
    return {
        "potential": potential,
        "thresholds": thresholds.tolist(),
        "glimpses": np.take_along_axis(glimpses_after(seen), stops, axis=1).mean(axis=0).tolist(),
        metric: tally.at(stops).value.tolist(),
    }
