"""What was run: enough to run it again, and to tell whether two people ran the same thing."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from canvit_agents.judging.evidence import Evidence, Trajectories

MANIFEST = "manifest.json"

_PACKAGES = ("canvit-gym", "torch", "numpy", "gymnasium")

_MANY_SCENES = 1000  # of more, or of all in a row, only the range is listed

# Not part of the hash: what is noted beside the result, what names the policies, and what keyword
# arguments lead to is there itself (pictures, weights, numbers of glimpses, how they are scored).
# FLOPs follow from the weights.
_NOT_DECIDING = (
    "candidates", "policy", "env_kwargs", "budget", "num_scenes", "backbone", "flops_per_glimpse",
)  # fmt: skip


def versions() -> dict[str, str]:
    """What runs here."""
    return {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # run from its source
        return "unknown"


def make_manifest(evidence: Mapping[str, Evidence], *, files: Mapping[str, Path]) -> dict[str, Any]:
    """The content of manifest.json, of policies by name that were played in the same setting.

    hash: of everything that decides the numbers, and of nothing that does not: neither names, paths
    and machines nor versions. Each policy has one of its own, for where only some are shared.
    """
    first = next(iter(evidence.values()))
    settings = {key: value for key, value in first.settings.items() if key != "policy"}
    scenes = describe_scenes(first.seen)
    deciding = {
        **{key: value for key, value in settings.items() if key not in _NOT_DECIDING},
        "backbone": settings["backbone"]["sha256"],
        "scenes": scenes["sha256"],
    }
    policies = {name: _deciding_policy(e.settings["policy"]) for name, e in evidence.items()}
    return {
        "hash": _hash([deciding, sorted(policies.values(), key=_as_text)]),
        **settings,
        "scenes": scenes,
        "policies": {
            name: {
                "hash": _hash([deciding, policies[name]]),
                "settings": e.settings["policy"],
                "file": files[name].name,
                "versions": e.versions,
            }
            for name, e in evidence.items()
        },
        "versions": versions(),
    }


def describe_scenes(seen: Trajectories) -> dict[str, Any]:
    """Which scenes, and a hash of their indices and content."""
    lines = "".join(f"{i} {d}\n" for i, d in zip(seen.scenes, seen.digests, strict=True))
    first, last = int(seen.scenes[0]), int(seen.scenes[-1])
    which: dict[str, Any] = {"first": first, "last": last}
    if last - first + 1 != seen.num_scenes <= _MANY_SCENES:
        which["indices"] = seen.scenes.tolist()
    return {
        "count": seen.num_scenes,
        **which,
        "sha256": hashlib.sha256(lines.encode()).hexdigest(),
    }


def _deciding_policy(settings: dict[str, Any]) -> dict[str, Any]:
    """Without the name of a trained policy, which is where it lies; others' draws depend on it."""
    return {k: v for k, v in settings.items() if not (k == "name" and settings["learned"])}


def _hash(value: Any) -> str:
    return hashlib.sha256(_as_text(value).encode()).hexdigest()


def _as_text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
