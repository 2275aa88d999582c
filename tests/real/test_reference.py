"""Real MRI, where it is at hand: the readers on one subject of each cohort, and one row of the reference table again."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import PRESETS, REPOSITORY

from baselines.interpolation import Interpolation
from baselines.trivial import Trivial
from xdiff.config import Config, load_config, source_folder
from xdiff.data.cohorts import find_subjects, read_subject
from xdiff.data.preprocess import preprocess
from xdiff.data.split import make_split, read_split
from xdiff.data.store import Store
from xdiff.gaussian import FIT_K, LinearGaussian
from xdiff.gaussian_fit import _fit_point, training_rows
from xdiff.metrics.core import by_region, regions
from xdiff.observation import Point, choose_planes, observe

ROOTS = [Path(p) for p in (os.environ.get("XDIFF_DATA_ROOT"), REPOSITORY.parent / "shared" / "data") if p]
ROOT = next((p for p in ROOTS if (p / "openneuro-ds002748").is_dir()), None)
REFERENCE = REPOSITORY / "results/reference/real-brains-2mm/metrics.tsv.gz"
COHORT, K = "openneuro-ds002748", 5
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(ROOT is None, reason=f"no openneuro-ds002748 below {' or '.join(map(str, ROOTS))} (XDIFF_DATA_ROOT)"),
]


def configuration(preset: str) -> Config:
    return load_config([REPOSITORY / "config.yaml", PRESETS / f"{preset}.yaml"])


@pytest.mark.parametrize(
    ("preset", "cohort", "spacing_mm"),
    [("real-brains-2mm", COHORT, 1.5), ("real-brains-2mm", "ixi-2mm", 2.0), ("tumour-lgg", "tcga-lgg.fold1", None)],
)
def test_first_subject_of_a_real_cohort_reads(preset: str, cohort: str, spacing_mm: float | None) -> None:
    config = configuration(preset)
    entry, folder = config.cohorts[cohort], source_folder(config, cohort, ROOT)
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    subject = read_subject(find_subjects(entry, folder)[0], entry)
    found_mm = np.linalg.norm(subject.affine[:3, :3], axis=0)
    extent_mm = np.ptp(np.argwhere(subject.foreground), axis=0) * found_mm
    assert subject.images.shape[0] == 1 and subject.images.dtype == np.float32 and np.isfinite(subject.images).all()
    assert (np.diag(subject.affine)[:3] > 0).all()  # RAS after reading, however it is stored
    assert ((extent_mm > 90) & (extent_mm < 260)).all(), f"a head of {extent_mm.round()} mm"
    assert spacing_mm is None or found_mm == pytest.approx(spacing_mm, abs=0.01)
    assert (subject.labels is not None) == (entry.labels is not None)
    if subject.labels is not None:
        assert set(np.unique(subject.labels)) == {0, 1}
        assert subject.foreground[subject.labels > 0].mean() > 0.95  # the tumour is in the head


def prepared_store(config: Config, out: Path) -> tuple[Store, list[str], list[str]]:
    """Training and test subjects of the committed split at 2 mm."""
    split = read_split(REPOSITORY / config.cohorts[COHORT].split.file)
    used = make_split([r for r in split.table.itertuples(index=False, name=None) if r[2] != "val"])
    preprocess(config.cohorts[COHORT], config.grids["2mm"], (COHORT, "2mm"), ROOT / COHORT, used, out)
    return Store(out), split.side("train"), split.side("test")


def fitted(store: Store, subjects: list[str]) -> LinearGaussian:
    """As gaussian_fit.fit, at the one axis and K that is scored: the other 17 would take minutes and change nothing."""
    rows, used = training_rows(store, subjects)
    model = LinearGaussian(rows, patients=tuple(used))
    _fit_point(model, store, used, axis=2, j=FIT_K.index(K), k=K, n_checked=8)
    return model


@pytest.mark.skipif(not REFERENCE.exists(), reason=f"{REFERENCE.relative_to(REPOSITORY)} is not committed yet")
def test_reference_row_of_real_brains_is_found_again(tmp_path: Path) -> None:
    """K = 5 axial sections, uniform, centred: mean PSNR of the unseen foreground over the 12 test subjects, to 0.1 dB."""
    store, train, test = prepared_store(configuration("real-brains-2mm"), tmp_path)
    model = fitted(store, train)
    methods = {"linear": Interpolation("linear"), "mean_template": Trivial("mean_template", {"mean": model.mean})}
    point, scores = Point(K, "axial", "uniform", 0.0, 1, "mean", 0), {}
    for subject in test:
        truth, foreground, spacing_mm = store.volume(subject), store.foreground(subject), store.spacing_mm(subject)
        planes = choose_planes(point, foreground, None, spacing_mm, subject)
        observation = observe(truth, planes, store.contrasts, spacing_mm, store.frame, store.norm)
        where = regions(foreground, observation.mask, None)
        volumes = {name: m.reconstruct(observation, 1, "mean", np.random.default_rng(0))[0] for name, m in methods.items()}
        for name, volume in {**volumes, "gaussian": model.estimate(observation)}.items():
            scored = by_region(truth[0], volume[0] * observation.scale[0], where)
            value = next(v for region, metric, v in scored if (region, metric) == ("unseen_masked", "psnr"))
            scores.setdefault(name, []).append(value)
    found = {name: float(np.mean(values)) for name, values in scores.items()}
    print(found)
    assert found == pytest.approx(reference_means(), abs=0.1)


def reference_means() -> dict[str, float]:
    """Method -> mean PSNR of the committed table at the same point."""
    table = pd.read_csv(REFERENCE, sep="\t", keep_default_na=False)
    wanted = {"trained_on": COHORT, "cohort": COHORT, "grid": "2mm", "K": K, "axis": "axial", "policy": "uniform"}
    wanted |= {"estimate": "mean", "region": "unseen_masked", "metric": "psnr", "x_name": ""}
    for column, value in wanted.items():
        table = table[table[column] == value]
    table = table[table["method"].isin(["linear", "mean_template", "gaussian"])]
    assert (table.groupby("method")["subject"].nunique() == 12).all() and len(table) == 36
    return {method: float(rows["value"].mean()) for method, rows in table.groupby("method")}
