"""Small stores that several test files share, made once per test process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from xdiff.config import Cohort, Grid, Labels, MethodEntry, SplitRule, Sweep
from xdiff.data.cohorts import find_subjects
from xdiff.data.gaussian_field import write_gaussian_field
from xdiff.data.preprocess import preprocess
from xdiff.data.split import Split, split_by_count, write_split
from xdiff.data.store import Store
from xdiff.observation import Observation, observe
from xdiff.planes import Plane
from xdiff.sample import sample
from xdiff.train import train
from xdiff.unit_costs import Costs, read_costs
from xdiff.volumes import read_volume, write_volume

REPOSITORY = Path(__file__).resolve().parents[1]
PRESETS = REPOSITORY / "workflow" / "presets"
FIELD_SHAPE = (20, 24, 18)
# presets that say of themselves what they go over
UNDER = {
    "gpu": ["real-brains-2mm"],
    "gpu-lease": ["gpu"],
    "gpu-ablation": ["ablation"],
    "ablation-sampler": ["ablation"],
    "external-48": ["real-brains-48"],
    "paper": ["brats", "ukb", "knee", "open-data"],
    "tune-unet": ["real-brains-48"],
    "baselines-32": ["real-brains-48"],
}


def hide_torch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch, and a monai, that cannot be imported come first on the path of every process from now on."""
    for name in ("torch", "monai"):
        (folder / "broken" / name).mkdir(parents=True)
        (folder / "broken" / name / "__init__.py").write_text("raise ImportError('not for figures')\n")
    monkeypatch.setenv("PYTHONPATH", str(folder / "broken"))


def overlays(preset: Path) -> list[Path]:
    """What goes over config.yaml for a configuration of workflow/presets, or for config.yaml itself."""
    if preset.name == "config.yaml":
        return []
    below = [path for name in UNDER.get(preset.stem, []) for path in overlays(PRESETS / f"{name}.yaml")]
    return [*below, preset]


class Prepared(NamedTuple):
    """A preprocessed cohort: the store, its split, and the split's file."""

    store: Store
    split: Split
    split_file: Path


def prepare(cohort: Cohort, grid: Grid, names: tuple[str, str], root: Path, out: Path) -> Prepared:
    """Split and preprocess a raw cohort as the rules do."""
    subjects = [files.subject for files in find_subjects(cohort, root)]
    split = split_by_count(subjects, cohort.split.seed, cohort.split.n_val, cohort.split.n_test)
    write_split(split, out / names[0] / "split.tsv")
    preprocess(cohort, grid, names, root, split, out / names[0] / names[1])
    return Prepared(Store(out / names[0] / names[1]), split, out / names[0] / "split.tsv")


