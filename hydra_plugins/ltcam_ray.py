"""Hydra's launcher for Ray: each run of a multirun is a task of a Ray cluster.

    ltcam evaluate -m … hydra/launcher=ray hydra.launcher.address=auto

It lies here because Hydra takes launchers from the namespace `hydra_plugins` alone, and reads all
of it at each start: so Ray is imported when a multirun begins, not before.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import (
    JobReturn,
    JobStatus,
    configure_log,
    filter_overrides,
    run_job,
    setup_globals,
)
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from ltcam_cli.allocator import reuse_freed_memory
from ltcam_cli.errors import LtcamError, require

# Keys of hydra.launcher.
CONFIG = {
    "_target_": "hydra_plugins.ltcam_ray.RayLauncher",
    "address": "local",  # starts a cluster on this machine; auto or host:port: one that runs
    "init": {},  # more arguments of ray.init: +hydra.launcher.init.num_cpus=8
    "remote": {"num_cpus": 1, "num_gpus": 0},  # what each task reserves, and more of ray.remote
}
ConfigStore.instance().store(group="hydra/launcher", name="ray", node=CONFIG, provider="ltcam")


class RayLauncher(Launcher):
    """Runs tasks on Ray's workers, in this process's working folder, which they must share."""

    def __init__(self, address: str, init: DictConfig, remote: DictConfig) -> None:
        self.address = address
        self.init: Any = OmegaConf.to_container(init, resolve=True)
        self.remote: Any = OmegaConf.to_container(remote, resolve=True)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Hear what is to be run."""
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run all tasks, as many at once as the cluster has room for.

        A worker that dies fails its own task only.

        Raises:
            LtcamError: if Ray is not installed, or there is no cluster at the address.
        """
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        with self.cluster() as ray:
            run = ray.remote(**self.remote)(run_there)
            context = ray.put((Path.cwd(), self.context, self.task, Singleton.get_state()))
            started = []
            for number, overrides in enumerate(job_overrides, start=initial_job_idx):
                config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
                with open_dict(config):
                    config.hydra.job.id = config.hydra.job.num = number
                started.append((overrides, run.remote(context, config)))
            return [self.result(ray, *each) for each in started]

    @contextmanager
    def cluster(self) -> Iterator[Any]:
        """Ray, connected; what was connected before stays so."""
        ray = require("ray", "cluster")
        if ray.is_initialized():
            yield ray
            return
        try:
            ray.init(address=self.address, **self.init)
        except ConnectionError as error:
            raise LtcamError(
                f"hydra.launcher.address={self.address}: no Ray cluster answers there; start one "
                "with: ray start --head"
            ) from error
        except (ValueError, TypeError, RuntimeError) as error:
            raise LtcamError(f"hydra.launcher.init: {str(error).splitlines()[0]}") from error
        try:
            yield ray
        finally:
            ray.shutdown()

    def result(self, ray: Any, overrides: Sequence[str], reference: Any) -> JobReturn:
        """What a task gave back; if its worker failed, a row with the key `error`, as of a task."""
        try:
            returned: JobReturn = ray.get(reference)
        except ray.exceptions.RayError as error:
            returned = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
            reason = str(getattr(error, "cause", None) or error).strip().splitlines()[0]
            asked = " ".join(filter_overrides(overrides))
            returned.return_value = {"error": f"{asked}: its Ray worker failed: {reason}"}
        return returned


def run_there(context: tuple[Any, ...], config: DictConfig) -> JobReturn:
    """On the worker: Hydra's state and working folder as they were at home, then the task."""
    folder, hydra_context, task, state = context
    os.chdir(folder)
    reuse_freed_memory()
    setup_globals()
    Singleton.set_state(state)
    HydraConfig.instance().set_config(config)
    return run_job(
        hydra_context=hydra_context,
        task_function=task,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
