"""Work ahead of the consumer, in order, by a few threads, with a bound on what waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

Job = tuple[T, Sequence[Callable[[], object]]]


def prefetch(jobs: Iterable[Job[T]], workers: int, ahead: int = 2) -> Iterator[T]:
    """The value of each job, in order, once all its tasks have run.

    jobs: (value, tasks); drawn lazily, at most `ahead` beyond the one that the consumer holds.
    workers: threads; 0 runs the tasks where the consumer waits.
    A task's exception comes out at its job's turn. On any exit (end, exception, interrupt, `close`) tasks not yet begun
    are dropped and the threads are joined.
    """
    if not workers:
        for value, tasks in jobs:
            for task in tasks:
                task()
            yield value
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="netopsy-samples")
    waiting: deque[tuple[T, list[Future[object]]]] = deque()
    try:
        for value, tasks in jobs:
            waiting.append((value, [pool.submit(task) for task in tasks]))
            if len(waiting) > ahead:
                yield _finish(*waiting.popleft())
        while waiting:
            yield _finish(*waiting.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _finish(value: T, futures: list[Future[object]]) -> T:
    for future in futures:
        future.result()
    return value
