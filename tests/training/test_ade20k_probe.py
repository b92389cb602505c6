"""The published recipe of ADE20K probes, canvas and passive."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from PIL import Image
from test_distill import DIM, TinyTeacher
from torch import Tensor

from canvit_agents.cli.main import main
from canvit_gym.model.segmentation import SegmentationProbe
from canvit_gym.scenes.ade20k import ADE20KScenes
from canvit_gym.training import ade20k_probe
from canvit_gym.training.ade20k_probe import (
    ADE20KProbeObjective,
    ADE20KProbeTraining,
    CanvasMaps,
    TeacherMaps,
    confusion,
    mean_iou,
    resized_labels,
    stacked,
    train_ade20k_probe,
)
from canvit_gym.training.probe import AugmentedADE20K, is_of_one_class, load_backbone
from canvit_gym.training.settings import load_preset, make_run, preset_names

RUN = ADE20KProbeTraining(
    steps=4,
    scenes_per_step=2,
    scene_size_px=64,
    glimpse_size_px=32,
    canvas_grid_size=4,
    min_scale=0.25,
    num_glimpses=3,
    warmup_steps=1,
    precision="float32",
    validate_every=2,
    save_every=2,
)


@pytest.fixture(scope="module")
def reference() -> Any:
    """canvit-pytorch's probe trainer, with stand-ins for what it imports and is not installed."""
    pytest.importorskip("canvit_pytorch")
    inner = ("", ".eval", ".eval.segmentation", ".eval.segmentation.schedulers",
             ".eval.segmentation.transforms")  # fmt: skip
    names = ("comet_ml", *(f"dinov3{name}" for name in inner))
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            if name not in sys.modules:
                stand_in = ModuleType(name)
                stand_in.__dict__.update(
                    WarmupOneCycleLR=MagicMock, make_segmentation_train_transforms=MagicMock(),
                    CometExperiment=object, ExperimentConfig=MagicMock,
                )  # fmt: skip
                patch.setitem(sys.modules, name, stand_in)
        yield pytest.importorskip("canvit_pytorch.specialize.ade20k.train", exc_type=ImportError)


def objective_of(run: ADE20KProbeTraining, folder: Path, **kwargs: Any) -> ADE20KProbeObjective:
    torch.manual_seed(0)
    maps = kwargs.pop("maps", None) or CanvasMaps(load_backbone("mini", device="cpu"), run)
    scenes = ADE20KScenes(folder, split="test", size_px=run.scene_size_px)
    return ADE20KProbeObjective(
        run, maps, num_classes=150, validation=(scenes, range(len(scenes))), record={}, **kwargs
    )


