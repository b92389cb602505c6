"""Which weights these are: a policy is tied to the backbone that it was trained on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BackboneIdentity:
    """name: as it was asked for, with "+ probe" where one reads it. sha256: of its weights."""

    name: str
    sha256: str


def identify(name: str, *, probe: str | None = None) -> BackboneIdentity:
    """The identity of a checkpoint, or of one with a probe: fused for classes, or of the canvas."""
    from canvit_gym.model.checkpoints import checkpoint_sha256

    if probe is None:
        return BackboneIdentity(name=name, sha256=checkpoint_sha256(name))
    return BackboneIdentity(
        name=f"{name} + {probe}",
        sha256=f"{checkpoint_sha256(name)}+{checkpoint_sha256(probe)}",
    )
