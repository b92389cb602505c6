"""The spatial policy: what it remembers of its looks, and that its logits are a map of places."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from canvit_agents.learning.sb3_policies import CellPolicy, GaussianPolicy
from canvit_agents.policies.networks import coverage, taken_maps, visit_maps
from canvit_gym.envs.actions import cell_actions

GRID = 4
SCALES = (0.25, 0.5)


def history(*viewpoints: tuple[float, float, float]) -> torch.Tensor:
    """[1, 3, 4]: these viewpoints, then rows that were not taken."""
    rows = torch.zeros(1, 3, 4)
    for t, viewpoint in enumerate(viewpoints):
        rows[0, t] = torch.tensor([*viewpoint, 1.0])
    return rows


def test_coverage_is_the_share_of_each_cell_row_first() -> None:
    # The upper right quarter, and a crop that covers half of a cell's height.
    seen = coverage(history((-0.5, 0.5, 0.5), (0.5, -0.75, 0.25)), grid_size=GRID)
    quarter = torch.zeros(GRID, GRID)
    quarter[:2, 2:] = 1
    assert torch.equal(seen[0, 0], quarter)
    assert torch.equal(seen[0, 1, :, 0], torch.tensor([0, 0, 0.5, 0.5]))
    assert seen[0, 2].sum() == 0  # not taken


def test_visit_maps_tell_fine_looks_from_coarse_ones() -> None:
    maps = visit_maps(history((0.0, 0.0, 1.0), (-0.5, 0.5, 0.25)), grid_size=GRID)
    finest, often = maps[0]
    assert finest[3, 0] == 0 and often[3, 0] == pytest.approx(1 / 3)
    assert finest[0, 2] == pytest.approx(0.5 / 4)  # a quarter of the cell, two halvings


def test_taken_maps_mark_the_very_viewpoint_at_its_scale() -> None:
    actions = cell_actions(grid_size=GRID, scales=SCALES).viewpoints
    cells = torch.cat((actions.centers, actions.scales[:, None]), dim=1)
    # Row 1, column 2 at the fine scale; a coarse crop that the edge clips.
    maps = taken_maps(history((-0.25, 0.25, 0.25), (0.5, -0.5, 0.5)), cells, grid_size=GRID)
    fine, coarse = maps[0]
    assert fine.nonzero().tolist() == [[1, 2]]
    assert coarse.nonzero().tolist() == [[3, 0]]


def test_a_viewpoint_that_was_taken_is_never_chosen_again(policy: CellPolicy) -> None:
    actions = cell_actions(grid_size=GRID, scales=SCALES).viewpoints
    seen = observe(torch.randn(1, 6, GRID, GRID, generator=torch.Generator().manual_seed(0)))
    for t in range(3):
        chosen = int(policy._predict(seen, deterministic=True))
        probability = policy.get_distribution(seen).distribution.probs[0]  # type: ignore[union-attr]
        assert probability[chosen] == probability.max() > 0
        seen["viewpoints"][0, t] = torch.tensor(
            [*actions.centers[chosen].tolist(), float(actions.scales[chosen]), 1.0]
        )
        after = policy.get_distribution(seen).distribution.probs[0]  # type: ignore[union-attr]
        assert after[chosen] == 0
        assert torch.isfinite(policy.get_distribution(seen).entropy()).all()


OBSERVATION = spaces.Dict(
    {
        "canvas": spaces.Box(-9, 9, (6, GRID, GRID), np.float32),
        "cls": spaces.Box(-9, 9, (5,), np.float32),
        "viewpoints": spaces.Box(-1, 1, (3, 4), np.float32),
        "progress": spaces.Box(0, 1, (1,), np.float32),
    }
)


@pytest.fixture
def policy() -> CellPolicy:
    torch.manual_seed(0)
    return CellPolicy(
        OBSERVATION, spaces.Discrete(2 * GRID**2), lambda _: 1e-2, channels=8, cell_scales=SCALES
    )


def observe(canvas: torch.Tensor) -> dict[str, torch.Tensor]:
    batch = len(canvas)
    return {
        "canvas": canvas,
        "cls": torch.zeros(batch, 5),
        "viewpoints": torch.zeros(batch, 3, 4),
        "progress": torch.zeros(batch, 1),
    }


def test_it_learns_to_point_at_a_marked_cell_it_never_saw_marked(policy: CellPolicy) -> None:
    """Weights are shared over places: trained on some cells, it finds the others too."""
    actions = cell_actions(grid_size=GRID, scales=SCALES)
    inner = [row * GRID + col for row in (1, 2) for col in (1, 2)]

    def marked(cells: list[int]) -> torch.Tensor:
        canvas = torch.zeros(len(cells), 6, GRID * GRID)
        canvas[range(len(cells)), 0, cells] = 5.0
        return canvas.unflatten(2, (GRID, GRID))

    trained, left_out = inner[:3], inner[3:]
    for _ in range(60):
        loss = (
            -policy.get_distribution(observe(marked(trained)))
            .log_prob(torch.tensor(trained))
            .mean()
        )
        policy.optimizer.zero_grad()
        loss.backward()
        policy.optimizer.step()
    chosen = policy._predict(observe(marked(left_out)), deterministic=True)
    viewpoint = actions.viewpoint(chosen)
    assert viewpoint.scales.tolist() == [0.25]
    assert viewpoint.centers.tolist() == [[0.25, 0.25]]  # row 2, col 2 of 4


def test_a_logit_adds_up_what_its_crop_shows(policy: CellPolicy, tmp_path: Path) -> None:
    summing = CellPolicy(
        OBSERVATION, spaces.Discrete(2 * GRID**2), lambda _: 1e-2, channels=8, cell_scales=SCALES,
        sums_crops=True,
    )  # fmt: skip
    heads = summing.heads.places
    with torch.no_grad():  # every cell offers 1 to fine crops and 10 to coarse ones
        heads.logits.weight.zero_()
        heads.offers.weight.zero_()
        heads.offers.bias.copy_(torch.tensor([1.0, 10.0]))
    seen = observe(torch.randn(1, 6, GRID, GRID, generator=torch.Generator().manual_seed(0)))
    fine, coarse = summing.map_and_value(seen)[0].detach().reshape(2, GRID, GRID)
    torch.testing.assert_close(fine, torch.ones(GRID, GRID))  # one cell each
    # At the corners four whole cells; else one, and halves of four, as quarters do not count.
    torch.testing.assert_close(coarse[[0, 0, 3, 3], [0, 3, 0, 3]], torch.full((4,), 40.0))
    torch.testing.assert_close(coarse[1:3, 1:3], torch.full((2, 2), 30.0))
    assert policy.heads.places.offers is None
    summing.save(tmp_path / "policy.pt")
    again = CellPolicy.load(tmp_path / "policy.pt")
    torch.testing.assert_close(again.map_and_value(seen)[0], summing.map_and_value(seen)[0])


def stopping_policy() -> CellPolicy:
    torch.manual_seed(0)
    return CellPolicy(
        OBSERVATION,
        spaces.Discrete(2 * GRID**2 + 1),
        lambda _: 1e-2,
        channels=8,
        cell_scales=SCALES,
    )


def test_stopping_is_one_more_choice_and_rare_at_first(policy: CellPolicy) -> None:
    stopping = stopping_policy()
    seen = observe(torch.randn(5, 6, GRID, GRID, generator=torch.Generator().manual_seed(0)))
    probs = stopping.get_distribution(seen).distribution.probs  # type: ignore[union-attr]
    assert probs.shape == (5, 33) and not policy.config.stop_action
    torch.testing.assert_close(probs[:, -1], torch.full((5,), 1 / 21), atol=0.01, rtol=0)
    # The most probable action stops, because there are many places; the policy still looks.
    assert (probs.argmax(dim=1) == 32).all()
    chosen = stopping._predict(seen, deterministic=True)
    assert torch.equal(chosen, probs[:, :-1].argmax(dim=1))
    with torch.no_grad():
        stopping.heads.places.stop.bias.fill_(0.2)
    assert (stopping._predict(seen, deterministic=True) == 32).all()
    drawn = torch.cat([stopping._predict(seen) for _ in range(40)])
    assert 0 < (drawn == 32).sum() < len(drawn)


def test_it_learns_when_to_stop() -> None:
    """To stop where a cell is marked, wherever it is, and else to look."""
    policy = stopping_policy()
    canvas = torch.zeros(8, 6, GRID * GRID)
    canvas[range(4), 0, [0, 6, 9, 15]] = 5.0
    seen = observe(canvas.unflatten(2, (GRID, GRID)))
    stop = torch.tensor([True] * 4 + [False] * 4)
    wanted = torch.where(stop, 32, 3)
    for _ in range(100):
        loss = -policy.get_distribution(seen).log_prob(wanted).mean()
        policy.optimizer.zero_grad()
        loss.backward()
        policy.optimizer.step()
    assert torch.equal(policy._predict(seen, deterministic=True), wanted)
    left_out = torch.zeros(2, 6, GRID * GRID)
    left_out[0, 0, 10] = 5.0
    chosen = policy._predict(observe(left_out.unflatten(2, (GRID, GRID))), deterministic=True)
    assert (chosen == 32).tolist() == [True, False]


def test_an_action_space_that_is_no_map_is_refused() -> None:
    env = gym.make("canvit_gym:CanViT-Emoji-v0", action="tile")
    with pytest.raises(ValueError, match="21 actions.*128.*action='cell'"):
        CellPolicy(
            env.observation_space,
            env.action_space,
            lambda _: 1e-3,  # type: ignore[arg-type]
            cell_scales=SCALES,
        )


@pytest.mark.parametrize("stop_action", [False, True])
@pytest.mark.parametrize("kind", [CellPolicy, GaussianPolicy])
def test_what_is_saved_chooses_what_the_learner_chose(kind: Any, stop_action: bool) -> None:
    torch.manual_seed(0)
    actions: spaces.Space[Any] = spaces.Discrete(2 * GRID**2 + stop_action)
    extra: dict[str, Any] = {"cell_scales": SCALES, "sums_crops": True}
    if kind is GaussianPolicy:
        actions, extra = spaces.Box(-1, 1, (3 + stop_action,), np.float32), {}
    policy = kind(OBSERVATION, actions, lambda _: 1e-2, channels=8, **extra)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    seen = observe(3 * torch.randn(64, 6, GRID, GRID))
    expected, _ = policy.predict({k: v.numpy() for k, v in seen.items()}, deterministic=True)
    with torch.no_grad():
        found = policy.network().act(seen).numpy()
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(found, axis=0)) > 8


@pytest.mark.parametrize("kind", [CellPolicy, GaussianPolicy])
def test_saving_does_not_change_what_is_learned_next(kind: Any) -> None:
    """Building the network to be saved draws weights, but not from the learner's generator."""
    actions: spaces.Space[Any] = spaces.Discrete(2 * GRID**2)
    extra: dict[str, Any] = {"cell_scales": SCALES}
    if kind is GaussianPolicy:
        actions, extra = spaces.Box(-1, 1, (3,), np.float32), {}
    policy = kind(OBSERVATION, actions, lambda _: 1e-2, channels=8, **extra)
    before = torch.get_rng_state()
    policy.network()
    assert torch.equal(torch.get_rng_state(), before)
