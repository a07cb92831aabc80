"""The same pure function on many inputs: in processes of this machine, or on a Dask cluster.

Results come in the order of the inputs, whoever made them, so what is put together of them does not depend on where it
was made. An input whose process was lost is an error here, and is tried elsewhere by Dask.
"""

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from training.errors import TrainingError

# ruff: noqa: PLC0415  Dask is imported where a cluster is asked for

J = TypeVar("J")
R = TypeVar("R")

WAIT_S = 15.0
"""For a cluster that is not there."""
NO_WORKER_S = 60.0
"""For workers where a cluster has none: one that died takes its time to come back."""
_LOOK_S = 1.0
"""How often is looked whether workers are there."""


def cores() -> int:
    """That this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def on_processes(
    function: Callable[[J], R], inputs: Sequence[J], n_processes: int, on_done: Callable[[int], None]
) -> list[R]:
    """Results of `function`, made in processes of this machine; one of them is no process of its own.

    Args:
        function: of a module, so that another process finds it by its name; pure.
        inputs: each of which can be sent to another process.
        n_processes: at once, 1 or more.
        on_done: told the number of results so far.

    Raises:
        TrainingError: a process ended, or what `function` raises.
    """
    if n_processes == 1 or len(inputs) < 2:
        results = []
        for one in inputs:
            results.append(function(one))
            on_done(len(results))
        return results
    # Started anew and not forked: threads of TensorFlow, librdkafka or Arrow do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(n_processes, len(inputs)), context) as pool:
        futures = [pool.submit(function, one) for one in inputs]
        try:
            for done, future in enumerate(as_completed(futures), 1):
                future.result()
                on_done(done)
        except BrokenProcessPool as error:
            raise TrainingError(
                f"one of {n_processes} processes was ended from outside, most likely for want of memory: take fewer "
                "(--processes), or an archive of more partitions, of which each process holds one"
            ) from error
        finally:
            for future in futures:
                future.cancel()
        return [future.result() for future in futures]


def on_dask(function: Callable[[J], R], inputs: Sequence[J], address: str, on_done: Callable[[int], None]) -> list[R]:
    """Results of `function`, made by the workers of a Dask cluster.

    Args:
        function: of a module that the workers have too; pure: what a lost worker had begun, another does again.
        inputs: each of which can be sent to a worker.
        address: of the scheduler, host:port.
        on_done: told the number of results so far.

    Raises:
        TrainingError: no cluster there, none of its workers is left, an input ended several of them, or what `function`
            raises.
    """
    import dask
    from distributed import Client, Future, wait

    results: dict[int, R] = {}
    try:
        client = Client(address, timeout=WAIT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"no Dask scheduler answers at {address} within {WAIT_S:.0f} s: {error}. It is started by `dask scheduler`"
        ) from error
    # Inputs go with their task, not ahead of it: what was sent to a worker ahead is lost with that worker.
    with (
        client,
        client.as_current(),
        dask.config.set({"distributed.admin.large-graph-warning-threshold": "1GB"}),
        _in_words(address),
    ):
        under_way: dict[Future, int] = {}
        seen_s = time.monotonic()
        while len(results) < len(inputs):
            workers = client.scheduler_info()["workers"].values()
            if workers:
                seen_s = time.monotonic()
            elif time.monotonic() > seen_s + NO_WORKER_S:
                raise TrainingError(f"Dask at {address} has no worker; start some: `dask worker {address}`")
            # Two for each thread: one is done while the next one is on its way, and no more are held in memory.
            most = 2 * sum(worker["nthreads"] for worker in workers)
            for at in range(len(results) + len(under_way), min(len(inputs), len(results) + most)):
                under_way[client.submit(function, inputs[at], pure=False)] = at
            if not under_way:
                time.sleep(_LOOK_S)
                continue
            # Nothing may be done yet; or what was done was lost with its worker, and is done again.
            with contextlib.suppress(TimeoutError):
                wait(list(under_way), timeout=_LOOK_S, return_when="FIRST_COMPLETED")
                for future in [one for one in under_way if one.done()]:
                    results[under_way[future]] = future.result(timeout=WAIT_S)
                    del under_way[future]
                    on_done(len(results))
    return [results[at] for at in range(len(inputs))]


@contextlib.contextmanager
def _in_words(address: str) -> Iterator[None]:
    """What goes wrong on a cluster, and what to do."""
    from distributed import CancelledError, KilledWorker

    try:
        yield
    except KilledWorker as error:
        raise TrainingError(
            f"Dask at {address}: several workers died one after the other with the same part of the events, most "
            "likely for want of memory: give each more, or take an archive of more partitions"
        ) from error
    except (CancelledError, OSError) as error:
        raise TrainingError(f"Dask at {address}: the connection to the scheduler was lost: {error}") from error
    except ModuleNotFoundError as error:
        raise TrainingError(
            f"Dask at {address}: its workers lack {error.name!r}; they need this version of this package: "
            "pip install '.[training]'"
        ) from error
