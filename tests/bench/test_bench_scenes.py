"""The benchmark of reading pictures: every layout gives what torchvision's loader gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from canvit_gym.bench import env
from canvit_gym.bench import scenes as bench
from canvit_gym.bench.scenes import LAYOUTS, REFERENCE, format_table, sources, write_layouts


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("pyarrow")
    folder = tmp_path_factory.mktemp("layouts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(env, "_PICTURES", 3)
        write_layouts(folder)
    return folder


def test_all_layouts_hold_the_same_pictures(root: Path) -> None:
    datasets = sources(root, size_px=64)
    assert tuple(datasets) == (REFERENCE, *LAYOUTS)
    theirs = [(picture.permute(1, 2, 0).numpy(), label) for picture, label in datasets[REFERENCE]]
    for name in LAYOUTS:
        for i, (picture, label) in enumerate(theirs):
            scene = datasets[name][i]
            np.testing.assert_array_equal(scene.picture, picture)
            assert scene.label == label
        assert len(datasets[name]) == 3


def test_rates_are_of_all_pictures(root: Path) -> None:
    rates = bench.measure(sources(root, size_px=16), workers=0, pictures=70, rounds=2)
    assert {name: len(each) for name, each in rates.items()} == dict.fromkeys(
        (REFERENCE, *LAYOUTS), 2
    )
    assert all(rate > 0 for each in rates.values() for rate in each)


def test_the_table_has_a_ratio_to_the_reference() -> None:
    rates = {REFERENCE: [90.0, 100.0, 300.0], **{name: [150.0] for name in LAYOUTS}}
    figures = {
        "cpu": "C", "gpu": None, "threads": 1, "precision": "float32", "torch": "2", "size_px": 256,
        "results": [{"workers": 2, "rates": rates}],
    }  # fmt: skip
    lines = format_table(figures).splitlines()
    assert lines[0].endswith("pictures/s at 256 px") and "2 workers" in lines[2]
    assert lines[3].split()[-2:] == ["100", "1.00"] and lines[5].split()[-2:] == ["150", "1.50"]


@pytest.mark.slow
def test_the_command_writes_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(env, "_PICTURES", 2)
    arguments = ["--size", "16", "--workers", "0", "--pictures", "64", "--rounds", "1"]
    bench.main([*arguments, "--out", str(tmp_path / "scenes.json")])
    figures = json.loads((tmp_path / "scenes.json").read_text())
    assert set(figures["results"][0]["rates"]) == {REFERENCE, *LAYOUTS}
