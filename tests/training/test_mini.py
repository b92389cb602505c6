"""The mini's training: it leaves a checkpoint, and an interruption changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from canvit_agents.cli.main import main
from canvit_gym.geometry import check_inside
from canvit_gym.model.heads import CanViTForImageClassification
from canvit_gym.scenes.emoji import EmojiScenes
from canvit_gym.training import mini
from canvit_gym.training.mini import (
    MINI_CONFIG,
    MiniForTraining,
    MiniTraining,
    collate,
    draw_viewpoints,
    evaluate,
    learning_rate_factor,
    make_optimizers,
    mask_at,
    train,
)

RUN = MiniTraining(steps=4, scenes_per_step=4, warmup_steps=2, decay_steps=2, short_steps=2)


def run_in(out: Path, run: MiniTraining = RUN) -> CanViTForImageClassification:
    train(run, out=out, device="cpu", compile_model=False)
    return CanViTForImageClassification.from_pretrained(out)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a finished run."""
    out = tmp_path_factory.mktemp("unbroken")
    train(RUN, out=out, device="cpu", compile_model=False)
    return out


def test_a_run_leaves_a_checkpoint_with_its_record(unbroken: Path) -> None:
    model = CanViTForImageClassification.from_pretrained(unbroken)
    assert model.canvit.config == MINI_CONFIG and model.n_classes == 16
    record = json.loads((unbroken / "config.json").read_text())["training"]
    assert record["finished_steps"] == record["steps"] == 4 and record["scenes_per_step"] == 4
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RUN.seed)
        untrained = MiniForTraining(num_classes=16, num_mask_classes=47).classifier
    moved = [
        name
        for (name, new), old in zip(model.named_parameters(), untrained.parameters(), strict=True)
        if not torch.equal(new, old)
    ]
    assert len(moved) == len(list(model.parameters()))  # everything that ships was trained


def test_an_interrupted_run_continues_as_if_unbroken(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interruption(Exception):
        pass

    def interrupted(*args: object, generator: torch.Generator, **kwargs: object) -> object:
        if generator.initial_seed() == RUN.seed * 1_000_003 + 3:
            raise Interruption
        return draw_viewpoints(*args, generator=generator, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(mini, "SAVE_EVERY", 2)
        patch.setattr(mini, "draw_viewpoints", interrupted)
        with pytest.raises(Interruption):
            run_in(tmp_path)
    snapshot = torch.load(tmp_path / "training.pt", weights_only=True)
    assert snapshot["step"] == 2  # the third step's work was lost, and is done again
    continued = run_in(tmp_path).state_dict()
    for name, tensor in CanViTForImageClassification.from_pretrained(unbroken).state_dict().items():
        torch.testing.assert_close(continued[name], tensor, rtol=0, atol=1e-6, msg=name)


def test_steps_are_those_that_made_the_shipped_checkpoint(unbroken: Path) -> None:
    """The plain loop that the shipped checkpoint came from: AdamW's gradients alone are clipped."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RUN.seed)
        model = MiniForTraining(num_classes=16, num_mask_classes=47)
    optimizers = make_optimizers(model, RUN)
    scenes = EmojiScenes(split="backbone")
    for step in range(RUN.steps):
        generator = torch.Generator().manual_seed(RUN.seed * 1_000_003 + step)
        batch = collate(scenes, range(step * 4, (step + 1) * 4))
        loss, _ = model(
            batch, draw_viewpoints(batch, num_glimpses=[2, 2, 5, 3][step], generator=generator)
        )
        for optimizer, peak in zip(optimizers, (RUN.muon_lr, RUN.adam_lr), strict=True):
            optimizer.zero_grad()
            optimizer.param_groups[0]["lr"] = peak * learning_rate_factor(step, RUN)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(optimizers[1].param_groups[0]["params"], 1.0)
        for optimizer in optimizers:
            optimizer.step()
    for name, tensor in CanViTForImageClassification.from_pretrained(unbroken).state_dict().items():
        assert torch.equal(model.classifier.state_dict()[name], tensor), name


def test_a_finished_run_is_left_as_it_is(unbroken: Path) -> None:
    before = (unbroken / "model.safetensors").read_bytes()
    run_in(unbroken)
    assert (unbroken / "model.safetensors").read_bytes() == before


def test_other_settings_are_refused(unbroken: Path) -> None:
    with pytest.raises(ValueError, match="other settings .* same settings .* another --out"):
        run_in(unbroken, MiniTraining(steps=4, scenes_per_step=4, seed=1))


def test_masks_are_read_row_before_col() -> None:
    masks = torch.zeros(1, 8, 8, dtype=torch.uint8)
    masks[0, 1, 6] = 9
    positions = torch.tensor([[[-0.6, 0.6], [0.6, -0.6], [-1.0, -1.0], [1.0, 1.0]]])
    assert mask_at(masks, positions).tolist() == [[9, 0, 0, 0]]


def test_viewpoints_stay_inside_and_start_wide() -> None:
    batch = collate(EmojiScenes(split="backbone"), range(64))
    generator = torch.Generator().manual_seed(0)
    first, *later = draw_viewpoints(batch, num_glimpses=4, generator=generator)
    for viewpoint in (first, *later):
        check_inside(viewpoint)
        assert viewpoint.scales.min() >= 0.25
    assert 0.6 < (first.scales == 1).float().mean() < 0.95
    near_target = [
        ((viewpoint.centers - batch.target_centers).abs().amax(dim=1) < 0.25).float().mean()
        for viewpoint in later
    ]
    assert sum(near_target) / 3 > 0.3


def test_the_learning_rate_rises_stays_and_falls() -> None:
    run = MiniTraining(steps=100, warmup_steps=10, decay_steps=50)
    factors = [learning_rate_factor(step, run) for step in range(100)]
    assert factors[0] == pytest.approx(0.1) and factors[10:50] == [1.0] * 40
    assert factors[75] == pytest.approx(0.5) and 0 < factors[99] < 0.05


def test_each_parameter_has_one_optimizer() -> None:
    model = MiniForTraining(num_classes=16, num_mask_classes=47)
    groups = [
        [id(p) for group in optimizer.param_groups for p in group["params"]]
        for optimizer in make_optimizers(model, RUN)
    ]
    assert not set(groups[0]) & set(groups[1])
    assert sorted(groups[0] + groups[1]) == sorted(id(p) for p in model.parameters())


def test_evaluation_gives_four_accuracies(unbroken: Path) -> None:
    figures = evaluate(str(unbroken), split="test", num_scenes=6)
    assert set(figures) == {"full", "oracle", "kept", "random"}
    assert all(0 <= value <= 1 and (value * 6).is_integer() for value in figures.values())


def test_the_command_trains_and_continues(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], unbroken: Path
) -> None:
    settings = [f"{k}={getattr(RUN, k)}" for k in ("steps", "scenes_per_step", "warmup_steps",
                                                   "decay_steps", "short_steps")]  # fmt: skip
    flags = ["pretrain", "--preset", "mini", "--out", str(tmp_path), "--set", *settings]
    assert main(flags) == 0, capsys.readouterr().err
    ours, theirs = ((out / "model.safetensors").read_bytes() for out in (tmp_path, unbroken))
    assert ours == theirs
    assert main(flags) == 2 and "add --resume" in capsys.readouterr().err
    assert main([*flags, "--resume"]) == 0
    assert main([*flags, "--resume", "--teacher", "x"]) == 2
    assert "'mini' has no use for --teacher; leave that out" in capsys.readouterr().err
