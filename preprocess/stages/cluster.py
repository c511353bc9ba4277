"""A Dask cluster whose workers are known to run this code and to see the files."""

from __future__ import annotations

import asyncio
import functools
import logging
import pkgutil
import signal
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import UserError
from shared.input.npz import NpzFile
from shared.log import log
from shared.provenance import ROOT, sources_digest, versions

RETRIES = 3
"""Further attempts at a task whose worker died."""

_CONNECT_SECONDS = 20
_WORKER_SECONDS = 60
_ANSWER_SECONDS = 60
_PACKAGES = ("numpy", "numba", "scipy", "h5py", "ase")
STARTING = "start one with `dask worker ADDRESS` in this environment"


@dataclass(frozen=True)
class Needs:
    """What every worker must have: this code, these files, this folder."""

    code: Mapping[str, str]
    files: Mapping[str, str]
    """Absolute path and content digest of each input file."""

    token: Path | None
    """A file in the cache, absolute; None where workers only read."""


@functools.cache
def own_code() -> dict[str, str]:
    """Return what results depend on beside the input: versions, and the digest of the sources of both packages."""
    sources = (path for package in ("preprocess", "shared") for path in (ROOT / package).rglob("*.py"))
    return {**versions(_PACKAGES), "sources of this program": sources_digest(sources)[:12]}


def other_code(code: Mapping[str, str]) -> str:
    """Return how the code of this process differs from another one; empty if it does not."""
    own = own_code()
    return ", ".join(
        f"{name} {own.get(name)} instead of {wanted}" for name, wanted in code.items() if own.get(name) != wanted
    )


def find_lacking(needs: Needs) -> str:
    """Return what this process lacks of all that is needed; empty if nothing."""
    if different := other_code(needs.code):
        return f"it has {different}"
    if needs.token is not None and not needs.token.exists():
        return f"it does not see the cache {needs.token.parent}, which has to be on a disk that all machines share"
    for path, digest in needs.files.items():
        try:
            found = NpzFile(Path(path)).content_digest
        except (OSError, UserError) as error:
            return f"it cannot read {path} ({error})"
        if found != digest:
            return f"it sees another file as {path}"
    return ""


@contextmanager
def open_cluster(workers: int, scheduler: str, files: Mapping[str, str], cache_dir: Path | None) -> Iterator[Any]:
    """Open a client of a Dask cluster after every worker has shown that it has this code and sees the files.

    Args:
        workers: processes of a local cluster, where ``scheduler`` is empty.
        scheduler: address of a scheduler that is already there.
        files: absolute path and content digest of each input file.
        cache_dir: absolute path of the cache; None where workers only read.

    Raises:
        UserError: no scheduler or no worker answers in time, or one lacks something.
    """
    # Imported here: it costs a second, and most runs do not need it.
    import dask

    settings = {
        "distributed.scheduler.allowed-failures": RETRIES,
        "distributed.comm.timeouts.connect": f"{_CONNECT_SECONDS}s",
    }
    with dask.config.set(settings), _connected(workers, scheduler) as client:
        _require_workers(client, scheduler)
        with _token(cache_dir) as token:
            _require(client, Needs(own_code(), dict(files), token))
        yield client


@contextmanager
def _token(folder: Path | None) -> Iterator[Path | None]:
    """Yield a file in the folder that exists meanwhile."""
    if folder is None:
        yield None
        return
    token = folder / f".seen-{uuid.uuid4().hex}"
    token.touch()
    try:
        yield token
    finally:
        token.unlink(missing_ok=True)


@contextmanager
def _connected(workers: int, scheduler: str) -> Iterator[Any]:
    from distributed import Client, LocalCluster

    if not scheduler:
        with _without_interrupts():
            local = LocalCluster(
                n_workers=workers, threads_per_worker=1, dashboard_address=":0", silence_logs=logging.CRITICAL
            )
        with local, Client(local) as client:
            yield client
        return
    _require_scheduler(scheduler)
    with Client(scheduler, timeout=_CONNECT_SECONDS) as client:
        yield client


def _require_scheduler(address: str) -> None:
    """Shake hands with a scheduler, which the client would wait for without end.

    Raises:
        UserError: nobody listens, or it is no scheduler.
    """
    from distributed import Security
    from distributed.comm import connect

    async def shake_hands() -> None:
        comm = await connect(address, timeout=_CONNECT_SECONDS, **Security().get_connection_args("client"))
        await comm.close()

    try:
        asyncio.run(asyncio.wait_for(shake_hands(), _CONNECT_SECONDS + 1))
    except (OSError, ValueError, TypeError, ImportError) as error:  # each of these for an address that it cannot use
        reason = (str(error).splitlines() or ["what listens there is no Dask scheduler"])[0]
        raise UserError(
            f"--scheduler {address}: cannot be reached ({reason}); start one with `dask scheduler`"
        ) from error


def _require_workers(client: Any, scheduler: str) -> None:
    """Wait for a worker.

    Raises:
        UserError: none comes in time.
    """
    if _workers(client):
        return
    log.info(f"--scheduler {scheduler}: waiting up to {_WORKER_SECONDS} s for its first worker (Ctrl-C to stop)")
    try:
        client.wait_for_workers(1, timeout=_WORKER_SECONDS)
    except TimeoutError as error:
        raise UserError(f"--scheduler {scheduler}: no worker came within {_WORKER_SECONDS} s; {STARTING}") from error


def _require(client: Any, needs: Needs) -> None:
    """Ask every worker once.

    Raises:
        UserError: names one that lacks something, or does not answer.
    """
    workers = _workers(client)
    # First a function of Python's own: one of this module cannot be sent to a worker that does not have it.
    answers = _ask(client, workers, pkgutil.resolve_name, f"{__name__}:{find_lacking.__name__}.__name__")
    for worker, answer in answers.items():
        if answer != find_lacking.__name__:
            raise UserError(
                f"the Dask worker {worker} does not have this program, or another version ({answer}); {STARTING}"
            )
    for worker, answer in _ask(client, workers, find_lacking, needs).items():
        if answer:
            raise UserError(f"the Dask worker {worker} cannot take part: {answer}; {STARTING}")


def _workers(client: Any) -> list[str]:
    return sorted(client.scheduler_info(n_workers=-1)["workers"])


def _ask(client: Any, workers: Sequence[str], function: Callable[..., str], *arguments: Any) -> dict[str, str]:
    """Return the answer of each worker, at once though it may be busy; of a failure, the reason.

    Raises:
        UserError: one does not answer in time.
    """
    try:
        answers = client.sync(
            client.run, function, *arguments, workers=workers, on_error="return", callback_timeout=_ANSWER_SECONDS
        )
    except TimeoutError as error:
        raise UserError(
            f"not all Dask workers ({', '.join(workers)}) answer within {_ANSWER_SECONDS} s; remove those that hang"
        ) from error
    return {worker: answer if isinstance(answer, str) else repr(answer) for worker, answer in answers.items()}


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Hide Ctrl-C from processes started in this context: the parent ends them, without a message from each."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
