"""Same weights, same glimpses, same answers as the reference implementation (canvit-pytorch 0.2.1).

Where it is not installed, the golden file still holds what it answered on small models.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from make_golden import (
    BATCH,
    GOLDEN,
    PRETRAINING,
    VARIANTS,
    VIEWPOINTS,
    episode,
    fill,
    small_backbone_in_reference,
    tensors_of,
    uniform,
)
from safetensors.torch import load_file
from torch import Tensor

from canvit_gym.geometry import Viewpoint
from canvit_gym.model.canvit import RecurrentState
from canvit_gym.model.config import CanViTConfig
from canvit_gym.model.heads import CanViTForImageClassification, CanViTForPretraining

TOLERANCE = 1e-4
"""On outputs whose values reach 20, where float32's last place is 2e-6: sums of n such numbers in
two orders differ by about the square root of n places, and n is at most 768, a patch's pixels."""


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def reference() -> Iterator[Any]:
    module = pytest.importorskip("canvit_pytorch")
    with small_backbone_in_reference():
        yield module


def pretraining(variant: str = "asymmetric") -> CanViTForPretraining:
    model = CanViTForPretraining(canvit_config=CanViTConfig(**VARIANTS[variant]), **PRETRAINING)
    fill(model)
    return model.eval()


def classifier(n_classes: int = 11) -> CanViTForImageClassification:
    config = CanViTConfig(**VARIANTS["asymmetric"])
    model = CanViTForImageClassification(canvit_config=config, n_classes=n_classes)
    fill(model)
    return model.eval()


