"""Arrays in safetensors files small enough to travel, no pickles: weights folders, states of a training, and kept results.

A weights folder is `weights.safetensors` (arrays, config inside) and `config.json` with its sha256. What does not fit into one
file of SHARD_MIB goes on in `weights-2.safetensors`, ..., and config.json has the sha256 of each in `shards`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from xdiff import team
from xdiff.errors import InputError
from xdiff.locks import one_at_a_time
from xdiff.whole_file import whole_file

Tensors = dict[str, np.ndarray]
FILE = "weights.safetensors"
CONFIG = "config.json"
HISTORY = "history.jsonl"  # what an iterative method leaves in its workdir, one JSON object per validation check
SHARD_MIB = 15  # a machine that is lent gives back no file above 16
HEADER_BYTES = 2**16  # of a shard, for its metadata
ENTRY_BYTES = 256  # of the header for one array, besides its name

# Weights folders ----------------------------------------------------------------------------------------------------


def write_weights(folder: Path, tensors: Tensors, config: dict) -> str:
    """Write a weights folder, the config last; returns its sha256: of the weights file, or of its shards' hashes joined.

    `seconds` stays out of the hashed file: the same training gives the same bytes, however long it took.
    """
    folder.mkdir(parents=True, exist_ok=True)
    contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    described = {k: v for k, v in config.items() if k != "shards"}  # of weights read, changed and written again
    # a safetensors file needs at least one tensor to be worth a file; methods that learn nothing have an empty one
    hashed = json.dumps({k: v for k, v in described.items() if k != "seconds"}, sort_keys=True)
    shas = []
    for number, data in enumerate(_shards(contiguous or {"empty": np.zeros(1, np.uint8)}, {"config": hashed})):
        _replace(folder / _shard_name(number), data)
        shas.append(hashlib.sha256(data).hexdigest())
    described["sha256"] = _joint_sha(shas)
    if len(shas) > 1:
        described["shards"] = shas
    _replace(folder / CONFIG, (json.dumps(described, indent=1, sort_keys=True) + "\n").encode())
    _remove_others(folder, "weights", {_shard_name(number) for number in range(len(shas))})
    return described["sha256"]


def read_weights(folder: Path) -> tuple[Tensors, dict]:
    """Arrays and config of a weights folder (or its weights file). Raises InputError where a file is missing or a sha256 does
    not fit."""
    folder = Path(folder).parent if Path(folder).name == FILE else Path(folder)
    config_path = folder / CONFIG
    for needed in (config_path, folder / FILE):
        if not needed.exists():
            raise InputError(needed, "no such file", "a weights folder with weights.safetensors and config.json")
    config = _read_index(config_path, "sha256", "the config of a weights folder, with its sha256")
    shas = config.get("shards", [config["sha256"]])
    if _joint_sha(shas) != config["sha256"]:
        raise InputError(config_path, f"sha256 {config['sha256'][:12]}", f"{_joint_sha(shas)[:12]}, as its shards' hashes give")
    tensors = _read_shards({folder / _shard_name(number): sha for number, sha in enumerate(shas)}, config_path)
    tensors.pop("empty", None)
    return tensors, config


def keep_once(path: Path, make: Callable[[], Tensors], together: bool = False) -> Tensors:
    """Arrays of the weights folder `path`; where there is none yet, those of `make`, written there first.

    In several processes (team.py) the first one makes it and the others read it; `together`: all of them call `make`.

    Whoever asks for the same at the same time waits for the one who makes it, at most as long as the time budget lasts (then
    OutOfTime). Where `make` fails or runs out of time nothing is written. Raises InputError where what is kept is damaged.
    """
    if not team.is_first():
        if team.from_first(None) and together:
            make()
        team.wait()
        return read_weights(path)[0]
    with one_at_a_time(path):
        if team.from_first(not (path / CONFIG).exists()):
            with nullcontext() if together else team.alone():
                write_weights(path, make(), {})
        team.wait()
        return read_weights(path)[0]


# States of a training -----------------------------------------------------------------------------------------------


def write_state(index: Path, tensors: Tensors, counters: Mapping[str, int | float]) -> None:
    """Write arrays and numbers as one: the JSON file `index` and, beside it, shards named by their content.

    Killed at any moment, the old state or the new one is left whole: a shard of the old one is never written over, `index` is
    replaced when all shards of the new one are there, and only then the old ones are removed.
    """
    shards = {}
    for data in _shards(tensors, {}):
        sha = hashlib.sha256(data).hexdigest()
        path = index.with_name(f"{index.stem}-{sha[:16]}.safetensors")
        shards[path.name] = sha
        if not path.exists():
            _replace(path, data)
    _replace(index, json.dumps({"counters": dict(counters), "shards": shards}, indent=1).encode())
    _remove_others(index.parent, index.stem, set(shards))


def read_state(index: Path) -> tuple[Tensors, dict]:
    """Arrays and numbers that `write_state` wrote. Raises InputError where a shard is missing or damaged."""
    state = _read_index(index, "shards", "the index of a checkpoint; without its folder the training starts clean")
    return _read_shards({index.with_name(name): sha for name, sha in state["shards"].items()}, index), state["counters"]


# Shards -------------------------------------------------------------------------------------------------------------


def _shard_name(number: int) -> str:
    return f"weights-{number + 1}.safetensors" if number else FILE


def _joint_sha(shas: list[str]) -> str:
    return shas[0] if len(shas) == 1 else hashlib.sha256("".join(shas).encode()).hexdigest()


def _shards(tensors: Tensors, metadata: dict[str, str]) -> Iterator[bytes]:
    """Files of at most SHARD_MIB with all arrays in the order of their names; `metadata` in the first one."""
    capacity = int(SHARD_MIB * 2**20) - HEADER_BYTES
    shard, pieces, used = {}, {}, 0
    for key, array, piece in _pieces(tensors, capacity):
        cost = array.nbytes + len(key) + ENTRY_BYTES
        if shard and used + cost > capacity:
            yield save(shard, _with_pieces(metadata, pieces))
            shard, pieces, used, metadata = {}, {}, 0, {}
        shard[key], used = array, used + cost
        if piece:
            pieces[key] = piece
    yield save(shard, _with_pieces(metadata, pieces))


def _with_pieces(metadata: dict[str, str], pieces: dict[str, tuple]) -> dict[str, str]:
    return {**metadata, "pieces": json.dumps(pieces)} if pieces else metadata


def _pieces(tensors: Tensors, capacity: int) -> Iterator[tuple[str, np.ndarray, tuple | None]]:
    """Every array with its key and None, or, where it is larger than `capacity` bytes, its flat pieces in order: key, piece and
    (name, first element, shape of the whole). Flat, since one row of the first axis may be too large already."""
    for name, array in sorted(tensors.items()):
        if array.nbytes + len(name) + ENTRY_BYTES <= capacity:
            yield name, np.asarray(array, order="C"), None
            continue
        flat, length = array.reshape(-1), (capacity - len(name) - 2 * ENTRY_BYTES) // array.itemsize
        for start in range(0, len(flat), length):
            piece = flat[start : start + length]
            yield f"{name}[{start}:{start + len(piece)}]", piece, (name, start, array.shape)


def _read_shards(shas: dict[Path, str], index: Path) -> Tensors:
    """All arrays of these files, pieces joined; `index` is the file that lists them."""
    tensors: Tensors = {}
    pieces: dict[str, list] = {}
    for path, wanted in shas.items():
        if not path.exists():
            raise InputError(path, "no such file", f"one of {len(shas)} shards as {index.name} says")
        sha = hashlib.sha256(path.read_bytes()).hexdigest()
        if sha != wanted:
            raise InputError(path, f"sha256 {sha[:12]}", f"{wanted[:12]} as {index.name} says")
        with safe_open(path, framework="numpy") as handle:
            tensors |= {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
            pieces |= json.loads((handle.metadata() or {}).get("pieces", "{}"))
    wholes: dict[str, list[tuple[int, np.ndarray]]] = {}
    for key, (name, start, _) in pieces.items():
        wholes.setdefault(name, []).append((start, tensors.pop(key)))
    shapes = {name: shape for name, _, shape in pieces.values()}
    for name, parts in wholes.items():
        tensors[name] = np.concatenate([part for _, part in sorted(parts, key=lambda p: p[0])]).reshape(shapes[name])
    return tensors


def _read_index(path: Path, key: str, expected: str) -> dict:
    """A JSON file with `key`."""
    try:
        index = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise InputError(path, f"broken JSON ({error})", expected) from error
    if not isinstance(index, dict) or key not in index:
        raise InputError(path, f"no key {key!r}", expected)
    return index


def _replace(path: Path, data: bytes) -> None:
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def _remove_others(folder: Path, stem: str, kept: set[str]) -> None:
    """Shards that an earlier write left and this one did not, and what a killed one left half written."""
    for pattern in (f"{stem}-*.safetensors", f".{stem}-*.safetensors.*.tmp"):
        for path in folder.glob(pattern):
            if path.name not in kept:
                path.unlink()
