"""Work spread over processes that import nothing of the calling program.

`multiprocessing` either forks (unsafe once libraries have started threads) or imports the caller's main module again
(which runs a script without a main guard twice). These workers are plain `python -m pomona.data.workers` processes
that read one JSON task per line and answer with one JSON line; bulk results go through files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from threading import local
from typing import Any

from pomona.ground import errors
from pomona.ground.errors import PomonaError

Task = Mapping[str, Any]


def default_workers() -> int:
    """One worker per core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_tasks(function: str, tasks: Sequence[Task], workers: int | None = None) -> Iterator[Any]:
    """Yield `function(task)` for every task, in order, as soon as it and all before it are done.

    Args:
        function: `module:name` of a function from a JSON-able mapping to a JSON-able value.
        workers: processes; 1, or a single task, stays in this process. Default: one per core.

    Raises:
        PomonaError: as raised by the function, also in another process.
    """
    workers = min(workers or default_workers(), len(tasks))
    if workers <= 1:
        call = _load(function)
        yield from map(call, tasks)
        return
    here = local()
    started: list[subprocess.Popen[str]] = []

    def ask(task: Task) -> Any:
        if not hasattr(here, "worker"):
            here.worker = _start(function)
            started.append(here.worker)
        return _ask(here.worker, task)

    with ThreadPoolExecutor(workers) as pool:
        try:
            waiting: deque[Future[Any]] = deque()
            for task in tasks:
                waiting.append(pool.submit(ask, task))
                if len(waiting) > 4 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in started:
                worker.kill()
                worker.communicate()


def _start(function: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen(
        [sys.executable, "-m", "pomona.data.workers", function],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment,
    )


def _ask(worker: subprocess.Popen[str], task: Task) -> Any:
    assert worker.stdin is not None and worker.stdout is not None
    try:
        worker.stdin.write(json.dumps(task) + "\n")
        worker.stdin.flush()
        line = worker.stdout.readline()
    except BrokenPipeError:
        line = ""
    if not line:
        raise PomonaError(
            "a worker process died",
            found=f"exit code {worker.wait()}",
            do="free memory or use fewer workers, then repeat the command",
        )
    answer = json.loads(line)
    if "error" in answer:
        raise getattr(errors, answer["error"])(answer["what"], **answer["facts"])
    return answer["result"]


def _load(function: str) -> Callable[[Task], Any]:
    module, _, name = function.partition(":")
    loaded: Callable[[Task], Any] = getattr(import_module(module), name)
    return loaded


def main() -> None:
    """Serve tasks from standard input until it closes."""
    call = _load(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer
    for line in sys.stdin:
        try:
            answer = {"result": call(json.loads(line))}
        except PomonaError as error:
            facts = {name: getattr(error, name) for name in ("where", "needs", "found", "do")}
            answer = {"error": type(error).__name__, "what": error.what, "facts": facts}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
