"""`canvit-gym pretrain`: presets are the published recipes, and mistakes are one sentence."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_distill import DIM, MODEL, RUN, TinyTeacher

from canvit_agents.cli.main import main
from canvit_gym.geometry import OFFICIAL_GLIMPSE, grid_centers
from canvit_gym.model.checkpoints import resolve_checkpoint
from canvit_gym.model.config import CanViTConfig
from canvit_gym.model.heads import CanViTForPretraining
from canvit_gym.model.rope import rotation_at
from canvit_gym.preprocess import normalize
from canvit_gym.scenes.base import Scene
from canvit_gym.scenes.folder import FolderScenes
from canvit_gym.training import pretrain as pretraining
from canvit_gym.training.distill import Distillation
from canvit_gym.training.features import export, write_index
from canvit_gym.training.pretrain import (
    begin_with,
    begin_with_teacher,
    pretrain,
)
from canvit_gym.training.settings import load_preset, make_run, merged, parse_settings, preset_names
from canvit_gym.training.sources import open_judged, open_scenes

ABLATIONS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "dcan256": {"model": CanViTConfig(canvas_num_heads=2)},
    "qkvo-dcan256": {"model": CanViTConfig(canvas_num_heads=2, canvas_projections="qkvo")},
    "qkvo-dcan384": {"model": CanViTConfig(canvas_num_heads=3, canvas_projections="qkvo")},
    "no-reads": {"model": CanViTConfig(enable_reads=False)},
    "rw-stride6": {"model": CanViTConfig(rw_stride=6)},
    "no-dense": {"patch_loss": 0.0},
    "no-fiid-1riid": {"rollouts": (0.0,)},
    "no-fiid-2riid": {"rollouts": (0.0, 0.0)},
    "no-bptt": {"chunk_glimpses": 1, "stop_probability": 0.25},
    "vit-s": {"model": CanViTConfig(backbone_name="vits16")},
    "no-vpe": {"model": CanViTConfig(enable_vpe=False)},
}


def preset(name: str) -> Distillation:
    return make_run(Distillation, load_preset(name, command="pretrain"))


def test_the_flagship_is_the_default() -> None:
    assert preset("flagship") == Distillation()
    run = Distillation()
    for field in fields(OFFICIAL_GLIMPSE):
        assert getattr(run, field.name) == getattr(OFFICIAL_GLIMPSE, field.name)


@pytest.mark.parametrize("slug", ABLATIONS)
def test_ablations_are_the_baseline_with_one_change(slug: str) -> None:
    baseline = replace(Distillation(), steps=214_656, warmup_steps=20_000)
    assert preset(f"ablation-{slug}") == replace(baseline, **ABLATIONS[slug])
    reference = pytest.importorskip("canvit_pytorch.pretrain.ablations", exc_type=ImportError)
    assert {f"ablation-{slug}" for slug in reference.ABLATIONS} <= set(preset_names("pretrain"))


def test_ablations_are_those_of_the_reference(tmp_path: Path) -> None:
    reference = pytest.importorskip("canvit_pytorch.pretrain.ablations", exc_type=ImportError)
    from canvit_pytorch.pretrain.config import PretrainingConfig

    base = PretrainingConfig(
        shards_dir=tmp_path, images_dir=tmp_path, validation_dir=tmp_path, dataset="in21k",
        checkpoints_dir=tmp_path, run_name="x",
    )  # fmt: skip
    for slug, ablation in reference.ABLATIONS.items():
        theirs, ours = ablation.configure(base), preset(f"ablation-{slug}")
        shares = {"full_then_random": 1.0, "random": 0.0}
        assert ours.rollouts == tuple(shares[name] for name in theirs.rollout_policies)
        assert asdict(ours.model) == asdict(theirs.model)
        assert (ours.patch_loss > 0, ours.cls_loss > 0) == (
            theirs.enable_teacher_patch_loss,
            theirs.enable_teacher_cls_loss,
        )
        same = {
            "steps": "total_steps", "scenes_per_step": "batch_size", "lr": "peak_lr",
            "start_lr": "start_lr", "warmup_steps": "warmup_steps", "clip_norm": "grad_clip_norm",
            "weight_decay": "weight_decay", "chunk_glimpses": "tbptt_chunk_glimpses",
            "stop_probability": "stop_probability", "glimpse_size_px": "glimpse_size_px",
            "canvas_grid_size": "canvas_grid_size", "validate_every": "validate_every",
            "validation_glimpses": "validation_glimpses", "save_every": "steps_per_job",
        }  # fmt: skip
        for name, their_name in same.items():
            assert getattr(ours, name) == getattr(theirs, their_name), (slug, name)


def test_other_presets() -> None:
    sa1b, drop, mini = preset("sa1b"), preset("lr-drop"), preset("mini-in1k")
    assert (sa1b.scene_size_px, sa1b.canvas_grid_size, sa1b.warmup_steps) == (1024, 64, 2000)
    assert (drop.lr, drop.start_lr, drop.warmup_steps) == (4e-5, 4e-5, 0)
    assert mini.optimizer == "muon" and mini.scene_size_px == 128 and mini.token_loss > 0


def test_settings_are_read_by_type() -> None:
    changes = parse_settings(["lr=1e-4", "rollouts=[0.5]", "model.rw_stride=6", "flip=true"])
    run = make_run(Distillation, merged(load_preset("flagship", command="pretrain"), changes))
    assert run.lr == 1e-4 and run.rollouts == (0.5,) and run.flip is True
    assert run.model.rw_stride == 6 and run.model.backbone_name == "vitb16"


BAD_SETTINGS = {
    "unknown": (["leraning_rate=1"], "Unknown settings leraning_rate; known are .*, lr, "),
    "unknown in a section": (["model.rw=1"], "Unknown settings model.rw; known are .*model.rw_st"),
    "text for a number": (["lr=fast"], "lr is 'fast'; give a number"),
    "a fraction of steps": (["steps=1.5"], "steps is 1.5; give an integer"),
    "true for an integer": (["steps=true"], "steps is True; give an integer"),
    "another word": (["optimizer=sgd"], "optimizer is 'sgd'; give one of 'adamw', 'muon'"),
    "one of two": (["betas=[0.9]"], r"betas is \[0.9\]; give a list of 2 float"),
    "number for a list": (["rollouts=1"], "rollouts is 1; give a list of float"),
    "value for a section": (["model=big"], "model is 'big'; give its settings by name"),
    "no value": (["lr"], "'lr' is neither KEY=VALUE"),
}


@pytest.mark.parametrize("given, said", BAD_SETTINGS.values(), ids=BAD_SETTINGS)
def test_bad_settings_are_one_sentence(given: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_run(Distillation, parse_settings(given))


@pytest.fixture
def tiny_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """--teacher tiny."""

    def load(name: str, *, device: str) -> TinyTeacher:
        assert name == "tiny"
        return TinyTeacher(classes=16)

    monkeypatch.setattr(pretraining, "load_teacher", load)


def small_preset(folder: Path) -> str:
    settings = {**asdict(RUN), "steps": 3, "validation_scenes": 4, "validate_every": 2}
    settings = json.loads(json.dumps(settings))  # JSON is YAML
    path = folder / "small.yaml"
    path.write_text(json.dumps(settings))
    return str(path)


@pytest.mark.usefixtures("tiny_teacher")
def test_the_command_trains_on_a_folder_and_resumes(
    imagenet_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    flags = [
        "pretrain", "--preset", small_preset(tmp_path), "--scenes", str(imagenet_folder),
        "--teacher", "tiny", "--out", str(out), "--workers", "0",
    ]  # fmt: skip
    assert main(flags) == 0, capsys.readouterr().err
    model = CanViTForPretraining.from_pretrained(out)
    assert model.canvit.config == MODEL and model.teacher_dim == DIM
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    validated = [line["step"] for line in lines if "patch_cos_raw" in line]
    assert validated == [0, 2, 3]
    assert list((out / "tensorboard").iterdir())
    assert main(flags) == 2
    assert "holds a run already; add --resume" in capsys.readouterr().err
    before = (out / "model.safetensors").read_bytes()
    assert main([*flags, "--resume"]) == 0
    assert (out / "model.safetensors").read_bytes() == before
    assert main([*flags, "--resume", "--set", "seed=3"]) == 2
    assert "other settings" in capsys.readouterr().err


def test_training_on_exported_features_is_training_with_the_teacher(
    imagenet_folder: Path, tmp_path: Path
) -> None:
    run = replace(RUN, steps=2, statistics_scenes=8)
    scenes = FolderScenes(imagenet_folder, size_px=run.picture_size_px)
    index = write_index(scenes, tmp_path / "index.parquet", seed=0)
    export(index, scenes, TinyTeacher(), tmp_path / "features", bfloat16=False, show=False)

    class InTheIndexsOrder:
        size_px, class_names, mask_class_names = run.picture_size_px, scenes.class_names, ()

        def __len__(self) -> int:
            return len(index)

        def __getitem__(self, row: int) -> Scene:
            return scenes[int(index.scenes[row])]

    asked: dict[str, Any] = {"teacher": TinyTeacher(), "workers": 0, "show": False}
    pretrain(run, scenes=InTheIndexsOrder(), out=tmp_path / "a", **asked)
    pretrain(
        run, scenes=imagenet_folder, features=tmp_path / "features", out=tmp_path / "b", **asked
    )
    first, second = (
        [json.loads(line) for line in (tmp_path / out / "log.jsonl").read_text().splitlines()]
        for out in "ab"
    )
    for name in ("loss", "patch", "cls", "grad_norm"):
        # float16 features are off by 2^-11, and standardised by deviations of their own size.
        assert first[-1][name] == pytest.approx(second[-1][name], rel=5e-3), name


def test_features_of_another_teacher_are_refused(imagenet_folder: Path, tmp_path: Path) -> None:
    scenes = FolderScenes(imagenet_folder, size_px=RUN.picture_size_px)
    index = write_index(scenes, tmp_path / "index.parquet")
    teacher = TinyTeacher()
    teacher.name = "another"
    export(index, scenes, teacher, tmp_path / "features", show=False)
    asked: dict[str, Any] = {
        "teacher": TinyTeacher(), "features": tmp_path / "features", "out": tmp_path / "run",
    }  # fmt: skip
    with pytest.raises(ValueError, match="features with teacher another, but this run has tiny"):
        pretrain(RUN, scenes=imagenet_folder, **asked)
    asked["teacher"] = teacher
    with pytest.raises(ValueError, match="stored pictures, but scenes is a EmojiScenes"):
        pretrain(RUN, scenes="emoji", **asked)
    with pytest.raises(ValueError, match="crop_area is 0.5"):
        pretrain(replace(RUN, crop_area=0.5), scenes=imagenet_folder, **asked)
    assert not (tmp_path / "run" / "training.pt").exists()


BAD = {
    "preset": (["--preset", "flagshop"], "preset is 'flagshop'; choose one of ablation-baseline"),
    "teacher": (["--teacher", "vgg"], "teacher is 'vgg'; choose"),
    "scenes": (["--scenes", "./nowhere"], "nowhere"),
    "too few": (["--set", "validation_scenes=8"], "There are 8 scenes"),
    "grid": (["--set", "canvas_grid_size=5"], "in 4 cells a side, but canvas_grid_size is 5"),
    "setting": (["--set", "stepps=8"], "Unknown settings stepps"),
    "init": (["--init", "./nothing"], "Checkpoint './nothing' was not found"),
    "init of another kind": (["--init", "mini"], "CanViTForImageClassification"),
}


@pytest.mark.parametrize("flags, said", BAD.values(), ids=BAD)
def test_bad_input_is_one_sentence(
    flags: list[str],
    said: str,
    imagenet_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    if "--teacher" not in flags:
        request.getfixturevalue("tiny_teacher")
    given = [
        "pretrain", "--preset", small_preset(tmp_path), "--scenes", str(imagenet_folder),
        "--teacher", "tiny", "--out", str(tmp_path / "run"), "--workers", "0",
    ]  # fmt: skip
    assert main([*given, *flags]) == 2
    printed = capsys.readouterr().err
    message = printed[printed.index("error: ") :]
    assert said in message and message.count("\n") == 1
    assert not (tmp_path / "run" / "training.pt").exists()


def test_a_run_begins_with_the_weights_of_another(tmp_path: Path) -> None:
    run = replace(RUN, steps=1)
    scenes: dict[str, Any] = {
        "scenes": "emoji", "teacher": TinyTeacher(), "workers": 0, "show": False,
    }  # fmt: skip
    first = pretrain(run, out=tmp_path / "first", **scenes)
    still = replace(run, start_lr=1e-12, lr=1e-12, seed=3)
    second = pretrain(still, out=tmp_path / "second", init=tmp_path / "first", **scenes)
    for name, tensor in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], tensor, rtol=0, atol=1e-9, msg=name)
    other = CanViTForPretraining(canvit_config=MODEL, teacher_dim=DIM, teacher_patch_grid=8)
    begin_with(other, first)
    assert not other.teacher_patch_standardizer.fitted  # whose positions are others
    assert torch.equal(other.canvit.init_canvas_patch, first.canvit.init_canvas_patch)
    wide = CanViTForPretraining(canvit_config=MODEL, teacher_dim=DIM + 1, teacher_patch_grid=4)
    with pytest.raises(ValueError, match="a teacher of a width of 12, but this run has 13"):
        begin_with(wide, first)


def test_a_run_can_begin_with_the_teachers_blocks(tmp_path: Path) -> None:
    """On the whole scene and without a canvas, such a backbone is the teacher."""
    transformers = pytest.importorskip("transformers")
    from canvit_gym.training.teachers.dinov3 import DINOv3

    torch.manual_seed(0)
    config = transformers.DINOv3ViTConfig(
        hidden_size=128, intermediate_size=512, num_hidden_layers=6, num_attention_heads=4,
        patch_size=8, num_register_tokens=2, layerscale_value=0.3,
    )  # fmt: skip
    teacher = DINOv3(transformers.DINOv3ViTModel(config), name="tiny")
    with torch.no_grad():
        for parameter in teacher._model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model = CanViTForPretraining(canvit_config=MODEL, teacher_dim=128, teacher_patch_grid=4)
    begin_with_teacher(model, teacher)
    backbone: Any = model.canvit.get_submodule("backbone")
    pictures = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        embedded = teacher._model.embeddings(normalize(pictures))
        patches = backbone.patch_embed(normalize(pictures))
        torch.testing.assert_close(embedded[:, 3:], patches, rtol=1e-4, atol=1e-4)
        tokens = embedded
        rotation = rotation_at(grid_centers(4)[None], head_dim=32)
        for block in backbone.blocks:
            tokens = block(tokens, rotation)
        found = teacher._model.norm(tokens)[:, 3:]
    torch.testing.assert_close(found, teacher(pictures).patches, rtol=1e-3, atol=1e-3)
    small = transformers.DINOv3ViTConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        patch_size=8,
    )  # fmt: skip
    with pytest.raises(ValueError, match="blocks of another number or size .* of mini8"):
        begin_with_teacher(model, DINOv3(transformers.DINOv3ViTModel(small), name="small"))


def test_a_teacher_without_blocks_is_refused(tmp_path: Path) -> None:
    run = replace(RUN, init_from_teacher=True)
    with pytest.raises(ValueError, match="tiny has no blocks that a CanViT could take over"):
        pretrain(run, scenes="emoji", teacher=TinyTeacher(), out=tmp_path, workers=0)


def test_parts_of_a_data_set_train_and_validate(imagenet_folder: Path, tmp_path: Path) -> None:
    for part, wnids in (("train", ("n01440764", "n01443537")), ("val", ("n02123045",))):
        for wnid in wnids:
            shutil.copytree(imagenet_folder / wnid, tmp_path / part / wnid)
    assert len(open_scenes(tmp_path, size_px=64)) == 4
    assert len(open_judged(tmp_path, size_px=64)) == 2
    assert len(open_scenes(tmp_path / "train", size_px=64)) == 4


def test_what_a_preset_needs_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "--preset", "flagship", "--out", str(tmp_path)]) == 2
    assert "'flagship' needs --scenes and --teacher; give that" in capsys.readouterr().err


def test_the_embedded_mini_in1k_is_of_its_preset() -> None:
    directory = resolve_checkpoint("mini-in1k")
    record = json.loads((directory / "config.json").read_text())["training"]
    run = json.loads(json.dumps(asdict(preset("mini-in1k-longer"))))
    # Settings that came later have the values that they had when there were none.
    assert {name: run[name] for name in run if name in record} == {
        name: value for name, value in record.items() if name in run
    }
    assert record["finished_steps"] == run["steps"]
    assert record["teacher"] == "efficientnet-lite0" and record["init"] is not None
    assert sum(path.stat().st_size for path in directory.iterdir()) < 12e6
    figures = json.loads((directory / "evaluation.json").read_text())["test"]
    card = (directory / "README.md").read_text()
    for policy in ("coarse_to_fine", "full_then_random"):
        for share in figures[policy]["top1"]:
            assert f"{share:.3f}" in card
