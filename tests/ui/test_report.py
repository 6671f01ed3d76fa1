"""The report as one file: whole, small, and harmless whatever models and people wrote."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from pathlib import Path

import pytest
from both_loops import HOSTILE
from typer.testing import CliRunner

from evorank.cli import app
from evorank.ui.report import forest, make_report, write_html, write_markdown
from evorank.ui.views.common import EffectLine
from evorank.ui.views.report import report


@pytest.fixture(scope="module")
def made(source):
    return make_report(source)


def test_it_says_what_was_tried_what_won_and_why_what_failed_and_how_to_repeat_it(made, source):
    found = source.snapshot()
    for text in (write_html(made), write_markdown(made)):
        for told in (
            "What live tests decided",
            "What won on the proxy",
            "Lineage",
            "not worth trying again",
            "Cost",
        ):
            assert told in text
        launched = next(each for each in found.experiments if each.result == "launched")
        assert launched.id[:8] in text
        assert "visits" in text
        assert "python cli.py run --surface tiny --steps 8" in text
        assert found.runs[0].plan.data_version in text
        assert found.runs[0].plan.versions["torch"] in text
        assert "embedded" not in text.split("repeat it")[1], (
            "the command asks for no model: none was asked for"
        )


def test_the_html_needs_no_script_and_no_other_file(made):
    text = write_html(made)
    assert "<script" not in text
    assert not re.findall(r'(?:src|href)="(?!#)', text)
    assert "url(" not in text
    assert "@import" not in text
    anchors = set(re.findall(r'href="#([^"]+)"', text))
    assert anchors
    assert anchors <= set(re.findall(r'id="([^"]+)"', text)), "every link leads to a place in the file"


def test_its_policy_allows_its_own_style_and_nothing_else(made):
    text = write_html(made)
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.S)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src &#39;none&#39;; style-src &#39;sha256-{digest}&#39;" in text


def test_hostile_text_is_text_in_html_and_in_markdown(made, source_of, attempt):
    assert HOSTILE not in write_html(made)
    assert "&lt;img src=x onerror" in write_html(made)
    mean = "](http://evil.example) @octocat #1 `x` | cell | <b>bold</b>\n# heading"
    source = source_of([attempt(0, gain=0.1, outcome="better", hypothesis=mean, reason=mean, persona=mean)])
    text = write_markdown(make_report(source))
    assert "<b>" not in text
    assert "@octocat" not in text
    assert not re.search(r"(?<!\\)\]\(", text)
    assert "\n# heading" not in text
    rows = [line for line in text.splitlines() if line.startswith("| ") and "octocat" in line]
    assert rows
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {6}, "a cell cannot end its row"


def test_a_thousand_attempts_are_less_than_two_megabytes(source_of, attempt):
    """With hypotheses and changes as long as models make them."""
    long = "LEAST(1.0, GREATEST(0.0, (1 * before_2 + 0.5 * is_comment_signal_2) / 2.5)) " * 4
    many = [
        attempt(
            step,
            gain=(step % 17 - 8) / 1000 if step % 5 else None,
            outcome=("better", "worse", "equal", "inconclusive")[step % 4] if step % 5 else "refused",
            hypothesis=f"Search step {step}: {long}",
            changes=[{"op": "replace", "path": "/reward/label", "value": long}],
            persona=("optimizer", "architecture", "reward")[step % 3],
            production=f"p{step // 250}",
        )
        for step in range(1000)
    ]
    made = make_report(source_of(many))
    assert len(made.attempts) == 1000
    text = write_html(made)
    assert len(text.encode()) < 2_000_000
    assert text.count('id="a-') == 1000


def test_only_one_run_is_reported_when_it_is_asked_for(source_of, attempt):
    source = source_of([attempt(0, gain=0.1, outcome="better"), attempt(0, run="other", gain=0.2)])
    made = make_report(source, run="other")
    assert [line.run for line in made.attempts] == ["other"]
    assert (made.overview.attempts.tried, made.overview.attempts.won, made.progress.total) == (1, 0, 1)
    assert "1 attempt," in write_html(made)
    assert make_report(source).overview.attempts.tried == 2


def test_a_run_is_repeated_from_the_production_that_served_when_it_began(source, made):
    """A plan is written before the run looks what is served."""
    found = source.snapshot()
    moved = [each.model_copy(update={"production": "a-launch"}) for each in found.attempts]
    told = report(dataclasses.replace(found, attempts=moved))
    assert [each.production for each in told.repeat] == ["a-launch"]
    assert [each.production for each in made.repeat] == [found.attempts[0].production]


def test_refusals_that_differ_in_what_they_quote_are_one(source_of, attempt):
    findings = [[{"rule": f"linter: /label is '{n} * x', but should be \"{n}\""}] for n in range(3)]
    refused = [attempt(n, findings=found) for n, found in enumerate(findings)]
    (refusal,) = make_report(source_of(refused)).refusals
    assert (refusal.count, refusal.rule) == (3, "linter: /label is …, but should be …")


def test_what_was_given_up_while_it_trained_is_not_worth_trying_again_either(source_of, attempt):
    lost = attempt(0, gain=-0.2, outcome="worse")
    hopeless = attempt(1, outcome="worse", reason="Stopped after 55% of the training.")
    broken = attempt(2, outcome="failed", reason="a training ran out of memory")
    made = make_report(source_of([lost, hopeless, broken]))
    assert [line.id for line in made.worst] == [hopeless.id, lost.id]
    assert [(each.rule, each.count) for each in made.refusals] == [("a training ran out of memory", 1)]
    for text in (write_html(made), write_markdown(made)):
        assert "Stopped after 55% of the training." in text
        assert "ran out of memory" in text


def test_a_field_that_was_tried_in_vain_is_told_and_one_that_won_is_not(source_of, attempt):
    def on(path, step, outcome):
        change = [{"op": "replace", "path": path, "value": step}]
        return attempt(step, gain=-0.1, outcome=outcome, changes=change, patch=change)

    tried = [on("/optimizer/batch_size", step, "worse") for step in range(4)]
    tried += [on("/optimizer/args/lr", 4 + step, "better" if step == 2 else "worse") for step in range(4)]
    tried += [on("/architecture/embedding_dim", 8, "worse")]
    made = make_report(source_of(tried))
    assert [(each.path, each.tried, each.worse) for each in made.dead_ends] == [
        ("optimizer.batch_size", 4, 4)
    ]


def test_a_forest_in_letters_has_one_scale_and_marks_zero():
    def line(metric, low, lift, high):
        return EffectLine(
            metric=metric, role="success", higher_is_better=True, lift=lift, low=low, high=high, basis="fixed"
        )

    first, second = forest([line("a", -0.1, 0.0, 0.1), line("bb", 0.1, 0.2, 0.3)], width=41).splitlines()
    assert first.index("├") < first.index("●") < first.index("┤")
    assert first.index("●") == second.index("│"), "zero stands in one column"
    assert second.index("├") == first.index("┤")
    assert forest([]) == "nothing was measured"


def test_the_command_writes_what_the_file_is_named_for(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVORANK_HOME", str(finished))
    monkeypatch.setenv("EVORANK_SURFACE", "tiny")

    def command(*arguments: str):
        return CliRunner().invoke(app, ["report", *arguments])

    assert command("--out", "r.md").exit_code == 0
    assert Path("r.md").read_text().startswith("# tiny")
    done = command("--out", "r.html")
    assert "8 attempts" in done.stdout
    assert Path("r.html").read_text().startswith("<!doctype html>")
    assert command("--format", "md").stdout == Path("r.md").read_text()
    assert "must end in .html or .md" in command("--out", "r.pdf").stderr
    assert "must be a run of this surface" in command("--run", "nothing").stderr
