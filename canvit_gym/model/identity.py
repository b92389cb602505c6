"""Which weights these are: a policy is tied to the backbone that it was trained on."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

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


def identify(name: Any, *, probe: Any = None) -> BackboneIdentity:
    """The identity of a checkpoint, or of one with a probe: fused for classes, or of the canvas.

    A model in memory, in place of a checkpoint's name or directory, is known by its weights.
    """
    if isinstance(name, nn.Module):
        return identify_model(name)
    from canvit_gym.model.checkpoints import checkpoint_sha256, resolve_checkpoint

    names = [name] if probe is None else [name, probe]
    commits = [commit_of(resolve_checkpoint(each)) for each in names]
    return BackboneIdentity(
        name=" + ".join(map(str, names)),
        sha256="+".join(checkpoint_sha256(each) for each in names),
        revision="+".join(commit or "" for commit in commits) if any(commits) else None,
    )


def identify_model(model: nn.Module) -> BackboneIdentity:
    """The identity of a model in memory: the SHA-256 of its weights by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {list(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    sha256 = digest.hexdigest()
    return BackboneIdentity(name=f"{type(model).__name__} {sha256[:12]}", sha256=sha256)
