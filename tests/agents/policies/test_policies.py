"""What each policy looks at."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

from canvit_agents.judging.evaluate import play_batch
from canvit_agents.policies import (
    POLICIES,
    load_policy,
    make_policies,
    make_policy,
    trained_env_kwargs,
)
from canvit_agents.policies.base import num_glimpses, starting_blind, starting_full
from canvit_agents.policies.networks import BoxNetwork
from canvit_agents.policies.oracle import Oracle
from canvit_agents.policies.quadtree import CoarseToFine, quadtree
from canvit_agents.policies.random import draw_viewpoints
from canvit_agents.policies.saved import load_network, read_record
from canvit_agents.policies.target import TargetPolicy
from canvit_gym.envs.rollout import Episode, Rollout
from canvit_gym.envs.vector_env import CanViTVectorEnv
from canvit_gym.geometry import check_inside
from canvit_gym.model.identity import BackboneIdentity
from canvit_gym.scenes.base import Box, Scene
from canvit_gym.scenes.emoji import EmojiScenes

MakeRollout = Callable[..., Rollout]
MakeVector = Callable[..., CanViTVectorEnv]
Save = Callable[..., Path]

ENV = "CanViT-Emoji-v0"
SCENES = EmojiScenes(split="train")


def generators(count: int, *, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


def play(policy: Any, *, count: int = 4) -> Episode:
    return play_batch(policy, scenes=SCENES, indices=range(count), name="")[-1]


# -- the baselines ---------------------------------------------------------------------------------


@pytest.mark.parametrize("initial", ["full_scene", None])
@pytest.mark.parametrize("name", POLICIES)
def test_all_look_equally_often_and_inside_the_scene(
    name: str, initial: Any, make_rollout: MakeRollout, make_segmentation_rollout: MakeRollout
) -> None:
    make = make_segmentation_rollout if name == "entropy_coarse_to_fine" else make_rollout
    rollout = make(budget=2, initial_glimpse=initial)
    policy = POLICIES[name](rollout)
    policy = replace(policy, num_candidates=2) if isinstance(policy, Oracle) else policy
    episode = play(policy, count=2)
    assert episode.glimpses.tolist() == [num_glimpses(rollout)] * 2
    taken = episode.history[:, : num_glimpses(rollout)]
    assert (taken[..., 2] > 0).all()
    first_is_full = bool((taken[:, 0] == torch.tensor([0.0, 0.0, 1.0])).all())
    assert first_is_full == (name not in ("random", "fine_to_coarse"))


def test_random_scales_and_places_follow_their_formula() -> None:
    count, smallest = 4000, 0.25
    drawn = draw_viewpoints(generators(count), min_scale=smallest)
    check_inside(drawn)
    # p(s) ~ 1 - s on [smallest, 1]: the share below s is 1 - ((1 - s) / (1 - smallest))^2.
    scales = drawn.scales.sort().values
    expected = 1 - ((1 - scales) / (1 - smallest)) ** 2
    observed = (torch.arange(count) + 0.5) / count
    assert (observed - expected).abs().max() < 1.63 / count**0.5  # Kolmogorov-Smirnov at 1 %
    places = (drawn.centers / (1 - drawn.scales)[:, None]).sort(dim=0).values
    for axis in range(2):
        assert (places[:, axis] - (observed * 2 - 1)).abs().max() < 2 * 1.63 / count**0.5
    assert (
        torch.corrcoef(torch.cat((drawn.centers, drawn.scales[:, None]), 1).T)[(0, 0, 1), (1, 2, 2)]
        .abs()
        .max()
        < 3.3 / count**0.5
    )


def test_coarse_to_fine_takes_each_tile_once_level_by_level(make_rollout: MakeRollout) -> None:
    history = play(CoarseToFine(rollout=make_rollout(budget=20)), count=3).history

    def tiles(level: int) -> set[tuple[float, float, float]]:
        ticks = [(2 * i + 1) * 2.0**-level - 1 for i in range(2**level)]
        return {(row, col, 2.0**-level) for row in ticks for col in ticks}

    orders = []
    for taken in history:
        viewpoints = [tuple(v) for v in taken.tolist()]
        assert set(viewpoints[:1]) == tiles(0)
        assert set(viewpoints[1:5]) == tiles(1)
        assert set(viewpoints[5:]) == tiles(2)
        assert len(viewpoints) == 21
        orders.append(viewpoints)
    assert orders[0] != orders[1] != orders[2]


def test_coarse_to_fine_begins_with_any_quarter_equally_often(make_rollout: MakeRollout) -> None:
    rollout = make_rollout()
    episode = rollout.start([SCENES[0]]).select([0] * 800)
    chosen = CoarseToFine(rollout=rollout)(episode, generators(800))
    _, counts = chosen.centers.unique(dim=0, return_counts=True)
    assert counts.tolist() == pytest.approx([200] * 4, abs=40)  # 3.3 standard deviations


def test_coarse_to_fine_skips_what_something_else_has_seen(make_rollout: MakeRollout) -> None:
    rollout = make_rollout()
    episode = rollout.start([SCENES[0]])
    tiles, _ = quadtree(min_tiles=21)
    history = episode.history.clone()
    history[0, 1:4] = tiles[1:4]
    seen = replace(episode, history=history, glimpses=episode.glimpses + 3)
    last = CoarseToFine(rollout=rollout)(seen, generators(1))
    assert (*last.centers[0].tolist(), float(last.scales[0])) == tuple(tiles[4].tolist())


def test_fine_to_coarse_takes_the_finest_level_it_needs_first(make_rollout: MakeRollout) -> None:
    policy = POLICIES["fine_to_coarse"](make_rollout(budget=20))  # 21 glimpses: 16, 4 and 1
    scales = play(policy, count=2).history[:, :21, 2]
    assert scales.tolist() == [[0.25] * 16 + [0.5] * 4 + [1.0]] * 2
    short = POLICIES["fine_to_coarse"](make_rollout(budget=4))  # 5 glimpses: 4 and 1
    history = play(short, count=2).history[:, :5]
    assert history[..., 2].tolist() == [[0.5] * 4 + [1.0]] * 2
    assert all(len(row[:4, :2].unique(dim=0)) == 4 for row in history)


@torch.inference_mode()
def test_entropy_coarse_to_fine_looks_where_the_references_does(
    make_segmentation_rollout: MakeRollout,
) -> None:
    reference = pytest.importorskip("canvit_pytorch.policies.entropy")
    rollout = make_segmentation_rollout(budget=20)
    policy = POLICIES["entropy_coarse_to_fine"](rollout)
    task, scenes = rollout.task, [SCENES[i] for i in range(3)]
    episode = policy.rollout.start(scenes)
    theirs = reference.EntropyGuidedC2F(
        batch_size=3,
        device=torch.device("cpu"),
        num_glimpses=21,
        canvas_grid_size=8,
        canvas_logits=lambda canvas: task.model.logits(replace(episode.state, canvas=canvas)),
    )
    assert theirs.step(0, episode.state).scales.tolist() == [1.0] * 3
    for t in range(1, 21):
        wanted, chosen = theirs.step(t, episode.state), policy(episode, generators(3))
        torch.testing.assert_close(chosen.centers, wanted.centers)
        torch.testing.assert_close(chosen.scales, wanted.scales)
        episode = policy.rollout.look(episode, chosen)
    assert len({tuple(row.flatten().tolist()) for row in episode.history}) == 3


def test_entropy_coarse_to_fine_refuses_what_it_can_not_read(
    make_rollout: MakeRollout, make_segmentation_rollout: MakeRollout
) -> None:
    with pytest.raises(ValueError, match="this task has no such belief"):
        POLICIES["entropy_coarse_to_fine"](make_rollout())
    rollout = make_segmentation_rollout()
    odd = replace(rollout, glimpse=replace(rollout.glimpse, canvas_grid_size=12))
    with pytest.raises(ValueError, match="canvas grid of 12.*power of two"):
        POLICIES["entropy_coarse_to_fine"](odd)


def test_repeated_full_scene(make_rollout: MakeRollout) -> None:
    history = play(POLICIES["repeated_full_scene"](make_rollout(budget=3))).history
    assert (history == torch.tensor([0.0, 0.0, 1.0])).all()


# -- the upper bounds ------------------------------------------------------------------------------


def with_target(*, top: int, left: int, bottom: int, right: int) -> Scene:
    return replace(SCENES[0], target=Box(top=top, left=left, bottom=bottom, right=right))


def test_target_is_centred_on_the_box_row_first(make_rollout: MakeRollout) -> None:
    rollout = make_rollout()
    scenes = [
        with_target(top=20, left=84, bottom=30, right=100),  # small: the smallest scale
        with_target(top=30, left=20, bottom=94, right=60),  # 64 px high: half the scene
        with_target(top=0, left=110, bottom=10, right=128),  # in a corner: as near as can be
    ]
    chosen = TargetPolicy(rollout=rollout)(rollout.start(scenes), generators(3))
    check_inside(chosen)
    centers = [[25 / 64 - 1, 92 / 64 - 1], [62 / 64 - 1, 40 / 64 - 1], [-0.75, 0.75]]
    torch.testing.assert_close(chosen.centers, torch.tensor(centers))
    torch.testing.assert_close(chosen.scales, torch.tensor([0.25, 0.5, 0.25]))


def test_target_always_shows_the_whole_animal(make_rollout: MakeRollout) -> None:
    history = play(TargetPolicy(rollout=make_rollout()), count=10).history
    ticks = (np.arange(128) + 0.5) / 64 - 1
    for i, taken in enumerate(history):
        scene = SCENES[i]
        assert scene.mask is not None
        for row, col, scale in taken[1:].tolist():
            seen = np.ix_(np.abs(ticks - row) <= scale, np.abs(ticks - col) <= scale)
            assert (scene.mask[seen] == scene.label).sum() == (scene.mask == scene.label).sum()
        assert len(taken[1:].unique(dim=0)) == 4


def test_target_needs_a_box(make_rollout: MakeRollout) -> None:
    rollout = make_rollout()
    episode = rollout.start([replace(SCENES[3], target=None)])
    with pytest.raises(ValueError, match=r"'emoji/train/3' does not say where its target is"):
        TargetPolicy(rollout=rollout)(episode, generators(1))


def test_oracle_takes_the_best_of_its_candidates(make_rollout: MakeRollout) -> None:
    rollout = make_rollout()
    policy = Oracle(rollout=rollout, num_candidates=6)
    episode = rollout.start([SCENES[i] for i in range(5)])
    candidates = policy.candidates(episode, generators(5))
    scores = torch.stack([rollout.look(episode, v).potentials["log_prob"] for v in candidates])
    chosen = policy(episode, generators(5))
    reached = rollout.look(episode, chosen).potentials["log_prob"]
    torch.testing.assert_close(reached, scores.amax(dim=0))
    assert (reached > scores.mean(dim=0)).all()


def test_oracle_tries_every_place_and_draws_the_rest(make_rollout: MakeRollout) -> None:
    rollout = make_rollout()
    episode = rollout.start([SCENES[0], SCENES[1]])
    candidates = Oracle(rollout=rollout).candidates(episode, generators(2))
    assert len(candidates) == 24
    seen = torch.zeros(8, 8)
    for tile in candidates[:16]:
        assert (tile.centers[0] == tile.centers[1]).all() and (tile.scales == 0.25).all()
        row, col = ((tile.centers[0] + 1) * 4).int().tolist()
        seen[row - 1 : row + 1, col - 1 : col + 1] += 1
    assert (seen == 1).all()  # each part of the scene once
    for drawn in candidates[16:]:
        check_inside(drawn)
        assert (drawn.centers[0] != drawn.centers[1]).all()


def test_oracle_beats_random(make_rollout: MakeRollout) -> None:
    rollout = make_rollout(budget=2)
    gain = {
        policy: play(policy, count=8).potentials["log_prob"].mean()
        for policy in (
            Oracle(rollout=rollout, num_candidates=6),
            POLICIES["full_then_random"](rollout),
        )
    }
    oracle, random = gain.values()
    assert oracle > random + 0.1


# -- starting --------------------------------------------------------------------------------------


def test_starts_keep_the_number_of_glimpses(make_rollout: MakeRollout) -> None:
    for rollout in (make_rollout(budget=3), make_rollout(budget=4, initial_glimpse=None)):
        full, blind = starting_full(rollout), starting_blind(rollout)
        assert (full.initial_glimpse, full.budget) == ("full_scene", 3)
        assert (blind.initial_glimpse, blind.budget) == (None, 4)
        assert starting_full(full) == full and starting_blind(blind) == blind


# -- trained policies ------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["box", "cell"])
def test_a_trained_policy_does_what_its_network_says(
    action: Any, make_vector: MakeVector, save_untrained: Save
) -> None:
    trained_in = make_vector(2, action=action, output="torch")
    directory = save_untrained(trained_in, env_kwargs={"action": action})
    env = make_vector(1, action="tile")  # its own spaces count, not those of this environment
    policy = load_policy(directory, env_id=ENV, env=env)
    observation, _ = trained_in.reset(seed=0)
    network, _ = load_network(directory)
    chosen = policy(trained_in.episode, generators(2))
    expected = trained_in.actions.viewpoint(network.act(observation))
    torch.testing.assert_close(chosen.centers, expected.centers)
    torch.testing.assert_close(chosen.scales, expected.scales)


@pytest.mark.parametrize("action", ["box", "cell"])
def test_a_trained_policy_stops_where_its_network_says_so(
    action: Any, make_vector: MakeVector, save_untrained: Save
) -> None:
    trained_in = make_vector(2, action=action, stop_action=True)
    kwargs = {"action": action, "stop_action": True, "glimpse_cost": 0.1}
    directory = save_untrained(trained_in, env_kwargs=kwargs)
    policy = load_policy(directory, env_id=ENV, env=make_vector(1))
    trained_in.reset(seed=0)
    network = policy.network
    bias = network.mean.bias if isinstance(network, BoxNetwork) else network.places.stop.bias  # type: ignore[union-attr]
    bias[-1] = -100
    looks = policy.choose(trained_in.episode, generators(2))
    bias[-1] = 100
    stops = policy.choose(trained_in.episode, generators(2))
    assert not looks.stop.any() and stops.stop.all()
    assert play(policy).glimpses.tolist() == [1] * 4


def test_baselines_never_stop(make_rollout: MakeRollout) -> None:
    rollout = make_rollout()
    episode = rollout.start([SCENES[0], SCENES[1]])
    for name in ("full_then_random", "coarse_to_fine", "target"):
        choice = POLICIES[name](rollout).choose(episode, generators(2))
        assert choice.stop.tolist() == [False, False]


def test_cell_scales_come_with_the_policy(make_vector: MakeVector, save_untrained: Save) -> None:
    scales = (0.3, 0.6, 0.9)  # none of them a default
    directory = save_untrained(
        make_vector(2, action="cell", cell_scales=scales),
        env_kwargs={"action": "cell", "cell_scales": scales},
    )
    env = make_vector(1)
    chosen = load_policy(directory, env_id=ENV, env=env)(
        env.rollout.start([SCENES[0]]), generators(1)
    )
    assert round(float(chosen.scales[0]), 3) in scales


def test_another_backbone_is_refused(make_vector: MakeVector, save_untrained: Save) -> None:
    env = make_vector(1)
    directory = save_untrained(env)
    env.backbone = BackboneIdentity(name="mine", sha256="f" * 64)
    with pytest.raises(ValueError, match=r"'random' \(sha256 0{12}\).* 'mine' \(sha256 f{12}\)"):
        load_policy(directory, env_id=ENV, env=env)


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        ({"env_id": "CanViT-IN1k-v0"}, "trained in CanViT-IN1k-v0, not in CanViT-Emoji-v0"),
        ({"env_kwargs": {"budget": 7}}, "budget=7, but this environment has budget=4"),
        ({"env_kwargs": {"initial_glimpse": None}}, "initial_glimpse=None"),
        ({"env_kwargs": {"action": "cell"}}, "does not fit"),  # its network is for the box
    ],
)
def test_another_environment_is_refused(
    record: dict[str, Any], complaint: str, make_vector: MakeVector, save_untrained: Save
) -> None:
    env = make_vector(1)
    directory = save_untrained(env, **record)
    with pytest.raises(ValueError, match=complaint):
        load_policy(directory, env_id=ENV, env=env)


def test_weights_that_are_not_the_recorded_ones_are_refused(
    make_vector: MakeVector, save_untrained: Save
) -> None:
    env = make_vector(1)
    directory = save_untrained(env)
    weights = directory / "policy.safetensors"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)
    with pytest.raises(
        ValueError, match=r"policy\.safetensors holds other weights than policy\.json"
    ):
        load_policy(directory, env_id=ENV, env=env)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"There is no .*policy\.safetensors"):
        load_policy(directory, env_id=ENV, env=env)


def damaged(directory: Path, **tensors: torch.Tensor | None) -> None:
    """Write these tensors in place of the weights', None for none, with the hash of that."""
    path, record = directory / "policy.safetensors", directory / "policy.json"
    found = {**load_file(path), **tensors}
    data = save({name: tensor for name, tensor in found.items() if tensor is not None})
    path.write_bytes(data)
    values = {**json.loads(record.read_text()), "sha256": hashlib.sha256(data).hexdigest()}
    record.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        ({"mean.bias": None}, "mean.bias is missing"),
        ({"more": torch.ones(1)}, "more is not part"),
        (
            {"mean.bias": torch.ones(4)},
            r"mean.bias has torch.float32 \[4\], not tor",
        ),
        ({"mean.bias": torch.ones(3, dtype=torch.float64)}, "mean.bias has torch.float64"),
        (
            {"mean.bias": torch.tensor([0, torch.nan, 0])},
            "mean.bias holds numbers that are",
        ),
        (
            {"mean.bias": torch.tensor([0, torch.inf, 0])},
            "mean.bias holds numbers that are",
        ),
    ],
)
def test_weights_of_another_network_are_refused(
    tensors: dict[str, Any], complaint: str, make_vector: MakeVector, save_untrained: Save
) -> None:
    env = make_vector(1)
    directory = save_untrained(env)
    damaged(directory, **tensors)
    with pytest.raises(ValueError, match=complaint):
        load_policy(directory, env_id=ENV, env=env)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"network": None}, "'network' is not an object"),
        ({"network": {}}, "no network config"),
        ({"sha256": 7}, "'sha256' is not a text"),
        ({"format": "other"}, "format 'other'"),
        ({"backbone": {"name": "mini"}}, "'backbone' is no name and sha256"),
        ({"training": []}, "'training' is not an object"),
    ],
)
def test_damaged_records_are_refused(
    changes: dict[str, Any], complaint: str, make_vector: MakeVector, save_untrained: Save
) -> None:
    env = make_vector(1)
    directory = save_untrained(env)
    path = directory / "policy.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ValueError, match=rf"policy\.json .*{complaint}.*give a directory that"):
        load_policy(directory, env_id=ENV, env=env)


