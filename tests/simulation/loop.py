"""A deterministic event loop: what runs next is drawn from a seed, threads included, and no time passes by itself.

A function that is handed to an executor becomes a job: a greenlet. A job that meets the simulated brokers calls
`pause`, which puts it aside: then any other job, timer or event of the world may come first. One thing runs at a time.
"""

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from random import Random
from typing import Any, Protocol

from greenlet import greenlet

BEGIN_NS = 1_760_000_120_000_000_000
"""The wall clock when a schedule begins: two minutes after what `tests.simulation.shop` publishes."""
TIMER_SHARE = 0.05
"""Of the steps in which a timer and something else may come, those that the timer gets."""


class Killed(BaseException):
    """The process that this job belonged to is dead."""


class StuckError(AssertionError):
    """Nothing can run any more, or it runs for ever."""


class Owner(Protocol):
    """A process: what it has under way goes on only while it is awake, and is gone when it is dead."""

    dead: bool
    asleep: bool


OWNER: contextvars.ContextVar[Owner | None] = contextvars.ContextVar("OWNER", default=None)
"""Whose task or job runs now."""


class Job:
    """A function that runs in an executor."""

    current: "Job | None" = None

    def __init__(self, future: "asyncio.Future[Any]", call: Callable[[], Any], owner: Owner | None) -> None:
        self.future = future
        self.owner = owner
        self._call = call
        self._greenlet = greenlet(self._run)
        self._greenlet.gr_context = contextvars.copy_context()
        self._until: Callable[[], bool] | None = None
        self.begun = False
        self.done = False

    def may_run(self) -> bool:
        """Whether its process is awake and what it waits for has come."""
        return not (self.owner is not None and self.owner.asleep) and (self._until is None or self._until())

    def step(self) -> None:
        """Run until it pauses or ends."""
        self.begun = True
        before, Job.current = Job.current, self
        self._greenlet.switch()
        Job.current = before

    def _run(self) -> None:
        try:
            result = self._call()
        except Killed:
            self.future.cancel()
        except BaseException as e:  # noqa: BLE001 what a job raises is its future's
            if not self.future.done():
                self.future.set_exception(e)
        else:
            if not self.future.done():
                self.future.set_result(result)
        self.done = True

    def pause(self, until: Callable[[], bool] | None) -> None:
        """Let others come first.

        Raises:
            Killed: meanwhile its process died.
        """
        self._until = until
        parent = self._greenlet.parent
        assert parent is not None
        parent.switch()
        if self.owner is not None and self.owner.dead:
            raise Killed


def pause(until: Callable[[], bool] | None = None) -> None:
    """Of the job that calls: others come first, and whatever makes `until` true."""
    assert Job.current, "only jobs meet the brokers"
    Job.current.pause(until)


class _Task(asyncio.Task[Any]):
    """One whose place in a set does not depend on where it lies in memory: asyncio keeps tasks in sets."""

    def __init__(self, coro: Any, *, loop: "Loop", **given: Any) -> None:
        loop.n_tasks += 1
        self._number = loop.n_tasks
        super().__init__(coro, loop=loop, **given)

    def __hash__(self) -> int:
        return self._number


