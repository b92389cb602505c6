"""Potentials on beliefs that are small enough to work out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from canvit_gym.envs.rollout import Rollout
from canvit_gym.model.heads import CanViTForImageClassification
from canvit_gym.scenes.emoji import EmojiScenes
from canvit_gym.tasks.classification import ACCURACY, POTENTIALS, Classification


@pytest.fixture
def task(make_rollout: Callable[..., Rollout]) -> Classification:
    return make_rollout().task


def test_potentials_by_hand(task: Classification) -> None:
    belief = torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.25, 0.25, 0.5]]).log()
    potentials = task.judge(belief, torch.tensor([0, 2, 1])).potentials
    entropy = 0.5 * math.log(0.5) + 0.3 * math.log(0.3) + 0.2 * math.log(0.2)
    expected = {
        "log_prob": [math.log(0.5), math.log(0.2), math.log(0.25)],
        "prob": [0.5, 0.2, 0.25],
        "margin": [0.2, -0.3, -0.25],
        "correct": [1, 0, 0],
        "neg_entropy": [entropy, entropy, -1.5 * math.log(2)],
    }
    assert set(potentials) == set(expected) == set(POTENTIALS)
    for name, values in expected.items():
        assert potentials[name].tolist() == pytest.approx(values, abs=1e-6), name
        assert potentials[name].dtype == torch.float32


def test_certainty_is_finite(task: Classification) -> None:
    belief = torch.tensor([[1e4, 0.0, -1e4]]).log_softmax(dim=1)
    right, wrong = (task.judge(belief, torch.tensor([label])).potentials for label in (0, 2))
    for potentials in (right, wrong):
        assert all(value.isfinite().all() for value in potentials.values())
    assert right["margin"] == right["prob"] == right["correct"] == 1
    assert wrong["margin"] == -1 and wrong["log_prob"] == -2e4
    assert right["neg_entropy"] == wrong["neg_entropy"] == 0


def test_the_belief_is_the_model_reading_its_state(task: Classification) -> None:
    state = task.model.init_state(batch_size=2, canvas_grid_size=8)
    with torch.inference_mode():
        belief = task.belief(state)
        logits = task.model.logits(state)
    assert belief.shape == (2, 16)
    torch.testing.assert_close(belief.exp().sum(dim=1), torch.ones(2))
    torch.testing.assert_close(belief - belief[:, :1], logits - logits[:, :1])


def test_targets_are_labels(task: Classification) -> None:
    scenes = [EmojiScenes(split="test")[i] for i in range(5)]
    targets = task.targets(scenes, device=torch.device("cpu"))
    assert targets.dtype == torch.int64
    assert targets.tolist() == [scene.label for scene in scenes]


def test_as_many_names_as_classes(task: Classification) -> None:
    with pytest.raises(ValueError, match="names 16 classes but the scenes have 2"):
        Classification(model=task.model, class_names=("cat", "dog"))


def test_scenes_without_a_label_are_refused_by_name(task: Classification) -> None:
    for label in (-1, 16):
        scene = replace(EmojiScenes(split="test")[3], label=label)
        with pytest.raises(ValueError, match=rf"Scene emoji/test/3 has the label {label}, .* 16"):
            task.targets([scene], device=torch.device("cpu"))


def test_a_model_that_names_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="is a Linear, which lacks n_classes, logits; give it"):
        Classification(model=torch.nn.Linear(1, 1), class_names=("cat",))  # type: ignore[arg-type]


def test_top_5_is_of_tasks_with_many_classes(task: Classification) -> None:
    few = task.judge(torch.zeros(1, 16).log_softmax(1), torch.tensor([0]))
    assert "in_top5" not in few.outcome and task.metrics == (ACCURACY,)

    many = many_classes(task)
    assert [metric.name for metric in many.metrics] == ["accuracy", "top5"]
    belief = torch.arange(100, 0, -1.0).expand(6, -1).log_softmax(dim=1)
    verdict = many.judge(belief, torch.tensor([0, 3, 4, 5, 6, 99]))
    assert verdict.outcome["in_top5"].tolist() == [True, True, True, False, False, False]
    assert verdict.outcome["correct"].tolist() == [True, *[False] * 5]
    # A belief that is no number is never right.
    assert (
        not many.judge(belief * math.nan, torch.tensor([0, 3, 4, 5, 6, 99]))
        .outcome["in_top5"]
        .any()
    )


def test_what_is_right_is_in_the_top_5_even_where_all_are_equal(task: Classification) -> None:
    outcome = many_classes(task).judge(torch.zeros(1, 100), torch.tensor([0])).outcome
    assert outcome["correct"] and outcome["in_top5"]


def many_classes(task: Classification) -> Classification:
    model = CanViTForImageClassification(canvit_config=task.model.canvit.config, n_classes=100)
    return Classification(model=model, class_names=tuple(map(str, range(100))))
