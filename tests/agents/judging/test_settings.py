"""What settings mean for a result."""

from __future__ import annotations

from synthetic import classified

from canvit_agents.judging.settings import REPLAYED, TOLD, decides


def test_every_listed_setting_is_one_that_runs_have() -> None:
    settings = classified([[0, 1]]).settings
    assert {*TOLD, *REPLAYED} <= settings.keys()
    deciding = {name for name in settings if decides(name)}
    assert set(REPLAYED) <= deciding and set(TOLD) <= deciding
    assert decides("a_setting_of_tomorrow")
