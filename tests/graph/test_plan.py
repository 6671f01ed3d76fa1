from __future__ import annotations

import json

import pytest
from pydantic import ValidationError
from scripted import rates

from evorank.graph.context import open_session
from evorank.graph.offline import graph
from evorank.graph.plan import latest_run, load_plan, new_plan, remember
from evorank.model.errors import ConfigurationError


def test_whatever_begins_a_run_leaves_a_plan_that_others_can_go_on_with(context, home):
    session = open_session(context(None, seed=3))
    remember(session, "begun-in-an-app", 4, 0, "offline")
    plan = load_plan(home, "begun-in-an-app")
    assert (plan.steps, plan.graph, plan.context["seed"]) == (4, "offline", 3)
    assert plan.data_version == session.workbench.dataset.key
    remember(session, "begun-in-an-app", 2, 0, "offline")
    assert load_plan(home, "begun-in-an-app").steps == 4
    remember(session, "begun-in-an-app", 9, 0, "offline")
    assert load_plan(home, "begun-in-an-app").steps == 9


def test_a_run_of_a_live_chat_model_leaves_none_for_nobody_else_has_that_model(context, home):
    graph.invoke({"steps": 1, "run": "mine"}, context=context(rates(0.05)))
    with pytest.raises(ConfigurationError, match="`--resume` names run 'mine'"):
        load_plan(home, "mine")


def test_the_latest_run_is_the_one_that_began_last_whatever_it_is_called(context, home):
    first = new_plan(context(None), 2)
    remember(open_session(context(None)), "a-name-of-my-own", 2, 0, "evolve")
    path = home / "runs" / "a-name-of-my-own" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"created_at": "2999-01-01T00:00:00+00:00"}))
    assert latest_run(home) == "a-name-of-my-own"
    (path.parent / "summary.json").write_text(json.dumps({"stopped": None}))
    assert latest_run(home) == first.run


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", ".hidden"])
def test_a_run_is_a_folder_so_its_name_is_no_path(context, name):
    with pytest.raises(ValidationError, match="run"):
        graph.invoke({"steps": 1, "run": name}, context=context(rates(0.05)))
