"""Checkpoints: where they are found, how they are read, checked and written.

A checkpoint is a directory with `config.json` and `model.safetensors`, as canvit-pytorch 0.2
publishes them; the older 0.1 format is read too (`legacy.py`). Nothing else is ever read, and
nothing is ever guessed: a tensor that is missing, extra or misshapen is an error that names it.

The models' `from_pretrained` and `save_pretrained` are the public way in.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Self, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from canvit_gym.checkpoint_ids import (  # noqa: F401 - offered here too
    FLAGSHIP,
    IN1K_FINETUNED,
    IN1K_PROBE,
    MINI_IN1K,
)
from canvit_gym.files import read_json, write_bytes, write_text
from canvit_gym.hub import HUB_ROOT, download, upload
from canvit_gym.model.legacy import is_legacy, upgrade_config, upgrade_tensors

ORGANIZATION = "canvit"

_CONFIG, _WEIGHTS, _CARD = "config.json", "model.safetensors", "README.md"
_VARIANCES = ("running_var", "standardizer.var")
_MAX_SIZE = 2**20
"""Largest number in a config, far above any model's."""

_ASSETS = Path(str(resources.files("canvit_gym") / "assets"))
EMBEDDED = {
    path.parent.name.replace("_", "-"): path.parent for path in _ASSETS.glob(f"*/{_CONFIG}")
}
"""Checkpoints that the package itself brings: their directories, by name. "mini-seg-probe" is that
of `assets/mini_seg_probe`."""

_HUB_NAME = re.compile(r"(?P<repo>(\w[\w.-]*/)?\w[\w.-]*)(@(?P<revision>[\w./-]+))?")

# Fields that give a config away, and what it is.
_KINDS = (
    (
        ("canvit_config", "teacher_dim"),
        "a CanViTForPretraining; load it with CanViTForPretraining.from_pretrained, or for class "
        "logits with CanViTForImageClassification.from_pretrained_with_probe",
    ),
    (
        ("canvit_config", "n_classes"),
        "a CanViTForImageClassification; load it with CanViTForImageClassification.from_pretrained",
    ),
    (
        ("in_features", "out_features"),
        "a linear probe; give it as the probe of "
        "CanViTForImageClassification.from_pretrained_with_probe",
    ),
    (
        ("embed_dim", "num_classes"),
        "a segmentation probe, which holds no CanViT; give it as the probe of "
        "CanViTForSemanticSegmentation.from_pretrained_with_probe",
    ),
    (("format", "backend"), "an MLX or NNX port; take the PyTorch checkpoint that it was made of"),
)

ModelT = TypeVar("ModelT", bound="Checkpointed")


class CheckpointNotFound(FileNotFoundError):
    """No such checkpoint here, or one of its files is missing."""


class InvalidCheckpoint(ValueError):
    """The files are there, but they do not hold what was asked for."""


# -- where ----------------------------------------------------------------------------------------


def resolve_checkpoint(name: str | Path) -> Path:
    """The local directory of a checkpoint, downloaded where need be.

    `name` is, in this order: an embedded name ("mini", "mini-in1k", ...); a local directory; a
    directory under CANVIT_HUB_ROOT; an id on the Hugging Face hub, perhaps with `@revision`.
    Without an organisation `canvit/` is meant. Raises CheckpointNotFound with what can be done
    about it.
    """
    # Before any directory, so that "mini" is the same model wherever it is asked for.
    if isinstance(name, str) and name in EMBEDDED:
        return Path(EMBEDDED[name])
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    match = _HUB_NAME.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        reason = "is a file" if path.exists() else "does not exist"
        raise _not_found(name, f"this path {reason}")
    organization, _, short = match["repo"].rpartition("/")
    organization = organization or ORGANIZATION

    if root := os.environ.get(HUB_ROOT):
        tree = Path(root).expanduser()
        if tree.is_dir():
            at = f"@{match['revision']}" if match["revision"] else ""
            candidates = [f"{organization}/{short}{at}"]
            if organization == ORGANIZATION:  # another one's model may share the last name
                candidates.append(short + at)
            for candidate in candidates:
                if (tree / candidate).is_dir():
                    return tree / candidate
        elif not re.fullmatch(r"[\w.-]+", root):
            raise _not_found(name, f"{HUB_ROOT} is {root!r}, which is no directory")
        elif organization == ORGANIZATION:
            organization = root
    return _download(name, repo=f"{organization}/{short}", revision=match["revision"])


