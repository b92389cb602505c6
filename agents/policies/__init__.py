"""Policies by name: the baselines, the upper bounds, and directories of trained ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

from canvit_agents.policies.base import Policy, starting_blind, starting_full
from canvit_agents.policies.learned import (
    PRETRAINED,
    LearnedPolicy,
    find_policy,
    load_policy,
)
from canvit_agents.policies.oracle import Oracle
from canvit_agents.policies.quadtree import CoarseToFine, EntropyCoarseToFine, FineToCoarse
from canvit_agents.policies.random import RandomPolicy
from canvit_agents.policies.repeated import RepeatedFullScene
from canvit_agents.policies.saved import pinned_env_kwargs, read_record
from canvit_agents.policies.target import TargetPolicy
from canvit_gym import CanViTVectorEnv, Rollout

__all__ = [
    "POLICIES",
    "PRETRAINED",
    "LearnedPolicy",
    "Policy",
    "load_policy",
    "make_policies",
    "make_policy",
    "read_record",
    "trained_env_kwargs",
]

POLICIES: dict[str, Callable[[Rollout], Policy]] = {
    # Random from t0 on: it has not seen the full scene, but looks just as often as the others.
    "random": lambda rollout: RandomPolicy(rollout=starting_blind(rollout)),
    "full_then_random": lambda rollout: RandomPolicy(rollout=starting_full(rollout)),
    "coarse_to_fine": lambda rollout: CoarseToFine(rollout=starting_full(rollout)),
    "fine_to_coarse": lambda rollout: FineToCoarse(rollout=starting_blind(rollout)),
    "entropy_coarse_to_fine": lambda rollout: EntropyCoarseToFine(rollout=starting_full(rollout)),
    "repeated_full_scene": lambda rollout: RepeatedFullScene(rollout=starting_full(rollout)),
    # Upper bounds: the first knows where, the second knows what.
    "target": lambda rollout: TargetPolicy(rollout=starting_full(rollout)),
    "oracle": lambda rollout: Oracle(rollout=starting_full(rollout)),
}
"""Every policy that needs no training, by name, from the rollout of an environment."""


def make_policy(name: str, *, env_id: str, env: CanViTVectorEnv) -> Policy:
    """The policy of this name, for episodes of `env`: one of POLICIES, "pretrained", the directory
    of a trained policy, "hub:owner/name" for one on the hub, or "module:name" for one of your own.

    Raises ValueError for an unknown name and where a trained policy does not fit `env`.
    """
    if name in POLICIES:
        return POLICIES[name](env.rollout)
    directory = find_policy(name, env_id=env_id)
    if directory is None and ":" in name:
        return import_policy(name, env.rollout)
    if directory is None:
        raise ValueError(
            f"There is no policy {name!r}; choose from {', '.join((*POLICIES, PRETRAINED))}, or "
            "give the directory of a trained policy, hub:owner/name, or module:name of your own."
        )
    return load_policy(directory, env_id=env_id, env=env)


def import_policy(name: str, rollout: Rollout) -> Policy:
    """A policy of one's own, "module:name": a subclass of Policy, or a function from a rollout to
    a policy.

    Raises ValueError where the module can not be imported, has no such name, or that makes no
    Policy.
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"The policy {name!r} can not be imported ({error}); give module:name of a module that "
            "Python finds, with a subclass of canvit_agents.Policy or a function that makes one."
        ) from error
    is_class = isinstance(found, type) and issubclass(found, Policy)
    if not is_class and (isinstance(found, type) or not callable(found)):
        raise ValueError(
            f"{name} is {found!r}; give a subclass of canvit_agents.Policy, or a function from a "
            "rollout to such a policy."
        )
    policy = found(rollout=rollout) if is_class else found(rollout)
    if not isinstance(policy, Policy):
        raise ValueError(f"{name} made {policy!r}, which is no canvit_agents.Policy; return one.")
    return policy


def make_policies(names: Iterable[str], *, env_id: str, env: CanViTVectorEnv) -> dict[str, Policy]:
    """Several policies by name, in this order."""
    return {name: make_policy(name, env_id=env_id, env=env) for name in names}


def trained_env_kwargs(names: Iterable[str], *, env_id: str) -> dict[str, Any]:
    """Keyword arguments of the environment that the first trained policy among these was trained
    in; none where all are baselines. An environment made with them is one that it fits."""
    for name in names:
        directory = None if name in POLICIES else find_policy(name, env_id=env_id)
        if directory is not None:
            return pinned_env_kwargs(read_record(directory))
    return {}
