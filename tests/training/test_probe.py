"""The probe's training: it learns, an interruption changes nothing, and what it ships is good."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from canvit_agents.cli.main import main as canvit_gym_command
from canvit_gym.geometry import check_inside
from canvit_gym.model.canvit import CanViT
from canvit_gym.model.checkpoints import checkpoint_sha256, resolve_checkpoint
from canvit_gym.model.config import CanViTConfig
from canvit_gym.model.heads import CanViTForPretraining
from canvit_gym.model.segmentation import SegmentationProbe
from canvit_gym.scenes.ade20k import CLASS_NAMES
from canvit_gym.scenes.base import IGNORE
from canvit_gym.scenes.emoji import EmojiScenes
from canvit_gym.training import common, probe
from canvit_gym.training.common import grid_labels
from canvit_gym.training.probe import (
    AugmentedADE20K,
    ProbeTraining,
    draw_viewpoints,
    evaluate,
    learning_rate_factor,
    load_backbone,
    main,
    make_rollout,
    preset,
    probe_loss,
    train,
    training_scenes,
    validate,
)

PRESETS = {name: preset(name) for name in ("mini", "ours")}
RUN = replace(
    PRESETS["mini"],
    steps=6,
    scenes_per_step=4,
    num_glimpses=2,
    warmup_steps=2,
    canvas_grid_size=4,
    label_size_px=4,
    validate_every=3,
    validation_scenes=4,
)
FOLDER_RUN = replace(RUN, scene_size_px=32, validation_scenes=2)


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory of a pretraining checkpoint with a narrow canvas and random weights."""
    directory = tmp_path_factory.mktemp("backbone")
    config = CanViTConfig(
        backbone_name="mini8",
        canvas_num_heads=2,
        canvas_head_dim=8,
        num_canvas_registers=1,
        num_backbone_registers=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CanViTForPretraining(canvit_config=config, teacher_dim=4, teacher_patch_grid=2)
    model.save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="module")
def ade20k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures whose left half is dark and class 0, the right one bright and class 1, under a strip
    without a class; five for training, three for validation."""
    root = tmp_path_factory.mktemp("ADEChallengeData2016")
    values = np.ones((40, 60), dtype=np.uint8)
    values[:, 30:] = 2
    picture = np.repeat(values[..., None] * np.uint8(100), 3, axis=2)
    values[:4] = 0
    for folder, count in (("training", 5), ("validation", 3)):
        for kind in ("images", "annotations"):
            (root / kind / folder).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(picture).save(root / f"images/{folder}/{number}.jpg", quality=95)
            Image.fromarray(values).save(root / f"annotations/{folder}/{number}.png")
    return root


def run_in(out: Path, backbone: str, run: ProbeTraining = RUN) -> SegmentationProbe:
    train(run, backbone=backbone, scenes="emoji", out=out, device="cpu", workers=0)
    return SegmentationProbe.from_pretrained(out)


def log_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def new_probe(embed_dim: int = 16, num_classes: int = 47) -> SegmentationProbe:
    torch.manual_seed(0)
    return SegmentationProbe(embed_dim=embed_dim, num_classes=num_classes, dropout=0.1, use_ln=True)


@pytest.fixture(scope="module")
def unbroken(backbone: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a finished run."""
    out = tmp_path_factory.mktemp("unbroken")
    run_in(out, backbone)
    return out


def test_a_run_leaves_a_published_probe_with_its_record(unbroken: Path, backbone: str) -> None:
    found = SegmentationProbe.from_pretrained(unbroken)
    assert (found.embed_dim, found.num_classes, found.dropout, found.use_ln) == (16, 47, 0.1, True)
    config = json.loads((unbroken / "config.json").read_text())
    assert set(config) == {*SegmentationProbe.config_fields, "training"}
    record = config["training"]
    assert record["steps"] == 6 and record["backbone"] == backbone and record["scenes"] == "emoji"
    validations = [line for line in log_of(unbroken) if "mean_iou" in line]
    assert [line["step"] for line in validations] == [3, 6]
    best = max(validations, key=lambda line: line["mean_iou"][-1])
    assert record["selected_step"] == best["step"]
    assert record["validation"] == {name: best[name] for name in ("mean_iou", "pixel_accuracy")}
    assert len(best["mean_iou"]) == RUN.num_glimpses