@pytest.fixture(scope="session")
def field(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """14 Gaussian fields of 20 x 24 x 18 voxels at 4 mm: 9 train, 2 val, 3 test; one contrast, no background."""
    folder = tmp_path_factory.mktemp("field")
    write_gaussian_field(folder / "raw", n_subjects=14, seed=3, shape=FIELD_SHAPE, spacing_mm=4.0)
    cohort = Cohort("gaussian-field", ("field",), foreground="all", norm="none", split=SplitRule(n_val=2, n_test=3))
    return prepare(cohort, Grid(FIELD_SHAPE, 4.0), ("gaussian-field", "tiny"), folder / "raw", folder / "data")


HEAD_AFFINE = np.array([[-2.0, 0, 0, 31.5], [0, -1.995, 0.14, 20.0], [0, 0.14, 1.995, -17.25], [0, 0, 0, 1.0]])


def write_heads(root: Path, n: int = 8) -> None:
    """n heads of 22 x 26 x 20 voxels at 2 mm in BIDS layout, two contrasts on different scales, stored as LPS and tilted."""
    x, y, z = np.meshgrid(*(np.linspace(-1.3, 1.3, s) for s in (22, 26, 20)), indexing="ij")
    for i in range(n):
        rng = np.random.default_rng([11, i])
        radius = (x * rng.uniform(0.95, 1.1)) ** 2 + (y * rng.uniform(0.95, 1.1)) ** 2 + z**2
        for suffix, top in (("T1w", 900.0), ("T2w", 240.0)):
            texture = 1 - 0.4 * np.minimum(radius, 1) + 0.1 * rng.standard_normal(radius.shape)
            image = np.where(radius < 1, np.clip(top * texture, 1, None), 0)
            write_volume(root / f"sub-{i:02d}/anat/sub-{i:02d}_{suffix}.nii.gz", image.round().astype(np.float32), HEAD_AFFINE)


HEADS = Cohort("bids", ("T1w", "T2w"), split=SplitRule(n_val=1, n_test=2), source="https://example.org/heads (CC0)")


@pytest.fixture(scope="session")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """8 heads on a grid of their own spacing, 24 x 28 x 22 at 2 mm, two contrasts: 5 train, 1 val, 2 test."""
    folder = tmp_path_factory.mktemp("heads")
    write_heads(folder / "raw")
    return prepare(HEADS, Grid((24, 28, 22), 2.0), ("heads", "2mm"), folder / "raw", folder / "data")


def write_tumours(root: Path, n: int = 8) -> None:
    """Tumours in `write_heads`, dark in T1w and bright in T2w: oedema with an enhancing rim about a core, elsewhere in each; in
    every other head a second."""
    for i in range(n):
        labels = np.zeros((22, 26, 20), np.uint8)
        at = 6 + i % 3
        labels[at : at + 8, 6:13, 6:14] = 2  # all in the front half: mirrored they lie elsewhere
        labels[at + 1 : at + 7, 7:12, 8:12] = 3
        labels[at + 2 : at + 5, 8:11, 9:11] = 1
        if i % 2:
            labels[8:11, 20:23, 15:18] = 2
        stem = root / f"sub-{i:02d}/anat/sub-{i:02d}"
        write_volume(Path(f"{stem}_seg.nii.gz"), labels, HEAD_AFFINE)
        for suffix, factors in (("T1w", (1, 0.3, 0.6, 0.9)), ("T2w", (1, 2.5, 2.0, 1.5))):
            path = Path(f"{stem}_{suffix}.nii.gz")
            write_volume(path, read_volume(path).array * np.array(factors, np.float32)[labels], HEAD_AFFINE)


@pytest.fixture(scope="session")
def tumours(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """`heads` with the labels of `write_tumours`."""
    folder = tmp_path_factory.mktemp("tumours")
    write_heads(folder / "raw")
    write_tumours(folder / "raw")
    cohort = replace(HEADS, labels=Labels("seg", {1: "NCR", 2: "ED", 3: "ET"}))
    return prepare(cohort, Grid((24, 28, 22), 2.0), ("tumours", "2mm"), folder / "raw", folder / "data")


@pytest.fixture(scope="session")
def linear_run(tumours: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifest of linear interpolation of the test subjects of `tumours` from three axial sections and from five."""
    folder, entry = tmp_path_factory.mktemp("run"), MethodEntry("baselines.interpolation", {"kind": "linear"}, min_k=2)
    train("linear", entry, tumours.store, tumours.split, folder / "model")
    sample(entry, folder / "model", tumours.store, tumours.split, Sweep(K=(3, 5)), folder / "samples")
    return folder / "samples" / "manifest-1-of-1.tsv"


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows as a file of unit costs."""
    from plan_costs import write_costs

    return lambda rows, name="costs.tsv": write_costs(tmp_path / name, rows)


@pytest.fixture
def costs(table: Callable[..., Path]) -> Costs:
    """Those of plan_costs.ROWS."""
    from plan_costs import ROWS

    return read_costs([table(ROWS, "all.tsv")])


def observe_test(cohort: Prepared, planes: list[Plane]) -> Observation:
    """What is given of the first test subject of a cohort."""
    store, subject = cohort.store, cohort.split.side("test")[0]
    return observe(store.volume(subject), planes, store.contrasts, store.spacing_mm(subject), store.frame, store.norm)


@pytest.fixture(scope="module", params=["field", "heads"])
def cohort(request: pytest.FixtureRequest) -> Prepared:
    """Both small cohorts, one after the other."""
    return request.getfixturevalue(request.param)


def snakemake(directory: Path, *arguments: str | Path, cores: int = 2) -> subprocess.CompletedProcess[str]:
    """Run the repository's Snakefile in `directory`, as a user would; stdout holds both streams."""
    environment = {k: v for k, v in os.environ.items() if k != "XDIFF_DATA_ROOT"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    command = ["snakemake", "--cores", str(cores), "--snakefile", REPOSITORY / "Snakefile", "--directory", directory, *arguments]
    return subprocess.run(
        [str(part) for part in command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=800
    )


def job_counts(output: str) -> dict[str, int]:
    """Rule -> number of jobs, from Snakemake's own table of a dry run; empty where there is nothing to do."""
    lines = output.split("Job stats:", 1)[1].splitlines()[3:] if "Job stats:" in output else []
    counts: dict[str, int] = {}
    for line in lines:
        words = line.split()
        if len(words) != 2 or not words[1].isdigit():
            break
        counts[words[0]] = int(words[1])
    return counts