def test_losses_and_gradients_are_the_reference_trainers(
    reference: Any, ade20k_folder: Path
) -> None:
    """Each glimpse by itself, so that BatchNorm sees what it saw there."""
    objective = objective_of(replace(RUN, dropout=0.0), ade20k_folder)
    twin = SegmentationProbe(embed_dim=128, num_classes=150, dropout=0.0, use_ln=True)
    twin.load_state_dict(objective.model.state_dict())
    seen: list[Tensor] = []
    maps = objective.maps

    def recorded(pictures: Tensor, viewpoints: Any) -> Any:
        for features in maps(pictures, viewpoints):
            seen.append(features)
            yield features

    objective.maps = recorded  # type: ignore[assignment]
    scenes = AugmentedADE20K(ade20k_folder, size_px=64, redraw=True)
    pictures, masks = stacked([scenes[i] for i in range(2)])
    loss = objective.backward((pictures, masks), step=0)["loss"]
    logits = [twin(features) for features in seen]
    theirs = torch.stack(
        [reference.segmentation_loss(each, masks.long()) for each in logits]
    ).mean()
    theirs.backward()
    torch.testing.assert_close(loss, theirs.detach(), rtol=1e-5, atol=0)
    for (name, ours), other in zip(
        objective.model.named_parameters(), twin.parameters(), strict=True
    ):
        torch.testing.assert_close(ours.grad, other.grad, rtol=1e-4, atol=1e-7, msg=name)
    for ours, other in zip(objective.model.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(ours, other)


def test_validations_are_the_reference_trainers(reference: Any, ade20k_folder: Path) -> None:
    objective = objective_of(RUN, ade20k_folder)
    with torch.no_grad():
        objective.model.conv.weight.normal_(std=0.5)
        objective.model.bn.running_var.fill_(0.3)  # type: ignore[operator, union-attr]
    seen: list[list[Tensor]] = []
    maps = objective.maps

    def recorded(pictures: Tensor, viewpoints: Any) -> Any:
        seen.append(list(maps(pictures, viewpoints)))
        yield from seen[-1]

    objective.maps = recorded  # type: ignore[assignment]
    figures = objective.validate()
    assert objective.validate() == figures and objective.model.training
    scenes, indices = objective.validation
    batches = [stacked([scenes[i] for i in part]) for part in (indices[:2], indices[2:])]
    replayed = iter(seen[:2])
    theirs, _ = reference.validate(
        probe=objective.model,
        feature_maps=lambda images, split: next(replayed),
        loader=[(pictures, masks.long()) for pictures, masks in batches],
        autocast=torch.autocast("cpu", enabled=False),
        device=torch.device("cpu"),
        figure_samples=1,
    )
    assert figures["miou"] == pytest.approx(theirs, rel=1e-5)


def test_learning_rates_count_from_the_first_step() -> None:
    run = make_run(ADE20KProbeTraining, load_preset("ade20k-c32", command="probe"))
    assert run == ADE20KProbeTraining(save_every=run.save_every)
    factor = ADE20KProbeObjective.learning_rate_factor
    at = [factor(MagicMock(run=run), step) for step in range(40_000)]
    assert at[0] == 1e-6
    assert at[750] == pytest.approx((1e-6 + (1 - 1e-6) * 0.5) * (1 - 750 / 40_000))
    assert at[1500] == pytest.approx((1 + math.cos(math.pi * 1501 / 40_000)) / 2)
    assert at[19_999] == pytest.approx(0.5) and at[-1] == 0


def test_presets_cover_the_published_probes() -> None:
    runs = {
        name: make_run(ADE20KProbeTraining, load_preset(name, command="probe"))
        for name in preset_names("probe")
        if name not in ("mini", "ours")
    }
    for grid in (8, 9, 10, 12, 16, 24, 32, 64):
        assert runs[f"ade20k-c{grid}"] == replace(runs["ade20k-c32"], canvas_grid_size=grid)
    for size in (128, 144, 160, 192, 256, 384, 512):
        assert runs[f"dinov3-{size}px"] == replace(runs["ade20k-c32"], teacher_size_px=size)


def test_crops_of_one_class_are_drawn_again(tmp_path: Path) -> None:
    half = torch.zeros(4, 4, dtype=torch.uint8)
    assert is_of_one_class(half)
    half[:1] = 7
    assert is_of_one_class(half)  # three quarters
    half[1, 0] = 7
    assert not is_of_one_class(half)
    half[1:] = 255
    half[1, 0] = 255
    assert is_of_one_class(half)  # of what is known
    assert is_of_one_class(torch.full((4, 4), 255, dtype=torch.uint8))

    values = np.ones((24, 72), dtype=np.uint8)  # two classes, one to the left of the other
    values[:, 36:] = 2
    pictures = {"images/training/0.jpg": values[..., None].repeat(3, 2),
                "annotations/training/0.png": values}  # fmt: skip
    for name, picture in pictures.items():
        (tmp_path / name).parent.mkdir(parents=True)
        Image.fromarray(picture).save(tmp_path / name)

    def share(redraw: bool) -> float:
        scenes = AugmentedADE20K(tmp_path, size_px=24, redraw=redraw)
        torch.manual_seed(0)
        masks = [scenes[0].mask for _ in range(60)]
        return float(np.mean([is_of_one_class(torch.from_numpy(mask)) for mask in masks]))

    assert share(redraw=True) < 0.5 * share(redraw=False)


def test_labels_are_the_nearest_towards_the_top_left(reference: Any) -> None:
    labels = torch.arange(64, dtype=torch.uint8).view(1, 8, 8)
    assert resized_labels(labels, 2)[0].tolist() == [[0, 4], [32, 36]]
    for side in (3, 8, 16):
        theirs = reference.resize_labels(labels.long(), torch.Size((side, side)))
        assert torch.equal(resized_labels(labels, side), theirs)


def test_mean_iou_is_that_of_sets() -> None:
    labels = torch.tensor([0, 0, 1, 1, 255])
    predicted = torch.tensor([0, 1, 1, 1, 2])
    assert mean_iou(confusion(predicted, labels, classes=4)) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_the_passive_probe_reads_the_teachers_patches(ade20k_folder: Path, tmp_path: Path) -> None:
    run = replace(RUN, teacher_size_px=96)
    maps = TeacherMaps(TinyTeacher(), run)
    pictures, _ = stacked([ADE20KScenes(ade20k_folder, split="test", size_px=64)[0]])
    (features,) = maps(pictures, [])
    assert features.shape == (1, 3, 3, DIM)
    probe = train_ade20k_probe(
        run, scenes=ade20k_folder, out=tmp_path, teacher=TinyTeacher(), workers=0, show=False
    )
    assert probe.embed_dim == DIM and not probe.use_ln
    found = SegmentationProbe.from_pretrained(tmp_path)
    assert not found.use_ln and found.num_classes == 150
    record = json.loads((tmp_path / "config.json").read_text())["training"]
    assert record["teacher"] == "tiny" and len(record["validation"]["miou"]) == 1


def test_the_command_trains_and_continues_as_if_unbroken(
    ade20k_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    preset = tmp_path / "small.yaml"
    preset.write_text(json.dumps(asdict(RUN)))

    def flags(out: str) -> list[str]:
        return ["probe", "--preset", str(preset), "--scenes", str(ade20k_folder), "--backbone",
                "mini", "--out", str(tmp_path / out), "--workers", "0"]  # fmt: skip

    assert main(flags("whole")) == 0, capsys.readouterr().err
    whole = torch.load(tmp_path / "whole" / "training.pt", weights_only=True)
    lines = [json.loads(line) for line in (tmp_path / "whole/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "miou" in line] == [0, 2, 4]

    class Killed(BaseException):
        pass

    backward = ADE20KProbeObjective.backward

    def killed(self: Any, batch: Any, *, step: int) -> dict[str, Tensor]:
        if step == 3:
            raise Killed
        return backward(self, batch, step=step)

    with monkeypatch.context() as patch:
        patch.setattr(ADE20KProbeObjective, "backward", killed)
        with pytest.raises(Killed):
            main(flags("broken"))
    assert main([*flags("broken"), "--resume"]) == 0
    broken = torch.load(tmp_path / "broken" / "training.pt", weights_only=True)
    for name, tensor in whole["model"].items():
        assert torch.equal(broken["model"][name], tensor), name
    assert broken["best"] == whole["best"]


def test_held_out_pictures_can_choose_the_probe(
    ade20k_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[tuple[str, int]] = []
    begin = ADE20KProbeObjective.__init__

    def spied(self: Any, *args: Any, validation: Any, **kwargs: Any) -> None:
        chosen.extend((validation[0][i].name, i) for i in validation[1])
        begin(self, *args, validation=validation, **kwargs)

    monkeypatch.setattr(ade20k_probe.ADE20KProbeObjective, "__init__", spied)
    run = replace(RUN, steps=2, held_out=1)
    train_ade20k_probe(
        run, scenes=ade20k_folder, out=tmp_path, backbone="mini", workers=0, show=False
    )
    assert len(chosen) == 1 and "/training/" in chosen[0][0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"backbone": None}, "of a canvas; give a backbone and no teacher"),
        ({"teacher": "x"}, "of a canvas; give a backbone and no teacher"),
        ({"run": replace(RUN, teacher_size_px=96)}, "a teacher's patches; give a teacher and no"),
        ({"run": replace(RUN, held_out=3)}, "There are 3 scenes"),
    ],
)
def test_bad_input_is_one_sentence(
    given: dict[str, Any], said: str, ade20k_folder: Path, tmp_path: Path
) -> None:
    usual: dict[str, Any] = {"run": RUN, "scenes": ade20k_folder, "backbone": "mini"}
    with pytest.raises(ValueError, match=said):
        train_ade20k_probe(**usual | given, out=tmp_path, workers=0)
