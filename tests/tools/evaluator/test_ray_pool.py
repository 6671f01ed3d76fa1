"""Ray on one machine: several nodes of a real cluster, real supervisors, real deaths."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evorank.model.errors import ConfigurationError, EvorankError, ToolError
from evorank.model.system import Objective
from evorank.tools.evaluator.executor import Job

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'evorank[ray]'")

from evorank.tools.evaluator.ray_pool import RayPool  # noqa: E402

pytestmark = pytest.mark.heavy
SYSTEM = "linear_system:LinearSystem"
PRODUCTION = {"lr": 0.5}


def job(dataset, seed=0, **phi):
    train, score = dataset.bounds["train"], dataset.bounds["validation"]
    return Job(
        dataset=dataset.directory,
        system=SYSTEM,
        production=PRODUCTION,
        phi=PRODUCTION | phi,
        label_path=dataset.label_path(Objective("click"), upto="train"),
        loss="bce",
        seed=seed,
        train=(train.start, train.stop),
        score=(score.start, score.stop),
    )


@pytest.fixture(scope="module")
def cluster():
    """Two nodes with one CPU each, and a head that trains nothing. Their owner's environment has a key."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OWNERS_KEY", "swordfish")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 1 << 27}
        )
        for _ in range(2):
            cluster.add_node(num_cpus=1, object_store_memory=1 << 27)
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def remote(cluster):
    """A pool over the cluster's nodes, connected from a process that has a key of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GOOGLE_API_KEY", "hunter2")
        with RayPool(cluster.address, limit=30.0) as pool:
            yield pool


def until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def running(pool):
    return [task for task in list(pool._tasks.values()) if task.node is not None]


def test_the_nodes_train_what_one_machine_trains_to_the_last_bit(remote, pool, dataset):
    jobs = [job(dataset, seed=seed, shift=0.1 * seed) for seed in range(6)]
    here = [pool.submit(each) for each in jobs]
    there = [remote.submit(each) for each in jobs]
    assert len(remote.nodes) == remote.workers == 2
    assert remote.tier == pool.tier
    for one, other in zip(here, there, strict=True):
        local, far = pool.result(one, timeout=60), remote.result(other, timeout=60)
        assert far.predictions.dtype == np.float32
        assert far.predictions.tobytes() == local.predictions.tobytes()
        assert far.parameters == local.parameters
        assert far.train_cpu_seconds > 0
        assert far.predictions.flags.owndata  # a view would hold Ray's shared memory


def test_jobs_are_spread_over_the_nodes(remote, dataset):
    ids = [remote.submit(job(dataset, burn=1.0)) for _ in range(2)]
    until(lambda: len(running(remote)) == 2)
    assert len({task.node.name for task in running(remote)}) == 2
    for id in ids:
        remote.result(id, timeout=60)


def test_a_broken_training_and_a_wrong_phi_say_what_they_say_locally(remote, dataset):
    with pytest.raises(ToolError, match="no rows left after filtering"):
        remote.result(remote.submit(job(dataset, fault="raise")), timeout=60)
    with pytest.raises(ToolError, match="not finite") as told:
        remote.result(remote.submit(job(dataset, fault="nan", burn=0.3)), timeout=60)
    assert told.value.cpu_seconds >= 0.3
    found = remote.check(dataset.directory, SYSTEM, PRODUCTION, {"lr": -1})
    assert [each.pointer for each in getattr(found, "findings", found)] == ["/lr"]
    with pytest.raises(ToolError, match="no_such_module"):
        remote.check(dataset.directory, "no_such_module:Ranker", {}, {})


def test_what_was_trained_and_exported_on_a_node_is_scored_here_to_the_last_bit(
    remote, pool, dataset, tmp_path
):
    wanted, rows, scores = job(dataset), dataset.rows("validation"), []
    for name, executor in (("here", pool), ("there", remote)):
        directory = tmp_path / name
        found = executor.result(executor.submit(replace(wanted, artifact=directory)), timeout=120)
        with executor.scorer(directory, capacity=len(rows)) as scorer:
            scores += [scorer.score(rows).tobytes()]
        scores += [found.predictions.tobytes()]
    assert scores[0] == scores[2]
    assert scores[1] == scores[3]
    assert pool.scorer(tmp_path / "there", 10).score(rows[:10]).tobytes() == (
        remote.scorer(tmp_path / "here", 10).score(rows[:10]).tobytes()
    )
    with pytest.raises(ConfigurationError, match="cannot be read"):
        remote.scorer(tmp_path / "nowhere")


def test_a_cancelled_job_is_stopped_on_its_node_and_frees_it(remote, dataset):
    ids = [remote.submit(job(dataset, fault="hang")) for _ in range(3)]
    until(lambda: len(running(remote)) == 2)
    for id in reversed(ids):
        remote.cancel(id)
    for id in ids:
        with pytest.raises(ToolError, match="cancelled"):
            remote.result(id, timeout=60)
    next_ones = [remote.submit(job(dataset)) for _ in range(2)]
    assert all(remote.result(id, timeout=60).parameters == 1000 for id in next_ones)


def environments():
    """Pid -> environment and command line of every process of this machine that we may look at."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            yield int(path.name), (path / "environ").read_bytes(), (path / "cmdline").read_bytes()
        except OSError:
            continue


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks at processes through /proc")
def test_no_key_of_this_process_or_of_a_nodes_owner_reaches_supervisors_or_candidates(remote, dataset):
    remote.result(remote.submit(job(dataset)), timeout=60)
    assert os.environ["GOOGLE_API_KEY"] == "hunter2"
    ours = os.getpid()
    seen = [(pid, line) for pid, environment, line in environments() if b"hunter2" in environment + line]
    assert [pid for pid, _ in seen] in ([], [ours])  # set after this process began: not even there
    with pytest.raises(ToolError, match="key is nowhere"):
        remote.result(remote.submit(job(dataset, fault="secret")), timeout=60)
    for node in remote._nodes:
        told = ray.get(node.actor.__ray_call__.remote(lambda _: dict(os.environ)))
        assert not {"GOOGLE_API_KEY", "OWNERS_KEY"} & set(told)
        assert "PATH" in told