def last_state(model: Any) -> RecurrentState:
    *_, (output, _) = episode(model, viewpoint_class=Viewpoint)
    return output.state


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert tensor.std() > 0.1, f"{name} is too small to tell anything"
        torch.testing.assert_close(
            found[name], tensor, atol=TOLERANCE, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("variant", VARIANTS)
def test_golden_answers(variant: str) -> None:
    golden = {
        key.removeprefix(f"{variant}."): tensor
        for key, tensor in load_file(GOLDEN).items()
        if key.startswith(f"{variant}.")
    }
    model = pretraining(variant)
    *_, (output, _) = episode(model, viewpoint_class=Viewpoint)
    found = tensors_of(output) | {
        "teacher_patches": model.predict_teacher_patches(output.state),
        "teacher_cls": model.predict_teacher_cls(output.state),
    }
    assert_same(found, golden)


@pytest.mark.parametrize(("canvas_grid", "glimpse_grid"), [(1, 1), (2, 4), (7, 5)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_small_models_at_other_sizes(
    reference: Any, variant: str, canvas_grid: int, glimpse_grid: int
) -> None:
    ours = pretraining(variant)
    theirs = reference.CanViTForPretraining(
        canvit_config=reference.CanViTConfig(**VARIANTS[variant]), **PRETRAINING
    )
    theirs.load_state_dict(ours.state_dict())
    sizes = {"canvas_grid": canvas_grid, "glimpse_grid": glimpse_grid}
    for (found, _), (expected, _) in zip(
        episode(ours, viewpoint_class=Viewpoint, **sizes),
        episode(theirs, viewpoint_class=reference.Viewpoint, **sizes),
        strict=True,
    ):
        assert_same(tensors_of(found), tensors_of(expected))


@pytest.mark.slow
def test_canvit_b(reference: Any) -> None:
    torch.manual_seed(0)
    size = {"teacher_dim": 768, "teacher_patch_grid": 32}
    theirs = reference.CanViTForPretraining(canvit_config=reference.CanViTConfig(), **size).eval()
    for name, tensor in theirs.state_dict().items():
        if name.endswith(".fitted"):
            tensor.fill_(True)
        elif tensor.ndim == 2 or tensor.ndim == 4:
            pass  # matrices are drawn at random already
        elif name.endswith(("gamma", "norm.weight", ".var")):
            tensor.uniform_(0.3, 1.0)
        else:
            tensor.add_(torch.randn_like(tensor), alpha=0.3)
    with torch.device("meta"):
        ours = CanViTForPretraining(canvit_config=CanViTConfig(), **size)
    ours.load_state_dict(theirs.state_dict(), assign=True)

    sizes = {"canvas_grid": 32, "glimpse_grid": 8, "patch_px": 16}
    for (found, _), (expected, _) in zip(
        episode(ours, viewpoint_class=Viewpoint, **sizes),
        episode(theirs, viewpoint_class=reference.Viewpoint, **sizes),
        strict=True,
    ):
        state = expected.state
        assert_same(
            tensors_of(found)
            | {
                "teacher_patches": ours.predict_teacher_patches(found.state),
                "teacher_cls": ours.predict_teacher_cls(found.state),
            },
            tensors_of(expected)
            | {
                "teacher_patches": theirs.predict_teacher_patches(state.canvas),
                "teacher_cls": theirs.predict_teacher_cls(state.recurrent_cls),
            },
        )


def test_standardizers(reference: Any) -> None:
    ours = pretraining().teacher_patch_standardizer
    theirs = reference.CanViTForPretraining(
        canvit_config=reference.CanViTConfig(**VARIANTS["asymmetric"]), **PRETRAINING
    ).teacher_patch_standardizer
    features = 3 * uniform("features", (9, 16, 20))
    for standardizer in (ours, theirs):
        standardizer.fit(features)
    torch.testing.assert_close(ours.var, theirs.var)
    torch.testing.assert_close(ours(features), theirs(features))
    torch.testing.assert_close(ours.destandardize(features), theirs.destandardize(features))
    torch.testing.assert_close(ours.destandardize(ours(features)), features)


def test_class_logits(reference: Any) -> None:
    ours = classifier()
    theirs = reference.CanViTForImageClassification(
        canvit_config=reference.CanViTConfig(**VARIANTS["asymmetric"]), n_classes=11
    )
    theirs.load_state_dict(ours.state_dict())
    state = ours.init_state(batch_size=BATCH, canvas_grid_size=4)
    glimpse = uniform("glimpse", (BATCH, 3, 24, 24))
    numbers = {"centers": torch.tensor([[0.1, -0.3], [0.0, 0.5]]), "scales": torch.tensor([0.6, 1])}
    logits, new = ours(glimpse=glimpse, state=state, viewpoint=Viewpoint(**numbers))
    expected, _ = theirs(glimpse=glimpse, state=state, viewpoint=reference.Viewpoint(**numbers))
    assert_same({"logits": logits}, {"logits": expected})
    assert torch.equal(logits, ours.logits(new))


def test_heads_and_state_stay_float32_under_autocast() -> None:
    model = classifier()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        *_, (output, _) = episode(model, viewpoint_class=Viewpoint)
        logits = model.logits(output.state)
    exact = last_state(model)
    assert not torch.equal(output.state.canvas, exact.canvas), "autocast did nothing"
    assert output.state.canvas.dtype == output.state.recurrent_cls.dtype == torch.float32
    assert logits.dtype == torch.float32
    # The head adds no rounding of its own: the same state gives the same logits without autocast.
    assert torch.equal(logits, model.logits(output.state))

    teacher = pretraining()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predictions = teacher.predict_teacher_patches(exact), teacher.predict_teacher_cls(exact)
    for prediction, again in zip(
        predictions,
        (teacher.predict_teacher_patches(exact), teacher.predict_teacher_cls(exact)),
        strict=True,
    ):
        assert prediction.dtype == torch.float32
        assert torch.equal(prediction, again)


def test_bfloat16_agrees_with_the_reference(reference: Any) -> None:
    ours = pretraining()
    theirs = reference.CanViTForPretraining(
        canvit_config=reference.CanViTConfig(**VARIANTS["asymmetric"]), **PRETRAINING
    )
    theirs.load_state_dict(ours.state_dict())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        *_, (found, _) = episode(ours, viewpoint_class=Viewpoint)
        *_, (expected, _) = episode(theirs, viewpoint_class=reference.Viewpoint)
    *_, (full, _) = episode(ours, viewpoint_class=Viewpoint)  # float32: 16 bits more
    for name, exact in tensors_of(full).items():
        tensor, usual = tensors_of(found)[name], tensors_of(expected)[name]
        assert tensor.dtype == usual.dtype
        error, usual_error = (tensor - exact).norm(), (usual - exact).norm()
        # Twice the reference's error would be one of bfloat16's eight bits lost.
        assert 0 < error < 2 * usual_error, f"{name}: {error}, the reference {usual_error}"


def test_keys_have_no_bias() -> None:
    """Published files hold numbers in the keys' third of `qkv.bias`; they are never used."""
    model = pretraining()
    before = last_state(model)
    for block in model.canvit.backbone.blocks:
        block.attn.qkv.bias[128:256] = 1e6
    after = last_state(model)
    assert torch.equal(before.recurrent_cls, after.recurrent_cls)
    model.canvit.backbone.blocks[0].attn.qkv.bias[:128] += 1
    assert not torch.equal(before.recurrent_cls, last_state(model).recurrent_cls)


def probe(n_classes: int = 7) -> dict[str, Tensor]:
    return {
        "probe_weight": uniform("probe weight", (n_classes, PRETRAINING["teacher_dim"])),
        "probe_bias": uniform("probe bias", (n_classes,)),
    }


def test_fused_probe_is_the_chain_in_one_step() -> None:
    pretrained = pretraining()
    fused = CanViTForImageClassification.fuse(pretrained, **probe())
    state = last_state(pretrained)
    teacher = pretrained.teacher_cls_standardizer.destandardize(
        pretrained.predict_teacher_cls(state)[:, None]
    )[:, 0]
    chain = teacher @ probe()["probe_weight"].T + probe()["probe_bias"]
    assert_same({"logits": fused.logits(state)}, {"logits": chain})


def test_fused_probe_agrees_with_the_reference(reference: Any) -> None:
    from canvit_pytorch.model.classification import fuse_probe

    pretrained = pretraining()
    fused = CanViTForImageClassification.fuse(pretrained, **probe())
    weight, bias = fuse_probe(
        proj=pretrained.teacher_cls_readout.proj,
        mean=pretrained.teacher_cls_standardizer.mean[0],
        std=pretrained.teacher_cls_standardizer.std[0],
        **probe(),
    )
    torch.testing.assert_close(fused.readout.proj.weight, weight, atol=1e-6, rtol=0)
    torch.testing.assert_close(fused.readout.proj.bias, bias, atol=1e-6, rtol=0)


def test_fused_model_takes_after_the_pretrained_one() -> None:
    pretrained = pretraining()
    fused = CanViTForImageClassification.fuse(pretrained, **probe())
    assert fused.canvit is pretrained.canvit
    assert fused.n_classes == 7
    assert not fused.training
    assert CanViTForImageClassification.fuse(pretrained.train(), **probe()).training
    # The head is its own: fine-tuning it leaves the pretrained one alone.
    fused.readout.norm.weight.zero_()
    assert pretrained.teacher_cls_readout.norm.weight.abs().sum() > 0
    assert all(parameter.requires_grad for parameter in fused.parameters())


def test_impossible_fusions_are_refused() -> None:
    pretrained = pretraining()
    with pytest.raises(ValueError, match="reads 33 features, .* a teacher of 20"):
        CanViTForImageClassification.fuse(
            pretrained, probe_weight=torch.zeros(7, 33), probe_bias=torch.zeros(7)
        )
    pretrained.teacher_cls_standardizer.fitted.fill_(False)
    with pytest.raises(RuntimeError, match="no statistics yet"):
        CanViTForImageClassification.fuse(pretrained, **probe())


@pytest.mark.parametrize("shape", [(24, 32), (20, 20)])
def test_glimpse_in_broken_patches_is_refused(shape: tuple[int, int]) -> None:
    model = pretraining()
    with pytest.raises(ValueError, match=r"shape \[1, 3, .* multiples of 8 px"):
        model(
            glimpse=torch.zeros(1, 3, *shape),
            state=model.init_state(batch_size=1, canvas_grid_size=4),
            viewpoint=Viewpoint.full_scene(batch_size=1),
        )


def test_state_of_another_model_is_refused() -> None:
    other = pretraining("no_canvas_registers")
    with pytest.raises(ValueError, match="A canvas of 16 tokens is no square grid beside 3"):
        pretraining()(
            glimpse=torch.zeros(1, 3, 8, 8),
            state=other.init_state(batch_size=1, canvas_grid_size=4),
            viewpoint=Viewpoint.full_scene(batch_size=1),
        )


def test_scenes_of_a_batch_do_not_mix() -> None:
    model = pretraining()
    *_, (both, _) = episode(model, viewpoint_class=Viewpoint)
    state = model.init_state(batch_size=1, canvas_grid_size=4)
    for t, (_, glimpse) in enumerate(episode(model, viewpoint_class=Viewpoint)):
        numbers = torch.tensor(VIEWPOINTS[t])[1:]
        state = model(
            glimpse=glimpse[1:],
            state=state,
            viewpoint=Viewpoint(centers=numbers[:, :2], scales=numbers[:, 2]),
        ).state
    second = both.state[torch.tensor([False, True])]
    torch.testing.assert_close(state.canvas, second.canvas, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(state.recurrent_cls, second.recurrent_cls, atol=TOLERANCE, rtol=0)
