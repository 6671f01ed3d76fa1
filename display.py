"""What a person sees of a run: a live view on a terminal, one line per step otherwise, JSON for machines.

Only events and records of the graphs are shown, nothing is computed here; so a view may be closed, or be
missing, without changing the run.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

__all__ = [
    "AblationLines",
    "Display",
    "ExperimentLines",
    "attempts_table",
    "experiments_table",
    "make_display",
    "print_ablation",
    "print_attempt",
    "print_experiment",
    "print_notes",
    "print_overview",
    "print_preview",
    "print_steering",
    "print_summary",
    "print_surface",
    "print_transferred",
    "show_changes",
    "show_difference",
    "show_linter",
    "show_usage",
]

COLOURS = {
    "better": "bold green",
    "cheaper": "green",
    "equal": "default",
    "inconclusive": "yellow",
    "worse": "red",
    "refused": "magenta",
    "failed": "bold red",
    "duplicate": "dim",
}
RESULTS = {
    "launched": "bold green",
    "no_launch": "default",
    "superseded": "yellow",
    "aborted": "red",
    "rejected": "magenta",
    "failed": "bold red",
    "withdrawn": "dim",
}
EMBEDDED = "embedded engineer"
Event = Mapping[str, Any]


def show_changes(changes: Sequence[Mapping[str, Any]], limit: int = 60) -> str:
    """A patch in a few words: `optimizer.name=RMSprop, optimizer.args.lr=0.001`."""
    parts = []
    for change in changes:
        path = str(change.get("path", "")).strip("/").replace("~1", "/").replace("~0", "~").replace("/", ".")
        if change.get("op") == "remove":
            parts.append(f"-{path}")
        elif change.get("op") in {"move", "copy"}:
            parts.append(f"{path}<-{str(change.get('from', '')).strip('/').replace('/', '.')}")
        else:
            value = change.get("value")
            if isinstance(value, Mapping) and "source" in value:  # code: `journal show` prints it
                value = f"code ({value.get('kind', 'component')})"
            parts.append(f"{path}={value if isinstance(value, str) else json.dumps(value)}")
    text = ", ".join(parts)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def show_difference(comparison: Mapping[str, Any] | None) -> str:
    """`-0.0123 [-0.0150, -0.0098]`: candidate minus production with its 95% interval."""
    if not comparison:
        return "-"
    return f"{comparison['difference']:+.4f} [{comparison['low']:+.4f}, {comparison['high']:+.4f}]"


def attempts_table(attempts: Sequence[Mapping[str, Any]], width: int, title: str | None = None) -> Table:
    """The journal as a person reads it: one row per attempt, only what differs from production. What was
    imported has no difference of ours, and its verdict in brackets.

    Below 120 columns, category and seconds make room for the change.
    """
    wide = width >= 120
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("step", style="dim", no_wrap=True, min_width=4)
    table.add_column("persona", no_wrap=True)
    if wide:
        table.add_column("category", style="dim", no_wrap=True)
    table.add_column("change against production", overflow="fold", min_width=14, max_width=60)
    table.add_column("difference [95%]", no_wrap=wide, min_width=18)
    table.add_column("verdict", no_wrap=True, min_width=12)
    if wide:
        table.add_column("seconds", justify="right", style="dim", no_wrap=True)
    for attempt in attempts:
        outcome = str(attempt["outcome"])
        changes = show_changes(attempt.get("changes") or attempt.get("patch") or [], 160)
        table.add_row(
            str(attempt["step"]),
            str(attempt["persona"]),
            *([str(attempt.get("category") or "-")] if wide else []),
            escape(changes or "-"),
            show_difference(attempt.get("comparison")),
            Text(outcome if not attempt.get("imported") else f"({outcome})", COLOURS.get(outcome, "")),
            *([f"{attempt.get('seconds', 0.0):.1f}"] if wide else []),
        )
    return table


def show_effect(effect: Mapping[str, Any]) -> str:
    """`active_days +12.3% [+8.1%, +16.7%]`: candidate over production, with its interval."""
    lift, low, high = (effect.get(name) for name in ("lift", "lift_low", "lift_high"))
    if lift is None:
        return f"{effect['metric']} {effect['difference']:+.4g} [{effect['low']:+.4g}, {effect['high']:+.4g}]"
    return f"{effect['metric']} {lift:+.1%} [{low:+.1%}, {high:+.1%}]"


class ExperimentLines:
    """A line for every new phase of a live test, and for how it ended."""

    def __init__(self) -> None:
        self._told: set[tuple[str, str]] = set()

    def __call__(self, event: Event) -> str:
        """What happened, or "" where it is nothing new."""
        if event.get("event") != "experiment":
            return ""
        state = str(event["result"] or event["phase"])
        if (event["id"], state) in self._told:
            return ""
        self._told.add((event["id"], state))
        text = str(event["text"]).removeprefix(f"{state}: ")
        return f"    {event['id'][:8]} {state:<10} {text}"


def experiments_table(experiments: Sequence[Mapping[str, Any]], title: str | None = None) -> Table:
    """Live tests as a person reads them: what was changed, and what people did with it."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("test", style="dim", no_wrap=True, min_width=8)
    table.add_column("by", no_wrap=True)
    table.add_column("change against production", overflow="fold", min_width=14, max_width=60)
    table.add_column("effect [95%]", overflow="fold", min_width=20)
    table.add_column("", no_wrap=True, min_width=10)
    for each in experiments:
        state = str(each["result"] or each.get("waits_for") or each["phase"])
        table.add_row(
            str(each["id"])[:8],
            escape(str(each["proposed_by"])),
            escape(show_changes(each["changes"], 160) or "-"),
            escape("\n".join(show_effect(effect) for effect in each["effects"])) or "-",
            Text(state, style=RESULTS.get(state, "")),
        )
    return table


