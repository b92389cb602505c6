"""The frozen form gives the plain core's answers, and leaves the caller's tensors alone."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from make_golden import VARIANTS, fill, uniform
from torch import Tensor

from canvit_gym.geometry import Viewpoint
from canvit_gym.model import frozen
from canvit_gym.model.canvit import CanViT, CanViTOutput, RecurrentState
from canvit_gym.model.config import CanViTConfig
from canvit_gym.model.frozen import FrozenCanViT

TOLERANCE = 1e-4
"""Absolute, on outputs whose values reach 20, as in test_parity; relative to larger ones."""

ONE_BIT = 2.0
"""Twice the plain form's error would be a bit of bfloat16's eight lost; how far below that the two
stay depends on the order in which a processor adds."""

CONFIGS: dict[str, dict[str, Any]] = VARIANTS | {
    "mini8": {"backbone_name": "mini8", "canvas_num_heads": 4, "canvas_head_dim": 32},
    "qkvo_no_reads": VARIANTS["qkvo"] | {"enable_reads": False},
}


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(params=["groups", "pieces", "public operators"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways through a canvas, and through a product; the last one as where torch has none of
    its private operators."""
    if request.param == "groups":
        monkeypatch.setattr(frozen, "_PIECE", 3000)
    else:
        if request.param == "public operators":
            monkeypatch.setattr(frozen, "_can_pack", lambda: False)
        monkeypatch.setattr(frozen, "_PIECE", 300)
        monkeypatch.setattr(frozen, "_LARGE_CANVAS", 1)
        monkeypatch.setattr(frozen, "_SMALL_PRODUCT", 1)
    return str(request.param)


def random_core(config: dict[str, Any]) -> CanViT:
    """With no bias at zero, no LayerNorm at the identity, no LayerScale at one."""
    model = CanViT(CanViTConfig(**config))
    fill(model)
    return model.eval()


def viewpoint_at(t: int, *, batch_size: int) -> Viewpoint:
    """The full scene first, then somewhere else for each scene."""
    if t == 0:
        return Viewpoint.full_scene(batch_size=batch_size)
    numbers = uniform(f"viewpoint {t}", (batch_size, 3))
    return Viewpoint(centers=numbers[:, :2] / 2, scales=0.5 + 0.4 * numbers[:, 2])


def step(model: CanViT, state: RecurrentState, t: int, *, glimpse_grid: int = 3) -> CanViTOutput:
    batch_size = len(state.canvas)
    side = glimpse_grid * model.config.backbone.patch_size_px
    return model(
        glimpse=1.7 * uniform(f"glimpse {t}", (batch_size, 3, side, side)),
        state=state,
        viewpoint=viewpoint_at(t, batch_size=batch_size),
    )


def tensors_of(output: CanViTOutput) -> dict[str, Tensor]:
    tensors = {
        "canvas": output.state.canvas,
        "recurrent_cls": output.state.recurrent_cls,
        "glimpse_patches": output.glimpse_patches,
    }
    return tensors if output.vpe is None else tensors | {"vpe": output.vpe}


def assert_same(found: CanViTOutput, expected: CanViTOutput) -> None:
    assert tensors_of(found).keys() == tensors_of(expected).keys()
    for name, tensor in tensors_of(expected).items():
        assert tensor.std() > 0.1, f"{name} is too small to tell anything"
        torch.testing.assert_close(
            tensors_of(found)[name],
            tensor,
            atol=TOLERANCE * max(1.0, float(tensor.abs().max()) / 20),
            rtol=0,
            msg=lambda m, n=name: f"{n}: {m}",
        )


def assert_same_episode(
    model: CanViT, *, batch_size: int, canvas_grid: int, glimpse_grid: int = 3, steps: int = 3
) -> None:
    core = FrozenCanViT(model)
    sizes = {"batch_size": batch_size, "canvas_grid_size": canvas_grid}
    expected_state, state = model.init_state(**sizes), core.init_state(**sizes)
    for t in range(steps):
        expected = step(model, expected_state, t, glimpse_grid=glimpse_grid)
        found = step(core, state, t, glimpse_grid=glimpse_grid)
        assert_same(found, expected)
        expected_state, state = expected.state, found.state


@pytest.mark.parametrize(
    ("batch_size", "canvas_grid", "glimpse_grid"), [(2, 4, 3), (1, 1, 1), (5, 7, 2)]
)
@pytest.mark.parametrize("variant", CONFIGS)
def test_same_answers(
    way: str, variant: str, batch_size: int, canvas_grid: int, glimpse_grid: int
) -> None:
    assert_same_episode(
        random_core(CONFIGS[variant]),
        batch_size=batch_size, canvas_grid=canvas_grid, glimpse_grid=glimpse_grid,
    )  # fmt: skip


@pytest.mark.parametrize("variant", ["asymmetric", "qkvo"])
def test_same_answers_on_a_canvas_of_large_values(way: str, variant: str) -> None:
    model = random_core(CONFIGS[variant])
    core = FrozenCanViT(model)
    state = model.init_state(batch_size=2, canvas_grid_size=4)
    state = RecurrentState(canvas=1e4 * state.canvas, recurrent_cls=state.recurrent_cls)
    assert_same(step(core, state, 1), step(model, state, 1))


@pytest.mark.slow
@pytest.mark.parametrize("backbone_name", ["vits16", "vitb16"])
def test_same_answers_at_full_size(backbone_name: str) -> None:
    assert_same_episode(
        random_core({"backbone_name": backbone_name}),
        batch_size=2, canvas_grid=24, glimpse_grid=8, steps=2,
    )  # fmt: skip


