"""Segmentation: the reference's answers, published probes, one model of two checkpoints."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from make_golden import (
    BATCH,
    CANVAS_GRID,
    GOLDEN,
    PRETRAINING,
    PROBE,
    TARGET_SIZE,
    VARIANTS,
    fill,
    looks,
    small_backbone_in_reference,
    uniform,
)
from safetensors.torch import load_file, save_file
from test_checkpoints import closed_world as closed_world  # no hub, for every test here too
from test_checkpoints import edit_config, edit_tensors, write_old_format, write_probe
from torch import Tensor

from canvit_gym.checkpoint_ids import ade20k_probe
from canvit_gym.geometry import Viewpoint
from canvit_gym.model import checkpoints
from canvit_gym.model.canvit import CanViT, RecurrentState
from canvit_gym.model.checkpoints import (
    EMBEDDED,
    InvalidCheckpoint,
    resolve_checkpoint,
)
from canvit_gym.model.config import CanViTConfig
from canvit_gym.model.heads import CanViTForImageClassification, CanViTForPretraining
from canvit_gym.model.identity import identify
from canvit_gym.model.segmentation import CanViTForSemanticSegmentation, SegmentationProbe

TOLERANCE = 1e-4
"""On logits of standard deviation about 1."""


def probe(**changes: Any) -> SegmentationProbe:
    model = SegmentationProbe(**PROBE | changes)
    fill(model)
    return model.eval()


def segmenter(variant: str = "asymmetric", **changes: Any) -> CanViTForSemanticSegmentation:
    model = CanViTForSemanticSegmentation(
        canvit=CanViT(CanViTConfig(**VARIANTS[variant])), probe=SegmentationProbe(**PROBE | changes)
    )
    fill(model)
    return model.eval()


def classifier() -> CanViTForImageClassification:
    config = CanViTConfig(**VARIANTS["asymmetric"])
    model = CanViTForImageClassification(canvit_config=config, n_classes=5)
    fill(model)
    return model.eval()


def pretraining() -> CanViTForPretraining:
    model = CanViTForPretraining(
        canvit_config=CanViTConfig(**VARIANTS["asymmetric"]), **PRETRAINING
    )
    fill(model)
    return model.eval()


@torch.no_grad()
def last_state(model: CanViTForSemanticSegmentation) -> RecurrentState:
    state = model.init_state(batch_size=BATCH, canvas_grid_size=CANVAS_GRID)
    for glimpse, viewpoint in looks(viewpoint_class=Viewpoint):
        _, state = model(glimpse=glimpse, state=state, viewpoint=viewpoint)
    return state


def published_probe(
    directory: Path, *, width: int = 48, classes: int = 7, use_ln: bool = True
) -> dict[str, Tensor]:
    """A probe as the hub has it, keys and fields written out by hand."""
    shapes = {
        "bn.weight": (width,),
        "bn.bias": (width,),
        "bn.running_mean": (width,),
        "bn.running_var": (width,),
        "conv.weight": (classes, width, 1, 1),
        "conv.bias": (classes,),
    }
    if use_ln:
        shapes |= {"ln.weight": (width,), "ln.bias": (width,)}
    tensors = {key: uniform(key, shape).abs() + 0.01 for key, shape in shapes.items()}
    tensors["bn.num_batches_tracked"] = torch.tensor(40_000)
    directory.mkdir(parents=True)
    save_file(tensors, directory / "model.safetensors")
    config = {
        "embed_dim": width,
        "num_classes": classes,
        "dropout": 0.1,
        "use_ln": use_ln,
        "metadata": {"step": 40_000, "feat_type": "canvas_hidden", "best_mious_per_t": {"t0": 0.3}},
    }
    (directory / "config.json").write_text(json.dumps(config))
    return tensors


def assert_same_tensors(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [key for key in found if not torch.equal(found[key], expected[key])] == []


# -- the reference's answers -----------------------------------------------------------------------


def assert_same_answers(
    ours: CanViTForSemanticSegmentation,
    theirs: Any,
    reference: Any,
    *,
    canvas_grid: int,
    **size: int,
) -> None:
    """Equal logits after each of three glimpses, by every way to ask for them."""
    theirs.load_state_dict(ours.state_dict())
    sizes = {"batch_size": BATCH, "canvas_grid_size": canvas_grid}
    state, reference_state = ours.init_state(**sizes), theirs.init_state(**sizes)
    for (glimpse, viewpoint), (_, reference_viewpoint) in zip(
        looks(viewpoint_class=Viewpoint, **size),
        looks(viewpoint_class=reference.Viewpoint, **size),
        strict=True,
    ):
        before = {"glimpse": glimpse, "state": state, "viewpoint": viewpoint}
        upsampled, state = ours.predict(**before, target_size=(37, 22))
        expected_upsampled, reference_state = theirs.predict(
            glimpse=glimpse, state=reference_state, viewpoint=reference_viewpoint,
            target_size=(37, 22),
        )  # fmt: skip
        logits, expected = ours.logits(state), theirs.logits(reference_state.canvas)
        assert logits.shape == (BATCH, ours.num_classes, canvas_grid, canvas_grid)
        assert upsampled.shape == (BATCH, ours.num_classes, 37, 22)
        assert expected.std() > 0.1, "too small to tell anything"
        torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(upsampled, expected_upsampled, atol=TOLERANCE, rtol=0)
    again, _ = ours(**before)
    torch.testing.assert_close(again, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("use_ln", [True, False])
@pytest.mark.parametrize(
    ("variant", "canvas_grid"), [("asymmetric", 4), ("no_vpe", 1), ("bare", 7)]
)
@torch.no_grad()
def test_small_models(variant: str, canvas_grid: int, use_ln: bool) -> None:
    reference = pytest.importorskip("canvit_pytorch")
    with small_backbone_in_reference():
        theirs = reference.CanViTForSemanticSegmentation(
            canvit=reference.CanViT(reference.CanViTConfig(**VARIANTS[variant])),
            probe=reference.SegmentationProbe(**PROBE | {"use_ln": use_ln}),
        ).eval()
        ours = segmenter(variant, use_ln=use_ln)
        assert_same_answers(ours, theirs, reference, canvas_grid=canvas_grid)


@pytest.mark.slow
@torch.no_grad()
def test_canvit_b() -> None:
    reference = pytest.importorskip("canvit_pytorch")
    size = {"embed_dim": 1024, "num_classes": 150, "dropout": 0.1, "use_ln": True}
    theirs = reference.CanViTForSemanticSegmentation(
        canvit=reference.CanViT(reference.CanViTConfig()), probe=reference.SegmentationProbe(**size)
    ).eval()
    torch.manual_seed(0)
    for name, tensor in theirs.state_dict().items():
        if name.endswith(("gamma", "norm.weight", "ln.weight", "bn.weight", "running_var")):
            tensor.uniform_(0.3, 1.0)
        elif name.endswith(("bias", "running_mean")):
            tensor.normal_(std=0.3)
        elif name == "probe.conv.weight":
            tensor.normal_(std=1 / 32)
    with torch.device("meta"):
        ours = CanViTForSemanticSegmentation(
            canvit=CanViT(CanViTConfig()), probe=SegmentationProbe(**size)
        ).eval()
    ours.load_state_dict(theirs.state_dict(), assign=True)
    assert_same_answers(ours, theirs, reference, canvas_grid=32, glimpse_grid=8, patch_px=16)


@torch.no_grad()
def test_golden_answers() -> None:
    golden = load_file(GOLDEN)
    model = segmenter()
    state = model.init_state(batch_size=BATCH, canvas_grid_size=CANVAS_GRID)
    for glimpse, viewpoint in looks(viewpoint_class=Viewpoint):
        upsampled, state = model.predict(
            glimpse=glimpse, state=state, viewpoint=viewpoint, target_size=TARGET_SIZE
        )
    for found, name in ((model.logits(state), "logits"), (upsampled, "upsampled")):
        torch.testing.assert_close(found, golden[f"segmentation.{name}"], atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_a_probe_alone_reads_any_rectangle() -> None:
    reference = pytest.importorskip("canvit_pytorch")
    ours, theirs = probe(), reference.SegmentationProbe(**PROBE).eval()
    theirs.load_state_dict(ours.state_dict())
    features = 3 * uniform("features", (2, 3, 5, 48))
    torch.testing.assert_close(ours(features), theirs(features), atol=TOLERANCE, rtol=0)
    assert ours(features).shape == (2, 7, 3, 5)


@torch.no_grad()
def test_rows_of_logits_are_rows_of_the_canvas() -> None:
    """The decoded cell (row, col) is the canvas patch at row * G + col."""
    model, state = segmenter(), last_state(segmenter())
    canvas = state.canvas.clone()
    registers = model.canvit.config.num_canvas_registers
    canvas[:, registers + 1 * CANVAS_GRID + 2] *= -1
    changed = model.logits(RecurrentState(canvas=canvas, recurrent_cls=state.recurrent_cls))
    where = (changed != model.logits(state)).any(dim=1)
    assert where.nonzero().tolist() == [[scene, 1, 2] for scene in range(BATCH)]


# -- precision and modes ---------------------------------------------------------------------------


@torch.no_grad()
def test_logits_stay_float32_under_autocast() -> None:
    model = segmenter()
    state = model.init_state(batch_size=BATCH, canvas_grid_size=CANVAS_GRID)
    glimpse, viewpoint = next(looks(viewpoint_class=Viewpoint))
    arguments = {"glimpse": glimpse, "state": state, "viewpoint": viewpoint}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, state = model(**arguments)
        upsampled, _ = model.predict(**arguments, target_size=(9, 5))
    assert logits.dtype == upsampled.dtype == torch.float32
    assert not torch.equal(logits, model(**arguments)[0]), "autocast did nothing"
    # The probe adds no rounding of its own: the same state gives the same logits without autocast.
    assert torch.equal(logits, model.logits(state))
    assert torch.equal(
        model.probe(torch.ones(1, 1, 1, 48).bfloat16()), model.probe(torch.ones(1, 1, 1, 48))
    )


@torch.no_grad()
def test_training_normalises_by_the_batch() -> None:
    features = 3 * uniform("features", (2, 4, 4, 48))
    model = probe(dropout=0.0)
    frozen = model(features)
    before = model.bn.running_mean.clone()
    assert torch.equal(model(features), frozen)
    assert torch.equal(model.bn.running_mean, before)
    trained = model.train()(features)
    assert (trained - frozen).abs().max() > 0.1
    assert not torch.equal(model.bn.running_mean, before)


@torch.no_grad()
def test_dropout_takes_whole_channels_before_the_batch_is_normalised() -> None:
    model = SegmentationProbe(embed_dim=48, num_classes=3, dropout=0.5, use_ln=False).train()
    seen: list[Tensor] = []
    model.bn.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(torch.ones(2, 4, 4, 48))
    (entered,) = seen
    assert sorted(entered.unique().tolist()) == [0.0, 2.0]
    assert torch.equal(entered, entered[:, :, :1, :1].expand_as(entered))


def test_a_new_probe_knows_nothing_yet() -> None:
    torch.manual_seed(0)
    model = SegmentationProbe(embed_dim=256, num_classes=150, dropout=0.1, use_ln=True)
    assert model.conv.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert model.conv.bias is not None and not model.conv.bias.any()
    assert model.training


@torch.no_grad()
def test_frozen_core_and_trained_probe() -> None:
    """A core and a probe stay the objects that they were, in their own modes."""
    core, trained = classifier().canvit, probe().train()
    model = CanViTForSemanticSegmentation(canvit=core, probe=trained)
    assert model.canvit is core and model.probe is trained
    assert model.training and trained.training and not core.training
    assert model.num_classes == 7
    assert not CanViTForSemanticSegmentation(canvit=core, probe=probe()).training


def test_gradients_reach_the_core() -> None:
    model = segmenter()
    glimpse, viewpoint = next(looks(viewpoint_class=Viewpoint))
    state = model.init_state(batch_size=BATCH, canvas_grid_size=CANVAS_GRID)
    logits, _ = model(glimpse=glimpse, state=state, viewpoint=viewpoint)
    logits.square().sum().backward()
    assert model.canvit.init_canvas_patch.grad is not None
    assert model.probe.conv.weight.grad is not None


# -- checkpoints -----------------------------------------------------------------------------------


@pytest.mark.parametrize("use_ln", [True, False])
def test_published_probe(tmp_path: Path, use_ln: bool) -> None:
    tensors = published_probe(tmp_path / "probe", width=1024, classes=150, use_ln=use_ln)
    model = SegmentationProbe.from_pretrained(tmp_path / "probe")
    assert_same_tensors(dict(model.state_dict()), tensors)
    assert (model.embed_dim, model.num_classes, model.use_ln) == (1024, 150, use_ln)
    assert model.dropout == 0.1
    assert not any(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    floats = sum(x.numel() for x in model.state_dict().values() if x.is_floating_point())
    assert floats == (159_894 if use_ln else 159_894 - 2 * 1024)


@pytest.mark.parametrize("name", [ade20k_probe(32), ade20k_probe(64).removeprefix("canvit/")])
def test_official_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    tensors = published_probe(tmp_path / "tree" / name.removeprefix("canvit/"))
    classifier().save_pretrained(tmp_path / "tree" / "canvit" / "backbone")
    monkeypatch.setenv("CANVIT_HUB_ROOT", str(tmp_path / "tree"))
    assert_same_tensors(dict(SegmentationProbe.from_pretrained(name).state_dict()), tensors)
    model = CanViTForSemanticSegmentation.from_pretrained_with_probe("canvit/backbone", name)
    assert_same_tensors(dict(model.probe.state_dict()), tensors)


def test_official_names_are_the_released_ones() -> None:
    repos = pytest.importorskip("canvit_pytorch.hub.repos")
    for grid in (8, 32, 64):
        released = repos.ade20k_probe_name(
            "in21k", scene_size_px=512, canvas_grid_size=grid, steps=repos.RELEASED_PROBE_STEPS
        )
        assert ade20k_probe(grid) == f"canvit/{released}"


def test_ids_import_nothing_heavy() -> None:
    code = "import sys, canvit_gym.checkpoint_ids; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_round_trip(tmp_path: Path) -> None:
    model = probe(dropout=0.25, use_ln=False)
    model.save_pretrained(tmp_path / "new", extra_config={"training": {"steps": 3}})
    loaded = SegmentationProbe.from_pretrained(str(tmp_path / "new"))
    assert_same_tensors(dict(loaded.state_dict()), dict(model.state_dict()))
    assert json.loads((tmp_path / "new" / "config.json").read_text()) == {
        "embed_dim": 48,
        "num_classes": 7,
        "dropout": 0.25,
        "use_ln": False,
        "training": {"steps": 3},
    }
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        "config.json",
        "model.safetensors",
    }
    with pytest.raises(ValueError, match="extra_config has dropout, use_ln"):
        model.save_pretrained(tmp_path / "more", extra_config={"use_ln": True, "dropout": 0.1})


@pytest.mark.parametrize("use_ln", [True, False])
def test_reference_reads_what_is_saved_and_the_other_way(tmp_path: Path, use_ln: bool) -> None:
    reference = pytest.importorskip("canvit_pytorch")
    model = probe(use_ln=use_ln)
    model.save_pretrained(tmp_path / "ours", extra_config={"training": {"steps": 1}})
    theirs = reference.SegmentationProbe.from_pretrained(str(tmp_path / "ours"))
    assert_same_tensors(dict(theirs.state_dict()), dict(model.state_dict()))
    theirs.save_pretrained(tmp_path / "theirs")
    again = SegmentationProbe.from_pretrained(tmp_path / "theirs")
    assert_same_tensors(dict(again.state_dict()), dict(model.state_dict()))
    assert again.config_values() == model.config_values()


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("make", [pretraining, classifier])
@torch.no_grad()
def test_any_checkpoint_with_a_core(tmp_path: Path, make: Any, old_format: bool) -> None:
    backbone = make()
    if old_format:
        write_old_format(tmp_path / "backbone", backbone)
    else:
        backbone.save_pretrained(tmp_path / "backbone")
    published_probe(tmp_path / "probe")
    model = CanViTForSemanticSegmentation.from_pretrained_with_probe(
        tmp_path / "backbone", str(tmp_path / "probe")
    )
    assert not any(module.training for module in model.modules())
    assert {x.device.type for x in model.state_dict().values()} == {"cpu"}
    joined = CanViTForSemanticSegmentation(
        canvit=backbone.canvit, probe=SegmentationProbe.from_pretrained(tmp_path / "probe")
    )
    assert_same_tensors(dict(model.state_dict()), dict(joined.state_dict()))
    assert torch.equal(model.logits(last_state(joined)), joined.logits(last_state(joined)))


def test_device_is_respected(tmp_path: Path) -> None:
    classifier().save_pretrained(tmp_path / "backbone")
    published_probe(tmp_path / "probe")
    model = CanViTForSemanticSegmentation.from_pretrained_with_probe(
        tmp_path / "backbone", tmp_path / "probe", device="meta"
    )
    assert {x.device.type for x in model.state_dict().values()} == {"meta"}


def test_the_embedded_backbone_takes_a_probe(tmp_path: Path) -> None:
    mini = CanViTForImageClassification.from_pretrained("mini")
    width = mini.canvit.config.canvas_dim
    published_probe(tmp_path / "probe", width=width, classes=17)
    model = CanViTForSemanticSegmentation.from_pretrained_with_probe("mini", tmp_path / "probe")
    assert_same_tensors(dict(model.canvit.state_dict()), dict(mini.canvit.state_dict()))
    assert model.num_classes == 17


def test_identity_of_a_backbone_with_a_probe(tmp_path: Path) -> None:
    classifier().save_pretrained(tmp_path / "backbone")
    published_probe(tmp_path / "probe")
    names = [str(tmp_path / name) for name in ("backbone", "probe")]
    hashes = [
        hashlib.sha256((Path(name) / "model.safetensors").read_bytes()).hexdigest()
        for name in names
    ]
    identity = identify(names[0], probe=names[1])
    assert (identity.name, identity.sha256) == (" + ".join(names), "+".join(hashes))


def test_embedded_names() -> None:
    assets = Path(checkpoints.__file__).parents[1] / "assets"
    assert {"mini", "mini-seg-probe", "mini-depth-probe"} <= {*EMBEDDED}
    for name, directory in EMBEDDED.items():
        assert directory == assets / name.replace("-", "_") == resolve_checkpoint(name)


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bn__running_var": None}, "1 tensors disagree, first bn.running_var is missing"),
        ({"bn__num_batches_tracked": None}, "bn.num_batches_tracked is missing"),
        ({"ln__weight": None, "ln__bias": None}, "ln.weight is missing; ln.bias is missing"),
        ({"head__weight": torch.zeros(2)}, "head.weight is not part of the model"),
        ({"conv__weight": torch.zeros(7, 48)}, "conv.weight has shape [7, 48], not [7, 48, 1, 1]"),
        (
            {"bn__num_batches_tracked": torch.tensor(3.0)},
            "bn.num_batches_tracked has dtype torch.float32, not torch.int64",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    tmp_path: Path, changes: dict[str, Tensor | None], message: str
) -> None:
    published_probe(tmp_path / "probe")
    edit_tensors(tmp_path / "probe", **changes)
    with pytest.raises(InvalidCheckpoint) as caught:
        SegmentationProbe.from_pretrained(tmp_path / "probe")
    assert "is not the SegmentationProbe that config.json describes" in str(caught.value)
    assert message in str(caught.value)


def test_a_layer_norm_too_many_is_named(tmp_path: Path) -> None:
    published_probe(tmp_path / "probe")
    edit_config(tmp_path / "probe", use_ln=False)
    with pytest.raises(InvalidCheckpoint, match="ln.bias is not part of the model"):
        SegmentationProbe.from_pretrained(tmp_path / "probe")


BAD_ARGUMENTS = [
    ({"embed_dim": "48"}, "embed_dim is '48'; give a positive integer."),
    ({"num_classes": 0}, "num_classes is 0; give a positive integer."),
    ({"num_classes": True}, "num_classes is True; give a positive integer."),
    ({"dropout": 1.0}, "dropout is 1.0; give a number from 0 to below 1."),
    ({"dropout": -0.1}, "dropout is -0.1; give a number"),
    ({"dropout": float("nan")}, "dropout is nan; give a number"),
    ({"dropout": "0.1"}, "dropout is '0.1'; give a number"),
    ({"dropout": False}, "dropout is False; give a number"),
    ({"use_ln": 1}, "use_ln is 1; give true or false."),
    ({"use_ln": "yes"}, "use_ln is 'yes'; give true or false."),
]


@pytest.mark.parametrize(("changes", "message"), BAD_ARGUMENTS)
def test_impossible_probes_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError) as caught:
        SegmentationProbe(**PROBE | changes)
    assert str(caught.value).startswith(message)
    published_probe(tmp_path / "probe")
    edit_config(tmp_path / "probe", **changes)
    with pytest.raises(InvalidCheckpoint) as caught:
        SegmentationProbe.from_pretrained(tmp_path / "probe")
    if changes.get("dropout") != changes.get("dropout"):  # NaN is no JSON
        message = "config.json is damaged: it holds NaN"
    else:
        message = f"config.json: {message}"
    assert message in str(caught.value)


def test_an_integer_zero_is_no_dropout(tmp_path: Path) -> None:
    published_probe(tmp_path / "probe")
    edit_config(tmp_path / "probe", dropout=0)
    assert SegmentationProbe.from_pretrained(tmp_path / "probe").dropout == 0.0


def test_an_incomplete_config_is_named(tmp_path: Path) -> None:
    published_probe(tmp_path / "probe")
    edit_config(tmp_path / "probe", dropout=None, use_ln=None)
    with pytest.raises(InvalidCheckpoint, match="this is a config without dropout, use_ln; a Segm"):
        SegmentationProbe.from_pretrained(tmp_path / "probe")


def write_published_linear_probe(directory: Path) -> None:
    write_probe(directory)
    (directory / "config.json").write_text(json.dumps({"in_features": 20, "out_features": 5}))


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda path: pretraining().save_pretrained(path), "a CanViTForPretraining"),
        (lambda path: write_old_format(path, pretraining()), "a CanViTForPretraining"),
        (lambda path: classifier().save_pretrained(path), "a CanViTForImageClassification"),
        (write_published_linear_probe, "a linear probe"),
    ],
)
def test_what_is_no_segmentation_probe(tmp_path: Path, make: Any, kind: str) -> None:
    classifier().save_pretrained(tmp_path / "backbone")
    make(tmp_path / "other")
    with pytest.raises(InvalidCheckpoint) as caught:
        CanViTForSemanticSegmentation.from_pretrained_with_probe(
            tmp_path / "backbone", tmp_path / "other"
        )
    assert f"config.json: this is {kind}; " in str(caught.value)
    assert str(caught.value).endswith(
        "; a SegmentationProbe has embed_dim, num_classes, dropout, use_ln."
    )


def test_a_probe_is_no_backbone(tmp_path: Path) -> None:
    published_probe(tmp_path / "probe")
    with pytest.raises(InvalidCheckpoint) as caught:
        CanViTForSemanticSegmentation.from_pretrained_with_probe(
            tmp_path / "probe", tmp_path / "probe"
        )
    assert str(caught.value).endswith(
        "config.json: this is a segmentation probe, which holds no CanViT; give it as the probe of "
        "CanViTForSemanticSegmentation.from_pretrained_with_probe; a CanViTForPretraining has "
        "canvit_config, teacher_dim, teacher_patch_grid; a CanViTForImageClassification has "
        "canvit_config, n_classes."
    )


def test_a_probe_of_another_width_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match="reads features of width 768, but the canvas of this CanViT has width 48; choose a",
    ):
        CanViTForSemanticSegmentation(canvit=classifier().canvit, probe=probe(embed_dim=768))
    classifier().save_pretrained(tmp_path / "backbone")
    published_probe(tmp_path / "probe", width=20)
    with pytest.raises(
        ValueError, match="probe.* reads features of width 20, but the canvas of .* has width 48"
    ):
        CanViTForSemanticSegmentation.from_pretrained_with_probe(
            tmp_path / "backbone", tmp_path / "probe"
        )


@pytest.mark.parametrize("shape", [(2, 16, 48), (2, 48, 4, 4), (4, 4, 48)])
def test_features_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"have shape \[.*\]; give \[batch, height, width, 48\]"):
        probe()(torch.zeros(shape))
