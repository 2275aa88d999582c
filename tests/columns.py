"""What tests of learning methods share: a core made in no time, and a cohort that a network learns in seconds and the gaussian
row does not: volumes that are constant along z. One axial section tells all, but the kriging fades away from it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from conftest import Prepared, prepare
from scipy import ndimage

from xdiff.checkpoint import read_weights, write_weights
from xdiff.config import Cohort, Grid, SplitRule
from xdiff.data.split import Split, patient_of
from xdiff.data.store import Store
from xdiff.draws import Draw, Draws
from xdiff.gaussian import LinearGaussian
from xdiff.gaussian_fit import training_rows
from xdiff.local import Core, LocalNetwork, features
from xdiff.local_fit import CoreSettings
from xdiff.metrics.core import by_region, regions
from xdiff.observation import Observation, observe
from xdiff.planes import Plane
from xdiff.view import View
from xdiff.volumes import write_volume

SHAPE = (16, 20, 16)
PLAIN = CoreSettings()


def prepare_columns(folder: Path, n: int = 24) -> Prepared:
    """n volumes of 16 x 20 x 16 voxels at 4 mm, 3 of them val and 5 test."""
    for i in range(n):
        noise = np.random.default_rng([5, i]).standard_normal(SHAPE[:2])
        texture = ndimage.gaussian_filter(noise, 1.5, mode="wrap")
        image = np.clip(0.5 + 0.12 * texture / texture.std(), 0.02, 1)[..., None].repeat(SHAPE[2], axis=2)
        path = folder / f"raw/sub-{i:02d}/anat/sub-{i:02d}_T1w.nii.gz"
        write_volume(path, image.astype(np.float32), np.diag([4.0, 4.0, 4.0, 1.0]))
    cohort = Cohort("bids", ("T1w",), foreground="all", norm="none", split=SplitRule(n_val=3, n_test=5), source="here (CC0)")
    return prepare(cohort, Grid(SHAPE, 4.0), ("columns", "4mm"), folder / "raw", folder / "data")


def axial_planes(draws: Draws, rng: np.random.Generator, *_: object) -> list[Plane]:
    """In place of Draws._planes: one to three axial sections."""
    return [Plane(2, int(i)) for i in sorted(rng.choice(SHAPE[2], rng.integers(1, 4), replace=False))]


def observation_of(draw: Draw, store: Store) -> Observation:
    """What is given in a draw, cut out of its truth, in the draw's units."""
    view = draw.view
    given = [name for name, carried in zip(store.contrasts, view.given.tolist(), strict=True) if carried]
    return observe(draw.truth.cpu().numpy(), view.planes, store.contrasts, view.spacing_mm, store.frame, "none", given)


def mean_gain_db(columns: Prepared, method: object) -> float:
    """Gain of a method's `mean` over its own gaussian row on the test side, from one axial section, in dB of `unseen`."""
    store, gains = columns.store, []
    for subject in columns.split.side("test"):
        volume = store.volume(subject)
        observation = observe(volume, [Plane(2, 5)], store.contrasts, store.spacing_mm(subject), store.frame, store.norm)
        where = {"unseen": regions(store.foreground(subject), observation.mask, None)["unseen"]}
        found, _, _ = method.reconstruct(observation, 1, "mean", np.random.default_rng(0))
        pair = (found, method.core.estimate(observation).gaussian)
        ours, base = (by_region(volume[0], estimate[0], where)[0][2] for estimate in pair)
        gains.append(ours - base)
    return float(np.mean(gains))


def plain_core(store: Store, split: Split, settings: CoreSettings = PLAIN, workdir: Path | None = None) -> Core:
    """In place of `fit_core`, which takes seconds: all training volumes, with lambda and L as they are before cross-validation,
    no local correction and the same standard deviation everywhere."""
    rows, subjects = training_rows(store, split.side("train"), settings.max_volumes)
    linear = LinearGaussian(rows, patients=tuple(patient_of(s) for s in subjects))
    observation = observe(rows[0].astype(np.float32), [Plane(2, 9)], store.contrasts, (4.0, 4.0, 4.0), store.frame, "none")
    row = torch.from_numpy(rows[0].astype(np.float32))
    count = len(list(features(View.of(observation), row, row, (row, row), 0)))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = LocalNetwork(count, 4)
    network.unit.fill_(0.1)
    return Core(linear, network.eval())


def scramble(weights: Path, size: float = 0.1) -> Path:
    """The same weights with random numbers of that size added to every layer of the network, the zero head too."""
    tensors, config = read_weights(weights)
    rng = np.random.default_rng(0)
    names = [name for name in tensors if name.startswith("network.")]
    changed = {name: tensors[name] + size * rng.standard_normal(tensors[name].shape, dtype=np.float32) for name in names}
    folder = weights.with_name("scrambled")
    write_weights(folder, tensors | changed, config)
    return folder