class Loop(asyncio.BaseEventLoop):
    """Draws what runs next."""

    def __init__(self, draw: Random, steps_max: int) -> None:
        super().__init__()
        self.n_tasks = 0
        self.set_task_factory(lambda _loop, coro, **given: _Task(coro, loop=self, **given))
        self._draw = draw
        self.steps_max = steps_max
        self._selector = self
        self._now_s = 0.0
        self.steps = 0
        self.drawn = 0
        """Steps in which something was drawn from what may happen."""
        self.world: Callable[[], list[Callable[[], None]]] = list
        """What may happen outside of the processes now."""
        self._queues: dict[Executor, deque[Job]] = {}
        """Of executors with one thread: the first job is the one that runs."""
        self._free: list[Job] = []
        """Jobs of the default executor, which has many threads."""
        self._n_waits = 0
        self._owners: dict[asyncio.Task[Any], Owner] = {}
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []

    # --- what asyncio asks of an event loop

    def create_task(self, coro: Any, **given: Any) -> "asyncio.Task[Any]":
        task = super().create_task(coro, **given)
        owner = OWNER.get()
        if owner is not None:
            self._owners[task] = owner
            task.add_done_callback(lambda done: self._owners.pop(done, None))
            if owner.dead:
                task.cancel()
        return task

    def time(self) -> float:
        return self._now_s

    def _process_events(self, events: object) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:  # type: ignore[override]
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":  # type: ignore[override]
        owner = OWNER.get()
        future: asyncio.Future[Any] = self.create_future()
        if owner is not None and owner.dead:
            future.cancel()
            return future
        if executor is not None and executor._shutdown:
            raise RuntimeError("cannot schedule new futures after shutdown")
        job = Job(future, lambda: func(*args), owner)
        if executor is None:
            self._free.append(job)
        else:
            self._queues.setdefault(executor, deque()).append(job)
        return future

    @contextmanager
    def clock(self) -> Iterator[None]:
        """The product reads this loop's time, and sleeps in it."""
        names = ("monotonic", "time_ns", "sleep")
        real = {name: getattr(time, name) for name in names}
        ours = {"monotonic": self.time, "time_ns": lambda: BEGIN_NS + int(self._now_s * 1e9), "sleep": self._sleep}
        try:
            for name in names:
                setattr(time, name, ours[name])
            yield
        finally:
            for name in names:
                setattr(time, name, real[name])

    def _sleep(self, seconds: float) -> None:
        self._now_s += seconds
        pause()

    # --- drawing

    def after_steps(self, n: int) -> "asyncio.Future[None]":
        """Done when `n` steps more were made."""
        future: asyncio.Future[None] = self.create_future()
        self._waiting.append((self.steps + n, self._n_waits, future))
        self._n_waits += 1
        return future

    def select(self, timeout: float | None) -> list[object]:
        """Called by asyncio when it looks for something to do: with 0 when there is something already."""
        if timeout != 0:
            self._step()
        return []

    def _step(self) -> None:
        self.steps += 1
        if self.steps > self.steps_max:
            raise StuckError(f"not done after {self.steps} steps")
        if self._waiting and min(self._waiting)[0] <= self.steps:
            _, _, future = self._waiting.pop(self._waiting.index(min(self._waiting)))
            if not future.done():
                future.set_result(None)
            return
        runnable = [*self._jobs(), *self.world()]
        timers = [h.when() for h in self._scheduled if not h.cancelled()]  # type: ignore[attr-defined]
        if timers and (not runnable or self._draw.random() < TIMER_SHARE):
            self._now_s = max(self._now_s, min(timers))
        elif runnable:
            self.drawn += 1
            self._draw.choice(runnable)()
        elif self._waiting:
            self.steps = min(self._waiting)[0]
        elif not self._queues and not self._free:
            raise StuckError("nothing can run any more")

    def _jobs(self) -> list[Callable[[], None]]:
        for executor, queue in list(self._queues.items()):
            while queue and not queue[0].begun and queue[0].future.cancelled():
                queue.popleft()
            if not queue:
                del self._queues[executor]
        first = [queue[0] for queue in self._queues.values()]
        return [partial(self._run, job) for job in (*first, *self._free) if job.may_run()]

    def _run(self, job: Job) -> None:
        job.step()
        if job.done:
            self._forget(job)

    def _forget(self, job: Job) -> None:
        for queue in (*self._queues.values(), self._free):
            if job in queue:
                queue.remove(job)

    def bury(self, owner: Owner) -> None:
        """A process is dead: its jobs unwind where they are, its tasks are cancelled."""
        for job in [job for queue in (*self._queues.values(), self._free) for job in queue if job.owner is owner]:
            if not job.begun:
                job.future.cancel()
            while job.begun and not job.done:
                job.step()
            self._forget(job)
        for task, of in list(self._owners.items()):
            if of is owner:
                task.cancel()