def checkpoint_sha256(name: str | Path) -> str:
    """Hexadecimal SHA-256 of a checkpoint's weights: what a policy records of its backbone."""
    with _require(resolve_checkpoint(name), _WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def training_record(name: str | Path) -> dict[str, Any]:
    """Returns what `config.json` says of the training that a checkpoint is from; {} for nothing.

    Raises CheckpointNotFound, or InvalidCheckpoint where the file is damaged.
    """
    record = _read_config(resolve_checkpoint(name)).get("training")
    return record if isinstance(record, dict) else {}


def _download(name: str | Path, *, repo: str, revision: str | None) -> Path:
    try:
        return download(repo, revision=revision, files=(_CONFIG, _WEIGHTS))
    except Exception as error:  # its kinds differ between versions of the hub's library
        at = f" at revision {revision}" if revision else ""
        reason = (
            f"there is no such directory, and the Hugging Face hub did not give {repo}{at} "
            f"({type(error).__name__})"
        )
        raise _not_found(name, reason) from error


def _not_found(name: str | Path, reason: str) -> CheckpointNotFound:
    return CheckpointNotFound(
        f"Checkpoint {str(name)!r} was not found: {reason}; name a local directory with {_CONFIG} "
        f"and {_WEIGHTS}, set {HUB_ROOT} to a folder of such directories, download it once with "
        "access to the hub, or use the embedded checkpoint 'mini' (environment CanViT-Emoji-v0)."
    )


# -- reading and writing --------------------------------------------------------------------------


class Checkpointed(nn.Module):
    """A module that a checkpoint holds.

    config_fields: the names of what `config.json` says of it, which are its constructor arguments;
    whatever else is there are records, ignored.
    """

    config_fields: ClassVar[tuple[str, ...]]

    @classmethod
    def from_pretrained(cls, name: str | Path, *, device: torch.device | str = "cpu") -> Self:
        """The model of a checkpoint, in eval mode: an official id, a directory, or embedded.

        Raises CheckpointNotFound or InvalidCheckpoint; `checkpoints.resolve_checkpoint` says where
        names are looked up.
        """
        return load_model((cls,), name, device=device)

    def save_pretrained(
        self, directory: str | Path, *, extra_config: Mapping[str, Any] | None = None
    ) -> None:
        """Write a checkpoint that `from_pretrained` reads; `extra_config` adds JSON records."""
        save_model(self, directory, extra_config=extra_config)

    def push_to_hub(
        self,
        repo: str,
        *,
        extra_config: Mapping[str, Any] | None = None,
        card: str | None = None,
        private: bool = False,
        revision: str | None = None,
    ) -> str:
        """Upload the checkpoint to the Hugging Face hub, with a generated card where none is given.

        `from_pretrained(repo)` reads it, or `from_pretrained(f"{repo}@{commit}")` with the commit
        that this returns.
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, extra_config=extra_config)
            write_text(Path(folder) / _CARD, self.card(repo) if card is None else card)
            return upload(
                Path(folder),
                repo,
                files=(_CONFIG, _WEIGHTS, _CARD),
                private=private,
                revision=revision,
                message=f"A {type(self).__name__}",
            )

    def card(self, repo: str) -> str:
        """A model card in Markdown for this checkpoint."""
        name, count = type(self).__name__, sum(p.numel() for p in self.parameters())
        return (
            "---\nlibrary_name: canvit-gym\n"
            "pipeline_tag: image-feature-extraction\ntags: [canvit, active-vision]\n---\n\n"
            f"# {name}\n\nCanViT (arXiv 2603.22570), {count:,} parameters, in the published 0.2 "
            f"format.\n\n```python\nfrom canvit_gym import {name}\n\n"
            f'model = {name}.from_pretrained("{repo}")\n```\n'
        )

    @classmethod
    def arguments_from(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Constructor arguments from a config that has the fields; ValueError if they are bad."""
        return {field: config[field] for field in cls.config_fields}

    def config_values(self) -> dict[str, Any]:
        """Returns what `config.json` says of this model, field by field."""
        return {field: getattr(self, field) for field in self.config_fields}


def load_model(
    model_classes: Sequence[type[ModelT]],
    name: str | Path,
    *,
    device: torch.device | str = "cpu",
) -> ModelT:
    """The model of a checkpoint, in eval mode, float32, on `device`.

    It is of the first class whose fields the config has. Raises CheckpointNotFound, or
    InvalidCheckpoint where the files hold another model, are damaged or disagree with the
    architecture that their config describes.
    """
    directory = resolve_checkpoint(name)
    config = _read_config(directory)
    legacy = is_legacy(config)
    try:
        config = upgrade_config(config) if legacy else config
        model_class = _recognise(config, model_classes)
        arguments = model_class.arguments_from(config)
        _require_sizes({field: config[field] for field in model_class.config_fields})
        # On the meta device nothing is allocated or drawn at random only to be overwritten.
        with torch.device("meta"):
            model = model_class(**arguments)
    except (ValueError, RuntimeError) as error:  # RuntimeError: more elements than torch can count
        raise InvalidCheckpoint(f"{directory / _CONFIG}: {error}") from error

    tensors = _read_tensors(directory)
    if legacy:
        tensors = upgrade_tensors(tensors, grid=config.get("teacher_patch_grid"))
    wanted = model.state_dict()
    if problems := _differences(tensors, wanted):
        raise InvalidCheckpoint(
            f"{directory / _WEIGHTS} is not the {model_class.__name__} that {_CONFIG} describes: "
            f"{len(problems)} tensors disagree, first {'; '.join(problems[:3])}. "
            "Download the checkpoint again, or check that both files are of the same one."
        )
    # Copied, because `load_file` maps the file: whoever changed it would change the model.
    own = {key: tensor.to(dtype=wanted[key].dtype, copy=True) for key, tensor in tensors.items()}
    _require_plausible(own, directory / _WEIGHTS)
    model.load_state_dict({key: tensor.to(device) for key, tensor in own.items()}, assign=True)
    return model.eval()


def load_probe(name: str | Path) -> tuple[Tensor, Tensor]:
    """Weight float32 [n_classes, features] and bias [n_classes] of a linear probe.

    Only `model.safetensors` is read. Raises CheckpointNotFound or InvalidCheckpoint.
    """
    directory = resolve_checkpoint(name)
    tensors = _read_tensors(directory)
    weight, bias = tensors.get("weight"), tensors.get("bias")
    if (
        weight is None
        or bias is None
        or len(tensors) != 2
        or weight.ndim != 2
        or bias.shape != weight.shape[:1]
        or not (weight.is_floating_point() and bias.is_floating_point())
    ):
        shown = [f"{key} {list(tensor.shape)}" for key, tensor in sorted(tensors.items())[:3]]
        raise InvalidCheckpoint(
            f"{directory / _WEIGHTS} is no linear probe: it holds {len(tensors)} tensors, first "
            f"{', '.join(shown)}; give one with weight [classes, features] and bias [classes]."
        )
    own = {"weight": weight.to(torch.float32, copy=True), "bias": bias.to(torch.float32, copy=True)}
    _require_plausible(own, directory / _WEIGHTS)
    return own["weight"], own["bias"]


def save_probe(directory: str | Path, weight: Tensor, bias: Tensor) -> None:
    """Write a linear probe that `load_probe` reads.

    weight [n_classes, features], bias [n_classes].
    """
    tensors = {"weight": weight, "bias": bias}
    own = {name: x.detach().cpu().float().contiguous() for name, x in tensors.items()}
    n_classes, features = weight.shape
    config = {"in_features": features, "out_features": n_classes}
    write_bytes(Path(directory) / _WEIGHTS, save(own, metadata={"format": "pt"}))
    write_text(Path(directory) / _CONFIG, json.dumps(config, indent=2) + "\n")


def save_model(
    model: Checkpointed, directory: str | Path, *, extra_config: Mapping[str, Any] | None = None
) -> None:
    """Write `config.json` and `model.safetensors` in the 0.2 format.

    `extra_config` adds JSON values beside the model's own fields, such as a "training" record.
    Raises ValueError where it would replace one of those.
    """
    config = model.config_values()
    if taken := sorted(config.keys() & (extra_config or {}).keys()):
        raise ValueError(
            f"extra_config has {', '.join(taken)}, which the model itself says; rename them."
        )
    # Before anything is written: what JSON has no form for must not leave half a checkpoint.
    text = json.dumps(config | dict(extra_config or {}), indent=2, allow_nan=False) + "\n"
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    directory = Path(directory)
    write_bytes(directory / _WEIGHTS, save(tensors, metadata={"format": "pt"}))
    write_text(directory / _CONFIG, text)


def _require(directory: Path, file_name: str) -> Path:
    path = directory / file_name
    if not path.is_file():
        raise CheckpointNotFound(
            f"{path} is missing; a checkpoint is a directory with {_CONFIG} and {_WEIGHTS}, "
            "so download it again."
        )
    return path


def _read_config(directory: Path) -> dict[str, Any]:
    path = _require(directory, _CONFIG)
    try:
        return read_json(path, hint="a config is a JSON object, so download it again")
    except ValueError as error:
        raise InvalidCheckpoint(str(error)) from error


def _read_tensors(directory: Path) -> dict[str, Tensor]:
    path = _require(directory, _WEIGHTS)
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise InvalidCheckpoint(
            f"{path} is truncated or no safetensors file ({error}); download it again."
        ) from error
    return tensors


def _recognise(config: Mapping[str, Any], model_classes: Sequence[type[ModelT]]) -> type[ModelT]:
    """The first class whose fields a 0.2 config has; ValueError if it is of another kind."""
    for model_class in model_classes:
        if all(field in config for field in model_class.config_fields):
            return model_class

    found = f"a config with {', '.join(sorted(config)) or 'no fields'}, unknown here"
    if "model_type" in config:
        found = f"a model of type {config['model_type']!r}, no CanViT"
    for signs, what in _KINDS:
        if all(sign in config for sign in signs):
            own = [c for c in model_classes if set(signs) <= set(c.config_fields)]
            missing = [field for c in own for field in c.config_fields if field not in config]
            found = f"a config without {', '.join(missing)}" if own else what
    wanted = (f"a {c.__name__} has {', '.join(c.config_fields)}" for c in model_classes)
    raise ValueError(f"this is {found}; {'; '.join(wanted)}.")


def _require_sizes(fields: Mapping[str, Any]) -> None:
    """Raise ValueError where a number is larger than any model's, before tensors are made of it."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            _require_sizes(value)
        elif isinstance(value, int) and abs(value) > _MAX_SIZE:
            raise ValueError(
                f"{name} is {value if abs(value) < 10**18 else 'a number of many digits'}, but no"
                f" CanViT has sizes above {_MAX_SIZE}; download it again."
            )


def _require_plausible(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise InvalidCheckpoint where values can not be those of a trained model.

    They would load, and every belief and reward would be NaN.
    """
    problems = []
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            problems.append(f"{key} holds NaN or infinite values")
        elif key.endswith(_VARIANCES) and bool((tensor < 0).any()):
            problems.append(f"{key} holds negative variances")
    if problems:
        raise InvalidCheckpoint(
            f"{path} is damaged: {len(problems)} tensors hold impossible values, first"
            f" {'; '.join(problems[:3])}. Download the checkpoint again."
        )


def _differences(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """Says what is wrong with each tensor."""
    problems = [f"{key} is missing" for key in wanted if key not in found]
    problems += [f"{key} is not part of the model" for key in found if key not in wanted]
    for key in (key for key in wanted if key in found):
        shape, dtype = found[key].shape, found[key].dtype
        if shape != wanted[key].shape:
            problems.append(f"{key} has shape {list(shape)}, not {list(wanted[key].shape)}")
        # Half precision is read as float32; a float in place of a flag is another thing.
        elif dtype != wanted[key].dtype and not (
            dtype.is_floating_point and wanted[key].dtype.is_floating_point
        ):
            problems.append(f"{key} has dtype {dtype}, not {wanted[key].dtype}")
    return problems
