"""xdiff: a 3D MRI volume from one slice or a few, and an honest measurement of it."""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`xdiff.reconstruct`, loaded when it is first asked for: the verbs that draw or count need none of it."""
    if name == "reconstruct":
        from xdiff.reconstruction import reconstruct

        return reconstruct
    raise AttributeError(f"module 'xdiff' has no attribute {name!r}")
