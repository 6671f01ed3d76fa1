from __future__ import annotations

import pytest

from evorank.graph import Context, Journal


@pytest.mark.heavy
def test_the_loop_runs_inside_an_app_with_another_state_in_both_ways(home, shared, load, capsys):
    example = load("subgraph/weekly_review.py", "--steps", 2, "--home", home, "--surface", "tiny")
    example.main()
    memo = capsys.readouterr().out
    assert memo.startswith("Memo to ranking: 2 candidates were tried.")
    assert len(Journal.open(home).attempts(surface="tiny")) == 2

    theirs = example.AppContext(
        evorank=Context(home=str(home), surface="tiny", parallel=1, personas=["optimizer"])
    )
    answer = example.shared_app().invoke({"steps": 1}, context=theirs)
    assert len(answer["attempts"]) == 1
    assert answer["wins"] in (0, 1)
    assert len(Journal.open(home).attempts(surface="tiny")) == 3