class Display(Protocol):
    """Shows events as they come. `close` always runs, also after an error."""

    def on_event(self, event: Event) -> None: ...
    def close(self) -> None: ...


def make_display(kind: str, steps: int, title: str, console: Console) -> Display:
    """kind: auto (live on a terminal, lines elsewhere), live, lines, json, none."""
    if kind == "auto":
        kind = "live" if console.is_terminal else "lines"
    if kind == "live":
        return LiveDisplay(steps, title, console)
    if kind == "json":
        return JsonDisplay()
    return LinesDisplay(steps, console) if kind == "lines" else NoDisplay()


class NoDisplay:
    def on_event(self, event: Event) -> None: ...
    def close(self) -> None: ...


class JsonDisplay:
    """One JSON object per finished attempt and per step of a live test, on standard output."""

    def on_event(self, event: Event) -> None:
        if event.get("event") in ("attempt", "experiment"):
            sys.stdout.write(json.dumps(event, separators=(",", ":")) + "\n")
            sys.stdout.flush()

    def close(self) -> None: ...


class _Best:
    """The surest improvement so far: the interval that ends lowest, as the run's report chooses."""

    def __init__(self) -> None:
        self.attempt: Mapping[str, Any] | None = None

    def see(self, attempt: Mapping[str, Any]) -> None:
        if attempt["outcome"] == "better" and attempt["comparison"]["metric"] != "alignment":
            best = self.attempt
            if best is None or attempt["comparison"]["high"] < best["comparison"]["high"]:
                self.attempt = attempt

    def __str__(self) -> str:
        return f"{self.attempt['comparison']['difference']:+.4f}" if self.attempt else "none yet"


