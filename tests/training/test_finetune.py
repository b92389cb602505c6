"""Fine-tuning begins with the fused probe, takes the published steps, and can be interrupted."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from canvit_agents.cli.main import main
from canvit_gym.geometry import MINI_GLIMPSE, sample_at_viewpoint
from canvit_gym.model.heads import CanViTForImageClassification, CanViTForPretraining
from canvit_gym.preprocess import normalize
from canvit_gym.scenes.emoji import EmojiScenes
from canvit_gym.training.batches import SceneBatches, batch_of
from canvit_gym.training.finetune import FineTuning, FineTuningObjective, finetune, load_start
from canvit_gym.training.settings import load_preset, make_run
from canvit_gym.training.sources import open_scenes

RUN = FineTuning(
    steps=4,
    scenes_per_step=4,
    scene_size_px=128,
    glimpse_size_px=MINI_GLIMPSE.glimpse_size_px,
    canvas_grid_size=MINI_GLIMPSE.canvas_grid_size,
    min_scale=MINI_GLIMPSE.min_scale,
    crop_area=1.0,
    flip=False,
    num_glimpses=2,
    warmup_steps=1,
    validate_every=2,
    validation_scenes=6,
    save_every=2,
)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A pretrained checkpoint and a probe which fuse to the shipped mini: its readout predicts the
    standardised logits of a teacher, and the probe reads these off."""
    folder = tmp_path_factory.mktemp("start")
    mini = CanViTForImageClassification.from_pretrained("mini")
    model = CanViTForPretraining(
        canvit_config=mini.canvit.config, teacher_dim=16, teacher_patch_grid=8
    )
    model.canvit.load_state_dict(mini.canvit.state_dict())
    model.teacher_cls_readout.load_state_dict(mini.readout.state_dict())
    standardizer = model.teacher_cls_standardizer
    standardizer.mean.fill_(0.3)
    standardizer.var.fill_(4.0)
    for fitted in (standardizer.fitted, model.teacher_patch_standardizer.fitted):
        fitted.fill_(True)
    model.save_pretrained(folder / "pretrained")
    (folder / "probe").mkdir()
    scale = 1 / standardizer.std[0]
    probe = {"weight": scale.diag(), "bias": -0.3 * scale}
    save_file(probe, folder / "probe" / "model.safetensors")
    return {"init": str(folder / "pretrained"), "probe": str(folder / "probe")}


def tune(
    run: FineTuning, out: Path, start: dict[str, str], **kwargs: Any
) -> CanViTForImageClassification:
    return finetune(run, scenes="emoji", out=out, workers=0, show=False, **start, **kwargs)


def log_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def objective_of(run: FineTuning, model: CanViTForImageClassification) -> FineTuningObjective:
    return FineTuningObjective(run, model, validation=(EmojiScenes(split="backbone"), range(4)))


def test_the_first_loss_proves_the_fused_start(start: dict[str, str]) -> None:
    run = replace(RUN, scenes_per_step=48, num_glimpses=4, label_smoothing=0.0)
    batch = batch_of(EmojiScenes(split="backbone"), range(48))
    fused = load_start(start["init"], start["probe"], device="cpu")
    mini = load_start("mini", None, device="cpu")
    random = CanViTForImageClassification(canvit_config=mini.canvit.config, n_classes=16)
    losses = [
        float(objective_of(run, model).backward(batch, step=0)["loss"])
        for model in (fused, mini, random)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)  # the probe was fused in
    assert losses[2] > 0.9 * math.log(16)
    assert losses[0] < 0.75 * math.log(16)  # full scene and random looks; it reached 1.6


