"""Files that are the old or the new one whenever a process is killed or the disk is full, and errors that name them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from xdiff.errors import InputError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, which takes its name at the end of the block. The process is in it: two may write one file.

    Raises InputError where the file system does not let it be written: it is full or read-only, or a limit is reached. What was
    there before is then as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()  # it takes the room that others need
        raise InputError(path, f"{error.strerror} when it was written", "a file system with room for it") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
