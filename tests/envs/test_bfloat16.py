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

ONE_BIT = 2.0
"""Both forms round weights and activations to the same 8 bits. How far that takes them from float32
differs between processors, which add products up in other orders; an error twice as large would be
a bit of precision lost."""

SURE = 6.0
"""Two errors of one size differ by more than this many times their size in one of 45,000 cases
(normal errors: 6 over the square root of 2 standard deviations)."""


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
    errors = [(x - exact).square().mean().sqrt() for x in (usual, found)]
    assert 0 < errors[1] < ONE_BIT * errors[0]
    best = exact.topk(2, dim=1).values
    clear = best[:, 0] - best[:, 1] > SURE * max(errors)
    named_usually, named = (x.argmax(dim=1) for x in (usual, found))
    assert clear.float().mean() > 0.5 and len(named[clear].unique()) == 16
    assert (named == named_usually)[clear].float().mean() >= 0.999
    assert (named == exact.argmax(dim=1))[clear].float().mean() >= 0.999