def test_steps_are_those_of_a_plain_loop(start: dict[str, str], tmp_path: Path) -> None:
    """Cross-entropy with smoothed labels after each glimpse, through time, clipped, AdamW."""
    tuned = tune(RUN, tmp_path, start)
    model = load_start(start["init"], start["probe"], device="cpu").train()
    adam = torch.optim.AdamW(model.parameters(), weight_decay=1e-4)
    views = objective_of(RUN, model)
    scenes = EmojiScenes(split="backbone")
    for step, factor in enumerate((0.0, 1.0, 0.75, 0.25)):
        # The first scenes are those held out.
        batch = batch_of(scenes, range(6 + step * 4, 10 + step * 4))
        pictures, state = (
            normalize(batch.pictures),
            model.init_state(batch_size=4, canvas_grid_size=8),
        )
        loss = torch.zeros(())
        for viewpoint in views.rollout(step):
            glimpse = sample_at_viewpoint(spatial=pictures, viewpoint=viewpoint, glimpse_size_px=32)
            logits, state = model(glimpse=glimpse, state=state, viewpoint=viewpoint)
            smooth = 0.9 * F.one_hot(batch.labels, 16) + 0.1 / 16
            loss = loss - (smooth * logits.log_softmax(1)).sum(1).mean() / 2
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.param_groups[0]["lr"] = 2.5e-5 * factor
        adam.step()
    for name, tensor in tuned.state_dict().items():
        # A step moves a weight by some 2.5e-5; rounding of a tiny gradient may turn one around.
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=0, atol=2e-6, msg=name)


def test_learning_rates_are_the_published_ones() -> None:
    run = make_run(FineTuning, load_preset("in1k-tpu", command="finetune"))
    assert run == FineTuning()
    model = CanViTForImageClassification.from_pretrained("mini")
    factor = objective_of(run, model).learning_rate_factor
    assert factor(0) == 0 and factor(12_500) == 0.5 and factor(25_000) == 1
    middle = 25_000 + (100_080 - 25_000) // 2
    assert factor(middle) == pytest.approx(0.5) and factor(100_080) == pytest.approx(0, abs=1e-12)
    gpu = make_run(FineTuning, load_preset("in1k-a100", command="finetune"))
    assert gpu.steps * gpu.scenes_per_step == pytest.approx(
        run.steps * run.scenes_per_step, rel=0.01
    )
    assert gpu.lr == pytest.approx(run.lr * gpu.scenes_per_step / run.scenes_per_step)


