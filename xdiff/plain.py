"""Frozen dataclasses from plain data (YAML, JSON) and back: an unknown key is an error that names it; a hash of an entry."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xdiff.errors import InputError
from xdiff.whole_file import whole_file


def from_dict(cls: type, data: Any, where: str = "config") -> Any:
    """Build a frozen dataclass from plain data. Raises InputError on unknown, missing or wrongly typed keys."""
    if not isinstance(data, Mapping):
        raise InputError(where, repr(data), f"a map with keys {[f.name for f in dataclasses.fields(cls)]}")
    hints = typing.get_type_hints(cls)
    unknown = [str(k) for k in data if k not in hints]
    if unknown:
        raise InputError(where, f"unknown key {unknown[0]!r}", f"one of {sorted(hints)}")
    required = [f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING]
    missing = [name for name in required if name not in data]
    if missing:
        raise InputError(where, f"no key {missing[0]!r}", f"the keys {required}")
    return cls(**{key: _convert(hints[key], value, f"{where}.{key}") for key, value in data.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _convert(args[0], value, where)
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value, where)
    if origin is tuple:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise InputError(where, repr(value), "a list")
        return tuple(_convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise InputError(where, repr(value), "a map")
        return {_convert(args[0], k, where): _convert(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if hint is Any:
        return value
    return _scalar(hint, value, where)


def _scalar(hint: type, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, str) and value.lstrip("-").isdigit():
        return int(value)  # JSON turns integer keys into text
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise InputError(where, repr(value), f"a value of type {hint.__name__}")
    return value


def one_of(where: str, value: str, allowed: Sequence[str]) -> None:
    """Raise InputError unless the value is one of those."""
    if value not in allowed:
        raise InputError(where, repr(value), f"one of {list(allowed)}")


def merge(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """Overlay maps key by key and replace everything else, lists included (Snakemake's own semantics)."""
    result = dict(base)
    for key, value in overlay.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merge(result[key], value) if both else value
    return result


def to_json(entry: Any) -> str:
    """Canonical JSON of a dataclass or plain data; what jobs are given and what hashes are made of."""
    data = dataclasses.asdict(entry) if dataclasses.is_dataclass(entry) else entry
    return json.dumps(data, sort_keys=True, separators=(",", ":"))


def write_json(path: Path, data: Any) -> None:
    """Write plain data as JSON. Raises InputError where the file cannot be written (whole_file)."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(data, indent=1) + "\n")


def digest(entry: Any) -> str:
    """First 12 hexadecimal digits of the sha256 of an entry's canonical JSON."""
    return hashlib.sha256(to_json(entry).encode()).hexdigest()[:12]
