"""Ablations: what the variants of a study differ in, that runs are independent, and what is made of them."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import pytest
from scripted import ACCEPT, ScriptedChatModel, learning_rate, proposal

from evorank.graph.ablation import Estimate, Score, Unfinished, ablate
from evorank.graph.context import close_sessions
from evorank.graph.journal import Journal
from evorank.graph.state import Attempt
from evorank.model.errors import ChatModelError, ConfigurationError


@pytest.fixture
def study(context, trainings):
    """study(name, chat) -> what an ablation on the tiny surface found, with its sessions closed."""

    def make(name, chat=None, runs=1, ideas=2, on_event=lambda _: None, stop=None, together=2, **settings):
        asked = context(chat, **({"personas": None} | settings))
        try:
            return ablate(
                name, asked, runs=runs, ideas=ideas, on_event=on_event, stop=stop, together=together
            )
        finally:
            close_sessions()

    return make


def ever_smaller(form="Delta"):
    """Proposes a learning rate that nobody has tried."""
    rates = (0.09 * 0.97**place for place in itertools.count())

    def script(asked, _messages):
        if asked == "Delta":
            return learning_rate(next(rates))
        if asked == "Configuration":
            return {"phi": {"optimizer": {"args": {"lr": 0.05}}}, "explanation": "not all of it"}
        return {"Proposal": proposal(), "Review": ACCEPT}[asked]

    return ScriptedChatModel(script=script)


def journals(asked):
    """The `## Journal` section of each prompt that asks for a proposal, sorted by its lines."""
    sections = [text.split("## Journal\n")[1] for form, text in asked if form == "Proposal"]
    found = [(section.split("```jsonl\n")[1].split("```")[0].count("\n"), section) for section in sections]
    return sorted(found)


def test_each_history_shows_as_much_as_its_name_says(study):
    chat = ever_smaller()
    found = study("history", chat, ideas=7)
    assert [line.variant for line in found.lines] == ["full", "top-5", "top-1", "none"]
    # Before the n-th idea there were n - 1: all are shown, or at most 5, at most 1, none.
    shown = [lines for lines, _ in journals(chat.asked)]
    assert shown == sorted(
        [*range(7), *(min(n, 5) for n in range(7)), *(min(n, 1) for n in range(7)), *[0] * 7]
    )
    said = [section for _, section in journals(chat.asked)]
    assert sum("What was tried so far is not shown." in section for section in said) == 7
    assert sum("The best of the attempts so far, 5 of 6, one JSON" in section for section in said) == 1


def test_every_run_is_alone_with_its_journal_and_shares_trainings_with_the_others(study, trainings, home):
    found = study("sorting", runs=2, ideas=3)
    assert [score.seed for score in found.scores if score.variant == "sorted"] == [0, 1]
    for variant in ("sorted", "unsorted"):
        for seed in ("0", "1"):
            journal = Journal.open(Path(found.folder) / variant / seed)
            assert [attempt.step for attempt in journal.attempts()] == [0, 1, 2]
            journal.close()
    # Each variant's first idea sees an empty journal: with the same seed it is the same, and trained once.
    first = {(score.variant, score.seed): score.losses[0] for score in found.scores}
    assert first["sorted", 0] == first["unsorted", 0]
    assert (home / "cache").is_dir()
    assert not (home / "journal.sqlite").exists() or not Journal.open(home).attempts()


def test_the_same_command_goes_on_with_more_ideas_and_more_runs(study, trainings):
    events = []
    study("sorting", runs=1, ideas=2)
    trained = len(trainings.trained)
    again = study("sorting", runs=1, ideas=2, on_event=events.append)
    assert len(trainings.trained) == trained
    assert [event["event"] for event in events] == ["scored", "scored"]
    more = study("sorting", runs=2, ideas=3, on_event=events.append)
    assert more.folder == again.folder
    of_the_first = [event for event in events if event["event"] == "idea" and event["seed"] == 0]
    assert len(of_the_first) == 2, "one idea more for each variant"
    assert [score.losses[:2] for score in more.scores if score.seed == 0] == [
        score.losses for score in again.scores
    ]


def test_experts_are_compared_with_one_generalist_who_may_change_what_they_may(study):
    chat = ever_smaller()
    study("persona", chat, ideas=2)
    prompts = [text for form, text in chat.asked if form == "Proposal"]
    plain = [text for text in prompts if "You improve a ranking model." in text]
    assert len(plain) == 2
    assert len(prompts) == 4
    assert all("/optimizer" in text and "/architecture" in text for text in plain)


def test_a_whole_configuration_that_is_none_has_no_loss_and_is_counted(study):
    found = study("generation", ever_smaller(), ideas=2, personas=["optimizer"])
    delta, full = found.lines
    assert delta.measured == 1.0
    assert full.measured == 0.0
    assert full.ideas is None
    assert full.best.mean == 1.0, "production stays"


def test_what_a_study_lacks_is_told_before_anything_is_trained(study, trainings):
    with pytest.raises(ConfigurationError, match=r"`generation` full is for language models"):
        study("generation")
    with pytest.raises(ConfigurationError, match=r"--study model` compares chat models, got none"):
        study("model")
    with pytest.raises(ConfigurationError, match=r"takes one --model, got a:b, c:d"):
        study("history", model="a:b, c:d")
    with pytest.raises(ConfigurationError, match=r"must name one that improves the loss, got reward"):
        study("history", personas=["reward"])
    assert trainings.trained == []


def test_an_interrupt_finishes_the_running_ideas_and_the_next_command_the_rest(study):
    stop, seen = threading.Event(), []

    def interrupt(event):
        seen.append(event)
        stop.set()

    with pytest.raises(Unfinished, match=r"interrupted.*The same command goes on") as ended:
        study("sorting", ideas=4, on_event=interrupt, stop=stop, together=1)
    assert ended.value.reason == "interrupted"
    assert len(seen) == 1
    found = study("sorting", ideas=4, on_event=seen.append, together=1)
    assert sum(event["event"] == "idea" for event in seen) == 8, "no idea twice"
    assert [len(score.losses) for score in found.scores] == [4, 4]


def test_a_model_that_does_not_answer_ends_the_ablation_with_its_cause(study):
    def script(form, messages):
        return RuntimeError("the provider is on fire")

    with pytest.raises(ChatModelError, match=r"on fire.*variant sorted, seed 0"):
        study("sorting", ScriptedChatModel(script=script), ideas=4, together=1)


def test_a_training_that_was_given_up_has_the_loss_it_would_have_ended_with(
    study, home, context, monkeypatch
):
    from evorank.graph import ablation

    found = study("sorting", ever_smaller(), ideas=1, personas=["optimizer"])
    (score, _) = found.scores
    (attempt,) = _attempts(found, "sorted")
    given_up = attempt.model_copy(update={"outcome": "worse", "comparison": None})
    session = ablation.open_session(context())
    loss = ablation._relative(given_up, session)
    close_sessions()
    (kept,) = attempt.comparison["seeds"][:1]
    assert kept == 0
    assert loss == pytest.approx(score.losses[0], rel=0.05), "of one seed, where that was of all"
    assert loss != 1.0


def _attempts(found, variant) -> list[Attempt]:
    journal = Journal.open(Path(found.folder) / variant / "0")
    attempts = journal.attempts()
    journal.close()
    return attempts


def test_best_so_far_begins_with_production_and_never_rises():
    score = Score(variant="a", seed=0, losses=[1.2, None, 0.9, 0.95, None, 0.8])
    assert score.best == [1.0, 1.0, 0.9, 0.9, 0.9, 0.8]
    assert score.mean == pytest.approx(0.9625)
    assert score.measured == pytest.approx(4 / 6)


def test_an_interval_is_students_and_one_run_has_none():
    assert Estimate.of([0.9]) == Estimate(mean=0.9)
    found = Estimate.of([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.high - 2.0 == pytest.approx(4.3027 / 3**0.5, abs=1e-4)


def test_variants_are_compared_run_by_run_with_the_same_seed(study):
    found = study("sorting", runs=3, ideas=3)
    ours = {score.seed: score for score in found.scores if score.variant == "unsorted"}
    theirs = {score.seed: score for score in found.scores if score.variant == "sorted"}
    wanted = Estimate.of([ours[seed].best[-1] - theirs[seed].best[-1] for seed in range(3)])
    assert found.lines[0].minus_best is None
    assert found.lines[1].minus_best == wanted
    assert len(found.lines[1].curve) == 3
