"""A deterministic event loop: what runs next is drawn from a seed, threads included, and no time passes by itself.

A function that is handed to an executor becomes a job. A job that meets the simulated brokers calls `pause`, which puts
it aside: then any other job, timer or event of the world may come first. One thing runs at a time.
"""

import asyncio
import contextvars
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import Executor
from random import Random
from typing import Any, ClassVar, Protocol

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


class _Carrier:
    """A thread that runs one job after another; kept from one schedule to the next."""

    idle: ClassVar[list["_Carrier"]] = []

    def __init__(self) -> None:
        self.go = threading.Lock()
        self.back = threading.Lock()
        self.go.acquire()
        self.back.acquire()
        self.work: Callable[[], None] = lambda: None
        threading.Thread(target=self._run, daemon=True, name="carrier").start()

    def _run(self) -> None:
        while True:
            self.go.acquire()
            self.work()
            self.back.release()

    def resume(self) -> None:
        """Let the thread run until it pauses or has done its work."""
        self.go.release()
        self.back.acquire()

    def pause(self) -> None:
        """Called by the thread itself."""
        self.back.release()
        self.go.acquire()


class Job:
    """A function that runs in an executor."""

    current: "Job | None" = None

    def __init__(self, future: "asyncio.Future[Any]", call: Callable[[], Any], owner: Owner | None) -> None:
        self.future = future
        self.owner = owner
        self._call = call
        self._context = contextvars.copy_context()
        self._carrier: _Carrier | None = None
        self.done = False

    def step(self) -> None:
        """Run until it pauses or ends."""
        if self._carrier is None:
            self._carrier = _Carrier.idle.pop() if _Carrier.idle else _Carrier()
            self._carrier.work = lambda: self._context.run(self._run)
        before, Job.current = Job.current, self
        self._carrier.resume()
        Job.current = before
        if self.done:
            _Carrier.idle.append(self._carrier)

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

    def pause(self) -> None:
        """Let others come first.

        Raises:
            Killed: meanwhile its process died.
        """
        assert self._carrier
        self._carrier.pause()
        if self.owner is not None and self.owner.dead:
            raise Killed


def pause() -> None:
    """Of the job that calls."""
    assert Job.current, "only jobs meet the brokers"
    Job.current.pause()


class Loop(asyncio.BaseEventLoop):
    """Draws what runs next."""

    def __init__(self, draw: Random, steps_max: int) -> None:
        super().__init__()
        self._draw = draw
        self.steps_max = steps_max
        self._selector = self
        self._now_s = 0.0
        self.steps = 0
        self.world: Callable[[], list[Callable[[], None]]] = list
        """What may happen outside of the processes now."""
        self._queues: dict[Executor | None, deque[Job]] = defaultdict(deque)
        self._running: dict[Executor, Job] = {}
        self._free: list[Job] = []
        """Jobs of the default executor, which has many threads."""
        self._owners: dict[asyncio.Task[Any], Owner] = {}
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

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
        self._queues[executor].append(Job(future, lambda: func(*args), owner))
        return future

    # --- drawing

    def after_steps(self, n: int) -> "asyncio.Future[None]":
        """Done when `n` steps more were made."""
        future: asyncio.Future[None] = self.create_future()
        self._waiting.append((self.steps + n, future))
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
        due = [w for w in self._waiting if w[0] <= self.steps]
        if due:
            self._waiting = [w for w in self._waiting if w[0] > self.steps]
            for _, future in due:
                if not future.done():
                    future.set_result(None)
            return
        runnable = [*self._jobs(), *self.world()]
        timers = [h.when() for h in self._scheduled if not h.cancelled()]  # type: ignore[attr-defined]
        if timers and (not runnable or self._draw.random() < TIMER_SHARE):
            self._now_s = max(self._now_s, min(timers))
        elif runnable:
            self._draw.choice(runnable)()
        elif self._waiting:
            self.steps = min(at for at, _ in self._waiting)
        else:
            raise StuckError("nothing can run any more")

    def _jobs(self) -> list[Callable[[], None]]:
        found: list[Callable[[], None]] = []
        for executor, queue in self._queues.items():
            if executor is not None and executor in self._running:
                job = self._running[executor]
                if not (job.owner and job.owner.asleep):
                    found.append(lambda job=job, executor=executor: self._run(job, executor))  # type: ignore[misc]
                continue
            while queue and queue[0].future.cancelled():
                queue.popleft()
            if queue and not (queue[0].owner and queue[0].owner.asleep):
                found.append(lambda queue=queue, executor=executor: self._run(queue.popleft(), executor))  # type: ignore[misc]
        found += [
            lambda job=job: self._run(job, None)  # type: ignore[misc]
            for job in self._free
            if not (job.owner and job.owner.asleep)
        ]
        return found

    def _run(self, job: Job, executor: Executor | None) -> None:
        job.step()
        if executor is not None:
            if job.done:
                self._running.pop(executor, None)
            else:
                self._running[executor] = job
        elif job.done:
            self._free = [other for other in self._free if other is not job]
        elif job not in self._free:
            self._free.append(job)

    def bury(self, owner: Owner) -> None:
        """A process is dead: its jobs unwind where they are, its tasks are cancelled."""
        for queue in self._queues.values():
            for job in [job for job in queue if job.owner is owner]:
                job.future.cancel()
                queue.remove(job)
        for executor, job in [(e, j) for e, j in self._running.items() if j.owner is owner]:
            while not job.done:
                job.step()
            del self._running[executor]
        for job in [job for job in self._free if job.owner is owner]:
            while not job.done:
                job.step()
            self._free.remove(job)
        for task, of in list(self._owners.items()):
            if of is owner:
                task.cancel()