@pytest.mark.parametrize("key", ["channels", "grid_size", "cls_dim", "action", "entropy"])
@pytest.mark.parametrize("value", [None, -1, 2.5, "x", [], 10**9, True, {}])
def test_absurd_networks_are_refused(
    key: str, value: Any, make_vector: MakeVector, save_untrained: Save
) -> None:
    env = make_vector(1)
    directory = save_untrained(env)
    path = directory / "policy.json"
    values = json.loads(path.read_text())
    values["network"][key] = value
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError):
        load_policy(directory, env_id=ENV, env=env)


def test_a_directory_that_holds_no_policy(make_vector: MakeVector, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no policy\.json"):
        load_policy(tmp_path, env_id=ENV, env=make_vector(1))


def test_the_shipped_policies_are_what_their_records_say() -> None:
    for directory in sorted(Path(str(files("canvit_agents") / "pretrained")).iterdir()):
        network, sha256 = load_network(directory)
        manifests = list(directory.glob("manifest_*.json"))
        assert manifests and network.config == read_record(directory).network
        for manifest in manifests:
            policies = json.loads(manifest.read_text())["policies"]
            assert policies["pretrained"]["settings"]["sha256"] == sha256


def test_loading_needs_no_learner(make_vector: MakeVector, save_untrained: Save) -> None:
    """A policy plays where Stable-Baselines3 is not installed."""
    directory = save_untrained(make_vector(1))
    code = (
        "import sys; sys.modules['stable_baselines3'] = None\n"
        "from pathlib import Path\n"
        "from canvit_agents.policies.saved import load_network\n"
        "import canvit_agents.policies\n"
        f"print(load_network(Path({str(directory)!r}))[1])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == json.loads((directory / "policy.json").read_text())["sha256"]


# -- names -----------------------------------------------------------------------------------------


def test_unknown_names_list_the_known_ones(make_vector: MakeVector) -> None:
    with pytest.raises(ValueError, match=r"no policy 'best'; choose from random, .*, pretrained"):
        make_policy("best", env_id=ENV, env=make_vector(1))


def test_no_pretrained_policy_for_an_environment(make_vector: MakeVector) -> None:
    with pytest.raises(FileNotFoundError, match="brings no trained policy for CanViT-Nowhere-v0"):
        make_policy("pretrained", env_id="CanViT-Nowhere-v0", env=make_vector(1))


def test_an_environment_is_made_as_the_first_trained_policys_was(
    make_vector: MakeVector, save_untrained: Save
) -> None:
    env = make_vector(1, budget=2)
    directory = str(save_untrained(env, env_kwargs={"budget": 2}))
    assert trained_env_kwargs(["random", directory], env_id=ENV) == {"budget": 2}
    assert trained_env_kwargs(["random", "target"], env_id=ENV) == {}
    assert list(make_policies([directory, "random"], env_id=ENV, env=env)) == [directory, "random"]


# -- policies of one's own -------------------------------------------------------------------------


def test_a_policy_of_ones_own(
    make_vector: MakeVector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_looks.py").write_text(
        "from dataclasses import dataclass\n"
        "import torch\n"
        "from canvit_agents import Policy\n"
        "from canvit_gym import Viewpoint\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Middle(Policy):\n"
        "    scale: float = 0.5\n"
        "    def __call__(self, episode, generators):\n"
        "        n = episode.batch_size\n"
        "        return Viewpoint(centers=torch.zeros(n, 2), scales=torch.full((n,), self.scale))\n"
        "def closer(rollout):\n"
        "    return Middle(rollout=rollout, scale=0.25)\n"
        "def nothing(rollout):\n"
        "    return 7\n"
        "number = 7\n"
    )
    env = make_vector(1, budget=2)
    for name, scale in (("Middle", 0.5), ("closer", 0.25)):
        policy = make_policy(f"my_looks:{name}", env_id=ENV, env=env)
        assert policy.settings == {"kind": "Middle", "scale": scale}
        assert play(policy).history[:, 1:, 2].unique().tolist() == [scale]
    for name, complaint in (
        ("my_looks:Nobody", "can not be imported .*no attribute 'Nobody'.*give module:name"),
        ("no_such_module:Middle", "can not be imported .*No module named 'no_such_module'"),
        ("my_looks:number", "is 7; give a subclass of canvit_agents.Policy"),
        ("my_looks:nothing", "made 7, which is no canvit_agents.Policy"),
        ("my_looks:torch", "give a subclass of canvit_agents.Policy"),
        (":x", "can not be imported"),
        ("my_looks:", "can not be imported"),
    ):
        with pytest.raises(ValueError, match=complaint):
            make_policy(name, env_id=ENV, env=env)
