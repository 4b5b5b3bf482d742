"""Multiruns on other machines: each launcher gives the counts of a serial run."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import REPOSITORY, SYNTHETIC, Cli, KsddLike, Run, working_in
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from PIL import Image
from test_cli import COUNTS, only, predicted, table_on

from ltcam_cli.files import exclusive, lock
from ltcam_cli.runs.folder import RunFolder

GRID = ["-m", "dataset.split=tens", "dataset.fold=0,1"]
TINY = (
    "dataset.count=null dataset.height=32 dataset.width=32 "
    "backbone=vgg16_slim trainer.epochs=1 trainer.images_per_epoch=4 threads=1 device=cpu"
).split()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one CPU each, begun in another folder, as by an administrator."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ray") as folder:
        patch.setenv("RAY_TMPDIR", folder)  # a short path: it holds sockets
        patch.setenv("RAY_AUTH_MODE", "disabled")  # no file in the home folder
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", f"{REPOSITORY}{os.pathsep}{Path(__file__).parent}")
        library = pytest.importorskip("ray.cluster_utils", reason="the extra cluster is not there")
        node = dict(num_cpus=1, object_store_memory=80_000_000, include_dashboard=False)
        nodes = library.Cluster()
        try:
            with working_in(Path(folder)):
                for _ in range(2):
                    nodes.add_node(**node)
            yield nodes
        finally:
            nodes.shutdown()


@pytest.fixture
def joblib() -> list[str]:
    """New processes: those of an earlier test would still be in its folder."""
    loky = pytest.importorskip("joblib.externals.loky")
    loky.get_reusable_executor().shutdown(wait=True)
    return ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


@pytest.fixture
def submitit_local() -> list[str]:
    pytest.importorskip("submitit")
    return ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=10"]


@pytest.fixture
def ray(cluster: Any) -> list[str]:
    return ["hydra/launcher=ray", f"hydra.launcher.address={cluster.address}"]


@pytest.fixture(params=["joblib", "submitit_local", "ray"])
def launcher(request: pytest.FixtureRequest) -> list[str]:
    """The overrides that choose a launcher."""
    return list(request.getfixturevalue(request.param))


@pytest.mark.slow
def test_folds_on_each_launcher(cli: Cli, ksdd_like: KsddLike, launcher: list[str]) -> None:
    ksdd_like(folders=(1, 2, 11, 12))
    cli.ok("train", *GRID, *TINY, "outputs=serial")
    rows = table_on(cli.ok("train", *GRID, *TINY, "outputs=spread", *launcher))
    assert len({row["run"] for row in rows}) == 2
    assert {path.parent.parent.name for path in Path("spread").glob("*/train/checkpoint.pt")} == {
        row["run"] for row in rows
    }
    evaluate = ["evaluate", *GRID, *TINY, "--method", "ltlayercam"]
    cli.ok(*evaluate, "outputs=serial")
    assert len(table_on(cli.ok(*evaluate, "outputs=spread", *launcher))) == 2
    serial, spread = (
        pd.concat([RunFolder(path).results() for path in sorted(Path(outputs).glob("ksdd-*"))])
        for outputs in ("serial", "spread")
    )
    assert len(serial) == 2
    pd.testing.assert_frame_equal(serial[["run", *COUNTS]], spread[["run", *COUNTS]])


@pytest.mark.slow
def test_shards_on_each_launcher(cli: Cli, tiny_run: Run, launcher: list[str]) -> None:
    cli.ok("data", "synth", "plates", "dataset.items=4", "dataset.parts=4", *SYNTHETIC[3:5])
    args = [
        "predict",
        "plates/good",
        "plates/defect",
        "--run",
        tiny_run.path,
        "method.with_student=false",
        "threads=1",
        "predict.gate=false",
    ]
    cli.ok(*args, "--out", "whole", "predict.batch_size=1")
    spread = [*args, "--out", "spread", "predict.batch_size=1", "-m", "--shard", "1:2/2"]
    assert [row["shard"] for row in table_on(cli.ok(*spread, *launcher))] == ["1/2", "2/2"]
    cli.ok("runs", "gather", "spread")
    counts = ["name", "predicted", "regions", "area"]
    whole = predicted(Path("whole"))
    assert len(whole) == 16 and whole["area"].sum() > 0
    pd.testing.assert_frame_equal(predicted(Path("spread"))[counts], whole[counts])


@pytest.mark.slow
def test_a_failed_run_does_not_lose_the_others(cli: Cli, own_run: Run, launcher: list[str]) -> None:
    result = cli("evaluate", "-m", "--delta", "0,200", *SYNTHETIC, *launcher)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("ltcam: 1 of 2 runs failed: method.delta=200")
    assert [float(row["delta"]) for row in table_on(result.stdout)] == [0]


# --- Ray


@contextmanager
def hydra(folder: Path) -> Iterator[Any]:
    """Hydra's object for a config of one key, `seed`; not that of a command."""
    (folder / "conf").mkdir()
    (folder / "conf/config.yaml").write_text("seed: 0")
    with initialize_config_dir(str(folder / "conf"), version_base="1.3"):
        yield GlobalHydra.instance().hydra


