"""A record of what was run: enough to run it again, and to tell whether two people ran the same
thing."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from canvit_agents.judging.evidence import (
    Evidence,
    Trajectories,
    file_sha256,
    hash_of,
    load_evidence,
)
from canvit_agents.judging.settings import decides
from canvit_gym.files import read_json

MANIFEST = "manifest.json"

_AGAIN = "evaluate again with the same --out"
_FIELDS = {
    "hash": str, "env": str, "split": str, "num_scenes": int, "seed": int, "potential": str,
    "backbone": dict, "scenes": dict, "policies": dict, "versions": dict,
}  # fmt: skip

_PACKAGES = ("canvit-gym", "torch", "numpy", "gymnasium")

_MANY_SCENES = 1000  # of more, or of all in a row, only the range is listed


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that run here."""
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
        **{key: value for key, value in settings.items() if decides(key)},
        "backbone": settings["backbone"]["sha256"],
        "scenes": scenes["sha256"],
    }
    policies = {name: _deciding_policy(e.settings["policy"]) for name, e in evidence.items()}
    return {
        "hash": hash_of([deciding, sorted(policies.values(), key=_as_text)]),
        **settings,
        "scenes": scenes,
        "policies": {
            name: {
                "hash": hash_of([deciding, policies[name]]),
                "settings": e.settings["policy"],
                "file": files[name].name,
                "sha256": file_sha256(files[name]),
                "versions": e.versions,
            }
            for name, e in evidence.items()
        },
        "versions": versions(),
    }


def read_manifest(directory: Path) -> dict[str, Any]:
    """Read the manifest of a run directory and check the fields that others read.

    Raises FileNotFoundError where the directory holds none, and ValueError with one sentence that
    names the file where it is damaged.
    """
    path = directory / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"{directory} holds no {MANIFEST}; give a directory that `canvit-gym evaluate --out "
            "DIR` or `headroom --out DIR` wrote."
        )
    manifest = read_json(path, fields=_FIELDS, hint=_AGAIN)
    texts = [
        *((f"backbone {key}", manifest["backbone"].get(key)) for key in ("name", "sha256")),
        ("scenes sha256", manifest["scenes"].get("sha256")),
        *((f"version of {key}", value) for key, value in manifest["versions"].items()),
    ]
    for name, policy in manifest["policies"].items():
        entry = policy if isinstance(policy, dict) else {}
        texts += [(f"{key} of {name!r}", entry.get(key)) for key in ("file", "sha256")]
    if wrong := next((what for what, value in texts if not isinstance(value, str)), None):
        raise ValueError(f"{path} is damaged: the {wrong} is no text; {_AGAIN}.")
    if type(manifest["scenes"].get("count")) is not int:
        raise ValueError(f"{path} is damaged: the scenes' count is no integer; {_AGAIN}.")
    for name, policy in manifest["policies"].items():
        file = policy["file"]
        if Path(file).name != file or "\0" in file:
            raise ValueError(
                f"{path} is damaged: the file of {name!r} is not in this directory; {_AGAIN}."
            )
    if not manifest["policies"]:
        raise ValueError(f"{path} is damaged: it names no policy; {_AGAIN}.")
    return manifest


def load_policy_evidence(directory: Path, *, manifest: Mapping[str, Any], name: str) -> Evidence:
    """Load the evidence of a policy that the manifest names, which must be the very file that the
    manifest was written for; raises as `load_evidence` does."""
    policy = manifest["policies"][name]
    return load_evidence(directory / policy["file"], sha256=policy["sha256"])


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


def _as_text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
