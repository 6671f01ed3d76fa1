"""Rewards of the embedded engineer: corrections to production's label, which may be one of them itself."""

from __future__ import annotations

from dataclasses import replace

from evorank.model.delta import fingerprint
from evorank.model.system import Feature
from evorank.personas.embedded.reading import read
from evorank.personas.embedded.rewards import signals
from evorank.prompts import render


def test_a_reward_that_was_launched_can_be_corrected_again_and_keeps_its_meaning(ranker, briefing_of, loop):
    def size(phi):
        return len(phi["reward"]["label"])

    first = loop(briefing_of("reward"), size)
    for _ in range(6):
        first.step()
    launched = max(first.candidates, key=size)
    assert "before" in launched["reward"]["factors"]
    told = briefing_of(
        "reward",
        production=launched,
        production_fingerprint=fingerprint(launched),
        base=launched,
        base_fingerprint=fingerprint(launched),
    )
    second = loop(told, size)
    for _ in range(6):
        second.step()
    changed = [phi for phi in second.candidates if phi["reward"] != launched["reward"]]
    assert changed
    for phi in changed:
        assert ranker.check(phi) == []
        factors = phi["reward"]["factors"]
        assert {name: factors[name] for name in launched["reward"]["factors"]} == launched["reward"][
            "factors"
        ]
        assert launched["reward"]["label"] in factors.values()


def test_what_is_known_before_people_act_is_no_signal_but_a_duration_divides(briefing_of):
    told = briefing_of("reward")
    columns = dict(told.log.columns) | {"user_active_degree": "INTEGER"}
    features = (
        *told.log.features,
        Feature("user_active_degree", "categorical", size=4),
        Feature("duration_ms", "numeric"),
    )
    log = replace(told.log, columns=columns, features=features)
    found = signals(read(render.think(replace(told, log=log))))
    assert "user_active_degree" not in found.positive
    assert found.duration == "duration_ms"
    unknown = replace(log, features=told.log.features)
    assert "user_active_degree" in signals(read(render.think(replace(told, log=unknown)))).positive
