"""Where the CPU of a candidate goes, process by process, beside the same training without any of them.

    python benchmarks/overhead.py                   # 50,000 training rows: about a minute
    python benchmarks/overhead.py --code            # as if each candidate brought code of its own
    python benchmarks/overhead.py --rows 1000000 --candidates 4

Counts CPU and not seconds, and fits and predicts each candidate in a plain process just before and just after
the evaluator does: so the shares hold on a machine that is busy with other work, where `evaluator.py`, which
counts candidates per hour, needs it for itself. One candidate at a time, one thread each; medians.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any

from evaluator import TRAINING_SHARE, _below, as_if_with_code, candidates, table
from memory import SURFACE, import_log, write_log

from evorank.surfaces.surface import open_surface
from evorank.tools.evaluator.local import LocalPool
from evorank.tools.evaluator.lock import Limits
from evorank.tools.evaluator.supervisor import Child, Supervisor
from evorank.tools.workbench import Workbench

PROCESSES = ("check", "train", "score", "probe")
"""Children of a candidate with code of its own, in the order in which they are asked for."""
STAY = "check, train and score, in two that stay"
WARM = 3


def plain(home: Path) -> None:
    """Fit and predict each Φ that comes in, and say the CPU milliseconds of both."""
    import torch

    torch.set_num_threads(1)
    surface = open_surface(home, SURFACE)
    dataset, system = surface.dataset(), surface.system()
    train, score = dataset.bounds["train"], dataset.bounds["validation"]
    labels = dataset.labels(system.objective(surface.production()))[train]
    for line in sys.stdin:
        phi = json.loads(line)
        began = time.process_time()
        weights = system.fit(phi, dataset.rows(train), labels, 0)
        fitted = time.process_time()
        system.predict(phi, weights, dataset.rows(score))
        print(json.dumps([1e3 * (fitted - began), 1e3 * (time.process_time() - fitted)]), flush=True)


def measure(home: Path, count: int, code: bool) -> list[dict[str, Any]]:
    surface = open_surface(home, SURFACE)
    surface.check_label()
    command = [sys.executable, __file__, "--plain", str(home)]
    found: list[dict[str, float]] = []
    children: list[Child] = []
    spawn = Supervisor.spawn

    def noted(self: Supervisor, request: Mapping[str, Any], files: Sequence[int], limits: Limits) -> Child:
        children.append(spawn(self, request, files, limits))
        return children[-1]

    Supervisor.spawn = noted  # type: ignore[method-assign]
    with (
        as_if_with_code() if code else nullcontext(),
        LocalPool(1) as pool,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as beside,
    ):
        assert beside.stdin is not None
        assert beside.stdout is not None
        bench = Workbench(surface, pool, home / "cache")
        for phi in candidates(surface.production(), WARM + count):
            plainly = []
            for turn in range(2):
                beside.stdin.write(json.dumps(phi) + "\n")
                beside.stdin.flush()
                plainly.append(json.loads(beside.stdout.readline()))
                if turn == 0:
                    children.clear()
                    before = _spent()
                    assert bench.check(phi) == []
                    bench.evaluate_many([(phi, 0)], again=True)
                    spent = {name: value - before[name] for name, value in _spent().items()}
            if code:
                del spent[STAY]
                ended = [1e3 * child.ended.result()["cpu"] for child in children]
                spent |= dict(zip(PROCESSES, ended, strict=True))
            fit, predict = (sum(each) / 2 for each in zip(*plainly, strict=True))
            found.append({"fit": fit, "predict": predict, **spent})
        bench.close()
        beside.stdin.close()
    return _rows(found[WARM:])


def _rows(found: list[dict[str, float]]) -> list[dict[str, Any]]:
    plainly = ("fit", "predict")
    names = [name for name in found[0] if name not in plainly]
    fits, predicts = ("train", "score") if STAY not in names else (STAY, STAY)
    beyond = [dict(each) for each in found]
    for each in beyond:
        each[fits] -= each["fit"]
        each[predicts] -= each["predict"]
    columns = ("CPU ms", found), ("beyond fit and predict", beyond)
    rows: list[dict[str, Any]] = [
        {"process": name} | {column: median(each[name] for each in them) for column, them in columns}
        for name in names
    ]
    total = {column: median(sum(each[name] for name in names) for each in them) for column, them in columns}
    rows.append({"process": "all"} | total)
    return rows + [
        {
            "process": f"plain {name}",
            "CPU ms": median(each[name] for each in found),
            "beyond fit and predict": 0.0,
        }
        for name in plainly
    ]


def _spent() -> dict[str, float]:
    """CPU milliseconds so far of this process, of the zygote itself, and of its children that stay."""
    found = {"parent": 1e3 * time.process_time(), "zygote": 0.0, STAY: 0.0}
    forks = {pid for pid in _below(os.getpid()) if _is_fork(pid)}
    for pid in forks:
        parent = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        spent = int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e6
        found[STAY if parent in forks else "zygote"] += spent
    return found


def _is_fork(pid: int) -> bool:
    """Whether it is the zygote or one of its children."""
    command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return command[1:4] == [b"-P", b"-m", b"evorank.tools.evaluator.zygote"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=50_000, help="training rows")
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--code", action="store_true", help="as if each candidate brought code")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # for every process that is started here
    if options.plain is not None:
        return plain(options.plain)
    with tempfile.TemporaryDirectory() as temporary:
        log, home = Path(temporary) / "log.parquet", Path(temporary) / "home"
        rows = round(options.rows / TRAINING_SHARE)
        write_log(log, rows)
        import_log(home, log, rows)
        found = measure(home, options.candidates, options.code)
    print(json.dumps({"rows": options.rows, "results": found}) if options.json else table(found))
    return None


if __name__ == "__main__":
    main()
