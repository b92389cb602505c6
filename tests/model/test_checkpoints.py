"""Checkpoints: found where promised, read in both published formats, refused by name."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from make_golden import BATCH, PRETRAINING, VARIANTS, fill, small_backbone_in_reference, uniform
from safetensors.torch import load_file, save_file
from torch import Tensor

from canvit_gym import hub
from canvit_gym.geometry import Viewpoint
from canvit_gym.model.checkpoints import (
    FLAGSHIP,
    IN1K_PROBE,
    CheckpointNotFound,
    InvalidCheckpoint,
    checkpoint_sha256,
    load_probe,
    resolve_checkpoint,
)
from canvit_gym.model.config import CanViTConfig
from canvit_gym.model.heads import (
    CanViTForImageClassification,
    CanViTForPretraining,
    CanViTWithHead,
)
from canvit_gym.model.segmentation import SegmentationProbe

CLASSES = 5
WEIGHTS = "model.safetensors"


@pytest.fixture(autouse=True)
def closed_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """No hub, no settings of this machine."""

    def no_network(*args: Any, **kwargs: Any) -> str:
        raise ConnectionError("the test went to the hub")

    monkeypatch.setattr("huggingface_hub.snapshot_download", no_network)
    monkeypatch.delenv("CANVIT_HUB_ROOT", raising=False)


def pretraining(variant: str = "asymmetric") -> CanViTForPretraining:
    model = CanViTForPretraining(canvit_config=CanViTConfig(**VARIANTS[variant]), **PRETRAINING)
    fill(model)
    return model.eval()


def classifier(variant: str = "asymmetric") -> CanViTForImageClassification:
    config = CanViTConfig(**VARIANTS[variant])
    model = CanViTForImageClassification(canvit_config=config, n_classes=CLASSES)
    fill(model)
    return model.eval()


MAKERS: dict[type[CanViTWithHead], Callable[..., Any]] = {
    CanViTForPretraining: pretraining,
    CanViTForImageClassification: classifier,
}
both_classes = pytest.mark.parametrize("model_class", MAKERS, ids=lambda c: c.__name__)


def assert_same_weights(found: torch.nn.Module, expected: torch.nn.Module) -> None:
    ours, theirs = found.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []


def edit_config(directory: Path, **changes: Any) -> None:
    """Change fields of a config.json; None takes one away."""
    path = directory / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def edit_tensors(directory: Path, **changes: Tensor | None) -> None:
    """Change tensors of a file by name ("__" for "."); None takes one away."""
    path = directory / "model.safetensors"
    tensors = load_file(path) | {key.replace("__", "."): x for key, x in changes.items()}
    data = {key: x.clone() for key, x in tensors.items() if x is not None}
    path.unlink()
    save_file(data, path)


# -- what is written is read -----------------------------------------------------------------------


@both_classes
@pytest.mark.parametrize("variant", ["asymmetric", "bare"])
def test_round_trip(tmp_path: Path, model_class: type[CanViTWithHead], variant: str) -> None:
    model = MAKERS[model_class](variant)
    record = {"training": {"steps": 3, "note": "é"}}
    model.save_pretrained(tmp_path / "new" / "directory", extra_config=record)
    loaded = model_class.from_pretrained(str(tmp_path / "new" / "directory"))
    assert type(loaded) is model_class
    assert_same_weights(loaded, model)
    assert loaded.canvit.config == model.canvit.config
    config = json.loads((tmp_path / "new" / "directory" / "config.json").read_text())
    assert config["training"] == record["training"]
    assert sorted(path.name for path in (tmp_path / "new" / "directory").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def test_loaded_model_is_ready_to_use_and_to_train(tmp_path: Path) -> None:
    classifier().save_pretrained(tmp_path)
    model = CanViTForImageClassification.from_pretrained(tmp_path)
    assert not any(module.training for module in model.modules())
    tensors = [*model.parameters(), *model.buffers()]
    assert {(x.device.type, x.dtype) for x in tensors} == {("cpu", torch.float32)}
    assert all(parameter.requires_grad for parameter in model.parameters())
    logits, _ = model(
        glimpse=torch.ones(BATCH, 3, 24, 24),
        state=model.init_state(batch_size=BATCH, canvas_grid_size=4),
        viewpoint=Viewpoint.full_scene(batch_size=BATCH),
    )
    logits.sum().backward()
    assert logits.isfinite().all()
    assert model.canvit.init_recurrent_cls.grad is not None


def test_device_is_respected(tmp_path: Path) -> None:
    pretraining().save_pretrained(tmp_path / "pretrained")
    write_probe(tmp_path / "probe")
    for model in (
        CanViTForPretraining.from_pretrained(tmp_path / "pretrained", device="meta"),
        CanViTForImageClassification.from_pretrained_with_probe(
            tmp_path / "pretrained", tmp_path / "probe", device="meta"
        ),
    ):
        assert {x.device.type for x in model.state_dict().values()} == {"meta"}


def test_subclass_loads_as_itself(tmp_path: Path) -> None:
    class Own(CanViTForImageClassification):
        pass

    classifier().save_pretrained(tmp_path)
    model = Own.from_pretrained(tmp_path)
    assert type(model) is Own
    model.save_pretrained(tmp_path)
    assert_same_weights(CanViTForImageClassification.from_pretrained(tmp_path), classifier())


def test_file_that_changes_later_does_not_change_the_model(tmp_path: Path) -> None:
    classifier().save_pretrained(tmp_path)
    model = CanViTForImageClassification.from_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    with weights.open("r+b") as file:  # in place, as `cp` does
        file.seek(weights.stat().st_size // 2)
        file.write(bytes(range(256)) * 64)
    assert_same_weights(model, classifier())


def test_half_precision_file_loads_as_float32(tmp_path: Path) -> None:
    classifier().save_pretrained(tmp_path)
    edit_tensors(tmp_path, readout__proj__weight=torch.full((CLASSES, 128), 0.5).bfloat16())
    model = CanViTForImageClassification.from_pretrained(tmp_path)
    assert model.readout.proj.weight.dtype == torch.float32
    assert model.readout.proj.weight.eq(0.5).all()


def test_extra_config_cannot_contradict_the_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="extra_config has n_classes"):
        classifier().save_pretrained(tmp_path, extra_config={"n_classes": 3})
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_is_readable_by_everyone(tmp_path: Path) -> None:
    classifier().save_pretrained(tmp_path)
    (tmp_path / "plain").touch()
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


@both_classes
def test_reference_reads_what_is_saved_and_the_other_way(
    tmp_path: Path, model_class: type[CanViTWithHead]
) -> None:
    reference = pytest.importorskip("canvit_pytorch")
    model = MAKERS[model_class]()
    with small_backbone_in_reference():
        model.save_pretrained(tmp_path / "ours", extra_config={"training": {"steps": 1}})
        theirs = getattr(reference, model_class.__name__).from_pretrained(str(tmp_path / "ours"))
        assert_same_weights(theirs, model)
        theirs.save_pretrained(tmp_path / "theirs")
    assert_same_weights(model_class.from_pretrained(tmp_path / "theirs"), model)


# -- the older format ------------------------------------------------------------------------------

# 0.2 -> 0.1, piece by piece.
OLD_PIECES = {
    "canvas_reads.": "canvas_read.",
    "canvas_writes.": "canvas_write.",
    ".q_map.": ".q_proj.",
    ".k_map.": ".k_proj.",
    ".v_map.": ".v_proj.",
    ".o_map.": ".out_proj.",
    ".ln_q.": ".q_norm.",
    ".ln_kv.": ".kv_norm.",
    "init_canvas_registers": "canvas_register_init",
    "init_canvas_patch": "canvas_spatial_init",
    "init_recurrent_cls": "recurrent_cls_init",
    "vpe.frequencies": "vpe.B",
    "teacher_patch_readout.": "scene_patches_head.",
    "teacher_cls_readout.": "scene_cls_head.",
    "teacher_patch_standardizer.": "scene_standardizers.{grid}.",
    "teacher_cls_standardizer.": "cls_standardizers.{grid}.",
    ".fitted": "._initialized",
}


def old_key(key: str, *, bare_core: bool, grid: int = 4) -> str:
    for new, old in OLD_PIECES.items():
        key = key.replace(new, old.format(grid=grid))
    if key.startswith("readout."):
        return key.removeprefix("readout.").replace("proj.", "head.")
    return key.removeprefix("canvit.") if bare_core else key


def write_old_format(directory: Path, model: Any) -> None:
    """A checkpoint as canvit-pytorch 0.1 published it."""
    core, teacher = model.canvit.config, isinstance(model, CanViTForPretraining)
    grid = model.teacher_patch_grid if teacher else 0
    tensors = {
        old_key(key, bare_core=teacher, grid=grid): x for key, x in model.state_dict().items()
    }
    config = {
        "backbone_name": core.backbone_name,
        "model_config": {
            "rw_stride": core.rw_stride,
            "n_backbone_registers": core.num_backbone_registers,
            "n_canvas_registers": core.num_canvas_registers,
            "canvas_num_heads": core.canvas_num_heads,
            "canvas_head_dim": core.canvas_head_dim,
            "enable_vpe": core.enable_vpe,
            "canvas_update_mode": "additive",
            "gate_bias_init": None,
        },
    }
    if core.canvas_projections == "qkvo":
        config["model_config"]["canvas_proj_mode"] = "full"
    if not core.enable_reads:
        config["model_config"]["enable_reads"] = False
    if teacher:
        config["model_config"]["teacher_dim"] = model.teacher_dim
        config |= {"canvas_patch_grid_sizes": [grid], "metadata": {"step": 7}}
    else:
        config |= {"n_classes": model.n_classes, "training": {"base_checkpoint": "x"}}
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    save_file(tensors, directory / "model.safetensors")


@both_classes
@pytest.mark.parametrize("variant", VARIANTS)
def test_old_format_is_the_same_model(
    tmp_path: Path, model_class: type[CanViTWithHead], variant: str
) -> None:
    model = MAKERS[model_class](variant)
    write_old_format(tmp_path, model)
    loaded = model_class.from_pretrained(tmp_path)
    assert_same_weights(loaded, model)
    assert loaded.canvit.config == model.canvit.config


@both_classes
def test_old_format_agrees_with_the_reference_converter(
    tmp_path: Path, model_class: type[CanViTWithHead]
) -> None:
    legacy = pytest.importorskip("canvit_pytorch.legacy")
    write_old_format(tmp_path / "old", MAKERS[model_class]())
    legacy.convert_checkpoint(str(tmp_path / "old"), tmp_path / "new")
    old = model_class.from_pretrained(tmp_path / "old")
    new = model_class.from_pretrained(tmp_path / "new")
    assert_same_weights(old, new)
    assert old.canvit.config == new.canvit.config


def test_old_format_example_keys() -> None:
    """The inverse table of this file against keys written out by hand."""
    expected = {
        "canvit.canvas_reads.0.q_map.weight": "canvas_read.0.q_proj.weight",
        "canvit.canvas_writes.2.ln_kv.bias": "canvas_write.2.kv_norm.bias",
        "canvit.backbone.blocks.3.attn.proj.bias": "backbone.blocks.3.attn.proj.bias",
        "canvit.vpe.norm.weight": "vpe.norm.weight",
        "teacher_cls_readout.proj.weight": "scene_cls_head.proj.weight",
        "teacher_patch_standardizer.fitted": "scene_standardizers.4._initialized",
    }
    assert {key: old_key(key, bare_core=True) for key in expected} == expected
    assert old_key("canvit.init_canvas_patch", bare_core=False) == "canvit.canvas_spatial_init"
    assert old_key("readout.proj.bias", bare_core=False) == "head.bias"
    assert old_key("readout.norm.bias", bare_core=False) == "norm.bias"


def test_old_format_ignores_fields_it_does_not_know(tmp_path: Path) -> None:
    write_old_format(tmp_path, classifier())
    config = json.loads((tmp_path / "config.json").read_text())
    edit_config(tmp_path, model_config=config["model_config"] | {"dropout": 0.1})
    assert_same_weights(CanViTForImageClassification.from_pretrained(tmp_path), classifier())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"canvas_update_mode": "convex", "gate_bias_init": -2.0}, "is 'convex'; only 'additive'"),
        ({"canvas_proj_mode": "half"}, "is 'half'; known: 'asymmetric', 'full'"),
        ({"teacher_dim": None}, "'teacher_dim': None, .* must be positive integers"),
    ],
)
def test_old_models_that_cannot_be_expressed_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    write_old_format(tmp_path, pretraining())
    config = json.loads((tmp_path / "config.json").read_text())
    edit_config(tmp_path, model_config=config["model_config"] | change)
    with pytest.raises(InvalidCheckpoint, match=message):
        CanViTForPretraining.from_pretrained(tmp_path)


def test_old_model_of_two_grid_sizes_is_refused(tmp_path: Path) -> None:
    write_old_format(tmp_path, pretraining())
    edit_tensors(
        tmp_path,
        cls_standardizers__8__mean=torch.zeros(1, 20),
        cls_standardizers__8__var=torch.ones(1, 20),
    )
    with pytest.raises(InvalidCheckpoint, match="cls_standardizers.8.mean is not part"):
        CanViTForPretraining.from_pretrained(tmp_path)
    edit_config(tmp_path, canvas_patch_grid_sizes=[4, 8])
    with pytest.raises(InvalidCheckpoint, match=r"canvas_patch_grid_sizes is \[4, 8\]"):
        CanViTForPretraining.from_pretrained(tmp_path)


# -- a probe on top --------------------------------------------------------------------------------


def write_probe(directory: Path, *, features: int = 20) -> dict[str, Tensor]:
    directory.mkdir()
    tensors = {
        "weight": uniform("probe weight", (CLASSES, features)),
        "bias": uniform("probe bias", (CLASSES,)),
    }
    save_file(tensors, directory / "model.safetensors")
    return tensors


def test_probe_is_fused_into_a_pretrained_checkpoint(tmp_path: Path) -> None:
    pretraining().save_pretrained(tmp_path / "pretrained")
    tensors = write_probe(tmp_path / "probe")  # without config.json, which is not read
    model = CanViTForImageClassification.from_pretrained_with_probe(
        str(tmp_path / "pretrained"), str(tmp_path / "probe")
    )
    assert_same_weights(
        model,
        CanViTForImageClassification.fuse(
            pretraining(), probe_weight=tensors["weight"], probe_bias=tensors["bias"]
        ),
    )
    assert not model.training
    model.save_pretrained(tmp_path / "fused")
    assert_same_weights(CanViTForImageClassification.from_pretrained(tmp_path / "fused"), model)


def test_probe_of_the_reference_gives_the_same_classifier(tmp_path: Path) -> None:
    reference = pytest.importorskip("canvit_pytorch")
    paths = {"pretrained_repo": str(tmp_path / "p"), "probe_repo": str(tmp_path / "q")}
    pretraining().save_pretrained(tmp_path / "p")
    write_probe(tmp_path / "q")
    with small_backbone_in_reference():
        theirs = reference.CanViTForImageClassification.from_pretrained_with_probe(**paths)
    ours = CanViTForImageClassification.from_pretrained_with_probe(*paths.values())
    for key, tensor in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], tensor, atol=1e-6, rtol=0)


def test_wrong_probes_are_refused(tmp_path: Path) -> None:
    pretraining().save_pretrained(tmp_path / "pretrained")
    write_probe(tmp_path / "wide", features=33)
    load = CanViTForImageClassification.from_pretrained_with_probe
    with pytest.raises(ValueError, match="reads 33 features"):
        load(tmp_path / "pretrained", tmp_path / "wide")
    with pytest.raises(InvalidCheckpoint, match=r"no linear probe: .* canvit\."):
        load(tmp_path / "pretrained", tmp_path / "pretrained")
    with pytest.raises(CheckpointNotFound, match="wide.*config.json is missing"):
        load(tmp_path / "wide", tmp_path / "pretrained")


# -- where checkpoints are found -------------------------------------------------------------------


def test_embedded_name_means_the_same_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mini").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CANVIT_HUB_ROOT", str(tmp_path))
    assert resolve_checkpoint("mini").parts[-3:] == ("canvit_gym", "assets", "mini")
    assert resolve_checkpoint("./mini") == resolve_checkpoint(Path("mini")) == Path("mini")


def test_local_directory_comes_before_the_tree_and_the_tree_before_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def download(repo: str, **kwargs: Any) -> str:
        asked.append(repo)
        return str(tmp_path / "hub")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setenv("CANVIT_HUB_ROOT", str(tmp_path / "tree"))
    (tmp_path / "here").mkdir()
    (tmp_path / "tree").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    name = "canvit/some-model"

    assert resolve_checkpoint(name) == tmp_path / "hub"
    assert asked == [name]
    for place in (
        tmp_path / "tree" / "some-model",
        tmp_path / "tree" / "canvit" / "some-model",
        Path("canvit/some-model"),
    ):
        place.mkdir(parents=True)
        assert resolve_checkpoint(name) == place
    assert asked == [name]


@pytest.mark.parametrize("name", [FLAGSHIP, FLAGSHIP.split("/")[1]])
@pytest.mark.parametrize("layout", [FLAGSHIP, FLAGSHIP.split("/")[1]])
def test_tree_of_official_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, layout: str
) -> None:
    pretraining().save_pretrained(tmp_path / layout)
    monkeypatch.setenv("CANVIT_HUB_ROOT", str(tmp_path))
    assert_same_weights(CanViTForPretraining.from_pretrained(name), pretraining())


def test_tree_is_no_substitute_for_another_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.setenv("CANVIT_HUB_ROOT", str(tmp_path))
    assert resolve_checkpoint("canvit/model") == tmp_path / "model"
    for other in ("someone/model", "canvit/model@canvit-pytorch-0.1"):
        with pytest.raises(CheckpointNotFound, match=re.escape(other)):
            resolve_checkpoint(other)


@pytest.mark.parametrize(
    ("name", "root", "repo", "revision"),
    [
        ("some-model", None, "canvit/some-model", None),
        ("canvit/some-model", None, "canvit/some-model", None),
        ("someone/model_1.0", None, "someone/model_1.0", None),
        ("some-model", "lab", "lab/some-model", None),
        ("canvit/some-model", "lab", "lab/some-model", None),
        ("someone/model", "lab", "someone/model", None),
        ("canvit/m@canvit-pytorch-0.1", None, "canvit/m", "canvit-pytorch-0.1"),
        ("m@refs/pr/1", "lab", "lab/m", "refs/pr/1"),
    ],
)
def test_hub_names(
    monkeypatch: pytest.MonkeyPatch, name: str, root: str | None, repo: str, revision: str | None
) -> None:
    asked: list[tuple[str, str | None, list[str]]] = []

    def download(
        repo: str, *, revision: str | None, allow_patterns: list[str], local_files_only: bool
    ) -> str:
        asked.append((repo, revision, allow_patterns))
        return "downloaded"

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    if root is not None:
        monkeypatch.setenv("CANVIT_HUB_ROOT", root)
    assert resolve_checkpoint(name) == Path("downloaded")
    assert asked == [(repo, revision, ["config.json", "model.safetensors"])]


def test_hub_cache_is_enough_when_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the hub's own library, held offline
    monkeypatch.delenv("CANVIT_HUB_ROOT", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointNotFound, match="did not give canvit/cached"):
        resolve_checkpoint("cached")
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--canvit--cached"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    classifier().save_pretrained(repository / "snapshots" / commit)
    assert_same_weights(CanViTForImageClassification.from_pretrained("cached"), classifier())


@pytest.mark.parametrize("name", [FLAGSHIP, "runs/emoji"])
def test_without_network_the_error_says_what_can_be_done(name: str) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        CanViTForPretraining.from_pretrained(name)
    message = str(caught.value)
    for part in (
        name,
        "local directory with config.json and model.safetensors",
        "CANVIT_HUB_ROOT",
        "hub",
        "'mini'",
        "CanViT-Emoji-v0",
        "ConnectionError",
    ):
        assert part in message
    assert "\n" not in message


def test_paths_never_go_to_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a-file").touch()
    for name in (str(tmp_path / "absent"), "./absent", "a/b/c", tmp_path / "absent", Path("a/b")):
        with pytest.raises(CheckpointNotFound, match="this path does not exist"):
            resolve_checkpoint(name)
    with pytest.raises(CheckpointNotFound, match="this path is a file"):
        resolve_checkpoint(str(tmp_path / "a-file"))
    monkeypatch.setenv("CANVIT_HUB_ROOT", str(tmp_path / "absent"))
    with pytest.raises(CheckpointNotFound, match="CANVIT_HUB_ROOT is '.*absent', which is no dir"):
        resolve_checkpoint(IN1K_PROBE)


def test_home_directory_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert resolve_checkpoint("~/model") == tmp_path / "model"


def test_sha256_is_of_the_weights(tmp_path: Path) -> None:
    classifier().save_pretrained(tmp_path)
    expected = hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    assert checkpoint_sha256(tmp_path) == expected
    edit_config(tmp_path, training={"note": "words do not change a model"})
    assert checkpoint_sha256(str(tmp_path)) == expected
    edit_tensors(tmp_path, readout__proj__bias=torch.zeros(CLASSES))
    assert checkpoint_sha256(tmp_path) != expected


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"readout__norm__bias": None}, ["1 tensors", "readout.norm.bias is missing"]),
        ({"canvit__more": torch.zeros(2)}, ["canvit.more is not part of the model"]),
        (
            {"readout__proj__weight": torch.zeros(CLASSES, 100)},
            ["readout.proj.weight has shape [5, 100], not [5, 128]"],
        ),
        (
            {"readout__proj__bias": torch.zeros(CLASSES, dtype=torch.int64)},
            ["readout.proj.bias has dtype torch.int64, not torch.float32"],
        ),
        (
            {
                "readout__norm__bias": None,
                "readout__norm__weight": None,
                "readout__proj__bias": None,
                "other": torch.zeros(1),
            },
            ["4 tensors", "readout.norm.weight is missing; readout.norm.bias is missing"],
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    tmp_path: Path, changes: dict[str, Tensor | None], messages: list[str]
) -> None:
    classifier().save_pretrained(tmp_path)
    edit_tensors(tmp_path, **changes)
    with pytest.raises(InvalidCheckpoint) as caught:
        CanViTForImageClassification.from_pretrained(tmp_path)
    for message in ["model.safetensors", *messages]:
        assert message in str(caught.value)


def test_flag_must_be_a_flag(tmp_path: Path) -> None:
    pretraining().save_pretrained(tmp_path)
    edit_tensors(tmp_path, teacher_cls_standardizer__fitted=torch.tensor(1.0))
    with pytest.raises(InvalidCheckpoint, match="fitted has dtype torch.float32, not torch.bool"):
        CanViTForPretraining.from_pretrained(tmp_path)


def test_the_other_class_is_named(tmp_path: Path) -> None:
    pretraining().save_pretrained(tmp_path / "pretraining")
    classifier().save_pretrained(tmp_path / "classifier")
    with pytest.raises(
        InvalidCheckpoint, match="this is a CanViTForPretraining; .*from_pretrained_with_probe"
    ):
        CanViTForImageClassification.from_pretrained(tmp_path / "pretraining")
    with pytest.raises(
        InvalidCheckpoint,
        match="load it with CanViTForImageClassification.from_pretrained; a CanViTForPretraining "
        "has canvit_config, teacher_dim, teacher_patch_grid",
    ):
        CanViTForPretraining.from_pretrained(tmp_path / "classifier")


def test_the_other_class_is_named_in_the_old_format_too(tmp_path: Path) -> None:
    write_old_format(tmp_path, pretraining())
    with pytest.raises(InvalidCheckpoint, match="this is a CanViTForPretraining"):
        CanViTForImageClassification.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "bert", "hidden_size": 768}, "a model of type 'bert', no CanViT"),
        ({"in_features": 768, "out_features": 1000}, "a linear probe; give it as the probe of"),
        ({"embed_dim": 1024, "num_classes": 150, "use_ln": True}, "a segmentation probe"),
        ({"format": "d63be48b", "backend": "mlx", "model": "CanViT"}, "an MLX or NNX port"),
        ({"a": 1, "b": 2}, "a config with a, b, unknown here"),
        ({}, "a config with no fields, unknown here"),
    ],
)
def test_other_models_are_recognised(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidCheckpoint) as caught:
        CanViTForImageClassification.from_pretrained(tmp_path)
    assert f"config.json: this is {message}" in str(caught.value)
    assert str(caught.value).endswith(
        "a CanViTForImageClassification has canvit_config, n_classes."
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_classes": "1000"}, "'n_classes': '1000'} must be positive integers"),
        ({"n_classes": 0}, "must be positive integers"),
        ({"canvit_config": {"backbone_name": "vitz16"}}, "Unknown backbone_name 'vitz16'"),
        ({"canvit_config": {"rw_strides": 2}}, "unknown fields rw_strides"),
        ({"canvit_config": {"rw_stride": "2"}}, "rw_stride '2'"),
        ({"canvit_config": "vitb16"}, "canvit_config is 'vitb16'"),
    ],
)
def test_impossible_configs_name_their_file(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    classifier().save_pretrained(tmp_path)
    edit_config(tmp_path, **changes)
    with pytest.raises(InvalidCheckpoint, match=f"config.json: .*{message}"):
        CanViTForImageClassification.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_files_are_named(tmp_path: Path, name: str) -> None:
    classifier().save_pretrained(tmp_path)
    os.remove(tmp_path / name)
    with pytest.raises(CheckpointNotFound, match=f"{name} is missing; .* download it again"):
        CanViTForImageClassification.from_pretrained(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe{}", b"version https://git-lfs"])
def test_damaged_config_is_named(tmp_path: Path, content: bytes) -> None:
    classifier().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InvalidCheckpoint, match="config.json .*JSON.*download it again"):
        CanViTForImageClassification.from_pretrained(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 1000, -1])
def test_truncated_weights_are_named(tmp_path: Path, keep: int) -> None:
    classifier().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InvalidCheckpoint, match="model.safetensors is truncated .*download it"):
        CanViTForImageClassification.from_pretrained(tmp_path)


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    classifier().save_pretrained(tmp_path)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(InvalidCheckpoint, match="no safetensors file"):
        CanViTForImageClassification.from_pretrained(tmp_path)


# -- at full size ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_canvit_b_loads_without_a_detour(tmp_path: Path) -> None:
    """Full-size files in the old format, with a probe: what the ImageNet environment does."""
    with torch.device("meta"):
        empty = CanViTForPretraining(
            canvit_config=CanViTConfig(), teacher_dim=768, teacher_patch_grid=32
        )
    model = empty.to_empty(device="cpu")
    for key, tensor in model.state_dict().items():
        tensor.fill_(True if key.endswith("fitted") else 0.01 * (len(key) % 7))
    write_old_format(tmp_path / "old", model)
    write_probe(tmp_path / "probe", features=768)
    loaded = CanViTForImageClassification.from_pretrained_with_probe(
        tmp_path / "old", tmp_path / "probe"
    )
    assert sum(p.numel() for p in loaded.canvit.parameters()) == 95_157_248
    for key, tensor in model.canvit.state_dict().items():
        assert torch.equal(tensor, loaded.canvit.state_dict()[key]), key


# -- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", ["classifier", "old format", "segmentation probe", "linear probe"])
def test_values_that_are_no_numbers_are_refused_by_name(
    tmp_path: Path, kind: str, value: float
) -> None:
    load: Callable[[Path], Any]
    if kind == "classifier":
        classifier().save_pretrained(tmp_path)
        load, key = CanViTForImageClassification.from_pretrained, "readout.proj.weight"
    elif kind == "old format":
        write_old_format(tmp_path, pretraining())
        load, key = CanViTForPretraining.from_pretrained, "scene_cls_head.proj.weight"
    elif kind == "segmentation probe":
        SegmentationProbe(embed_dim=8, num_classes=3, dropout=0.1, use_ln=True).save_pretrained(
            tmp_path
        )
        load, key = SegmentationProbe.from_pretrained, "bn.running_mean"
    else:
        save_file({"weight": torch.ones(3, 8), "bias": torch.ones(3)}, tmp_path / WEIGHTS)
        load, key = load_probe, "weight"
    tensor = load_file(tmp_path / WEIGHTS)[key].clone()
    tensor.view(-1)[-1] = value
    edit_tensors(tmp_path, **{key.replace(".", "__"): tensor})
    with pytest.raises(InvalidCheckpoint, match=r"safetensors is damaged: 1 tensors .* NaN or inf"):
        load(tmp_path)


def test_numbers_too_large_for_float32_are_refused(tmp_path: Path) -> None:
    classifier().save_pretrained(tmp_path)
    edit_tensors(tmp_path, readout__proj__bias=torch.full((CLASSES,), 1e300, dtype=torch.float64))
    with pytest.raises(InvalidCheckpoint, match=r"readout\.proj\.bias holds NaN or infinite"):
        CanViTForImageClassification.from_pretrained(tmp_path)


def test_negative_variances_are_refused(tmp_path: Path) -> None:
    SegmentationProbe(embed_dim=8, num_classes=3, dropout=0.1, use_ln=True).save_pretrained(
        tmp_path / "probe"
    )
    edit_tensors(tmp_path / "probe", bn__running_var=torch.full((8,), -0.5))
    with pytest.raises(InvalidCheckpoint, match=r"bn\.running_var holds negative variances"):
        SegmentationProbe.from_pretrained(tmp_path / "probe")
    pretraining().save_pretrained(tmp_path / "model")
    variance = load_file(tmp_path / "model" / WEIGHTS)["teacher_cls_standardizer.var"].clone()
    variance[0, 0] = -1e-3
    edit_tensors(tmp_path / "model", teacher_cls_standardizer__var=variance)
    with pytest.raises(InvalidCheckpoint, match=r"standardizer\.var holds negative variances"):
        CanViTForPretraining.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize(
    "changes",
    [
        {"n_classes": 10**12},
        {"n_classes": 10**30},
        {"canvit_config": {"backbone_name": "mini8", "canvas_num_heads": 10**9}},
        {"canvit_config": {"backbone_name": "mini8", "num_canvas_registers": 2**63}},
    ],
)
def test_absurd_sizes_are_refused_before_anything_is_made(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    classifier().save_pretrained(tmp_path)
    edit_config(tmp_path, **changes)
    with pytest.raises(InvalidCheckpoint, match=r"config\.json: .* no CanViT has sizes above"):
        CanViTForImageClassification.from_pretrained(tmp_path)


def test_a_field_given_twice_is_refused(tmp_path: Path) -> None:
    classifier().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace("{", '{"n_classes": 7,', 1))
    with pytest.raises(InvalidCheckpoint, match=r"'n_classes' is there more than once.*download"):
        CanViTForImageClassification.from_pretrained(tmp_path)


def test_damaged_bytes_are_refused_or_load_as_numbers(tmp_path: Path) -> None:
    """Bytes changed at random: one sentence that names the file, or a model of finite values."""
    source, damaged = tmp_path / "whole", tmp_path / "damaged"
    SegmentationProbe(embed_dim=8, num_classes=3, dropout=0.1, use_ln=True).save_pretrained(source)
    files = {name: (source / name).read_bytes() for name in ("config.json", WEIGHTS)}
    damaged.mkdir()
    rng = Random(0)
    refused = 0
    for _ in range(300):
        name = rng.choice(list(files))
        data = {key: bytearray(value) for key, value in files.items()}
        for _ in range(rng.randint(1, 3)):
            data[name][rng.randrange(len(data[name]))] = rng.randrange(256)
        if rng.random() < 0.2:
            del data[name][rng.randrange(len(data[name])) :]
        for key, value in data.items():
            (damaged / key).unlink(missing_ok=True)
            (damaged / key).write_bytes(value)
        try:
            probe = SegmentationProbe.from_pretrained(damaged)
        except InvalidCheckpoint as error:
            refused += 1
            assert name in str(error) and "\n" not in str(error)
        else:
            assert all(tensor.isfinite().all() for tensor in probe.state_dict().values())
    assert 100 < refused < 300


def test_a_hub_that_is_silent_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.delenv("CANVIT_HUB_ROOT", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "_silent_until", {})
    monkeypatch.setattr(hub, "_ANSWER_S", 0.05)
    with socket.socket() as silent:  # which takes connections and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        started = time.monotonic()
        for _ in range(3):
            with pytest.raises(CheckpointNotFound, match="LocalEntryNotFoundError"):
                resolve_checkpoint("canvit/some-model")
        assert time.monotonic() - started < 20  # and asked once: it is left alone for a while