def test_steps_are_those_that_made_the_shipped_probe(unbroken: Path, backbone: str) -> None:
    """The plain loop that the shipped probe came from: nothing is clipped."""
    canvit, source = load_backbone(backbone, device="cpu"), training_scenes("emoji", RUN)
    torch.manual_seed(RUN.seed)
    head = SegmentationProbe(embed_dim=16, num_classes=47, dropout=0.1, use_ln=True)
    adam = torch.optim.AdamW(head.parameters(), lr=RUN.lr, weight_decay=RUN.weight_decay)
    for step in range(RUN.steps):
        order = torch.randperm(24, generator=torch.Generator().manual_seed(1)).tolist()
        batch = [source.training[1_000_000 + i] for i in order[step * 4 : (step + 1) * 4]]
        pictures, masks = (
            torch.from_numpy(np.stack([getattr(scene, name) for scene in batch]))
            for name in ("picture", "mask")
        )
        views = draw_viewpoints(RUN, generator=torch.manual_seed(step * 4 + 2))
        features = probe.canvases(canvit, pictures=pictures, viewpoints=views, run=RUN)
        adam.param_groups[0]["lr"] = RUN.lr * learning_rate_factor(step, RUN)
        adam.zero_grad()
        probe_loss(head, features.clone(), grid_labels(masks, 4), kind=RUN.kind).backward()
        adam.step()
    saved = torch.load(unbroken / "training.pt", weights_only=True)["model"]
    for name, tensor in head.state_dict().items():
        assert torch.equal(saved[name], tensor), name