def test_an_interrupted_run_continues_as_if_unbroken(
    start: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = replace(RUN, flip=True, crop_area=0.3)
    whole = tune(run, tmp_path / "whole", start)

    class Killed(BaseException):
        pass

    backward = FineTuningObjective.backward

    def killed(self: Any, batch: Any, *, step: int) -> dict[str, Tensor]:
        if step == 3:
            raise Killed
        return backward(self, batch, step=step)

    with monkeypatch.context() as patch:
        patch.setattr(FineTuningObjective, "backward", killed)
        with pytest.raises(Killed):
            tune(run, tmp_path / "broken", start)
    continued = tune(run, tmp_path / "broken", start)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(continued.state_dict()[name], tensor), name
    steps = [[line["step"] for line in log_of(tmp_path / which) if "top1" in line]
             for which in ("whole", "broken")]  # fmt: skip
    assert steps[0] == steps[1] == [0, 2, 4]


def test_the_best_validation_is_kept(start: dict[str, str], tmp_path: Path) -> None:
    tune(replace(RUN, lr=1.0, label_smoothing=0.0), tmp_path, start)  # which spoils it at once
    record = json.loads((tmp_path / "config.json").read_text())["training"]
    validations = [line for line in log_of(tmp_path) if "top1" in line]
    best = max(validations, key=lambda line: line["top1"][-1])
    assert record["selected_step"] == best["step"]
    assert record["validation"] == {name: best[name] for name in ("top1", "top5")}
    assert all(a <= b for a, b in zip(best["top1"], best["top5"], strict=True))
    kept = CanViTForImageClassification.from_pretrained(tmp_path)
    assert kept.n_classes == 16


@pytest.mark.parametrize("policy", ["full_then_random", "coarse_to_fine"])
def test_validation_counts_what_is_right(policy: Any) -> None:
    run = replace(RUN, num_glimpses=3, scenes_per_step=5, validation_policy=policy)
    model = CanViTForImageClassification.from_pretrained("mini")
    scenes = EmojiScenes(split="test")
    objective = FineTuningObjective(run, model, validation=(scenes, range(12)))
    figures = objective.validate()
    assert figures == objective.validate() and model.training
    logits = iter([torch.zeros(0)])

    class Told(CanViTForImageClassification):
        """Names the label at the second glimpse, the third best at the others."""

        def forward(self, **kwargs: Any) -> Any:
            _, state = super().forward(**kwargs)
            return next(logits), state

    told = Told(canvit_config=model.canvit.config, n_classes=16)
    objective.model = told
    labels = torch.tensor([scenes[i].label for i in range(12)])
    third = (
        F.one_hot(labels, 16)
        + 2 * F.one_hot((labels + 1) % 16, 16)
        + 3 * F.one_hot((labels + 2) % 16, 16)
    )
    answers = [third, F.one_hot(labels, 16), third]
    logits = iter([a[i : i + 5].float() for i in (0, 5, 10) for a in answers])
    found = objective.validate()
    assert found == {"top1": [0.0, 1.0, 0.0], "top5": [1.0, 1.0, 1.0]}


def test_the_command_on_a_folder(
    imagenet_folder: Path, imagenet_checkpoint: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    settings = {**asdict(RUN), "steps": 2, "validation_scenes": 2, "crop_area": 0.3}
    preset = tmp_path / "small.yaml"
    preset.write_text(json.dumps(settings))
    flags = [
        "finetune", "--preset", str(preset), "--scenes", str(imagenet_folder), "--init",
        imagenet_checkpoint, "--out", str(tmp_path / "run"), "--workers", "0",
    ]  # fmt: skip
    assert main(flags) == 0, capsys.readouterr().err
    assert CanViTForImageClassification.from_pretrained(tmp_path / "run").n_classes == 1000
    assert main(flags) == 2
    assert "holds a run already" in capsys.readouterr().err


BAD = {
    "no probe": ({"probe": None}, "names no classes; give a linear probe of that teacher"),
    "another probe": ({"init": "mini-seg-probe"}, "segmentation probe"),
    "nothing": ({"init": "./nothing"}, "'./nothing' was not found"),
}


@pytest.mark.parametrize("changes, said", BAD.values(), ids=BAD)
def test_bad_starts_are_one_sentence(
    changes: dict[str, Any], said: str, start: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises((ValueError, OSError), match=said):
        tune(RUN, tmp_path, start | changes)


def test_scenes_that_do_not_fit_are_refused(
    start: dict[str, str], imagenet_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="names 16 classes but the scenes have 1000"):
        tune(RUN, tmp_path, start, validation=imagenet_folder)
    unlabelled = batch_of(EmojiScenes(split="backbone"), range(4))
    unlabelled = unlabelled._replace(labels=torch.tensor([1, -1, 2, 3]))
    model = CanViTForImageClassification.from_pretrained("mini")
    with pytest.raises(ValueError, match="Some scenes have no label"):
        objective_of(RUN, model).backward(unlabelled, step=0)
    with pytest.raises(ValueError, match="warmup_steps is 4 and steps 4; give fewer"):
        replace(RUN, warmup_steps=4)


def test_random_crops_are_of_whole_pictures(tmp_path: Path) -> None:
    """Of pictures three times as wide as high, crops show what no central square has."""
    values = np.zeros((48, 144, 3), dtype=np.uint8)
    values[:, :48] = values[:, 96:] = 255
    (tmp_path / "n01440764").mkdir()
    Image.fromarray(values).save(tmp_path / "n01440764" / "0.png")
    scenes = open_scenes(tmp_path, size_px=32)
    run = replace(RUN, scene_size_px=32, crop_area=0.2)
    whole, square = (
        SceneBatches(scenes, range(1), run=run, whole=whole)[0].pictures for whole in (True, False)
    )
    assert whole.shape == square.shape == (4, 32, 32, 3)
    # Antialiasing mixes in some white at the edges of the black square.
    assert square.float().mean() < 10 and whole.float().mean() > 60
    again = SceneBatches(scenes, range(1), run=run, whole=True)[0].pictures
    assert torch.equal(whole, again)
    generated = SceneBatches(EmojiScenes(split="backbone"), range(9), run=RUN, whole=True)
    assert not generated.whole  # which are squares
