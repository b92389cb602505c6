"""Trained policies on disk: `policy.safetensors` and `policy.json`, with a card beside them.

`policy.json` says which network the weights are of, which environment and backbone the policy fits,
how it was trained, and the SHA-256 of the weights. Loading a policy runs no code from its files and
needs no learner's library.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from canvit_agents.policies.networks import NetworkConfig, PolicyNetwork
from canvit_gym.files import read_json, write_bytes, write_json
from canvit_gym.model.identity import BackboneIdentity

WEIGHTS, RECORD, CARD = "policy.safetensors", "policy.json", "README.md"

_FORMAT = "canvit-gym policy 1"
_HINT = "give a directory that `canvit-gym train` wrote"


@dataclass(frozen=True, kw_only=True)
class PolicyRecord:
    """The content of `policy.json`, beside the hash of the weights.

    env, env_kwargs: the environment that it was trained in. backbone: which weights it looks with.
    network: sizes of the policy's own network. training: how it was trained, JSON values
    (algorithm, seed, timesteps).
    """

    env: str
    env_kwargs: dict[str, Any]
    backbone: BackboneIdentity
    network: NetworkConfig
    training: dict[str, Any] = field(default_factory=dict)


def save_policy(directory: Path, network: PolicyNetwork, record: PolicyRecord) -> None:
    """Write weights and record, each whole or not at all, and a card where there is none."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    weights = save_tensors(tensors, metadata={"format": "pt"})
    write_bytes(directory / WEIGHTS, weights)
    values = {
        "format": _FORMAT,
        "env": record.env,
        "env_kwargs": record.env_kwargs,
        "backbone": record.backbone.to_json(),
        "network": record.network.to_json(),
        "training": record.training,
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    write_json(directory / RECORD, values)
    if not (directory / CARD).exists():
        write_bytes(directory / CARD, card(record).encode())


def read_record(directory: Path) -> PolicyRecord:
    """The record of a trained policy.

    Raises FileNotFoundError where the directory holds none, and ValueError where it is damaged.
    """
    return _read(directory)[0]


def pinned_env_kwargs(record: PolicyRecord) -> dict[str, Any]:
    """The environment's keyword arguments, with what came from the hub at the recorded commits."""
    kwargs, backbone = dict(record.env_kwargs), record.backbone
    if backbone.revision is not None:
        names, commits = backbone.name.split(" + "), backbone.revision.split("+")
        for key, name, commit in zip(("backbone", "probe"), names, commits, strict=False):
            if commit:
                kwargs[key] = f"{name.partition('@')[0]}@{commit}"
    return kwargs


def load_network(directory: Path) -> tuple[PolicyNetwork, str]:
    """The network in eval mode on the CPU, and the SHA-256 of its weights.

    Raises FileNotFoundError where a file is missing, and ValueError where the weights are not those
    that the record names, are damaged, not finite, or not of the network that it describes.
    """
    record, sha256 = _read(directory)
    path = directory / WEIGHTS
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no {path}; {_HINT}.") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ValueError(
            f"{path} holds other weights than {RECORD} names (their SHA-256 differ); copy both "
            "files again, or resume the training that was interrupted between them."
        )
    try:
        tensors = load_tensors(data)
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file ({error}); {_HINT}.") from error
    with torch.device("cpu"):
        network = PolicyNetwork.build(record.network)
    wanted = network.state_dict()
    problems = [f"{name} is missing" for name in wanted if name not in tensors]
    problems += [f"{name} is not part of the network" for name in tensors if name not in wanted]
    for name, tensor in tensors.items():
        if name not in wanted:
            continue
        shape, dtype = tuple(wanted[name].shape), wanted[name].dtype
        if (tuple(tensor.shape), tensor.dtype) != (shape, dtype):
            problems.append(
                f"{name} has {tensor.dtype} {list(tensor.shape)}, not {dtype} {list(shape)}"
            )
        elif not bool(tensor.isfinite().all()):
            problems.append(f"{name} holds numbers that are not finite")
    if problems:
        raise ValueError(
            f"{path} is not the network that {RECORD} describes: {len(problems)} tensors are "
            f"wrong, first {'; '.join(problems[:3])}; {_HINT}."
        )
    network.load_state_dict(tensors)
    return network.eval().requires_grad_(False), sha256


def card(record: PolicyRecord) -> str:
    """A model card in Markdown for a policy that was just trained."""
    training = "".join(f"* {key}: {value}\n" for key, value in record.training.items())
    kwargs = ", ".join(f"{key}={value!r}" for key, value in record.env_kwargs.items())
    return (
        "---\n"
        "library_name: canvit-gym\n"
        "pipeline_tag: reinforcement-learning\n"
        f"tags: [canvit, active-vision, gymnasium, {record.env}]\n"
        "---\n\n"
        f"# A glimpse policy for {record.env}\n\n"
        f"It chooses where CanViT looks in `{record.env}` ({kwargs or 'default settings'}), on the "
        f"backbone {record.backbone.name}, and fits no other one. Judge it:\n\n"
        f"```\ncanvit-gym evaluate --env {record.env} --policies DIR full_then_random\n```\n\n"
        f"Training:\n\n{training}"
    )


def _read(directory: Path) -> tuple[PolicyRecord, str]:
    path = directory / RECORD
    if not path.is_file():
        raise FileNotFoundError(f"{directory} holds no {RECORD}; {_HINT}.")
    fields = {
        "format": str, "env": str, "env_kwargs": dict, "backbone": dict, "network": dict,
        "training": dict, "sha256": str,
    }  # fmt: skip
    values = read_json(path, fields=fields, hint=_HINT)
    if values["format"] != _FORMAT:
        raise ValueError(f"{path} has format {values['format']!r}, not {_FORMAT!r}; {_HINT}.")
    backbone = values["backbone"]
    known = {"name", "sha256", "revision"}
    if not {"name", "sha256"} <= set(backbone) <= known or not all(
        isinstance(value, str) for value in backbone.values()
    ):
        raise ValueError(f"{path} is damaged: 'backbone' is no name and sha256; {_HINT}.")
    try:
        network = NetworkConfig.from_json(values["network"])
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {str(error).rstrip('.')}; {_HINT}.") from error
    record = PolicyRecord(
        env=values["env"],
        env_kwargs=values["env_kwargs"],
        backbone=BackboneIdentity(**backbone),
        network=network,
        training=values["training"],
    )
    return record, values["sha256"]
