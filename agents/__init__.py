"""Policies that choose viewpoints, how they learn, and how they are judged: `canvit-gym --help`.

Nothing is imported before it is used; training and judging need the extra `canvit-gym[agents]`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from canvit_gym.errors import with_hint

if TYPE_CHECKING:
    from canvit_agents.judging.evaluate import evaluate
    from canvit_agents.learning.train import train
    from canvit_agents.policies import POLICIES, make_policy
    from canvit_agents.policies.base import Policy
    from canvit_agents.policies.learned import load_policy

_HOMES = {
    "POLICIES": "policies",
    "Policy": "policies.base",
    "evaluate": "judging.evaluate",
    "load_policy": "policies.learned",
    "make_policy": "policies",
    "train": "learning.train",
}
"""The module of each name that is imported when it is first used (PEP 562)."""

__all__ = ["POLICIES", "Policy", "evaluate", "load_policy", "make_policy", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(f"canvit_agents.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        raise with_hint(error, what=f"canvit_agents.{name}") from error
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
