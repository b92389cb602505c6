"""Which weights these are: a policy is tied to the backbone that it was trained on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from canvit_gym.hub import commit_of


@dataclass(frozen=True, kw_only=True)
class BackboneIdentity:
    """A backbone's weights.

    name: as it was asked for, with "+ probe" where one reads it. sha256: of its weights. revision:
    the commit on the hub that it came from, with "+" between backbone and probe; None for others.
    """

    name: str
    sha256: str
    revision: str | None = None

    def to_json(self) -> dict[str, str]:
        """The fields that are known, by name."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def identify(name: str | Path, *, probe: str | Path | None = None) -> BackboneIdentity:
    """The identity of a checkpoint, or of one with a probe: fused for classes, or of the canvas."""
    from canvit_gym.model.checkpoints import checkpoint_sha256, resolve_checkpoint

    names = [name] if probe is None else [name, probe]
    commits = [commit_of(resolve_checkpoint(each)) for each in names]
    return BackboneIdentity(
        name=" + ".join(map(str, names)),
        sha256="+".join(checkpoint_sha256(each) for each in names),
        revision="+".join(commit or "" for commit in commits) if any(commits) else None,
    )
