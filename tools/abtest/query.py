"""The SQL of one reading: exposed users, one scan of each metric table, moments. Text only; nothing runs
here.

Sums are not added up raw: avg and covar_pop of DuckDB are updated in place (Welford), so large values with a
small spread keep their digits.
"""

from __future__ import annotations

from collections.abc import Sequence

from evorank.tools.abtest.moments import COLUMNS
from evorank.tools.abtest.plan import Metric

__all__ = ["pairs", "query"]


def pairs(size: int) -> list[tuple[int, int]]:
    """Upper triangle of a covariance matrix, in the order of the query's columns."""
    return [(i, j) for i in range(size) for j in range(i, size)]


def query(metrics: Sequence[Metric], exposures: str, size: int) -> str:
    """One statement with a row (metric, arm, users, users with rows, means, covariances) for each metric and
    arm, and a row (NULL, name, count, NULL ...) for each count of users.

    `size` columns: COLUMNS, or COLUMNS + LAST_COLUMNS with the parameter $last. Other parameters:
    $experiment, $control, $candidate, $start, $until, $before (start of the pre-period).
    """
    tables: dict[tuple[str, str], list[Metric]] = {}
    for metric in metrics:
        tables.setdefault((metric.source, metric.grain), []).append(metric)
    periods = ["now", "pre"] if size == len(COLUMNS) else ["now", "pre", "last"]
    parts, readings = [_EXPOSED.format(exposures=exposures)], [_counts(size)]
    for number, ((source, grain), members) in enumerate(tables.items()):
        parts.append(_per_user(f"per_{number}", source, grain, members, periods))
        readings += [_moments(metric, f"per_{number}", size) for metric in members]
    return "WITH " + ",\n".join(parts) + "\n" + "\nUNION ALL\n".join(readings)


_EXPOSED = """shown AS MATERIALIZED (
    SELECT CAST(user_id AS VARCHAR) AS _user, CAST(variation_id AS VARCHAR) AS _arm,
           CAST(timestamp AS TIMESTAMP) AS _at
    FROM {exposures} AS _e WHERE CAST(experiment_id AS VARCHAR) = $experiment
        AND (_at IS NULL OR (_at >= $start AND _at < $until))),
exposed AS MATERIALIZED (
    SELECT _user, min(_at) AS _first, count(DISTINCT _arm) AS _arms, min(_arm) AS _arm
    FROM shown WHERE _user IS NOT NULL AND _arm IS NOT NULL AND _at IS NOT NULL GROUP BY _user),
unit AS MATERIALIZED (
    SELECT _user, _first, CASE _arm WHEN $control THEN 'control' ELSE 'candidate' END AS _arm
    FROM exposed WHERE _arms = 1 AND _arm IN ($control, $candidate))"""


def _counts(size: int) -> str:
    blank = ", ".join(["NULL"] * (1 + size + len(pairs(size))))
    return "\nUNION ALL\n".join(
        f"SELECT NULL, '{name}', (SELECT count(*) FROM {condition}), {blank}"
        for name, condition in {
            "control": "unit WHERE _arm = 'control'",
            "candidate": "unit WHERE _arm = 'candidate'",
            "crossed": "exposed WHERE _arms > 1",
            "unknown": "exposed WHERE _arms = 1 AND _arm NOT IN ($control, $candidate)",
            "unusable": "shown WHERE _user IS NULL OR _arm IS NULL OR _at IS NULL",
        }.items()
    )


def _per_user(name: str, source: str, grain: str, metrics: Sequence[Metric], periods: Sequence[str]) -> str:
    """A table of (user, period) with every metric's aggregates; a row may belong to more than one period."""
    clock = "CAST(_r.timestamp AS TIMESTAMP)"
    # A row that sums up a day is stamped with its beginning, before the exposure that it may follow.
    since = "date_trunc('day', {})" if grain == "day" else "{}"
    during = f"{clock} >= {since.format('_u._first')}"
    member = {
        "now": f"{during} AND {clock} < $until",
        "pre": f"{clock} >= $before AND {clock} < {since.format('$start::TIMESTAMP')}",
        "last": f"{during} AND {clock} < $last AND _u._first < $last",
    }
    when = " ".join(f"WHEN '{period}' THEN {member[period]}" for period in periods)
    listed = ", ".join(f"('{period}')" for period in periods)
    aggregates = "".join(
        f", CAST(({metric.value}) AS DOUBLE) AS {metric.name}__v"
        f", CAST(({metric.denominator or '1'}) AS DOUBLE) AS {metric.name}__d"
        for metric in metrics
    )
    return f"""{name} AS MATERIALIZED (
    SELECT _user, _period{aggregates} FROM (
        SELECT _r.*, _u._user, _p._period
        FROM {source} AS _r JOIN unit AS _u ON CAST(_r.user_id AS VARCHAR) = _u._user
            CROSS JOIN (VALUES {listed}) AS _p(_period)
        WHERE {clock} >= $before AND {clock} < $until AND CASE _p._period {when} END)
    GROUP BY _user, _period)"""


def _moments(metric: Metric, table: str, size: int) -> str:
    def of(alias: str) -> list[str]:
        value, denominator = (
            f"coalesce({alias}.{metric.name}__v, 0)",
            f"coalesce({alias}.{metric.name}__d, 0)",
        )
        return [value, denominator if metric.denominator else "1.0"]

    pre = [*of("_pre"), "CAST(_pre._user IS NOT NULL AS DOUBLE)"]
    columns, joined = [*of("_now"), *pre], ["now", "pre"]
    if size > len(COLUMNS):
        seen = "CAST(_u._first < $last AS DOUBLE)"
        columns += [f"{each} * {seen}" for each in [*of("_last"), *pre]] + [seen]
        joined += ["last"]
    named = ", ".join(f"{expression} AS c{i}" for i, expression in enumerate(columns))
    joins = " ".join(
        f"LEFT JOIN {table} AS _{period} ON _{period}._user = _u._user AND _{period}._period = '{period}'"
        for period in joined
    )
    means = ", ".join(f"avg(c{i})" for i in range(size))
    covariances = ", ".join(f"covar_pop(c{i}, c{j})" for i, j in pairs(size))
    return f"""SELECT '{metric.name}', _arm, count(*), count(_seen), {means}, {covariances}
FROM (SELECT _u._arm, _now._user AS _seen, {named} FROM unit AS _u {joins}) GROUP BY _arm"""
