"""Depth: potentials by hand, what a probe of it learns, and what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image

from canvit_gym.model.checkpoints import checkpoint_sha256, resolve_checkpoint
from canvit_gym.scenes.base import Scene
from canvit_gym.scenes.emoji import EmojiScenes
from canvit_gym.tasks.base import HasEntropyMap, LabelsPlaces, ScoresPlaces, Verdict
from canvit_gym.tasks.depth import POTENTIALS, CanViTForDepth, Depth, DepthProbe
from canvit_gym.training.probe import ProbeTraining, evaluate, preset, train

BINS = (0.0, 0.5, 1.0, 1.5, 2.0)
ID = "CanViT-EmojiDepth-v0"


def make_task(label_size_px: int = 2) -> Depth:
    return Depth(model=SimpleNamespace(log_depths=BINS, logits=None), label_size_px=label_size_px)  # type: ignore[arg-type]


def sure(bins: Any) -> torch.Tensor:
    """Beliefs that are certain of these bins, int [B, G, G]."""
    chosen = torch.as_tensor(bins)
    return 1e3 * torch.nn.functional.one_hot(chosen, len(BINS)).permute(0, 3, 1, 2).float()


def judged(belief: torch.Tensor, targets: torch.Tensor) -> Verdict:
    return make_task().judge(belief, targets)


def test_potentials_by_hand() -> None:
    # Believed 0, 1 / 2, 1; true 0.1, 0.9 / 1.2, unknown: d is -0.1, 0.1, 0.8.
    targets = torch.tensor([[[0.1, 0.9], [1.2, math.nan]]])
    found = judged(sure([[[0, 2], [4, 2]]]), targets)
    d, true = np.array([-0.1, 0.1, 0.8]), np.array([0.1, 0.9, 1.2])
    expected = {
        "neg_si_error": -d.std(),
        "neg_abs_rel": -np.abs(np.expm1(d)).mean(),
        "explained": 1 - d.var() / true.var(),
        "delta1": 2 / 3,  # log 1.25 is 0.223
        "neg_entropy": 0.0,
    }
    assert set(found.potentials) == set(POTENTIALS) == {*expected, "log_likelihood"}
    for name, value in expected.items():
        assert found.potentials[name].tolist() == pytest.approx([value], abs=1e-5), name
        assert found.potentials[name].dtype == torch.float32
    # Two of three are in the nearest bin; the third is certain of another.
    assert found.potentials["log_likelihood"].item() == pytest.approx(-1000 / 3, rel=1e-5)
    assert found.outcome["si_error"].item() == pytest.approx(d.std(), abs=1e-5)
    assert found.outcome["variance"].item() == pytest.approx(true.var(), abs=1e-6)
    gained = found.outcome["gained"] / found.outcome["variance"]
    assert gained.item() == pytest.approx(expected["explained"], abs=1e-5)


def test_a_factor_is_forgiven() -> None:
    targets = torch.tensor([[[0.0, 0.5], [1.0, 1.5]]])
    exact, farther = (
        judged(sure(bins), targets) for bins in ([[[0, 1], [2, 3]]], [[[1, 2], [3, 4]]])
    )
    for name in ("neg_si_error", "explained"):
        torch.testing.assert_close(exact.potentials[name], farther.potentials[name])
    assert exact.potentials["explained"].item() == pytest.approx(1, abs=1e-6)
    assert exact.potentials["delta1"].item() == 1 and farther.potentials["delta1"].item() == 0


def test_scenes_of_unknown_or_equal_depth() -> None:
    unknown, flat = torch.full((1, 2, 2), math.nan), torch.full((1, 2, 2), 1.0)
    belief = sure([[[0, 2], [4, 2]]])
    for targets in (unknown, flat):
        found = judged(belief, targets)
        assert all(value.isfinite().all() for value in found.potentials.values())
        assert found.potentials["explained"].item() == 0
    assert all(
        value.item() == 0
        for name, value in judged(belief, unknown).potentials.items()
        if name != "neg_entropy"
    )


def test_the_belief_is_enlarged_and_the_truth_reduced_to_the_nearest() -> None:
    task = make_task(label_size_px=4)
    scene = EmojiScenes(split="test", depth=True)[0]
    targets = task.targets([scene], device=torch.device("cpu"))
    assert scene.depth is not None
    nearest = np.asarray(Image.fromarray(scene.depth).resize((4, 4), Image.Resampling.NEAREST))
    np.testing.assert_allclose(targets[0], np.log(nearest), rtol=1e-6)
    doubtful = torch.zeros(1, len(BINS), 2, 2)
    torch.testing.assert_close(task.log_depth(doubtful), torch.full((1, 4, 4), 1.0))
    assert task.entropy_map(doubtful).shape == (1, 2, 2)
    torch.testing.assert_close(
        task.entropy_map(doubtful), torch.full((1, 2, 2), task.entropy_range[1])
    )


def test_scores_of_places_make_up_the_error() -> None:
    task = make_task()
    targets = torch.tensor([[[0.1, 0.9], [1.2, math.nan]]])
    belief = torch.randn(1, len(BINS), 2, 2, generator=torch.Generator().manual_seed(0))
    scores = task.place_scores(belief, targets)
    assert scores[0, 1, 1] == 0
    variance = task.judge(belief, targets).potentials["neg_si_error"].square()
    torch.testing.assert_close(-scores.sum(dim=(1, 2)) / 3, variance)


def test_chunks_of_scenes_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(label_size_px=4)
    generator = torch.Generator().manual_seed(0)
    belief = torch.randn(3, len(BINS), 2, 2, generator=generator)
    targets = 2 * torch.rand(3, 4, 4, generator=generator)
    whole = task.judge(belief, targets).potentials
    monkeypatch.setattr("canvit_gym.tasks.places._CHUNK_BYTES", 1)
    for name, value in task.judge(belief, targets).potentials.items():
        torch.testing.assert_close(value, whole[name])


def test_abilities() -> None:
    task = make_task()
    assert isinstance(task, HasEntropyMap) and isinstance(task, ScoresPlaces)
    assert not isinstance(task, LabelsPlaces)


def test_scenes_without_depth_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"Scene emoji/test/0 has no depth.*choose scenes"):
        make_task().targets([EmojiScenes(split="test")[0]], device=torch.device("cpu"))


# -- the probe -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"num_bins": 1}, "num_bins is 1; give an integer of at least 2"),
        ({"log_depth_max": 0.0}, "log_depth_min is 0.0 and log_depth_max 0.0; give a larger"),
        ({"log_depth_min": math.nan}, "log_depth_min is nan; give a number"),
    ],
)
def test_wrong_arguments_of_the_probe(changes: dict[str, Any], complaint: str) -> None:
    arguments: dict[str, Any] = {
        "embed_dim": 4, "num_bins": 5, "dropout": 0.0, "use_ln": True, "log_depth_min": 0.0,
        "log_depth_max": 2.0,
    }  # fmt: skip
    assert DepthProbe(**arguments).log_depths == BINS
    with pytest.raises(ValueError, match=complaint):
        DepthProbe(**{**arguments, **changes})


def test_the_probe_knows_where_a_cell_is() -> None:
    probe = DepthProbe(
        embed_dim=4, num_bins=5, dropout=0.0, use_ln=True, log_depth_min=0.0, log_depth_max=2.0
    ).eval()
    features = torch.randn(1, 1, 1, 4, generator=torch.Generator().manual_seed(0))
    everywhere = features.expand(1, 6, 6, 4)
    with torch.no_grad():
        assert (probe(everywhere)[..., :1, :1] == probe(everywhere)).all()
        probe.surface.weight[:, 0] = 1.0  # the row
        logits = probe(everywhere)
    assert (logits.diff(dim=2) > 0).all() and (logits.diff(dim=3) == 0).all()


def test_the_shipped_probe_is_that_of_the_shipped_mini() -> None:
    config = json.loads((resolve_checkpoint("mini-depth-probe") / "config.json").read_text())
    record = config["training"]
    assert record["backbone_sha256"] == checkpoint_sha256("mini")
    made = replace(preset("mini"), task="depth")
    for name in ProbeTraining.__dataclass_fields__:
        assert record[name] == getattr(made, name), name
    found = evaluate(
        made, backbone="mini", probe="mini-depth-probe", scenes="emoji", split="test",
        num_scenes=64, device="cpu",
    )["f_iid"]  # fmt: skip
    assert found["explained"] == sorted(found["explained"])  # every glimpse tells something
    assert found["explained"][0] > 0.3 and found["explained"][-1] > 0.4


def nyu_folder(root: Path, count: int = 6) -> Path:
    """Pictures that are the darker, the farther away; millimetres, and a corner unmeasured."""
    for kind in ("rgb", "depth"):
        (root / kind).mkdir(parents=True)
    for number in range(count):
        metres = np.linspace(1, 4, 64)[:, None].repeat(64, axis=1) + number / 4
        grey = (255 - 40 * metres).astype(np.uint8)
        Image.fromarray(np.repeat(grey[..., None], 3, axis=2)).save(root / f"rgb/{number}.png")
        millimetres = (1000 * metres).astype(np.uint16)
        millimetres[:8, :8] = 0
        Image.fromarray(millimetres).save(root / f"depth/{number}.png")
    return root


def test_a_folder_of_pictures_and_depths_is_played(tmp_path: Path) -> None:
    folder = nyu_folder(tmp_path / "nyu")
    env: Any = gym.make(ID, scenes=str(folder), split="all", label_size_px=16)
    observation, info = env.reset(seed=0)
    targets = env.unwrapped.episode.targets[0]
    assert targets[0, 0].isnan() and targets[-1, -1].exp() > 3.5
    assert observation["entropy"].shape == (1, 8, 8)
    _, reward, *_, after = env.step(env.action_space.sample())
    gain = after["potential_after"]["neg_si_error"] - info["potential_after"]["neg_si_error"]
    assert reward == pytest.approx(gain, abs=1e-6)


def test_a_probe_is_trained_on_a_folder(tmp_path: Path) -> None:
    folder = nyu_folder(tmp_path / "nyu", count=12)
    run = replace(
        preset("mini"), task="depth", steps=4, scenes_per_step=2, num_glimpses=2, warmup_steps=1,
        validate_every=2, validation_scenes=2,
    )  # fmt: skip
    out = tmp_path / "out"
    train(run, backbone="mini", scenes=str(folder), out=out, device="cpu", workers=0)
    probe = DepthProbe.from_pretrained(out)
    assert 0 <= probe.log_depth_min < 0.5 and 1.5 < probe.log_depth_max < 2
    model = CanViTForDepth.from_pretrained_with_probe("mini", out)
    scene: Scene = EmojiScenes(split="test", depth=True)[0]
    env: Any = gym.make(ID, backbone=model, probe=None)
    assert env.reset(seed=0)[1]["scene"] >= 0 and scene.depth is not None
