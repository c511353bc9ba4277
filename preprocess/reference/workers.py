"""Worker processes of one thread each, which end with the program in every case."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from tqdm import tqdm

from shared.errors import UserError
from shared.signals import SIGNALS, at_end

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_SCRATCH = "PYSCF_TMPDIR"
"""Folder of PySCF's temporary files, which a worker that is killed does not remove."""


def run_tasks(tasks: Sequence[Callable[[], None]], workers: int, label: str, finished: int) -> None:
    """Run all tasks under a progress bar, in any order.

    Args:
        tasks: picklable; each keeps its own result.
        workers: processes at most.
        label: of the progress bar.
        finished: tasks that an earlier run has done: where the bar begins.

    Raises:
        UserError: a worker died, or its memory does not suffice.
        OSError: of a task.
    """
    if not tasks:
        return
    with (
        _open_pool(min(workers, len(tasks))) as pool,
        tqdm(total=finished + len(tasks), initial=finished, desc=label, unit="geometry", disable=None) as bar,
    ):
        with _without_interrupts():
            futures = [pool.submit(task) for task in tasks]
        for future in as_completed(futures):
            _check(future)
            bar.update()


def _check(future: Future[None]) -> None:
    remedy = "take fewer --workers, or give each less to do with --memory-mib; the same command goes on"
    try:
        future.result()
    except BrokenProcessPool as error:
        raise UserError(f"a worker process died, probably for want of memory: {remedy}") from error
    except MemoryError as error:
        raise UserError(f"the memory does not suffice: {remedy}") from error


@contextmanager
def _open_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    others = set(multiprocessing.active_children())
    # Spawned, not forked: the threads of numerical libraries do not survive a fork.
    spawn = multiprocessing.get_context("spawn")
    complete = False
    try:
        scratch = tempfile.TemporaryDirectory(
            prefix="pyscf-", dir=os.environ.get(_SCRATCH) or None, ignore_cleanup_errors=True
        )
    except OSError as error:
        raise UserError(
            f"{error.filename or 'no folder'}: PySCF's temporary files cannot be written there ({error.strerror}); set "
            f"{_SCRATCH} to a folder that they can be"
        ) from error

    def end(line: str) -> None:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        shutil.rmtree(scratch.name, ignore_errors=True)

    with scratch as folder, _environment(folder), at_end(end):
        pool = ProcessPoolExecutor(workers, spawn, initializer=_start_worker, initargs=(folder,))
        try:
            yield pool
            complete = True
        finally:
            pool.shutdown(wait=complete, cancel_futures=True)
            if not complete:  # a calculation may take minutes more, and its result is not kept
                own = set(multiprocessing.active_children()) - others
                for process in own:
                    process.terminate()
                for process in own:  # so that none writes into the folder while it is removed
                    process.join()


@contextmanager
def _environment(scratch: str) -> Iterator[None]:
    """Give processes started in this context one thread and a scratch folder, read when their libraries load."""
    before = {name: os.environ.get(name) for name in (*_THREADS, _SCRATCH)}
    os.environ.update({**dict.fromkeys(_THREADS, "1"), _SCRATCH: scratch})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Hide Ctrl-C from processes started in this context: the parent ends them, without a message from each."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _start_worker(scratch: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in SIGNALS[1:]:
        signal.signal(number, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, args=(scratch,), daemon=True).start()


def _end_with_parent(scratch: str) -> None:
    """End this worker when its program is killed: it would wait for its next task for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        # The calculation still runs, and would print errors about its removed files.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        shutil.rmtree(scratch, ignore_errors=True)
        os._exit(1)
