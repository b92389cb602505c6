"""Mean IoU against a case worked by hand and against the reference."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from synthetic import classified, segmented, trajectories

from canvit_agents.judging.metrics import tallies
from canvit_gym.scenes.base import IGNORE
from canvit_gym.tasks.segmentation import Segmentation


def test_accuracy_is_a_mean() -> None:
    evidence = classified([[0, 1], [0, 1], [1, 0]])
    assert list(tallies(evidence)) == ["accuracy"]
    np.testing.assert_allclose(tallies(evidence)["accuracy"].value, [1 / 3, 2 / 3])


def test_mean_iou_is_of_the_data_set_and_not_of_its_scenes() -> None:
    # One step, two scenes, three classes. Sums: 2 + 6 of 4 + 8; 0 of 5; nothing of the third.
    evidence = segmented([[[2, 0, 0]], [[6, 0, 0]]], [[[4, 0, 0]], [[8, 5, 0]]])
    found = tallies(evidence)
    assert list(found) == ["mean_iou", "pixel_accuracy"]
    assert found["mean_iou"].value.tolist() == [(8 / 12 + 0 / 5) / 2]
    of_scenes = [2 / 4, (6 / 8 + 0 / 5) / 2]
    assert found["mean_iou"].value[0] != pytest.approx(np.mean(of_scenes))
    np.testing.assert_allclose(found["pixel_accuracy"].value, [(2 / 4 + 6 / 13) / 2])


def test_mean_iou_equals_the_reference() -> None:
    metrics = pytest.importorskip("canvit_pytorch.benchmarks.ade20k.metrics")
    classes, size = 11, 12
    task = Segmentation(
        model=SimpleNamespace(num_classes=classes, logits=None),  # type: ignore[arg-type]
        class_names=tuple(map(str, range(classes))),
        label_size_px=size,
    )
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(0, classes - 2, (5, size, size), generator=generator)  # two never occur
    masks[torch.rand(masks.shape, generator=generator) < 0.2] = IGNORE
    reference = metrics.MeanIoU(device=torch.device("cpu"), num_classes=classes)
    verdicts = []
    for mask in masks[:, None]:
        logits = torch.randn(1, classes - 1, size, size, generator=generator)
        logits = torch.cat((logits, torch.full((1, 1, size, size), -9.0)), dim=1)
        reference.update(logits.argmax(dim=1), mask)
        verdicts.append(task.judge(logits, mask.to(torch.uint8)))
    seen = trajectories(
        potentials={"pixel_accuracy": np.zeros((5, 1))},
        outcome={
            name: np.stack([v.outcome[name].numpy() for v in verdicts])
            for name in ("intersection", "union")
        },
    )
    evidence = replace(segmented([[[1]]], [[[1]]]), seen=seen)
    assert tallies(evidence)["mean_iou"].value[0] == pytest.approx(reference.compute(), abs=1e-6)


def test_scenes_without_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="None of the 2 scenes .* mean IoU .* labelled"):
        tallies(segmented(np.zeros((2, 1, 3)), np.zeros((2, 1, 3))))
