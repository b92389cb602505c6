"""The benchmark of generated scenes, as a command."""

import pytest

from canvit_gym.scenes import benchmark


def test_help_measures_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "EmojiScenes", None)
    with pytest.raises(SystemExit) as end:
        benchmark.main(["--help"])
    assert end.value.code == 0 and "How long one generated scene takes" in capsys.readouterr().out


def test_it_says_how_long_each_split_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "WARM_UP", 1)
    monkeypatch.setattr(benchmark, "BLOCK", 1)
    benchmark.main(["--splits", "test"])
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("test: ") and "ms a scene" in line
