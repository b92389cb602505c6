"""Reduced precision of the frozen backbone costs no more than that of the plain one."""

from __future__ import annotations

import copy

import pytest
import torch

from canvit_gym.envs.rollout import Precision, Rollout
from canvit_gym.geometry import MINI_GLIMPSE, random_viewpoint
from canvit_gym.model.frozen import freeze
from canvit_gym.model.heads import CanViTForImageClassification
from canvit_gym.scenes.emoji import EmojiScenes
from canvit_gym.tasks.classification import Classification

NUM_SCENES, BATCH, BUDGET = 400, 200, 4
CLEAR = 0.05
"""Nats between the best two classes in float32. What is closer is decided by rounding: the plain
core in bfloat16 names another class in 0.5 % of glimpses when its pixels change by 1e-5, and none
where it was clear."""


def beliefs(model: CanViTForImageClassification, precision: Precision) -> torch.Tensor:
    """Log-probabilities after each glimpse: [NUM_SCENES * (BUDGET + 1), 16]."""
    scenes = EmojiScenes(split="test")
    task = Classification(model=model, class_names=scenes.class_names)
    rollout = Rollout(task=task, glimpse=MINI_GLIMPSE, budget=BUDGET, precision=precision)
    generator = torch.Generator().manual_seed(0)
    seen = []
    for first in range(0, NUM_SCENES, BATCH):
        episode = rollout.start([scenes[i] for i in range(first, first + BATCH)])
        seen.append(episode.belief)
        for _ in range(BUDGET):
            viewpoint = random_viewpoint(batch_size=BATCH, min_scale=0.25, generator=generator)
            episode = rollout.look(episode, viewpoint)
            seen.append(episode.belief)
        assert episode.state.canvas.dtype == episode.state.recurrent_cls.dtype == torch.float32
    return torch.cat(seen)


@pytest.mark.slow
def test_the_same_classes_are_named() -> None:
    plain = CanViTForImageClassification.from_pretrained("mini")
    frozen = freeze(copy.deepcopy(plain))
    exact, usual, found = (
        beliefs(model, precision)
        for model, precision in ((plain, "float32"), (plain, "bfloat16"), (frozen, "bfloat16"))
    )
    best = exact.topk(2, dim=1).values
    clear = best[:, 0] - best[:, 1] > CLEAR
    named_usually, named = (x.argmax(dim=1) for x in (usual, found))
    assert clear.float().mean() > 0.9 and len(named[clear].unique()) == 16
    assert (named == named_usually)[clear].float().mean() >= 0.999
    # Rounding takes both as far from float32, not to the same place.
    assert (named == named_usually).float().mean() > 0.985
    assert (found - exact).norm() < 1.1 * (usual - exact).norm()
