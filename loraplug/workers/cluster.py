"""Workers on the machines of a Ray cluster."""

from __future__ import annotations

import io
import logging
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from platform import python_version
from typing import Any

from attrs import frozen

from loraplug.errors import InputError, LoraplugError
from loraplug.workers.compat import at_address
from loraplug.workers.crew import Crew, Worker, WorkerLostError
from loraplug.workers.job import In, Job, Out

_ANSWER = 3.0  # seconds for a head to take a connection
_HEALTH = 30.0  # seconds for Ray's own health check, which starts an interpreter
_START = 300.0  # seconds for a worker to be made ready
_ASK = 120.0  # seconds for a machine to tell of itself
_GRACE = 15.0  # seconds for a worker to end in, once its result is not wanted any more
_POLL = 0.5  # seconds


@frozen
class Cluster:
    """A connected cluster."""

    address: str

    @property
    def nodes(self) -> Mapping[str, str]:
        """Ids of the machines that are there and have a processor to work with, to their addresses."""
        ray = _ray()

        return {
            node["NodeID"]: node["NodeManagerAddress"]
            for node in ray.nodes()
            if node["Alive"] and node["Resources"].get("CPU")
        }

    @property
    def cpus(self) -> int:
        """Processors of all machines, as Ray counts them."""
        ray = _ray()

        return max(1, int(ray.cluster_resources().get("CPU", 1)))

    def problems(self, lacking: Sequence[Callable[[], str | None]]) -> Iterator[str]:
        """What the machines lack, each asked by itself: the versions of this one, and what the work needs."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        ours = own_versions()
        nodes = self.nodes
        if not nodes:
            yield "no machine of the cluster offers processors; add one with `ray start --address`"

        def asked(function: Callable[[], Any]) -> list[tuple[str, Any]]:
            def call() -> Any:  # sent as code, by Ray's rule for functions in functions
                return function()

            refs = []
            for node, name in nodes.items():
                there = NodeAffinitySchedulingStrategy(node, soft=False)
                task: Any = ray.remote(call).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
                refs.append((name, task.remote()))
            return [(name, _answer(ref)) for name, ref in refs]

        for name, theirs in asked(_versions_task()):
            if isinstance(theirs, Exception):
                yield f"{name} does not report its versions ({_brief(theirs)}); see `ray status`"
            elif theirs != ours:
                other = ", ".join(f"{part} {theirs[part]}, here {ours[part]}" for part in ours
                                  if theirs[part] != ours[part])  # fmt: skip
                yield f"{name} has other versions: {other}; install the same on every machine"
                return
        for function in lacking:
            for name, told in asked(function):
                if told is not None:
                    yield f"{name}: {_brief(told) if isinstance(told, Exception) else told}"

    def crew(self, job: Job[In, Out], size: int, record: Callable[[In, Out], None] | None) -> Crew[In, Out]:
        """Workers for a job, spread over the machines; late items are given to a second one."""
        import ray

        given = ray.put(job), None if job.folder is None else ray.put(_packed(job.folder))

        def hire(stopped: Callable[[], bool]) -> Worker:
            return _Remote(*given, stopped)

        return Crew(size, hire, record, twice=True)


def own_versions() -> dict[str, str]:
    """What must be the same on every machine."""
    return {"Python": python_version(), "Ray": version("ray"), "loraplug": version("loraplug")}


@lru_cache(1)
def connect(address: str) -> Cluster:
    """Connect to a cluster, once in a process.

    Raises:
        InputError: Ray is not installed, nothing answers, or the cluster has another Ray or Python.
    """
    if find_spec("ray") is None:
        raise InputError("Ray is not installed", where="workers.use", todo='pip install "ray>=2.60"')
    if address != "auto":
        _check_answers(address)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is told to anybody
    import ray

    if not ray.is_initialized():
        host = address.rpartition(":")[0]
        own = at_address(host) if host.startswith("127.") else {}
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
        except ConnectionError:
            todo = "start Ray here with `ray start`, or name the host:port of its head"
            what = "this machine is not a node of a running cluster"
            raise InputError(what, where="workers.address", todo=todo) from None
        except RuntimeError as error:  # another Python or Ray: both are told
            text = " ".join(str(error).split())
            raise InputError(text, where="workers.address", todo="install the same on every machine") from None
    return Cluster(address)


def _check_answers(address: str) -> None:
    """Ray itself would try for ever."""
    host, _, port = address.rpartition(":")
    todo = "check that the head is running (`ray status` there) and that its port can be reached from here"
    try:
        socket.create_connection((host, int(port)), _ANSWER).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"{address} does not answer ({error})", where="workers.address", todo=todo) from None
    check = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        done = subprocess.run(check, capture_output=True, timeout=_HEALTH, check=False)
    except subprocess.TimeoutExpired:
        done = None
    if done is None or done.returncode:
        raise InputError(f"{address} answers, but not as the head of a Ray cluster", where="workers.address", todo=todo)


def _versions_task() -> Callable[[], dict[str, str]]:
    """A function that Ray sends as code, so that it runs where loraplug is not installed."""

    def versions() -> dict[str, str]:
        import importlib.metadata
        import platform

        found = {"Python": platform.python_version()}
        for name, package in (("Ray", "ray"), ("loraplug", "loraplug")):
            try:
                found[name] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                found[name] = "(not installed)"
        return found

    return versions


def _answer(ref: Any) -> Any:
    """What a task gives, or the error that it ended with."""
    import ray

    try:
        return ray.get(ref, timeout=_ASK)
    except (ray.exceptions.RayError, LoraplugError, OSError) as error:
        return error


def _brief(error: Exception) -> str:
    return " ".join(str(getattr(error, "cause", None) or error).split())[-300:]


class _Remote:
    """Leads an actor."""

    def __init__(self, job: Any, folder: Any, stopped: Callable[[], bool]) -> None:
        import ray

        self._stopped = stopped
        actor: Any = ray.remote(_Hand)
        self._actor = actor.options(num_cpus=1, max_restarts=0, scheduling_strategy="SPREAD").remote()
        try:
            self._get(self._actor.begin.remote(job, folder), grace=0.0, limit=_START)
        except BaseException:
            ray.kill(self._actor)
            raise

    def work(self, item: Any) -> Any:
        """See `Worker.work`."""
        return self._get(self._actor.work.remote(item))

    def close(self) -> None:
        """See `Worker.close`."""
        import ray

        try:
            self._get(self._actor.close.remote())
        finally:
            ray.kill(self._actor)

    def _get(self, ref: Any, grace: float = _GRACE, limit: float = float("inf")) -> Any:
        """Wait for what the actor gives; raises what it raised.

        Raises:
            WorkerLostError: it is dead, or did not end in time after all work was stopped.
        """
        import ray

        begun, stopping = time.monotonic(), 0.0
        try:
            while not ray.wait([ref], timeout=_POLL)[0]:
                now = time.monotonic()
                if self._stopped():
                    stopping = stopping or now
                    if now - stopping >= grace:
                        ray.kill(self._actor)
                        raise WorkerLostError("it did not end in time")
                if now - begun > limit:
                    raise LoraplugError(f"no worker could be started in {limit:.0f} s", where="workers",
                                        todo="check with `ray status` whether processors are free")  # fmt: skip
            value, error = ray.get(ref)
        except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError, ray.exceptions.NodeDiedError) as lost:
            raise WorkerLostError(" ".join(str(lost).split())[:200]) from None
        if error is not None:
            raise error
        return value


class _Hand:
    """The actor: one worker on some machine. Its methods give a value and None, or None and an error."""

    def begin(self, job: Job[Any, Any], packed: bytes | None) -> tuple[None, Exception | None]:
        """Make ready."""
        self._held = ExitStack()
        try:
            folder = None if packed is None else self._held.enter_context(_unpacked(packed))
            self._work = self._held.enter_context(job.start(folder))
        except Exception as error:
            self._held.close()
            return None, error
        return None, None

    def work(self, item: Any) -> tuple[Any, Exception | None]:
        """Work on an item."""
        try:
            return self._work(item), None
        except Exception as error:
            return None, error

    def close(self) -> tuple[None, None]:
        """Let go of what is held."""
        self._held.close()
        return None, None


def _ray() -> Any:
    import ray  # whose functions are typed in part

    return ray


def _packed(folder: Path) -> bytes:
    held = io.BytesIO()
    with tarfile.TarFile(fileobj=held, mode="w") as archive:
        archive.add(folder, "tree")
    return held.getvalue()


@contextmanager
def _unpacked(packed: bytes) -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="loraplug-worker-"))
    place.chmod(0o755)  # what is shut in runs as another user
    try:
        with tarfile.TarFile(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(place, filter="tar")
        yield place / "tree"
    finally:
        shutil.rmtree(place, ignore_errors=True)