def test_batch_sizes_and_grids_may_change_between_calls(way: str) -> None:
    model = random_core(CONFIGS["asymmetric"])
    core = FrozenCanViT(model)
    for t, (batch_size, canvas_grid) in enumerate([(2, 4), (4, 6), (1, 3), (2, 4)]):
        state = model.init_state(batch_size=batch_size, canvas_grid_size=canvas_grid)
        assert_same(step(core, state, t), step(model, state, t))


def test_states_are_values(way: str) -> None:
    """A glimpse changes neither the state it starts from nor one it gave before."""
    core = FrozenCanViT(random_core(CONFIGS["asymmetric"]))
    start = core.init_state(batch_size=2, canvas_grid_size=4)
    first = step(core, start, 0)
    kept = {name: tensor.clone() for name, tensor in tensors_of(first).items()}
    again = step(core, first.state, 1)
    assert_same(step(core, start, 0), first)
    for name, tensor in tensors_of(first).items():
        assert torch.equal(tensor, kept[name])
    assert torch.equal(step(core, first.state, 1).state.canvas, again.state.canvas)


def test_a_consumed_state_lends_its_memory(way: str) -> None:
    core = FrozenCanViT(random_core(CONFIGS["asymmetric"]))
    state = core.init_state(batch_size=2, canvas_grid_size=4)
    inputs = {
        "glimpse": uniform("glimpse", (2, 3, 24, 24)),
        "viewpoint": viewpoint_at(1, batch_size=2),
    }
    expected = core(state=state, **inputs).state.canvas
    found = core(state=state, consume_state=True, **inputs).state.canvas
    assert found.data_ptr() == state.canvas.data_ptr()
    assert torch.equal(found, expected)


def test_inference_mode_comes_and_goes(way: str) -> None:
    """Memory kept from a call in one mode serves the other."""
    core = FrozenCanViT(random_core(CONFIGS["asymmetric"]))
    state = core.init_state(batch_size=2, canvas_grid_size=4)
    with torch.inference_mode():
        inside = step(core, state, 0).state.canvas
    with torch.enable_grad():
        outside = step(core, state, 0).state.canvas
    assert torch.equal(inside, outside)
    assert not outside.requires_grad and not outside.is_inference()


@pytest.mark.parametrize("variant", ["asymmetric", "qkvo", "bare"])
def test_bfloat16_agrees_with_the_plain_core(way: str, variant: str) -> None:
    model = random_core(CONFIGS[variant])
    core = FrozenCanViT(model)
    state = model.init_state(batch_size=2, canvas_grid_size=4)
    exact = tensors_of(step(model, state, 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, found = tensors_of(step(model, state, 1)), tensors_of(step(core, state, 1))
    for name, tensor in found.items():
        assert tensor.dtype == torch.float32
        error, usual = ((x[name] - exact[name]).norm() for x in (found, expected))
        assert 0 < error < ONE_BIT * usual, f"{name}: {error}, usually {usual}"


def test_later_changes_of_the_plain_core_do_not_reach_it() -> None:
    model = random_core(CONFIGS["asymmetric"])
    core = FrozenCanViT(model)
    state = core.init_state(batch_size=1, canvas_grid_size=4)
    before = step(core, state, 0)
    for tensor in model.state_dict().values():
        tensor.zero_()
    assert torch.equal(step(core, state, 0).state.canvas, before.state.canvas)
    assert not any(parameter.requires_grad for parameter in core.parameters())


@pytest.mark.parametrize("again", [copy.deepcopy, lambda core: pickle.loads(pickle.dumps(core))])
def test_copies_answer_alike(way: str, again: Callable[[FrozenCanViT], FrozenCanViT]) -> None:
    core = FrozenCanViT(random_core(CONFIGS["asymmetric"]))
    state = core.init_state(batch_size=2, canvas_grid_size=4)
    expected = step(core, state, 0)
    assert_same(step(again(core), state, 0), expected)


def test_it_refuses_to_move() -> None:
    core = FrozenCanViT(random_core(CONFIGS["asymmetric"]))
    with pytest.raises(RuntimeError, match="move or cast the plain CanViT"):
        core.to(torch.float64)


@pytest.mark.parametrize("shape", [(24, 32), (20, 20)])
def test_glimpse_in_broken_patches_is_refused(shape: tuple[int, int]) -> None:
    core = FrozenCanViT(random_core(CONFIGS["asymmetric"]))
    with pytest.raises(ValueError, match=r"shape \[1, 3, .* multiples of 8 px"):
        core(
            glimpse=torch.zeros(1, 3, *shape),
            state=core.init_state(batch_size=1, canvas_grid_size=4),
            viewpoint=Viewpoint.full_scene(batch_size=1),
        )


@pytest.mark.parametrize("fault", ["absent", "refusing", "of another meaning"])
def test_private_operators_are_used_only_where_they_do_what_is_meant(
    monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def refuse(*args: Any) -> Tensor:
        raise RuntimeError("not on this processor")

    operators = SimpleNamespace()
    if fault != "absent":
        operators._reorder_linear_weight = lambda weight: weight
        operators._linear_pointwise = (
            refuse if fault == "refusing" else lambda x, weight, bias, *more: x @ weight.T
        )
    monkeypatch.setattr(torch.ops, "mkldnn", operators)
    monkeypatch.setattr(frozen, "_can_pack", frozen._can_pack.__wrapped__)
    assert not frozen._can_pack()
    assert_same_episode(random_core(CONFIGS["asymmetric"]), batch_size=2, canvas_grid=4)


def test_freezing_twice_is_freezing_once() -> None:
    model = SimpleNamespace(canvit=random_core(CONFIGS["asymmetric"]))
    core = frozen.freeze(model).canvit
    assert isinstance(core, FrozenCanViT) and not isinstance(core, CanViT)
    assert frozen.freeze(model).canvit is core
