"""The belief about every cell, and the potentials of it that rewards are differences of."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from canvit_gym.envs.rollout import Rollout
from canvit_gym.geometry import random_viewpoint
from canvit_gym.scenes.base import IGNORE, Scene
from canvit_gym.scenes.emoji import EmojiScenes
from canvit_gym.tasks.segmentation import Segmentation

MakeRollout = Callable[..., Rollout]
CPU = torch.device("cpu")
SCENES = EmojiScenes(split="train")


@pytest.fixture
def task(make_segmentation_rollout: MakeRollout) -> Segmentation:
    task = make_segmentation_rollout().task
    assert isinstance(task, Segmentation)
    return task


def certain(classes: list[list[int]], *, num_classes: int = 3) -> torch.Tensor:
    """Logits [1, num_classes, G, G] of a belief that is all but sure of these classes."""
    return F.one_hot(torch.tensor([classes]), num_classes).permute(0, 3, 1, 2).float() * 50


def three_classes(task: Segmentation, *, label_size_px: int = 2) -> Segmentation:
    """The same task as if it had three classes; only `judge` is asked."""
    judge = object.__new__(Segmentation)
    for name, value in (
        ("model", task.model),
        ("class_names", ("a", "b", "c")),
        ("label_size_px", label_size_px),
    ):
        object.__setattr__(judge, name, value)
    return judge


def test_iou_and_accuracy_by_hand_and_ignored_pixels_never_count(task: Segmentation) -> None:
    judge = three_classes(task)
    masks = torch.tensor([[[0, 0], [1, IGNORE]]], dtype=torch.uint8)
    # One of two pixels of class 0 is taken for class 1; what lies under IGNORE is class 2.
    verdict = judge.judge(certain([[0, 1], [1, 2]]), masks)
    assert verdict.outcome["intersection"].tolist() == [[1, 1, 0]]
    assert verdict.outcome["union"].tolist() == [[2, 2, 0]]
    assert verdict.potentials["pixel_accuracy"].item() == pytest.approx(2 / 3)
    assert verdict.potentials["mean_iou"].item() == pytest.approx(0.5)
    # Sure and wrong about one of three pixels: 50 nats.
    assert verdict.potentials["log_likelihood"].item() == pytest.approx(-50 / 3, rel=1e-4)


def test_a_scene_without_labels_is_worth_nothing_and_never_nan(task: Segmentation) -> None:
    nothing = torch.full((1, 2, 2), IGNORE, dtype=torch.uint8)
    verdict = three_classes(task).judge(certain([[0, 1], [1, 2]]), nothing)
    for name in ("log_likelihood", "pixel_accuracy", "mean_iou"):
        assert verdict.potentials[name].item() == 0
    assert verdict.outcome["union"].sum() == 0


def test_potentials_equal_torch_on_enlarged_logits(task: Segmentation) -> None:
    judge = replace(task, label_size_px=32)
    generator = torch.Generator().manual_seed(0)
    belief = torch.randn(3, 47, 8, 8, generator=generator) * 3
    masks = judge.targets([SCENES[i] for i in range(3)], device=CPU)
    masks[0, :5] = IGNORE
    verdict = judge.judge(belief, masks)
    logits = F.interpolate(belief, size=(32, 32), mode="bilinear", align_corners=False)
    for i in range(3):
        expected = -F.cross_entropy(logits[i : i + 1], masks[i : i + 1].long(), ignore_index=IGNORE)
        assert verdict.potentials["log_likelihood"][i] == pytest.approx(float(expected), rel=1e-4)
        labelled = masks[i] != IGNORE
        right = (logits[i].argmax(0) == masks[i])[labelled].float().mean()
        assert verdict.potentials["pixel_accuracy"][i] == pytest.approx(float(right))
        entropy = torch.distributions.Categorical(logits=belief[i].flatten(1).T).entropy()
        assert verdict.potentials["neg_entropy"][i] == pytest.approx(
            -float(entropy.mean()), rel=1e-4
        )


def test_the_dataset_iou_is_the_references(task: Segmentation) -> None:
    metrics = pytest.importorskip("canvit_pytorch.benchmarks.ade20k.metrics")
    judge = replace(task, label_size_px=16)
    reference = metrics.MeanIoU(device=CPU, num_classes=47, ignore_label=IGNORE)
    generator = torch.Generator().manual_seed(2)
    intersection = union = torch.zeros(47)
    for start in (0, 4):
        masks = judge.targets([SCENES[start + i] for i in range(4)], device=CPU)
        masks[:, :, :3] = IGNORE
        truth = F.one_hot(masks.long().clamp(max=46), 47).permute(0, 3, 1, 2).float()
        belief = F.adaptive_avg_pool2d(truth, 8) + torch.randn(4, 47, 8, 8, generator=generator) / 4
        outcome = judge.judge(belief, masks).outcome
        intersection = intersection + outcome["intersection"].sum(dim=0)
        union = union + outcome["union"].sum(dim=0)
        enlarged = F.interpolate(belief, size=(16, 16), mode="bilinear", align_corners=False)
        reference.update(enlarged.argmax(dim=1), masks)
    ours = (intersection / union)[union > 0].mean()
    assert 0.1 < reference.compute() < 0.9
    assert float(ours) == pytest.approx(reference.compute(), abs=1e-6)


def test_chunks_of_scenes_change_nothing(
    task: Segmentation, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = replace(task, label_size_px=24)
    belief = torch.randn(3, 47, 8, 8, generator=torch.Generator().manual_seed(1))
    masks = judge.targets([SCENES[i] for i in range(3)], device=CPU)
    whole = judge.judge(belief, masks)
    monkeypatch.setattr("canvit_gym.tasks.places._CHUNK_BYTES", 1)
    parts = judge.judge(belief, masks)
    for name, value in whole.potentials.items():
        torch.testing.assert_close(parts.potentials[name], value)
    for name, value in whole.outcome.items():
        assert torch.equal(parts.outcome[name], value)


def test_masks_are_reduced_by_nearest_neighbour(task: Segmentation) -> None:
    mask = np.arange(4, dtype=np.uint8).repeat(32)[:, None].repeat(128, axis=1)  # four row bands
    scene = replace(SCENES[0], mask=mask)
    assert task.targets([scene], device=CPU)[0, :, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert replace(task, label_size_px=128).targets([scene], device=CPU).shape == (1, 128, 128)


def test_entropy_is_highest_where_nothing_is_known(task: Segmentation) -> None:
    belief = torch.zeros(1, 47, 8, 8)
    belief[0, 3, 2, 5] = 50
    entropy = task.entropy_map(belief)
    assert entropy[0, 2, 5] == pytest.approx(0, abs=1e-3)
    assert entropy[0, 5, 2] == pytest.approx(math.log(47), rel=1e-5)


@pytest.mark.parametrize("name", ["log_likelihood", "pixel_accuracy", "mean_iou", "neg_entropy"])
def test_rewards_telescope(name: str, make_segmentation_rollout: MakeRollout) -> None:
    rollout = make_segmentation_rollout(budget=3)
    episode = rollout.start([SCENES[i] for i in range(3)])
    first, total = episode.potentials[name], torch.zeros(3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        viewpoint = random_viewpoint(batch_size=3, min_scale=0.25, generator=generator)
        after = rollout.look(episode, viewpoint)
        total += after.potentials[name] - episode.potentials[name]
        episode = after
    torch.testing.assert_close(total, episode.potentials[name] - first, atol=1e-5, rtol=1e-5)
    assert not torch.equal(episode.potentials[name], first)


def test_refusals(task: Segmentation) -> None:
    blind: Scene = replace(SCENES[0], mask=None, name="photo.jpeg")
    with pytest.raises(ValueError, match="photo.jpeg has no mask"):
        task.targets([blind], device=CPU)
    with pytest.raises(ValueError, match="probe names 47 classes but the scenes have 2"):
        replace(task, class_names=("cat", "dog"))
    with pytest.raises(ValueError, match="label_size_px is 0"):
        replace(task, label_size_px=0)
