"""A training takes the memory of what it looks at, not of the cohort: fifty times the subjects, the same peak."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY

from xdiff.data.store import Store

pytestmark = pytest.mark.slow  # two minutes: every start imports torch and MONAI

SHAPE, CONTRASTS = (32, 32, 32), ("a", "b")
FEW, MANY, VALIDATION, DIFFERENT = 40, 2000, 4, 44
CORE = {"max_volumes": 20, "cases": 24, "voxels": 300, "steps": 20, "width": 16}
SMALL = {
    "core": CORE,
    "channels": [8, 16],
    "volumes": 2,
    "steps": 8,
    "validate_every": 4,
    "validate_subjects": 2,
    "validate_k": [1, 3],
}
ENTRIES = {
    "gaussian": {"module": "baselines.trivial", "params": {"kind": "gaussian", "max_volumes": 20}},
    "unet": {"module": "baselines.unet", "params": SMALL},
    "xdiff": {"module": "xdiff.model.method", "params": {**SMALL, "trunk_channels": [8, 16], "sections": 4}},
}
# In a process of its own, whose peak is that of the training.
RUN = """
import json, sys
from pathlib import Path
from xdiff.config import MethodEntry
from xdiff.data.split import make_split
from xdiff.data.store import Store
from xdiff.ledger import peak_mib
from xdiff.train import train

store, count = Store(sys.argv[1]), int(sys.argv[4])
split = make_split([(s, s, "val" if i < count else "train") for i, s in enumerate(store.subjects)])
train("m", MethodEntry(**json.loads(sys.argv[2])), store, split, Path(sys.argv[3]) / "m")
print("PEAK", peak_mib())
"""


def write_store(folder: Path, count: int) -> Path:
    """A store of `count` heads with VALIDATION more, DIFFERENT of which differ; the others are links to these."""
    volumes = folder / "volumes"
    volumes.mkdir(parents=True)
    x, y, z = np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in SHAPE), indexing="ij")
    inside, names = x**2 + y**2 + z**2 < 1, [f"sub-{i:04d}" for i in range(count + VALIDATION)]
    for i, name in enumerate(names):
        if i >= DIFFERENT:
            for kind in (".npy", "_foreground.npy", ".json"):
                os.link(volumes / f"{names[i % DIFFERENT]}{kind}", volumes / f"{name}{kind}")
            continue
        rng = np.random.default_rng(i)
        image = 0.5 + 0.2 * rng.standard_normal() * x + 0.2 * rng.standard_normal() * y * z + 0.05 * rng.standard_normal(SHAPE)
        image = np.where(inside, image, 0)
        np.save(volumes / f"{name}.npy", np.stack([image, np.where(inside, 1 - image / 2, 0)]).astype(np.float16))
        np.save(volumes / f"{name}_foreground.npy", inside)
        described = {"affine": np.eye(4).tolist(), "spacing_mm": [6.0] * 3, "scale": [1.0, 1.0], "sources": {}}
        (volumes / f"{name}.json").write_text(json.dumps(described))
    info = {"cohort": "heads", "grid": "32", "contrasts": CONTRASTS, "labels": {}, "shape": SHAPE, "spacing_mm": 6.0}
    info |= {"native_axis": "", "frame": "centred", "norm": "p99.5", "fingerprint": str(count), "source": ""}
    (folder / "dataset.json").write_text(json.dumps(info))
    (folder / "index.tsv").write_text("\n".join(["subject\tcropped\tsha256", *(f"{n}\t0\t{n}" for n in names)]) + "\n")
    return folder


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    return {count: write_store(tmp_path_factory.mktemp("store") / str(count), count) for count in (FEW, MANY)}


def peak_mib(store: Path, entry: dict, out: Path) -> float:
    command = [sys.executable, "-c", RUN, str(store), json.dumps(entry), str(out), str(VALIDATION)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return float(done.stdout.splitlines()[-1].removeprefix("PEAK "))


@pytest.mark.parametrize("method", ENTRIES)
def test_fifty_times_the_subjects_take_no_more_memory(method: str, stores: dict[int, Path], tmp_path: Path) -> None:
    """What a store grows by, at its own precision, is far more than a peak differs from one run to the next."""
    grown_mib = (MANY - FEW) * np.prod(SHAPE) * len(CONTRASTS) * 2 / 2**20
    few, many = (peak_mib(stores[count], ENTRIES[method], tmp_path / str(count)) for count in (FEW, MANY))
    print(f"{method}: peak {few:.0f} MiB with {FEW} subjects, {many:.0f} with {MANY}, whose volumes are {grown_mib:.0f} MiB more")
    assert len(Store(stores[MANY]).subjects) == MANY + VALIDATION
    assert many - few < grown_mib / 3