class LinesDisplay:
    """One line per finished step: for logs, pipes and CI."""

    def __init__(self, steps: int, console: Console) -> None:
        self.steps, self.console, self.best, self.done = steps, console, _Best(), 0
        self.of_experiment = ExperimentLines()

    def on_event(self, event: Event) -> None:
        if line := self.of_experiment(event):
            _say(self.console, line)
        if event.get("event") == "trouble":
            _say(self.console, f"    {event['text']}")
        if event.get("event") != "attempt":
            return
        attempt = event
        self.done += 1
        self.best.see(attempt)
        what = show_changes(attempt.get("changes") or attempt.get("patch") or [], 70)
        why = "" if attempt.get("comparison") else f"  ({attempt['reason'][:100]})"
        self.console.print(
            f"{self.done:>3}/{self.steps} {attempt['id'][:8]} {attempt['persona']:<12} "
            f"{attempt.get('category') or '-':<8} {attempt['outcome']:<12} "
            f"{show_difference(attempt.get('comparison')):<29} {attempt['seconds']:5.1f}s  "
            f"best {self.best}  {what}{why}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    def close(self) -> None: ...


class LiveDisplay:
    """What runs now, the last results, the best so far; redrawn four times a second."""

    def __init__(self, steps: int, title: str, console: Console) -> None:
        self.steps, self.title, self.console = steps, title, console
        self.running: dict[int, dict[str, Any]] = {}
        self.finished: list[Mapping[str, Any]] = []
        self.best = _Best()
        self.started = time.monotonic()
        self.note = self.day = ""
        self.experiments: dict[str, Mapping[str, Any]] = {}
        self.live = Live(self, console=console, refresh_per_second=4, transient=True)
        self.live.start()

    def on_event(self, event: Event) -> None:
        kind, step = event.get("event"), event.get("step")
        if kind == "attempt":
            attempt = event
            self.running.pop(attempt["step"], None)
            self.finished.append(attempt)
            self.best.see(attempt)
        elif kind == "unasked":
            self.running.pop(event["step"], None)
        elif kind in ("note", "trouble"):
            self.note = str(event.get("text", ""))
        elif kind == "day":
            self.day = str(event["now"])[:10]
        elif kind == "experiment":
            self.experiments[event["id"]] = event
        elif isinstance(step, int):
            row = self.running.setdefault(step, {"since": time.monotonic(), "text": ""})
            row.update({key: value for key, value in event.items() if key != "event" and value is not None})

    def __rich__(self) -> Group:
        done, elapsed = len(self.finished), time.monotonic() - self.started
        head = Text.assemble(
            (self.title, "bold"),
            f"   {done}/{self.steps} steps   {elapsed:.0f} s   best ",
            (str(self.best), "bold green" if self.best.attempt else "dim"),
            f"   surface's day {self.day}" if self.day else "",
            ("   Ctrl-C stops after the running steps" if self.running else "", "dim"),
        )
        now = Table(box=None, pad_edge=False, show_header=bool(self.running))
        for name in ("step", "persona", "node", "what", "since"):
            now.add_column(name, no_wrap=name != "what", overflow="ellipsis")
        for step, row in sorted(self.running.items()):
            now.add_row(
                str(step),
                str(row.get("persona", "")),
                str(row.get("node", "")),
                Text(str(row.get("text", ""))[:110], style="italic"),
                f"{time.monotonic() - row['since']:.0f} s",
            )
        tests = [
            Text(
                ExperimentLines()(event)[: self.console.width], RESULTS.get(str(event["result"]), "bold cyan")
            )
            for event in list(self.experiments.values())[-4:]
        ]
        room = max(4, self.console.height - 14 - len(tests))
        recent = attempts_table(self.finished[-room:], self.console.width)
        return Group(head, Text(self.note, style="dim"), now, *tests, Text(), recent)

    def close(self) -> None:
        self.live.stop()


def _say(console: Console, text: str, style: str = "") -> None:
    """Plain text: what came from logs and models is never read as markup."""
    console.print(text, style=style, markup=False, emoji=False, highlight=False, soft_wrap=True)


def _show_number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def print_attempt(
    attempt: Mapping[str, Any], console: Console, calls: Sequence[Mapping[str, Any]] = ()
) -> None:
    """One attempt whole: hypothesis, verdict, delta, metrics of both arms, findings, what SQL found, and what
    its calls to chat models cost."""
    _say(console, f"{attempt['id']}  step {attempt['step']} of run {attempt['run']} on {attempt['surface']}")
    _say(
        console, f"{attempt['persona']}, {attempt['category'] or 'no category'}, by {attempt['model']}", "dim"
    )
    if origin := attempt.get("origin"):
        what = {
            "rework": "returned to CODE by a launch",
            "transfer": f"won on surface {origin['surface']}",
            "fork": "another try of",
        }
        _say(console, f"{what[origin['kind']]}: {origin['experiment'] or origin['attempt']}", "dim")
    _say(console, f"\n{attempt['hypothesis']}\n", "italic")
    if told := attempt.get("imported"):
        said = f", live test {told['result']}" if told["result"] else ""
        _say(console, f"imported: {told['by']} reports ({told['when'] or 'no date'}){said}", "bold yellow")
        for each in told["metrics"]:
            _say(console, f"  {_show_reported(each)}, measured elsewhere", "yellow")
    for said in attempt.get("inspections", []):
        words = (
            f"{said['action']} by {said['by'] or 'somebody'} on {said['at'][:16]}: {said['reason'] or '-'}"
        )
        _say(console, words, "bold")
    _say(console, f"{attempt['outcome']}: {attempt['reason']}", COLOURS.get(attempt["outcome"], ""))
    for finding in attempt["findings"]:
        _say(console, f"  finding: {finding['pointer']} {finding['rule']}. {finding['hint']}")
    for review in attempt["reviews"]:
        _say(console, f"  linter: {review['verdict']} {' '.join(review['findings'])}", "dim")
    if attempt["steering"]:
        _say(console, f"  steered by {', '.join(attempt['steering'])}", "dim")
    _say(console, f"\ndelta against {attempt['base'][:12] or 'production'} ({attempt['repairs']} repairs):")
    for operation in attempt["patch"]:
        value = operation.get("value")
        source = value.get("source") if isinstance(value, Mapping) else None
        if isinstance(source, str):  # code is read as lines
            operation = {**operation, "value": {**value, "source": "below"}}
        _say(console, f"  {json.dumps(operation)}")
        for line in source.strip().splitlines() if isinstance(source, str) else ():
            _say(console, f"    | {line}")
    both = attempt["comparison"]
    if both:
        table = Table(
            title=f"\n{both['metric']} {show_difference(both)}, {len(both['seeds'])} seeds, "
            f"{both['rows']} rows",
            title_justify="left",
            box=None,
            pad_edge=False,
        )
        table.add_column("")
        for name in ("production", "candidate"):
            table.add_column(name, justify="right")
        for name, value in both["production"].items():
            if value is not None or both["candidate"][name] is not None:
                table.add_row(name, _show_number(value), _show_number(both["candidate"][name]))
        console.print(table)
    for insight in attempt["insights"]:
        _say(console, f"\n{insight['query']}\n{insight.get('table') or insight.get('error')}")
        if insight.get("finding"):
            _say(console, insight["finding"], "italic")
    for call in calls:
        tried = "".join(
            f", {call['usage'][what]} {what}" for what in ("retries", "failures") if call["usage"][what]
        )
        used = show_usage(call["usage"])
        _say(console, f"  {call['role']:<10} {call['model']}: {used}, {call['seconds']:.1f} s{tried}", "dim")
    if calls and attempt["model"] != EMBEDDED:
        repairs = attempt["usage"]["repairs"]
        asked = f", {repairs} answers missed their form and were asked for again" if repairs else ""
        _say(console, f"chat models: {show_usage(attempt['usage'])}{asked}")


def _show_reported(metric: Mapping[str, Any]) -> str:
    """`log_loss -0.0123 [-0.0150, -0.0098]`, or a lift in percent; intervals where they are known."""
    form = "{:+.4f}" if metric["lift"] is None else "{:+.1%}"
    value = form.format(metric["difference"] if metric["lift"] is None else metric["lift"])
    known = metric["low"] is not None
    interval = f" [{form.format(metric['low'])}, {form.format(metric['high'])}]" if known else ""
    return f"{metric['metric']} {value}{interval} ({metric['better_is']} is better)"


def print_experiment(record: Mapping[str, Any], console: Console) -> None:
    """One experiment whole: phases, delta, validation, daily readings, effects, decision, approvals."""
    run = f" by run {record['run']}" if record["run"] else ""
    _say(console, f"{record['id']}  experiment on {record['surface']}{run}")
    _say(console, f"{record['proposed_by']}, {record['category'] or 'no category'}", "dim")
    _say(console, f"\n{record['hypothesis']}\n", "italic")
    state = record["result"] or record["phase"]
    _say(console, f"{state}: {record['reason'] or 'under way'}", RESULTS.get(state, ""))
    if record["trouble"]:
        _say(console, f"  {record['trouble']}", "bold red")
    for finding in record["findings"]:
        _say(console, f"  finding: {finding['pointer']} {finding['rule']}. {finding['hint']}")
    if record["version"]:
        _say(console, f"  made production version {record['version']}")
    for phase, begun in record["times"].items():
        _say(console, f"  {phase:<10} {begun[:16]}")
    _say(console, f"\ndelta against production {record['production'][:12]}:")
    for operation in record["changes"]:
        _say(console, f"  {json.dumps(operation)}")
    if record["proxy"]:
        _say(
            console, f"\nproxy when proposed: {record['proxy']['metric']} {show_difference(record['proxy'])}"
        )
    _print_validation(record["validation"] or {}, console)
    for each in record["approvals"]:
        _say(console, f"approved: {each['what']} by {each['by']}, {each['at'][:16]}: {each['reason']}")
    if record["plan"]:
        plan = record["plan"]
        _say(console, f"\nlive test: {plan['horizon_days']} days from {plan['start'][:16]}", "italic")
    if record["readings"]:
        _rows(
            console,
            "readings",
            ("until", "control users", "candidate users", "broken guardrails", "data failures"),
            [_reading_row(each) for each in record["readings"]],
        )
    for effect in record["effects"]:
        _say(console, f"  {show_effect(effect)}", "bold")
    if record["decision"]:
        _say(console, f"decision: {record['decision']['outcome']}: {record['decision']['reason']}")


def _print_validation(found: Mapping[str, Any], console: Console) -> None:
    if both := found.get("comparison"):
        told = f"{both['metric']} {show_difference(both)}: {both['verdict']}"
        _say(console, f"on the newest data: {told}")
    if replayed := found.get("off_policy"):
        for line in show_off_policy(replayed):
            _say(console, line)
    for text in [*found.get("findings", ()), *found.get("flags", ())]:
        _say(console, f"  {text}")


def show_off_policy(found: Mapping[str, Any]) -> list[str]:
    """What a replay of random exposures says, or why it says nothing; never in the form of an effect."""
    if found["unsupported"]:
        return [f"{found['evidence']}, no A/B test: {found['unsupported']}"]
    head = (
        f"{found['evidence']}, no A/B test: {found['reward']} per impression, replayed on "
        f"{found['impressions']:,} impressions shown at random to {found['users']:,} users"
    )
    return [head] + [
        f"  {each['method']}: {each['candidate']:.4g} against production's {each['production']:.4g}, "
        f"difference {each['difference']:+.4g} [{each['low']:+.4g}, {each['high']:+.4g}]"
        for each in found["estimates"]
    ]


def _reading_row(reading: Mapping[str, Any]) -> list[Any]:
    crossed = [str(look["metric"]) for look in reading["looks"] if look["broken"]]
    failed = [str(each["rule"]) for each in reading["failures"]]
    control, candidate = reading["users"]
    day = str(reading["until"])[:10]
    return [day, control, candidate, ", ".join(crossed) or "none", ", ".join(failed) or "none"]


def print_preview(found: Mapping[str, Any], console: Console) -> None:
    """The first prompts of a run whole, then their tokens and what all of them may cost."""
    for each in found["prompts"]:
        _say(console, f"=== {each['call']}, {each['persona']}: {each['tokens']:,} tokens ===", "bold")
        _say(console, each["text"])
    _rows(
        console,
        "first prompts",
        ("call", "persona", "tokens"),
        [(each["call"], each["persona"], each["tokens"]) for each in found["prompts"]],
    )
    calls = ", ".join(f"{count} {call}" for call, count in found["calls"].items())
    price = "unknown price" if found["usd"] is None else f"about ${found['usd']:,.2f}"
    _say(console, f"\n{found['steps']} steps: {calls}", "italic")
    _say(
        console,
        f"  about {found['input_tokens']:,} tokens in, {found['output_tokens']:,} out, by {found['model']}: "
        f"{price}",
    )
    _say(console, f"  counted as {found['counted']}", "dim")


def print_steering(directives: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Directives with how long they hold; those in force no longer say why."""
    for each in directives:
        whom = f"  {each['persona']} only" if each["persona"] else ""
        limits = [f"to the end of {each['until_day']}" if each["until_day"] else ""]
        if each["until_steps"]:
            limits.append(f"{each['steps']} of {each['until_steps']} steps")
        said = each["ended"] or ", ".join(filter(None, limits)) or "in force"
        _say(console, f"{each['id']:<4} {each['text']}", "dim" if each["ended"] else "")
        _say(console, f"     {said}{whom}, in {each['steps']} steps so far", "dim")


def print_notes(notes: Sequence[Mapping[str, Any]], console: Console) -> None:
    """What works and what is a dead end, newest note last, with the attempts to look up."""
    for note in notes:
        _say(
            console,
            f"\n{note['at'][:16]} run {note['run']}, {note['covers']} attempts, by {note['model']}",
            "bold",
        )
        if note["problem"]:
            _say(console, f"  no note: {note['problem']}", "yellow")
        for kind, title, style in (("works", "works", "green"), ("dead_ends", "dead end", "red")):
            for each in note[kind]:
                _say(console, f"  {title}: {each['claim']}", style)
                _say(console, f"    {', '.join(cited[:8] for cited in each['cites'])}", "dim")
        if note["dropped"]:
            _say(console, f"  {note['dropped']} claims were dropped: they cite nothing in the journal", "dim")


def print_transferred(winners: Sequence[Mapping[str, Any]], target: str, console: Console) -> None:
    """What of another surface's winners is proposed on this one, and what is not and why."""
    for each in winners:
        style = "bold green" if each["changes"] and each["status"] != "nothing" else "yellow"
        _say(console, f"{each['winner'][:8]} {each['why']}: {each['status']}", style)
        _say(console, f"  {show_changes(each['changes'], 2000) or 'no change'}")
        for part, why in each["left_out"].items():
            _say(console, f"  left out {part}: {why}", "dim")
    if any(each["status"] == "proposed" for each in winners):
        _say(console, f"\nnext: python cli.py run --surface {target}")


class AblationLines:
    """One line whenever a run of an ablation has tried another tenth of its ideas, and when it is done."""

    def __init__(self, runs: int, ideas: int, console: Console) -> None:
        self.ideas, self.console = ideas, console
        self.tried: Counter[tuple[str, int]] = Counter()

    def __call__(self, event: Event) -> None:
        who = f"{event['variant']:<12} seed {event['seed']:<3}"
        if event["event"] == "scored":
            change = f"{event['best'] - 1:+.2%}".replace("-", "−")
            _say(self.console, f"{who} {event['ideas']}/{event['ideas']} ideas, best loss {change}")
            return
        run = (event["variant"], event["seed"])
        self.tried[run] += 1
        if self.tried[run] % max(1, self.ideas // 5) == 0 and self.tried[run] < self.ideas:
            _say(self.console, f"{who} {self.tried[run]}/{self.ideas} ideas", "dim")


def print_ablation(found: Mapping[str, Any], console: Console) -> None:
    """The table of an ablation, what its columns mean, and where the rest lies."""
    title = (
        f"\n{found['study']} on {found['surface']}: {found['runs']} runs of {found['ideas']} ideas, "
        f"by {found['model']}"
    )
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("variant", "best", "minus first", "best, on test", "minus first", "all ideas", "measured"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for line in found["lines"]:
        table.add_row(
            line["variant"],
            _share(line["best"], 1.0),
            _share(line["minus_best"]),
            _share(line["test"], 1.0),
            _share(line["minus_test"]),
            _share(line["ideas"], 1.0),
            f"{line['measured']:.0%}",
        )
    console.print(table)
    _say(
        console,
        "Loss against production's, in percent of it, lower is better; mean over runs [95%]. The best idea "
        "of a run is chosen on the validation period, so its loss on the test period is the honest one. "
        "`minus first`: less the first variant, run by run with the same seed; an interval that holds 0 "
        "tells no difference.",
        "dim",
    )
    _say(console, f"\n  {found['folder']}/best.svg\n  {found['folder']}/results.json")


def _share(estimate: Mapping[str, Any] | None, less: float = 0.0) -> str:
    """`−1.21%`, and below it its interval."""
    if estimate is None:
        return "-"
    shown = f"{estimate['mean'] - less:+.2%}"
    if estimate["low"] is not None:
        low, high = (100 * (estimate[end] - less) for end in ("low", "high"))
        shown += f"\n[{low:+.2f}, {high:+.2f}]"
    return shown.replace("-", "−")


def print_summary(summary: Mapping[str, Any], console: Console) -> None:
    """The end of a run: what became of its attempts, the best one, its test period, where everything lies."""
    table = Table(title="\nAttempts", title_justify="left", box=None, pad_edge=False)
    outcomes = [outcome for outcome in COLOURS if outcome in summary["outcomes"]]
    table.add_column("by persona, and by category")
    for outcome in outcomes:
        table.add_column(outcome, justify="right", style=COLOURS[outcome])
    table.add_column("won", justify="right")
    for groups in (summary["personas"], summary["categories"]):
        for name, counts in sorted(groups.items()):
            won = (counts.get("better", 0) + counts.get("cheaper", 0)) / sum(counts.values())
            table.add_row(name, *(str(counts.get(outcome, 0)) for outcome in outcomes), f"{won:.0%}")
        table.add_section()
    console.print(table)
    for persona, why in summary["switched_off"].items():
        _say(console, f"{persona} is switched off: {why}", "dim")
    if summary["linter"]["read"]:
        _say(console, show_linter(summary["linter"]), "dim")
    best, test = summary["best"], summary["test"]
    if best:
        _say(console, "\nBest on the proxy (validation period)", "italic")
        _say(console, f"  {best['comparison']['metric']} {show_difference(best['comparison'])}", "bold green")
        _say(console, f"  {show_changes(best['changes'], 2000)}")
        _say(console, f"  {best['hypothesis']}", "dim")
    if test:
        before, after = test["production"], test["candidate"]
        _say(
            console,
            f"\nTest period, never seen by the loop: {test['rows']} rows, {len(test['seeds'])} seeds",
            "italic",
        )
        _say(
            console,
            f"  {test['metric']} {before['loss']:.4f} -> {after['loss']:.4f}, difference "
            f"{show_difference(test)}: {test['verdict']}",
            COLOURS.get(test["verdict"], ""),
        )
        _say(
            console,
            f"  AUC {before['auc']:.4f} -> {after['auc']:.4f}, training CPU seconds "
            f"{before['train_cpu_seconds']:.2f} -> {after['train_cpu_seconds']:.2f}, parameters "
            f"{before['parameters']:,} -> {after['parameters']:,}",
        )
    if summary["note"]:
        _say(console, f"\n{summary['note']}")
    if summary["experiments"]:
        met = [each for each in summary["experiments"] if each["effects"] or each["phase"] == "live"]
        console.print(experiments_table(met, "\nLive tests"))
        results = Counter(
            each["result"] for each in summary["experiments"] if each["result"] and each not in met
        )
        if results:
            told = ", ".join(f"{count} {result}" for result, count in sorted(results.items()))
            _say(console, f"  never shown to anybody: {told} (python cli.py journal list --online)", "dim")
        _say(console, f"  {summary['queued']} candidates wait in the queue", "dim")
    if summary["audit"]:
        _print_audit(summary["audit"], console)
    _print_costs(summary, console)
    if summary["days"]:
        ended = sum(each["result"] in ("launched", "no_launch", "aborted") for each in summary["experiments"])
        weeks, hours = summary["days"] / 7, summary["seconds"] / 3600
        _say(
            console,
            f"\n{summary['days']} days of traffic; {ended / weeks:.1f} experiments a week of the surface's "
            f"time, {ended / hours:.0f} an hour of yours",
        )
    _say(
        console,
        f"\n{summary['finished']}/{summary['steps']} steps in {summary['seconds']:.0f} s "
        f"(training {summary['training_cpu_seconds']:.0f} CPU-s, report {summary['report_seconds']:.0f} s)",
    )
    for name, path in summary["files"].items():
        _say(console, f"  {name:<8} {path}")
    _say(console, f"  look at it: python cli.py journal list --run {summary['run']}")
    if summary["waiting"]:
        _say(console, "")
        print_waiting(summary["waiting"], console)
    if summary["stopped"]:
        go_on = f". Go on with: {summary['resume']}" if summary["resume"] else ""
        _say(console, f"\n{summary['stopped']}{go_on}", "bold")


def _print_costs(summary: Mapping[str, Any], console: Console) -> None:
    """What chat models cost, per persona and model; nothing where none was asked."""
    asked = [each for each in summary["costs"] if each["usage"]["calls"] or each["usage"]["failures"]]
    rows = [each for each in asked if each["model"] != EMBEDDED]
    if not rows:
        return
    table = Table(title="\nChat models", title_justify="left", box=None, pad_edge=False)
    for name in ("persona", "model", "calls", "input", "cached", "output", "thinking", "repairs", "cost"):
        table.add_column(name, justify="left" if name in ("persona", "model") else "right", overflow="fold")
    total = {"persona": "all", "model": "", "usage": summary["usage"]}
    for row in [*rows, total] if len(rows) > 1 else rows:
        used = row["usage"]
        tokens = ("input_tokens", "cached_tokens", "output_tokens", "thinking_tokens")
        cells = [row["persona"], row["model"], f"{used['calls']:,}", *(_count(used[name]) for name in tokens)]
        table.add_row(*map(escape, cells), str(used["repairs"]), show_cost(used))
    console.print(table)
    _say(console, f"  at the prices of {summary['prices']}", "dim")
    if summary["replayed"]:
        _say(console, "  replayed: this was paid when it was recorded", "dim")


def _count(number: int | None) -> str:
    return "not reported" if number is None else f"{number:,}"


def show_cost(usage: Mapping[str, Any]) -> str:
    """`$0.0312`; what is not known is said, and is not zero."""
    known = "" if usage["usd"] is None else f"${usage['usd']:.4f}"
    if not usage["unpriced"]:
        return known or "$0"
    return f"{known} + {usage['unpriced']} calls" if known else "not known"


def show_usage(usage: Mapping[str, Any]) -> str:
    """`12,345 in (8,000 cached), 1,234 out (900 thinking), $0.0312`; `nothing spent` on what people wrote."""
    if not usage["calls"]:
        return "no answer" if usage["failures"] else "nothing spent"
    shown = f"{_count(usage['input_tokens'])} in"
    shown += f" ({usage['cached_tokens']:,} cached)" if usage["cached_tokens"] else ""
    shown += f", {_count(usage['output_tokens'])} out"
    shown += f" ({usage['thinking_tokens']:,} thinking)" if usage["thinking_tokens"] else ""
    return f"{shown}, {show_cost(usage)}"


def print_waiting(waiting: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Candidates that a person is asked about: what they change and why, what is wrong, how to answer."""
    for each in waiting:
        short = each["attempt"][:8]
        _say(console, f"{short} {each['persona']}, {each['category']}: {each['hypothesis']}", "bold")
        for operation in each["patch"]:
            _say(console, f"  {json.dumps(operation)}")
        for finding in each["findings"]:
            _say(console, f"  finding: {finding['pointer']} {finding['rule']}. {finding['hint']}", "red")
    if waiting:
        _say(
            console,
            "answer with: python cli.py inspect approve ID, edit ID delta.json, or reject ID --why ...",
        )
    else:
        _say(console, "nothing waits for a person")


def _print_audit(audit: Mapping[str, Any], console: Console) -> None:
    _say(
        console,
        f"\nAll launches together, since {audit['since'][:10]}: {audit['users_rest']:,} users against "
        f"{audit['users_holdback']:,} whom none reached",
        "italic",
    )
    for effect in audit["effects"]:
        style = "bold green" if (effect["lift_low"] or 0) > 0 else ""
        _say(console, f"  {show_effect(effect)}", style)
    for failure in audit["failures"]:
        _say(console, f"  not to be believed: {failure['reason']}", "bold red")


def show_linter(counts: Mapping[str, int]) -> str:
    """`the linter read 12 deltas: caught 2, held up 0 in vain, missed 1`."""
    return (
        f"the linter read {counts['read']} deltas: caught {counts['caught']}, held up {counts['in_vain']} in "
        f"vain, missed {counts['missed']}"
    )


def print_overview(found: Mapping[str, Any], console: Console) -> None:
    """The online loop of a surface: production, live tests, the queue, what launches gained."""
    current = found["versions"][-1] if found["versions"] else None
    _say(console, f"{found['surface']} on {found['now'][:10]}", "bold")
    if current:
        _say(console, f"  serving version {current['version']} since {current['at'][:10]}: {current['why']}")
    else:
        _say(console, "  nothing was served yet: the first tick trains production")
    if found["live"]:
        console.print(experiments_table(found["live"], "\nUnder way"))
    for each in found["live"]:
        users = f", {each['users'][0]:,} and {each['users'][1]:,} users" if each["users"] else ""
        wait = f", waits for {each['waits_for']}" if each["waits_for"] else ""
        _say(console, f"  {each['id'][:8]} {each['phase']}{users}{wait} {each['trouble']}")
    if found["queue"]:
        console.print(experiments_table(found["queue"], "\nQueue"))
    if found["ideas"]:
        _say(console, f"\n{found['ideas']} candidates wait for the next run to measure them first", "dim")
    ended = ", ".join(f"{count} {result}" for result, count in sorted(found["ended"].items()))
    _say(console, f"\nended so far: {ended or 'none'}")
    if found["audit"]:
        _print_audit(found["audit"], console)


def _rows(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    table = Table(title=f"\n{title}", title_justify="left", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(_show_number(cell)) for cell in row))
    console.print(table)


def print_surface(facts: Mapping[str, Any], console: Console) -> None:
    """A surface as `describe` sees it: log, periods, signals, features, north star, production Φ."""
    log = facts["log"]
    _say(console, f"{facts['name']}: {facts['description']}", "bold")
    _say(
        console,
        f"  {', '.join(log['paths'])}\n  encoded in {facts['directory']}, "
        f"data version {facts['data_version']}",
    )
    _say(
        console,
        f"  {log['rows']:,} rows ({log['dropped_rows']:,} dropped), {log['users']:,} users, "
        f"{log['items']:,} items, {log['first']} to {log['last']} (time read as {log['time_unit']})",
    )
    periods = facts["periods"]
    columns = ("rows", "users", "days", "first", "last")
    _rows(
        console,
        "periods",
        ("", *columns),
        [(name, *(of[c] for c in columns)) for name, of in periods.items()],
    )
    train = periods["train"]["signals"]
    _rows(
        console,
        "signals (mean of each period)",
        ("", *periods, "minimum", "maximum", "missing"),
        [
            [
                name,
                *(of["signals"][name]["mean"] for of in periods.values()),
                *(signal[key] for key in ("minimum", "maximum", "missing")),
            ]
            for name, signal in train.items()
        ],
    )
    columns = ("kind", "size", "length", "missing_share", "unknown_share_validation")
    _rows(
        console,
        "features",
        ("", "kind", "vocabulary", "length", "missing", "unknown in validation"),
        [(feature["name"], *(feature[column] or "" for column in columns)) for feature in facts["features"]],
    )
    north_star = facts["north_star"]
    _say(console, "")
    if north_star:
        _say(console, f"north star  {north_star['name']}: {north_star['description']}")
    else:
        _say(console, f"north star  {facts['reward_persona_off']}")
    for rail in facts["guardrails"]:
        _say(console, f"guardrail   {rail['metric']} <= {rail['maximum']:,g}")
    _say(console, f"system      {facts['system']}\n\nproduction Φ", "")
    for part, value in facts["production"].items():
        _say(console, f"  {part}: {json.dumps(value)}")
