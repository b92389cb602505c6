"""How policies learn: what every learner shares, and a file for each."""

from __future__ import annotations

from importlib import import_module
from typing import Any

LEARNERS = {"ppo": "canvit_agents.learning.ppo:PPOLearner"}
"""Every learner by name, as module:class; imported when one is asked for."""


def learner_class(name: str) -> Any:
    """The class of a learner; raises ValueError for an unknown name."""
    if name not in LEARNERS:
        raise ValueError(f"There is no learner {name!r}; choose one of {', '.join(LEARNERS)}.")
    module, _, attribute = LEARNERS[name].partition(":")
    return getattr(import_module(module), attribute)
