"""One call per item in several processes, where the death of a process is an error of the item that it was at."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from xdiff.errors import InputError

Call = Callable[[Any], Any]


def each(call: Call, items: Sequence, workers: int, where: Callable[[Any], str]) -> Iterator[tuple[Any, Any]]:
    """(item, call(item)) of every item, in the order in which they are done; in this process where `workers` is 1.

    An InputError takes the place of the result of its item. So does the end of its process, killed for memory or by a bug of a
    library: it is noticed at once, told under the name `where(item)`, and another process goes on with the rest. Anything else
    that a call raises ends all, in several processes as a RuntimeError that names the item. `call` and items are pickled.
    """
    if workers < 1:
        raise InputError("--workers", workers, "1 or more processes")
    if workers == 1:
        yield from ((item, _result(call, item)) for item in items)
        return
    waiting, busy, idle, crew = deque(items), {}, [], []
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                if not idle:
                    idle.append(_Worker.start(call))
                    crew.append(idle[-1])
                worker, item = idle.pop(), waiting.popleft()
                worker.give(item)
                busy[worker.pipe] = worker, item
            for pipe in wait(list(busy)):
                worker, item = busy.pop(pipe)
                yield item, worker.result(where(item))
                if worker.process.is_alive():
                    idle.append(worker)
    finally:
        for worker in crew:
            worker.stop()


def write_subjects(write: Callable[..., None], work: Sequence[tuple], workers: int) -> list[str]:
    """`write(folder, ...)` of every tuple of `work`, each folder of another subject; returns the folders' names in order. The
    first error is raised."""
    for _, result in each(partial(_unpacked, write), work, workers, lambda arguments: arguments[0].name):
        if isinstance(result, InputError):
            raise result
    return [arguments[0].name for arguments in work]


def _unpacked(write: Callable[..., None], arguments: tuple) -> None:
    write(*arguments)


def _result(call: Call, item: Any) -> Any:
    try:
        return call(item)
    except InputError as error:
        return error


class _Worker(NamedTuple):
    """A process and this side's end of the pipe to it; the other end is the process's alone, so that its death closes it."""

    process: multiprocessing.Process
    pipe: Connection

    @classmethod
    def start(cls, call: Call) -> _Worker:
        here, there = multiprocessing.Pipe()
        process = multiprocessing.Process(target=_serve, args=(call, there), daemon=True)
        process.start()
        there.close()
        return cls(process, here)

    def give(self, item: Any) -> None:
        with suppress(BrokenPipeError):  # dead while it was idle: `result` tells
            self.pipe.send(item)

    def result(self, name: str) -> Any:
        """What the process made of its item; an InputError where it died over it."""
        try:
            kind, value = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            code = self.process.exitcode
            ended = f"a worker process that ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}"
            return InputError(name, ended, "one that lives on (signal 9 mostly means no memory: fewer workers need less)")
        if kind == "bug":
            raise RuntimeError(f"{name}: {value}")
        return InputError(*value) if kind == "input error" else value

    def stop(self) -> None:
        self.process.terminate()
        self.process.join()
        self.pipe.close()


def _serve(call: Call, pipe: Connection) -> None:
    """One item after the other, until the parent stops this process or has died."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which stops all
    parent = multiprocessing.parent_process()
    while pipe in wait([pipe, parent.sentinel]):
        pipe.send(_answer(call, pipe.recv()))


def _answer(call: Call, item: Any) -> tuple[str, Any]:
    try:
        return "done", call(item)
    except InputError as error:
        return "input error", (error.where, error.found, error.expected)
    except Exception:
        return "bug", traceback.format_exc()