def multirun(hydra: Any, task: Callable[[DictConfig], Any], *overrides: str) -> list[Any]:
    """What each task of a multirun returns."""
    always = ["hydra.mode=MULTIRUN", "hydra.sweep.dir=sweep"]
    [jobs] = hydra.multirun("config", task, [*always, *overrides])
    return [job.return_value for job in jobs]


def meets(cfg: DictConfig) -> tuple[int, str]:
    """A task that ends when tasks with both seeds are at work in the caller's folder."""
    import ray

    Path(f"{cfg.seed}.txt").touch()
    deadline = time.monotonic() + 120
    while len(list(Path().glob("[01].txt"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return cfg.seed, ray.get_runtime_context().get_node_id()


def falls(cfg: DictConfig) -> int:
    """A task whose worker is killed."""
    if cfg.seed == 1:
        os._exit(1)
    return int(cfg.seed)


@pytest.mark.slow
def test_tasks_run_on_two_nodes(tmp_path: Path, cluster: Any, ray: list[str]) -> None:
    with working_in(tmp_path), hydra(tmp_path) as at_work:
        seeds, nodes = zip(*multirun(at_work, meets, "seed=0,1", *ray), strict=True)
    assert seeds == (0, 1)
    assert len(set(nodes)) == 2
    assert set(nodes) == {node.node_id for node in cluster.list_all_nodes()}
    assert {path.name for path in tmp_path.glob("sweep/*")} >= {"0", "1"}


@pytest.mark.slow
def test_a_worker_that_dies_fails_its_own_task_only(tmp_path: Path, ray: list[str]) -> None:
    once = "+hydra.launcher.remote.max_retries=0"
    with working_in(tmp_path), hydra(tmp_path) as at_work:
        first, second, third = multirun(at_work, falls, "seed=0,1,2", *ray, once)
    assert (first, third) == (0, 2)
    assert second["error"].startswith("seed=1: its Ray worker failed: ")
    assert "\n" not in second["error"]


@pytest.mark.slow
def test_ray_is_left_as_it_was_found(tmp_path: Path, cluster: Any, ray: list[str]) -> None:
    import ray as library

    with working_in(tmp_path), hydra(tmp_path) as at_work:
        for connected in (False, True):
            if connected:
                library.init(address=cluster.address, log_to_driver=False)
            try:
                assert multirun(at_work, falls, "seed=0,2", *ray) == [0, 2]
                assert library.is_initialized() == connected
            finally:
                library.shutdown()


def test_ray_that_is_not_there(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = ["hydra/launcher=ray", "hydra.launcher.address=auto"]
    train = ["train", "-m", "seed=0,1", *SYNTHETIC, *ray]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "ray", None)
        cli.fault(*train, says=["ray is not installed", "ltcam[cluster]"], logs=True)
    library = pytest.importorskip("ray")

    def init(**options: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    with monkeypatch.context() as patch:
        patch.setattr(library, "init", init)
        says = ["hydra.launcher.address=auto", "no Ray cluster", "ray start --head"]
        cli.fault(*train, says=says, logs=True)
    says = ["hydra.launcher.init: Unknown keyword argument(s): cpus"]
    cli.fault(*train, "+hydra.launcher.init.cpus=1", says=says, logs=True)
    assert not list(Path("outputs").glob("synthetic-*"))


# --- processes that work in one folder


@pytest.mark.slow
def test_a_run_is_trained_by_one_process_at_a_time(cli: Cli, joblib: list[str]) -> None:
    rows = table_on(cli.ok("train", "-m", "trainer.cache=true,false", *SYNTHETIC, *joblib))
    assert len(rows) == 1  # of two processes
    log = only(Path("outputs"), "synthetic-*/train/train.log").read_text()
    assert log.count("training synthetic-") == 1
    result = cli("train", "-m", "seed=0,1", "name=one", *SYNTHETIC, *joblib)
    assert result.exit_code == 2
    assert "1 of 2 runs failed: outputs/one: holds another training" in result.stderr
    assert len(table_on(result.stdout)) == 1


def test_who_waits_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "run" / "last.pt"
    caplog.set_level(logging.INFO, "ltcam_cli")
    with exclusive(path):
        pass
    assert not caplog.messages
    taken, released = threading.Event(), threading.Event()

    def other() -> None:
        with lock(path):
            taken.set()
            time.sleep(0.5)
            released.set()

    threading.Thread(target=other).start()
    assert taken.wait(10)
    with exclusive(path):
        assert released.is_set()
    assert caplog.messages == [f"{path.parent}: another process is at work there; waiting for it"]


@pytest.mark.slow
def test_a_shard_is_predicted_by_one_process_at_a_time(cli: Cli, tiny_run: Run) -> None:
    Path("photos").mkdir()
    Image.new("L", (40, 40), 90).save("photos/one.png")
    table = cli.folder / "found/scores.1of1.csv"
    with lock(table):
        process = cli.start(
            "predict", "photos", "--run", tiny_run.path, "--out", "found", "--shard", "1/1",
            "--method", "ltgradcam",
        )  # fmt: skip
        assert process.stderr is not None
        first = process.stderr.readline() + process.stderr.readline()  # that it has no skill, too
        assert "found: another process is at work there" in first
        assert not table.exists()
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert stdout.startswith("1 images") and len(pd.read_csv(table)) == 1
