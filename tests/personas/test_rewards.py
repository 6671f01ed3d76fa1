"""Rewards of the embedded engineer: corrections to production's label, which may be one of them itself."""

from __future__ import annotations

from evorank.model.delta import fingerprint


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
