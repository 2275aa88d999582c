"""Volumes made of one projection: what is given, what is learned of it, what is scored."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Prepared, prepare

from xdiff.augment import Augmentation
from xdiff.config import Cohort, Config, Grid, MethodEntry, Projection, Run, SplitRule, Sweep, jobs
from xdiff.data import dxa
from xdiff.draws import Checks, Draws, DrawSettings, residual, unseen_psnr
from xdiff.errors import InputError
from xdiff.gaussian_fit import LAMBDAS, fit
from xdiff.local_fit import CoreSettings, fit_core
from xdiff.metrics.evaluate import evaluate
from xdiff.observation import Observation, Point, choose_planes, leaves_enough_unseen, observe
from xdiff.planes import Plane, cut, parse_plane, project
from xdiff.planes import Projection as ProjectionPlane
from xdiff.sample import sample
from xdiff.seen import counts_as_given
from xdiff.train import train
from xdiff.volumes import write_volume

SHAPE, SPACING_MM = (20, 16, 24), 10.0
CORE = CoreSettings(cases=30, voxels=300, steps=40, width=16)
COHORT = Cohort("bids", ("fat", "water", "dxa"), projection=Projection("dxa"), anatomy="body", split=SplitRule(n_val=2, n_test=3))
SWEEP = Sweep(axis=("coronal",), policy=("projection",), contrasts_given=("dxa",))


def write_bodies(root: Path, n: int = 14) -> None:
    """Ellipsoids of other widths and depths, with a shell of fat; as DXA the share of every line that is body."""
    x, y, z = np.meshgrid(*(np.linspace(-1.2, 1.2, s) for s in SHAPE), indexing="ij")
    affine = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    for i in range(n):
        rng = np.random.default_rng([5, i])
        wide = rng.uniform(0.6, 1.05)  # and as deep: the width, which DXA shows, tells the depth
        radius = np.sqrt((x / wide) ** 2 + (y / (0.8 * wide)) ** 2 + (z / 1.1) ** 2)
        images = {
            "fat": np.where(radius < 0.8, 60.0, 800.0) * (radius < 1),
            "water": np.where(radius < 0.8, 600.0, 60.0) * (radius < 1),
        }
        images = {name: image * (1 + 0.05 * rng.standard_normal(SHAPE)) for name, image in images.items()}
        images["dxa"] = 1 + 1000 * (radius < 1).mean(axis=1, keepdims=True)
        for name, image in images.items():
            write_volume(root / f"sub-{i:02d}/anat/sub-{i:02d}_{name}.nii.gz", np.clip(image, 0, None).astype(np.float32), affine)


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """14 bodies of 20 x 16 x 24 voxels at 10 mm: 9 train, 2 val, 3 test. The images lie on the volumes already."""
    folder = tmp_path_factory.mktemp("bodies")
    write_bodies(folder / "raw")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dxa, "register_dxa", lambda image, *_: (image, 1.0, None))
        return prepare(COHORT, Grid(SHAPE, SPACING_MM), ("bodies", "10mm"), folder / "raw", folder / "data")


@pytest.fixture(scope="module")
def draws(bodies: Prepared) -> Draws:
    core = fit_core(bodies.store, bodies.split, CORE)
    return Draws(bodies.store, bodies.split.side("train"), core, DrawSettings(augment=Augmentation()))


def observed(bodies: Prepared, subject: str) -> Observation:
    store = bodies.store
    point = Point(1, "coronal", "projection", 0.0, 1, "mean", 0, "dxa")
    planes = choose_planes(point, store.foreground(subject), None, store.spacing_mm(subject), subject)
    return observe(store.volume(subject), planes, store.contrasts, store.spacing_mm(subject), store.frame, store.norm, ["dxa"])


@pytest.mark.parametrize("length", [15, 16])
def test_projection_is_the_mean_along_its_axis_and_nothing_else(length: int) -> None:
    volume = np.random.default_rng(0).random((2, 5, length, 4))
    plane = ProjectionPlane.of(1, length)
    assert plane.cut(volume) == pytest.approx(volume.mean(axis=2))
    assert parse_plane(plane.name) == plane != Plane(1, plane.index, plane.thickness)
    assert (plane.distance_mm(volume.shape[1:], (1, 2, 3)) == plane.thickness).all()  # half the box at 2 mm
    assert counts_as_given([plane], volume.shape[1:]).all()
    assert not counts_as_given([Plane(1, plane.index, plane.thickness)], volume.shape[1:]).any()
    assert leaves_enough_unseen([plane], np.ones((5, length, 4), bool))


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_a_contrast_that_is_constant_is_put_in_exactly_and_others_stay(kind: type) -> None:
    rng = np.random.default_rng(1)
    volume, truth = rng.random((2, 3, 6, 4, 5)).astype(np.float32)
    truth[1] = truth[1].mean(axis=1, keepdims=True)
    plane = ProjectionPlane.of(1, 4)
    found = np.asarray(project(kind(volume), [kind(s) for s in cut(truth, [plane])], [plane], [False, True, False]))
    assert (found[[0, 2]] == volume[[0, 2]]).all()
    assert found[1] == pytest.approx(truth[1], abs=1e-6)


def test_read_with_its_image_in_every_section_and_a_foreground_of_the_volumes_alone(bodies: Prepared) -> None:
    store, subject = bodies.store, bodies.store.subjects[0]
    volume = store.volume(subject)
    assert store.projection == Projection("dxa", "coronal") and store.anatomy == "body"
    assert (volume[2] == volume[2][:, :1]).all() and volume[2].std() > 0.1
    assert (store.foreground(subject) == (volume[:2] > 0).any(axis=0)).mean() > 0.99
    assert store.foreground(subject).mean() < 0.6  # the image is positive everywhere


def test_only_its_own_contrast_is_known(bodies: Prepared) -> None:
    observation = observed(bodies, bodies.split.side("test")[0])
    assert observation.given == (False, False, True)
    assert observation.known[2].all() and not observation.known[:2].any()
    assert not observation.evidence[:2].any()
    truth = bodies.store.volume(bodies.split.side("test")[0])[2]
    assert observation.evidence[2] * observation.scale[2] == pytest.approx(truth, rel=1e-3)


def test_lambda_is_the_best_of_left_out_volumes_seen_by_their_projection(bodies: Prepared) -> None:
    store, train_side = bodies.store, sorted(bodies.split.side("train"))
    model = fit(store, bodies.split)
    assert len(np.unique(model.lambdas)) == 1
    plane, given = [ProjectionPlane.of(1, SHAPE[1])], [False, False, True]
    gram, errors = model.gram(plane, given), []
    for ridge in LAMBDAS:
        rows = [
            model.combine(model.weights(gram, gram[i], ridge, model.without(i))) - model.rows[i] for i in range(len(train_side))
        ]
        errors.append(np.mean([(row[:2] ** 2).sum() for row in rows]))
    assert model.lambdas[0, 0] == LAMBDAS[int(np.argmin(errors))]
    inflation = [model.without(0).size, model.inflation[0, 0]]
    assert inflation[1] > 0 and len(np.unique(model.inflation)) == 1


def test_every_training_case_is_given_the_projection_which_bending_leaves_constant(draws: Draws) -> None:
    for number in range(4):
        draw = draws.one(np.random.default_rng(number))
        assert [type(p) for p in draw.view.planes] == [ProjectionPlane]
        assert draw.view.given.tolist() == [False, False, True]
        assert float(draw.truth[2].std(dim=1).max()) < 1e-6
        assert draw.view.evidence[2] == pytest.approx(draw.truth[2], abs=1e-5)
        assert float(residual(draw)[2].abs().max()) < 0.1 < float(residual(draw)[:2].abs().max())


def test_checks_score_what_is_not_given(draws: Draws, bodies: Prepared) -> None:
    checks = Checks(draws, bodies.split, (1, 5), 2)
    assert {(side, k) for side, k, *_ in checks.cases} == {("validation", 1), ("training", 1)}
    draw = checks.cases[0][2]
    worse = draw.truth.clone()
    worse[2] += 1.0
    assert unseen_psnr(draw, worse) == float("inf")
    worse[0] += 0.1
    expected = -10 * np.log10(0.01 * draw.truth[0].numel() / (2 * draw.foreground.sum()))
    assert unseen_psnr(draw, worse) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("module", "params"),
    [
        ("baselines.trivial", {"kind": "gaussian"}),
        (
            "baselines.unet",
            {"core": dataclasses.asdict(CORE), "channels": [8, 16], "steps": 4, "validate_every": 4, "validate_subjects": 1},
        ),
        (
            "xdiff.model.method",
            {"core": dataclasses.asdict(CORE), "channels": [8, 16], "trunk_channels": [8, 16], "volumes": 1, "sections": 4}
            | {"steps": 4, "validate_every": 4, "validate_subjects": 1},
        ),
    ],
)
def test_methods_beat_the_template_and_are_scored_on_volumes_alone(
    module: str, params: dict, bodies: Prepared, tmp_path: Path
) -> None:
    psnr = {}
    for name, entry in {
        "template": MethodEntry("baselines.trivial", {"kind": "mean_template"}),
        "own": MethodEntry(module, params),
    }.items():
        train(name, entry, bodies.store, bodies.split, tmp_path / name)
        sample(entry, tmp_path / name, bodies.store, bodies.split, SWEEP, tmp_path / f"{name}-samples")
        rows = evaluate(tmp_path / f"{name}-samples" / "manifest-1-of-1.tsv")
        assert set(rows["contrast"]) == {"all", "fat", "water"}
        assert {"body", "unseen", "grid"} <= set(rows["region"]) and "brain" not in set(rows["region"])
        psnr[name] = rows[(rows["metric"] == "psnr") & (rows["region"] == "unseen") & (rows["x_name"] == "")]["value"].mean()
    assert psnr["own"] > psnr["template"] + 2.0


def test_interpolation_says_that_it_cannot(bodies: Prepared, tmp_path: Path) -> None:
    entry = MethodEntry("baselines.interpolation", {"kind": "nearest"}, learns=False)
    train("nearest", entry, bodies.store, bodies.split, tmp_path / "model")
    sample(entry, tmp_path / "model", bodies.store, bodies.split, SWEEP, tmp_path / "samples")
    assert "not given: fat, water" in (tmp_path / "samples" / "skipped-1-of-1.tsv").read_text()


# Configuration --------------------------------------------------------------------------------------------------------


def config_of(sweeps: dict[str, Sweep], cohort: Cohort = COHORT) -> Config:
    run = Run(("bodies",), ("10mm",), ("gaussian",), tuple(sweeps))
    methods = {"gaussian": MethodEntry("baselines.trivial", {"kind": "gaussian"})}
    return Config({"bodies": cohort}, {"10mm": Grid(SHAPE, SPACING_MM)}, methods, sweeps, run)


def test_a_cohort_with_a_projection_is_in_sweeps_of_it_and_in_no_others() -> None:
    sweeps = {"slices": Sweep(K=(1, 5)), "dxa": SWEEP}
    assert [job.sweep for job in jobs(config_of(sweeps))] == ["dxa"]
    volumes = dataclasses.replace(COHORT, contrasts=("fat", "water"), projection=None)
    assert [job.sweep for job in jobs(config_of(sweeps, volumes))] == ["slices"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Sweep(K=(1, 2), policy=("projection",)),
        lambda: Sweep(policy=("projection", "uniform")),
        lambda: Sweep(policy=("projection",), thickness_mm=(3.0,)),
        lambda: Projection("dxa", "oblique"),
        lambda: dataclasses.replace(COHORT, projection=Projection("bone")),
        lambda: config_of({"dxa": dataclasses.replace(SWEEP, contrasts_given=("fat",))}),
        lambda: config_of({"dxa": dataclasses.replace(SWEEP, axis=("axial",))}),
    ],
)
def test_what_cannot_be_is_refused(make: object) -> None:
    with pytest.raises(InputError):
        make()
