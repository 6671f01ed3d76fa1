"""What people see: patches in a few words, verdicts with intervals, and nothing read as markup."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from evorank.display import (
    attempts_table,
    make_display,
    print_attempt,
    print_summary,
    show_changes,
    show_difference,
    show_usage,
)


def attempt(**changed: Any) -> dict[str, Any]:
    comparison = {
        "metric": "log_loss",
        "difference": -0.0123,
        "low": -0.02,
        "high": -0.0046,
        "effort": "full",
    }
    arm = {"loss": 0.61, "auc": 0.7, "parameters": 12_345, "alignment": None}
    comparison |= {"seeds": [0, 1], "rows": 100, "production": arm, "candidate": arm | {"loss": 0.5977}}
    whole = {
        "event": "attempt",
        "id": "abc",
        "run": "r",
        "step": 4,
        "surface": "s",
        "persona": "optimizer",
        "category": "exploit",
        "model": "embedded engineer",
        "hypothesis": "a smaller step",
        "changes": [{"op": "replace", "path": "/optimizer/args/lr", "value": 0.02}],
        "patch": [{"op": "replace", "path": "/optimizer/args/lr", "value": 0.02}],
        "base": "",
        "outcome": "better",
        "reason": "Better beyond noise",
        "findings": [],
        "repairs": 0,
        "comparison": comparison,
        "insights": [],
        "reviews": [{"verdict": "accept", "findings": [], "fingerprint": "f"}],
        "steering": [],
        "seconds": 1.5,
    }
    return whole | changed


def shown(kind: str, *events: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=200, force_terminal=kind == "live")
    display = make_display(kind, 50, "title", console)
    for event in events:
        display.on_event(event)
    if kind == "live":
        console.print(display)
    display.close()
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_patch_is_told_in_a_few_words() -> None:
    changes = [
        {"op": "replace", "path": "/optimizer/name", "value": "RMSprop"},
        {"op": "add", "path": "/optimizer/args/lr", "value": 0.001},
        {"op": "remove", "path": "/architecture/layers/h2"},
    ]
    assert show_changes(changes, 200) == (
        "optimizer.name=RMSprop, optimizer.args.lr=0.001, -architecture.layers.h2"
    )
    assert len(show_changes(changes, 20)) == 20


def test_code_is_named_in_a_list_and_printed_as_lines_in_an_attempt() -> None:
    component = {"kind": "layer", "source": "\nclass Gate(nn.Module):\n    pass\n"}
    patch = [{"op": "add", "path": "/components/gate", "value": component}]
    assert show_changes(patch) == "components.gate=code (layer)"
    console = Console(file=io.StringIO(), width=100)
    print_attempt(attempt(patch=patch), console)
    printed = console.file.getvalue()
    assert "    | class Gate(nn.Module):\n    |     pass\n" in printed
    assert '"source": "below"' in printed


def test_a_difference_has_its_sign_and_interval() -> None:
    assert show_difference(attempt()["comparison"]) == "-0.0123 [-0.0200, -0.0046]"
    assert show_difference(None) == "-"


@pytest.mark.parametrize("kind", ["lines", "live"])
def test_a_view_shows_step_persona_change_difference_verdict_and_best_so_far(kind: str) -> None:
    running = {"event": "node", "step": 5, "persona": "reward", "node": "think", "text": "thinks"}
    text = shown(kind, running, attempt())
    for word in ("optimizer", "exploit", "better", "-0.0123 [-0.0200, -0.0046]", "args.lr=0.02"):
        assert word in text
    assert "best" in text
    if kind == "live":
        assert "reward" in text, "what runs now is shown"


def test_an_attempt_without_a_measurement_shows_its_reason() -> None:
    assert "no such layer" in shown(
        "lines", attempt(outcome="refused", comparison=None, reason="no such layer")
    )


def test_words_from_models_and_logs_are_never_read_as_markup() -> None:
    hostile = "[red]boo[/red] [/] [link=file:///etc]x"
    for kind in ("lines", "live"):
        event = attempt(changes=[{"op": "add", "path": "/x", "value": hostile}])
        assert "[red]boo[/red]" in shown(kind, event)
    console = Console(file=io.StringIO(), width=200)
    print_attempt(attempt(hypothesis=hostile, reason=hostile), console)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().count("[red]boo[/red] [/] [link=file:///etc]x") == 2


def test_json_lines_are_one_attempt_each(capsys: pytest.CaptureFixture[str]) -> None:
    display = make_display("json", 50, "title", Console())
    display.on_event({"event": "node", "step": 1})
    display.on_event(attempt())
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["outcome"] == "better"


@pytest.mark.parametrize("width", [80, 100, 160])
def test_a_table_shows_id_change_difference_and_verdict_at_any_width(width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    console.print(attempts_table([attempt(step="0f793e1f 8", outcome="inconclusive")], width))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for word in ("0f793e1f 8", "optimizer.args.lr", "-0.0123", "-0.0046]", "inconclusive"):
        assert word in text


COUNTS = {"better": 1, "worse": 2, "cheaper": 1}
SUMMARY: dict[str, Any] = dict.fromkeys(("best", "test", "audit", "stopped", "resume", "days", "queued")) | {
    "run": "r", "steps": 5, "finished": 5, "seconds": 2.0, "training_cpu_seconds": 1.0, "report_seconds": 0.0,
    "outcomes": COUNTS | {"refused": 1}, "files": {}, "note": "", "switched_off": {}, "experiments": [],
    "personas": {"optimizer": COUNTS, "reward": {"refused": 1}}, "costs": [], "waiting": [],
    "categories": {"explore": {"better": 1}, "exploit": {"worse": 2}},
    "linter": {"read": 4, "caught": 2, "in_vain": 0, "missed": 1},
}  # fmt: skip


def test_the_end_of_a_run_says_who_won_how_often():
    console = Console(file=io.StringIO(), width=120)
    print_summary(SUMMARY, console)
    assert isinstance(console.file, io.StringIO)
    rows = [line.split() for line in console.file.getvalue().splitlines()]
    assert ["optimizer", "1", "1", "2", "0", "50%"] in rows
    assert ["reward", "0", "0", "0", "1", "0%"] in rows
    assert ["explore", "1", "0", "0", "0", "100%"] in rows
    assert rows.index(["explore", "1", "0", "0", "0", "100%"]) > rows.index(
        ["reward", "0", "0", "0", "1", "0%"]
    )
    said = console.file.getvalue()
    assert "the linter read 4 deltas: caught 2, held up 0 in vain, missed 1\n" in said


USED = {
    "calls": 3, "input_tokens": 12_345, "cached_tokens": 8_000, "output_tokens": 1_234,
    "thinking_tokens": None, "usd": 0.03125, "unreported": 0, "unpriced": 0, "repairs": 2, "retries": 0,
    "failures": 0,
}  # fmt: skip


def test_what_a_call_cost_is_told_and_what_is_not_known_is_not_told_as_nothing() -> None:
    assert show_usage(USED) == "12,345 in (8,000 cached), 1,234 out, $0.0312"
    assert show_usage(USED | {"unpriced": 2}).endswith("$0.0312 + 2 calls")
    unknown = USED | {"input_tokens": None, "cached_tokens": None, "usd": None, "unpriced": 3}
    assert show_usage(unknown) == "not reported in, 1,234 out, not known"
    assert show_usage(dict.fromkeys(USED, 0)) == "nothing spent"
    assert show_usage(dict.fromkeys(USED, 0) | {"failures": 1}) == "no answer"


def test_an_attempt_shows_every_call_and_their_sum() -> None:
    console = Console(file=io.StringIO(), width=120)
    call = {"role": "think", "model": "a:b", "seconds": 2.5, "usage": USED | {"retries": 1}}
    failed = {"role": "code", "model": "a:b", "seconds": 0.0, "usage": USED | {"calls": 0, "failures": 1}}
    print_attempt(attempt(model="a:b", usage=USED), console, [call, failed])
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    assert "think      a:b: 12,345 in (8,000 cached), 1,234 out, $0.0312, 2.5 s, 1 retries" in printed
    assert "code       a:b: no answer, 0.0 s, 1 failures" in printed
    assert "chat models: 12,345 in (8,000 cached), 1,234 out, $0.0312, 2 answers missed" in printed


@pytest.mark.parametrize("kind", ["lines", "live"])
def test_what_a_run_waits_for_is_shown(kind: str) -> None:
    text = "a:b: 429 slow down; asked again in 17 s"
    assert text in shown(kind, {"event": "trouble", "text": text})


def test_how_a_live_test_ended_is_readable_in_eighty_columns_and_what_met_nobody_is_counted() -> None:
    effect = {"metric": "active_days", "lift": 0.031, "lift_low": -0.012, "lift_high": 0.07, "level": 0.95}
    one = {"id": "0123456789", "proposed_by": "architecture", "phase": "completed", "effects": [effect]}
    one |= {"changes": [{"op": "replace", "path": "/architecture/layers/output", "value": "dense(h2, 1)"}]}
    ended = [one | {"result": result} for result in ("launched", "no_launch", "superseded")]
    refused = [one | {"result": "rejected", "effects": []}] * 2
    console = Console(file=io.StringIO(), width=80)
    print_summary(SUMMARY | {"experiments": [*ended, *refused]}, console)
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    assert all(result in said for result in ("launched", "no_launch", "superseded"))
    assert said.count("01234567") == 3
    assert "never shown to anybody: 2 rejected" in said