def test_a_node_without_this_machines_data_is_named_with_the_path(remote, dataset, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(dataset.directory, moved)
    at_home = replace(job(dataset), dataset=moved)
    node = remote._nodes[0]
    shown = ray.get(node.actor.run.remote("x", at_home, "0" * 40)).error()
    assert isinstance(shown, ConfigurationError)
    assert str(moved) in str(shown)
    assert node.name in str(shown)
    (moved / "meta.json").unlink()
    shown = ray.get(node.actor.check.remote(moved, "0" * 40, SYSTEM, {}, {})).error()
    assert "storage that every node sees" in str(shown)
    assert "no encoded log" in str(shown)


def test_a_node_that_runs_other_code_is_refused_with_both_versions(remote, monkeypatch):
    import evorank.tools.evaluator.ray_pool as module

    monkeypatch.setattr(module, "facts", lambda: module_facts | {"torch": "1.0"})
    from evorank.tools.evaluator.ray_node import facts

    module_facts = facts()
    with pytest.raises(ConfigurationError, match=r"node .* torch .* differs from this machine's 1\.0"):
        remote._open(remote._nodes[0])


def test_a_supervisor_that_dies_is_replaced_and_its_job_runs_again(remote, dataset, tmp_path):
    first = remote.submit(job(dataset, burn=2.0, seed=9))
    until(lambda: running(remote))
    (task,) = running(remote)
    pid = ray.get(task.node.actor.__ray_call__.remote(lambda _: os.getpid()))
    os.kill(pid, signal.SIGKILL)
    assert remote.result(first, timeout=120).parameters == 1000
    until(lambda: len(remote.nodes) == 2)


def test_a_job_that_loses_its_node_twice_fails_with_a_reason(remote, dataset):
    id = remote.submit(job(dataset, fault="hang"))
    for _ in range(2):
        until(lambda: running(remote))
        (task,) = running(remote)
        os.kill(ray.get(task.node.actor.__ray_call__.remote(lambda _: os.getpid())), signal.SIGKILL)
        until(lambda task=task, node=task.node: task.node is not node)
    with pytest.raises(ToolError, match=r"lost twice: nodes .* died under it"):
        remote.result(id, timeout=60)
    until(lambda: len(remote.nodes) == 2)
    assert remote.result(remote.submit(job(dataset)), timeout=60).parameters == 1000


def test_jobs_of_a_node_that_dies_move_to_the_others_and_a_cluster_without_nodes_ends_the_run(
    cluster, remote, dataset
):
    """Last of those that use the cluster: it takes its nodes away."""
    with pytest.raises(ConfigurationError, match="connected to a Ray cluster already"):
        RayPool(cluster.address)
    remote.close()
    with RayPool(cluster.address, limit=60.0) as own:
        ids = [own.submit(job(dataset, seed=seed, burn=1.5)) for seed in range(2)]
        until(lambda: len(running(own)) == 2)
        nodes = {node.node_id: node for node in cluster.worker_nodes}
        victim = running(own)[0].node
        cluster.remove_node(nodes[victim.id], allow_graceful=False)
        for id in ids:
            assert own.result(id, timeout=120).parameters == 1000
        (last,) = cluster.worker_nodes
        waiting = own.submit(job(dataset, fault="hang"))
        until(lambda: running(own))
        cluster.remove_node(last, allow_graceful=False)
        with pytest.raises(EvorankError, match="No node is left"):
            own.result(waiting, timeout=120)
        with pytest.raises(EvorankError, match="--resume"):
            own.submit(job(dataset))
    assert not ray.is_initialized()
    with socket.create_connection(tuple(cluster.address.split(":")), timeout=5):
        pass  # the cluster was not ours: its head still answers


def test_without_an_address_ray_is_started_guarded_and_ended(dataset, tmp_path):
    """In a process of its own, which Ray has never been imported in; then the process is killed."""
    labels = str(dataset.label_path(Objective("click"), upto="train"))
    program = textwrap.dedent(
        f"""
        import json, os, sys
        sys.path[:0] = {sys.path!r}
        from pathlib import Path
        from evorank.model.errors import ToolError
        from evorank.tools.evaluator.executor import Job
        from evorank.tools.evaluator.ray_pool import RayPool
        made = dict(dataset=Path({str(dataset.directory)!r}), system={SYSTEM!r}, production={{}},
                    label_path=Path({labels!r}), loss="bce", seed=0,
                    train=(0, 1000), score=(1000, 2000))
        for round in range(2):
            pool = RayPool(workers=1)
            rows = len(pool.result(pool.submit(Job(phi={{"lr": 1}}, **made))).predictions)
            try:
                pool.result(pool.submit(Job(phi={{"lr": 1, "fault": "secret"}}, **made)))
            except ToolError as error:
                secret = str(error)
            if round == 0:
                pool.close()
        told = {{"rows": rows, "secret": secret, "address": pool.address, "torch": "torch" in sys.modules,
                "left": [name for name in os.environ if "AUTH" in name]}}
        print(json.dumps(told), flush=True)
        input()
        """
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment | {"GOOGLE_API_KEY": "planted-key"},
        text=True,
    )
    lines = []
    reader = threading.Thread(target=lambda: lines.append(parent.stdout.readline()))
    reader.start()
    reader.join(180)
    told = json.loads(lines[0])
    assert told["rows"] == 1000
    assert "key is nowhere" in told["secret"]
    assert not told["torch"]
    assert not told["left"]
    holders = [pid for pid, seen, _ in environments() if b"planted-key" in seen]
    assert holders == [parent.pid]
    folder = {line for _, _, line in environments() if b"evorank-ray-" in line}
    assert folder, "the cluster's processes name their folder"
    stranger = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False); print('inside')"
    tried = subprocess.Popen(
        [sys.executable, "-c", stranger, told["address"]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said, why = tried.communicate(timeout=60)
    finally:
        tried.kill()
    assert "inside" not in said
    assert "InvalidAuthToken" in why
    parent.kill()
    parent.wait()
    until(lambda: not any(b"evorank-ray-" in line for _, _, line in environments()))


def test_an_address_where_no_ray_listens_is_told_within_seconds(tmp_path):
    for address in ("127.0.0.1:1", "nosuch.invalid:6379"):
        with pytest.raises(ConfigurationError, match=f"`address`.*{address}.*ray start"):
            RayPool(address)
    for address in ("ray://127.0.0.1:10001", "127.0.0.1", "host:port"):
        with pytest.raises(ConfigurationError, match="HOST:PORT"):
            RayPool(address)


def test_a_port_that_is_not_rays_is_one_clear_error_too(monkeypatch):
    import evorank.tools.evaluator.ray_cluster as module

    monkeypatch.setattr(module, "TRY_SECONDS", 5.0)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(ConfigurationError, match="no Ray cluster could be joined"),
    ):
        RayPool(f"127.0.0.1:{server.getsockname()[1]}")