def test_the_loss_falls(backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[float] = []

    def spied(*args: Any, **kwargs: Any) -> Tensor:
        loss = probe_loss(*args, **kwargs)
        losses.append(float(loss.detach()))
        return loss

    monkeypatch.setattr(probe, "probe_loss", spied)
    run_in(tmp_path, backbone, replace(RUN, steps=30, validate_every=30))
    assert losses[0] == pytest.approx(np.log(47), abs=0.3)  # it begins by guessing
    assert np.mean(losses[-5:]) < losses[0] - 0.2


def test_an_interrupted_run_continues_as_if_unbroken(
    unbroken: Path, backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interruption(Exception):
        pass

    draws = 0

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        nonlocal draws
        draws += 1
        if draws > 3:
            raise Interruption
        return draw_viewpoints(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(probe, "SAVE_EVERY", 2)
        patch.setattr(probe, "draw_viewpoints", interrupted)
        with pytest.raises(Interruption):
            run_in(tmp_path, backbone)
    assert torch.load(tmp_path / "training.pt", weights_only=True)["step"] == 2
    run_in(tmp_path, backbone)
    ends = [torch.load(out / "training.pt", weights_only=True) for out in (tmp_path, unbroken)]
    for name, tensor in ends[1]["model"].items():
        torch.testing.assert_close(ends[0]["model"][name], tensor, rtol=0, atol=1e-6, msg=name)
    assert ends[0]["best"] == ends[1]["best"]


def test_a_finished_run_is_left_as_it_is(unbroken: Path, backbone: str) -> None:
    before = (unbroken / "model.safetensors").read_bytes()
    run_in(unbroken, backbone)
    assert (unbroken / "model.safetensors").read_bytes() == before


def test_other_settings_are_refused(unbroken: Path, backbone: str) -> None:
    with pytest.raises(ValueError, match="other settings .* same settings .* another --out"):
        run_in(unbroken, backbone, replace(RUN, seed=1))


def test_the_backbone_stays_frozen(
    backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canvit = load_backbone(backbone, device="cpu")
    before = {name: tensor.clone() for name, tensor in canvit.state_dict().items()}

    def loaded(name: str, *, device: str) -> CanViT:
        return canvit

    monkeypatch.setattr(probe, "load_backbone", loaded)
    run_in(tmp_path, backbone)
    assert not canvit.training
    assert not any(p.requires_grad or p.grad is not None for p in canvit.parameters())
    for name, tensor in canvit.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_validation_changes_nothing_in_the_probe(backbone: str) -> None:
    head = new_probe()
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    source = training_scenes("emoji", RUN)
    canvit = load_backbone(backbone, device="cpu")
    rollout = make_rollout(canvit, head, scenes=source.validation, run=RUN)
    assert validate(rollout, head, source, RUN) == validate(rollout, head, source, RUN)
    assert head.training
    for name, tensor in head.state_dict().items():  # BatchNorm's statistics are among them
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(("size", "grid"), [(128, 8), (512, 32), (50, 7)])
def test_labels_are_the_nearest_to_each_cells_middle(size: int, grid: int) -> None:
    mask = np.random.default_rng(0).integers(0, 256, (size, size), dtype=np.uint8)
    resized = Image.fromarray(mask).resize((grid, grid), Image.Resampling.NEAREST)
    labels = grid_labels(torch.from_numpy(mask)[None], grid)
    assert labels.dtype == torch.int64
    assert torch.equal(labels[0], torch.from_numpy(np.array(resized)).long())


def test_ignored_cells_do_not_count() -> None:
    features = torch.randn(3, 2, 4, 4, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(47, (2, 4, 4), generator=torch.Generator().manual_seed(0))
    head = new_probe().eval()
    labels[0] = IGNORE
    half = probe_loss(head, features, labels, kind=RUN.kind)
    torch.testing.assert_close(half, probe_loss(head, features[:, 1:], labels[1:], kind=RUN.kind))
    loss = probe_loss(head, features, torch.full_like(labels, IGNORE), kind=RUN.kind)
    loss.backward()
    assert float(loss.detach()) == 0 and head.conv.weight.grad is not None
    assert not head.conv.weight.grad.any()


def test_the_loss_is_the_mean_over_glimpses() -> None:
    features = torch.randn(3, 2, 4, 4, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(47, (2, 4, 4), generator=torch.Generator().manual_seed(0))
    head = new_probe().eval()
    each = [probe_loss(head, glimpse[None], labels, kind=RUN.kind) for glimpse in features]
    torch.testing.assert_close(
        probe_loss(head, features, labels, kind=RUN.kind), torch.stack(each).mean()
    )


def test_viewpoints_are_random_and_may_begin_with_the_full_scene() -> None:
    shares = {}
    for name, usual in PRESETS.items():
        run = replace(usual, scenes_per_step=400)
        views = draw_viewpoints(run, generator=torch.Generator().manual_seed(0))
        assert len(views) == run.num_glimpses
        for view in views:
            check_inside(view)
            assert view.scales.min() >= run.min_scale
        assert all(bool((view.scales < 1).all()) for view in views[1:])
        shares[name] = float((views[0].scales == 1).float().mean())
    assert shares["ours"] == 0 and 0.4 < shares["mini"] < 0.6


def test_the_learning_rate_rises_and_falls() -> None:
    run = replace(RUN, steps=110, warmup_steps=10)
    factors = [learning_rate_factor(step, run) for step in range(111)]
    assert factors[0] == 1e-6 and factors[5] == pytest.approx(0.5, abs=1e-5)
    assert factors[10] == 1 and factors[60] == pytest.approx(0.5)
    assert factors[110] == pytest.approx(0) and factors[10:] == sorted(factors[10:], reverse=True)


def test_no_scene_both_trains_and_validates(ade20k: Path) -> None:
    emoji = training_scenes("emoji", RUN)
    for scenes in (emoji.training, emoji.validation):
        assert isinstance(scenes, EmojiScenes) and scenes.split == "backbone"
    assert min(emoji.training_indices) == 1_000_000
    folder = training_scenes(str(ade20k), FOLDER_RUN)
    for source in (emoji, folder):
        assert not set(source.training_indices) & set(source.validation_indices)
    indices = [*folder.training_indices, *folder.validation_indices]
    assert sorted(indices) == list(range(5)) and len(folder.validation_indices) == 2
    assert all("/training/" in folder.validation[i].name for i in indices)


def test_every_epoch_shows_every_picture_once(ade20k: Path) -> None:
    source = training_scenes(str(ade20k), FOLDER_RUN)
    batches = probe._Batches(source, replace(FOLDER_RUN, scenes_per_step=1))
    seen = [batches._indices(step)[0] for step in range(30)]
    epochs = [tuple(seen[i : i + 3]) for i in range(0, 30, 3)]
    assert all(sorted(epoch) == sorted(source.training_indices) for epoch in epochs)
    assert len(set(epochs)) > 1


def test_augmentation_moves_picture_and_mask_together(ade20k: Path) -> None:
    scenes = AugmentedADE20K(ade20k, size_px=32)
    torch.manual_seed(0)
    draws = [scenes[0] for _ in range(40)]
    flips, padded = set(), 0
    for scene in draws:
        assert scene.mask is not None
        assert scene.picture.shape == (32, 32, 3) and scene.mask.shape == (32, 32)
        assert scene.picture.dtype == scene.mask.dtype == np.uint8
        assert set(np.unique(scene.mask)) <= {0, 1, IGNORE}
        dark, bright = (scene.picture[scene.mask == k] for k in (0, 1))
        if len(dark) and len(bright):
            assert dark.mean() < bright.mean()
            columns = [np.nonzero(scene.mask == k)[1].mean() for k in (0, 1)]
            flips.add(columns[0] < columns[1])
        padded += bool((scene.mask[-1] == IGNORE).all())
    assert flips == {True, False} and padded  # mirrored or not; smaller than the crop or not
    torch.manual_seed(0)
    assert (scenes[0].picture == draws[0].picture).all()
    assert any((scene.picture != draws[0].picture).any() for scene in draws)


def test_annotations_of_another_data_set_are_refused(tmp_path: Path) -> None:
    for kind, suffix in (("images", "jpg"), ("annotations", "png")):
        (tmp_path / kind / "training").mkdir(parents=True)
        grey = Image.new("L", (8, 8), 151)
        grey.save(tmp_path / kind / "training" / f"0.{suffix}")
    with pytest.raises(ValueError, match="holds the value 151"):
        AugmentedADE20K(tmp_path, size_px=32)[0]


def test_command_line_on_a_folder(
    ade20k: Path, backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"scene_size_px": 32, "glimpse_size_px": 16, "canvas_grid_size": 4,
             "label_size_px": 32, "scenes_per_step": 2, "num_glimpses": 2,
             "precision": "float32"}  # fmt: skip
    common_flags = ["--backbone", backbone, "--scenes", str(ade20k)]
    short = {"steps": 3, "warmup_steps": 1, "validation_scenes": 2}
    settings = [f"{name}={value}" for name, value in (small | short).items()]
    out = tmp_path / "run"
    flags = ["probe", "--preset", "ours", *common_flags, "--out", str(out), "--set", *settings]
    assert canvit_gym_command(flags) == 0, capsys.readouterr().err
    found = SegmentationProbe.from_pretrained(out)
    assert found.num_classes == len(CLASS_NAMES) == 150
    record = json.loads((out / "config.json").read_text())["training"]
    assert record["lr"] == PRESETS["ours"].lr and record["full_scene_share"] == 0

    capsys.readouterr()
    splits = ["--split", "train", "test"]
    for name, value in small.items():
        common_flags += ["--" + name.replace("_", "-"), str(value)]
    assert main([*common_flags, "--probe", str(out), *splits]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert {split: figures[split]["scenes"] for split in figures} == {"train": 5, "test": 3}
    for split in figures.values():
        for values in (*split["f_iid"].values(), *split["full_scene_and_tiles"].values()):
            assert all(0 <= value <= 1 for value in np.atleast_1d(values))
        assert len(split["f_iid"]["mean_iou"]) == 2


BAD = {
    "warmup": (["--set", "steps=5", "warmup_steps=5"], "warmup_steps is 5 and steps 5"),
    "steps": (["--set", "steps=0"], "steps is 0"),
    "share": (["--set", "full_scene_share=2"], "full_scene_share is 2.0; give 0.0 to 1"),
    "precision": (["--set", "precision=half"], "precision is 'half'"),
    "task": (["--set", "task=naming"], "task is 'naming'"),
    "scene size": (["--set", "scene_size_px=64"], "generated scenes have 128 px"),
    "no folder": (["--scenes", "nowhere"], "There is no folder"),
    "no backbone": (["--backbone", "./nothing"], "Checkpoint './nothing' was not found"),
    "a probe": (["--backbone", "mini-seg-probe"], "this is a segmentation probe"),
    "patches": (["--set", "glimpse_size_px=30"], "multiples of 8 px"),
    "a teacher": (["--teacher", "x"], "is of a canvas; give a backbone and no teacher"),
    "preset": (["--preset", "official"], "preset is 'official'; choose one of ade20k-c10"),
}


@pytest.mark.parametrize("flags, said", BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_sentence(
    flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["probe", "--preset", "mini", "--backbone", "mini", "--scenes", "emoji"]
    out = ["--out", str(tmp_path / "out"), "--workers", "0"]
    assert canvit_gym_command([*given, *out, *flags]) == 2
    printed = capsys.readouterr().err
    message = printed[printed.index("error: ") :]
    assert said in message and message.count("\n") == 1


def test_measuring_what_is_not_there_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--backbone", "mini", "--scenes", "emoji", "--probe", "./nothing"]
    assert main(given) == 2
    message = capsys.readouterr().err
    assert "'./nothing' was not found" in message and message.count("\n") == 1


def test_the_shipped_probe_reads_the_minis_canvas() -> None:
    figures = evaluate(
        PRESETS["mini"],
        backbone="mini",
        probe="mini-seg-probe",
        scenes="emoji",
        split="test",
        num_scenes=48,
        device="cpu",
    )
    miou, accuracy = figures["f_iid"]["mean_iou"], figures["f_iid"]["pixel_accuracy"]
    assert miou == sorted(miou) and accuracy == sorted(accuracy)  # each glimpse helps
    assert miou[0] > 0.2 and miou[4] > 0.38  # it reached 0.237 and 0.422
    assert accuracy[4] > 0.84  # it reached 0.859


def test_the_shipped_probe_is_that_of_the_shipped_mini() -> None:
    config = json.loads((resolve_checkpoint("mini-seg-probe") / "config.json").read_text())
    record = config["training"]
    assert record["backbone_sha256"] == checkpoint_sha256("mini")
    settings = asdict(PRESETS["mini"])
    assert {name: record[name] for name in settings} == settings  # the command still makes it
    assert config["num_classes"] == len(EmojiScenes.mask_class_names)


def test_a_folder_that_is_too_small_says_so(ade20k: Path) -> None:
    with pytest.raises(ValueError, match="has 5 training pictures, .* hold out fewer"):
        training_scenes(str(ade20k), replace(FOLDER_RUN, validation_scenes=5))


def test_a_probe_of_other_classes_is_refused(ade20k: Path, unbroken: Path, backbone: str) -> None:
    with pytest.raises(ValueError, match="names 47 classes but the scenes have 150"):
        evaluate(
            FOLDER_RUN,
            backbone=backbone,
            probe=str(unbroken),
            scenes=str(ade20k),
            split="test",
            num_scenes=1,
            device="cpu",
        )


def test_half_a_snapshot_never_replaces_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common.save_snapshot(tmp_path, settings={"steps": 1}, step=1)

    write = Path.write_bytes

    def killed(path: Path, data: bytes) -> None:
        write(path, data[: len(data) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", killed)
    with pytest.raises(KeyboardInterrupt):
        common.save_snapshot(tmp_path, settings={"steps": 1}, step=2)
    saved = common.load_snapshot(tmp_path, settings={"steps": 1}, device="cpu")
    assert saved is not None and saved["step"] == 1
