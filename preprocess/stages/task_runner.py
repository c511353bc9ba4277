"""Runner of tasks in threads of this process or on a Dask cluster, with the same results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from threadpoolctl import threadpool_limits
from tqdm import tqdm

from preprocess.input.pairs import PairFiles
from preprocess.stages.cluster import RETRIES, STARTING, open_cluster, other_code, own_code
from shared.errors import UserError
from shared.job_limits import usable_cores

Result = TypeVar("Result")

_MEMORY_BYTES = 512 << 20
_CHUNKS_PER_TASK = 2.5
"""Chunks that a task holds at a time: its input, one read ahead, and the output."""


class TaskRunner(Generic[Result]):
    """A runner of tasks (callables without arguments)."""

    def __init__(self, executor: Executor, remote: bool) -> None:
        self._executor = executor
        self._remote = remote

    def run(self, tasks: Sequence[Callable[[], Result]], label: str, amounts: Sequence[int]) -> list[Result]:
        """Run all tasks under a progress bar; return the result of each, in their order.

        Args:
            tasks: must be picklable for a cluster, and may run more than once there.
            label: of the progress bar.
            amounts: molecules of each task, for the progress bar.

        Raises:
            UserError: the one of the first task that raises one; a worker that died repeatedly.
            OSError: raised by a task.
        """
        calls: Sequence[Callable[[], Any]] = (
            [partial(_guarded, task, own_code()) for task in tasks] if self._remote else tasks
        )
        futures: dict[Future[Any], int] = {self._executor.submit(call): i for i, call in enumerate(calls)}
        results: dict[int, Result] = {}
        try:
            with tqdm(total=sum(amounts), desc=label, unit="mol", unit_scale=True, disable=None) as bar:
                for future in as_completed(futures):
                    results[futures[future]] = self._result(future)
                    bar.update(amounts[futures[future]])
        except UserError:
            raise self._first_error(futures) from None
        finally:
            for future in futures:
                future.cancel()
            if not self._remote:
                wait(futures)  # a task that still runs must not write into a folder that is being discarded
        return [results[i] for i in range(len(tasks))]

    def _result(self, future: Future[Any]) -> Result:
        if not self._remote:
            return future.result()
        from distributed.scheduler import KilledWorker

        try:
            result = future.result()
        except KilledWorker as error:
            raise UserError(
                f"a worker process died {RETRIES + 1} times over the same task, last on {error.last_worker.address}; "
                "the likely cause is memory: give the workers more, or use fewer; the same command goes on from the "
                "finished shards"
            ) from error
        except ImportError as error:
            raise UserError(f"a Dask worker that joined later lacks this program ({error}); {STARTING}") from error
        if isinstance(result, UserError):
            raise result
        return result

    def _first_error(self, futures: dict[Future[Any], int]) -> UserError:
        """Return the error of the first task in order, so that the same input gives the same message."""
        for future in sorted(futures, key=lambda future: futures[future]):
            if future.done() and not future.cancelled():
                try:
                    self._result(future)
                except UserError as error:
                    return error
        raise AssertionError("called after a task failed")


def _guarded(task: Callable[[], Result], code: Mapping[str, str]) -> Result | UserError:
    # A mistake in the data is returned: Dask would retry the task after an exception, in vain.
    if different := other_code(code):  # a worker that came after the others were asked
        return UserError(f"a Dask worker that joined later has {different}; {STARTING}")
    try:
        return task()
    except UserError as error:
        return error


@contextmanager
def open_task_runner(
    workers: int, scheduler: str, chunk_bytes: float, files: list[PairFiles], cache_dir: Path | None
) -> Iterator[TaskRunner[Any]]:
    """Open a runner: threads of this process by default, or Dask.

    Args:
        workers: processes of a local Dask cluster (0 = none).
        scheduler: address of a Dask scheduler that is already there ("" = none).
        chunk_bytes: input bytes of a task, which limit the threads to what memory holds.
        files: the input, which workers have to see.
        cache_dir: the cache, which they have to see where they write; None where they only read.

    Raises:
        UserError: the scheduler cannot be reached, or a worker lacks something.
    """
    # Tasks take the cores; threads of the BLAS would wait for each other ten times as long as small solutions take.
    with threadpool_limits(1, user_api="blas"):
        if scheduler or workers:
            inputs = {str(npz.path): npz.content_digest for file in files for npz in file.files.values()}
            with open_cluster(workers, scheduler, inputs, cache_dir) as client:
                yield TaskRunner(client.get_executor(retries=RETRIES, pure=False), remote=True)
            return
        threads = max(1, min(usable_cores(), int(_MEMORY_BYTES / (_CHUNKS_PER_TASK * chunk_bytes))))
        with ThreadPoolExecutor(threads, thread_name_prefix="preprocess") as pool:
            yield TaskRunner(pool, remote=False)
