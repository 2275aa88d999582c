"""A method around any other for heads that lie anywhere: exact, equivariant, and blind to the test side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import Prepared
from displaced_heads import SHAPE, displaced, head

from baselines import posed, trivial
from baselines.posed import Posed
from xdiff.checkpoint import read_weights, write_weights
from xdiff.config import MethodEntry, Sweep
from xdiff.data.centred import CentredStore
from xdiff.data.store import Store
from xdiff.errors import InputError
from xdiff.observation import Observation, observe
from xdiff.planes import Plane, cut, shifted
from xdiff.pose import Pose
from xdiff.sample import sample
from xdiff.train import train

SHIFTS = np.random.default_rng(4).integers([-2, -2, -4], [3, 3, 5], (14, 3)).tolist()
NAMES = ["sub-00_ses-1", "sub-00_ses-2", *(f"sub-{i:02d}" for i in range(1, 13))]
GAUSSIAN = {"module": "baselines.trivial", "params": {"kind": "gaussian"}}


@pytest.fixture(scope="module")
def scanner(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """14 heads of 13 patients, one of whom came twice, in frame scanner: 9 patients train, 2 validation, 2 test."""
    return displaced(tmp_path_factory.mktemp("heads"), dict(zip(NAMES, SHIFTS, strict=True)))


@pytest.fixture(scope="module")
def weights(scanner: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "gaussian_posed"
    train("gaussian_posed", MethodEntry("baselines.posed", GAUSSIAN), scanner.store, scanner.split, out)
    return out


@pytest.fixture(scope="module")
def method(weights: Path) -> Posed:
    return posed.load(weights)


def given_by(volume: np.ndarray, planes: list) -> Observation:
    return observe(volume, planes, ("T1w", "T2w"), (2.0, 2.0, 2.0), "scanner")


def mean_of(method: Posed, observation: Observation) -> tuple[np.ndarray, np.ndarray]:
    volume, std, evaluations = method.reconstruct(observation, 1, "mean", np.random.default_rng(0))
    assert evaluations == 0
    return volume, std


# Training -------------------------------------------------------------------------------------------------------------


def test_no_test_volume_is_read(scanner: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: set[str] = set()
    original = Store._path
    monkeypatch.setattr(Store, "_path", lambda self, subject, kind: read.add(subject) or original(self, subject, kind))
    posed.train(scanner.store, scanner.split, GAUSSIAN, tmp_path / "a" / "b")
    assert read
    assert not read & set(scanner.split.side("test"))


def test_the_same_volumes_are_kept_once(scanner: Prepared, weights: Path, tmp_path: Path) -> None:
    tensors, _ = read_weights(weights)
    assert "pose.rows" not in tensors
    assert len(tensors["inner.rows"]) == len(scanner.split.side("train"))
    params = {"module": "baselines.trivial", "params": {"kind": "mean_template"}}
    own = posed.train(scanner.store, scanner.split, params, tmp_path)
    np.testing.assert_array_equal(own["pose.rows"], tensors["inner.rows"])
    fewer = posed.train(scanner.store, scanner.split, {**GAUSSIAN, "max_volumes": 4}, tmp_path)
    assert (len(fewer["pose.rows"]), len(fewer["inner.rows"])) == (4, len(scanner.split.side("train")))


def test_heads_of_a_centred_store_stay_where_they_are(heads: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those half a voxel off the middle, too: weights trained on that store expect them there."""
    monkeypatch.setattr(CentredStore, "place", lambda self, subject: np.array([0.5, -0.5, 0.0]))
    subject = heads.split.side("train")[0]
    centred = CentredStore(heads.store, [subject])
    np.testing.assert_array_equal(centred.volume(subject), heads.store.volume(subject))


def test_a_core_of_centred_volumes_is_not_taken_for_one_of_scanner_volumes(scanner: Prepared, tmp_path: Path) -> None:
    small = {"cases": 12, "voxels": 100, "steps": 3, "width": 8}
    local = MethodEntry("baselines.gaussian_local", small)
    around = MethodEntry("baselines.posed", {"module": "baselines.gaussian_local", "params": small})
    train("gaussian_local", local, scanner.store, scanner.split, tmp_path / "gaussian_local")
    train("gaussian_local_posed", around, scanner.store, scanner.split, tmp_path / "gaussian_local_posed")
    assert len(list(tmp_path.glob("core-*/weights.safetensors"))) == 2
    found, _ = read_weights(tmp_path / "gaussian_local_posed")
    centred = CentredStore(scanner.store, scanner.split.side("train"))
    assert "pose.rows" not in found
    np.testing.assert_array_equal(found["inner.rows"][0], centred.volume(sorted(centred.subjects)[0]))
    observation = given_by(head(90, (1, 0, 3)), [Plane(2, 17)])
    volume, std = mean_of(posed.load(tmp_path / "gaussian_local_posed"), observation)
    assert np.isfinite(volume).all()
    assert (std[:, ~observation.mask] > 0).all()


def test_a_method_that_learns_nothing_can_be_wrapped(scanner: Prepared, tmp_path: Path) -> None:
    entry = MethodEntry("baselines.posed", {"module": "baselines.interpolation", "params": {"kind": "nearest"}, "poses": 1})
    train("nearest_posed", entry, scanner.store, scanner.split, tmp_path / "nearest_posed")
    observation = given_by(head(91), [Plane(2, 14)])
    volume, std = mean_of(posed.load(tmp_path / "nearest_posed"), observation)
    assert std is None
    np.testing.assert_array_equal(volume, np.repeat(observation.sections[0][..., None], SHAPE[2], axis=3))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"module": "baselines.absent"}, "baselines.absent.*an importable module"),
        ({"params": {}}, "no key 'module'"),
        ({"module": "baselines.trivial", "pose": 3}, "unknown key 'pose'"),
        ({"module": "baselines.trivial", "poses": 0}, "found 0, expected at least 1"),
    ],
)
def test_a_bad_entry_is_named(scanner: Prepared, tmp_path: Path, params: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        posed.train(scanner.store, scanner.split, params, tmp_path)


# Reconstruction -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimate", ["mean", "sample", "mean_of_3"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_given_sections_come_back_bit_for_bit(method: Posed, axis: int, estimate: str) -> None:
    """Also where the head is so far out that pixels of the moved sections leave the array."""
    shift = (3, -3, 6)
    planes = [Plane(axis, SHAPE[axis] // 2 + shift[axis] + i) for i in (-3, 2)]
    observation = given_by(head(40, shift), planes)
    volume, std, _ = method.reconstruct(observation, 1, estimate, np.random.default_rng(1))
    assert volume.dtype == np.float32
    for found, section in zip(cut(volume, planes), observation.sections, strict=True):
        np.testing.assert_array_equal(found, section)
    assert (std is None) == (estimate == "sample")
    if std is not None:
        assert not std[:, observation.mask].any()
        assert (std[:, ~observation.mask] >= 0).all()


def test_thick_sections_are_met(method: Posed) -> None:
    planes = [Plane(2, 16, 3.0), Plane(2, 11, 3.0)]
    observation = given_by(head(41, (0, 1, 2)), planes)
    volume, _ = mean_of(method, observation)
    for found, section in zip(cut(volume, planes), observation.sections, strict=True):
        np.testing.assert_allclose(found, section, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_moved_head_gives_the_moved_volume(weights: Path, axis: int) -> None:
    """From its likeliest pose; in the mean over several, the prior, which is not equivariant, has a say."""
    method, shift = posed.load(weights), (2, -1, 3)
    method.poses = 1
    planes = [Plane(axis, SHAPE[axis] // 2 + i) for i in (-4, 0, 5)]
    moved = [Plane(axis, p.index + shift[axis]) for p in planes]
    here, there = given_by(head(42), planes), given_by(head(42, shift), moved)
    assert np.subtract(method.model.pose(there).shift, method.model.pose(here).shift).tolist() == list(shift)
    volume, std = mean_of(method, here)
    volume_there, std_there = mean_of(method, there)
    inner = tuple(slice(4, -4) for _ in range(3))  # away from what came from outside the array
    np.testing.assert_allclose(shifted(volume, shift)[:, *inner], volume_there[:, *inner], atol=1e-5)
    np.testing.assert_allclose(shifted(std, shift)[:, *inner], std_there[:, *inner], atol=1e-5)


def test_a_displaced_head_is_estimated_better_than_without_its_pose(scanner: Prepared, method: Posed, tmp_path: Path) -> None:
    plain = MethodEntry(**GAUSSIAN)
    train("gaussian", plain, scanner.store, scanner.split, tmp_path / "gaussian")
    unaware, errors = trivial.load(tmp_path / "gaussian"), []
    for number, shift in enumerate(SHIFTS[:6]):
        truth = head(500 + number, shift)
        observation = given_by(truth, [Plane(2, SHAPE[2] // 2 + shift[2])])
        truth = truth / observation.scale[:, None, None, None]
        errors.append([((mean_of(m, observation)[0] - truth) ** 2).mean() for m in (method, unaware)])
    posed_error, plain_error = np.mean(errors, axis=0)
    assert posed_error < 0.7 * plain_error


class Fixed:
    """A method of constant volume and deviation that notes what it is given."""

    def __init__(self, std: float | None = 0.5) -> None:
        self.std, self.seen, self.device_name = std, [], "a device"

    def reconstruct(self, observation: Observation, steps: int, estimate: str, generator: np.random.Generator) -> tuple:
        self.seen.append((observation, steps, estimate))
        volume = np.full((2, *observation.shape), float(len(self.seen)), dtype=np.float32)
        return volume, None if self.std is None else np.full_like(volume, self.std), 7


class TwoPoses:
    """Three in four here, one in four two voxels up."""

    def pose(self, observation: Observation) -> Pose:
        probability = np.zeros((1, 1, 5))
        probability[0, 0, [2, 4]] = 0.75, 0.25
        return Pose(probability, observation.spacing_mm)


def test_mean_is_the_mixture_over_poses() -> None:
    """Values 1 and 2 with shares 3/4 and 1/4; two voxels up, the lowest two come from outside: 0."""
    inner = Fixed()
    method = Posed(inner, TwoPoses(), 8)
    observation = given_by(head(1), [Plane(2, 10)])
    volume, std, evaluations = method.reconstruct(observation, 3, "mean", np.random.default_rng(0))
    assert (evaluations, method.device_name) == (14, "a device")
    assert [(o.planes[0].index, o.frame, steps, estimate) for o, steps, estimate in inner.seen] == [
        (10, "centred", 3, "mean"),
        (8, "centred", 3, "mean"),
    ]
    np.testing.assert_allclose(volume[0, 0, 0, [0, 1, 2, 20]], [0.75, 0.75, 1.25, 1.25])
    variance = 0.25 + np.array([0.75 - 0.75**2, 0.75 + 1 - 1.25**2])
    np.testing.assert_allclose(std[0, 0, 0, [0, 20]], np.sqrt(variance), rtol=1e-6)
    np.testing.assert_array_equal(volume[:, :, :, 10], observation.sections[0])


def test_one_pose_and_no_deviation_are_passed_through() -> None:
    method = Posed(Fixed(std=None), TwoPoses(), 1)
    volume, std, evaluations = method.reconstruct(given_by(head(1), [Plane(2, 10)]), 1, "mean", np.random.default_rng(0))
    assert (std, evaluations) == (None, 7)
    assert volume[0, 0, 0, 0] == 1


def test_every_sample_draws_its_own_pose() -> None:
    inner = Fixed()
    method = Posed(inner, TwoPoses(), 8)
    observation = given_by(head(1), [Plane(2, 10)])
    volume, std, evaluations = method.reconstruct(observation, 5, "mean_of_40", np.random.default_rng(0))
    assert evaluations == 7 * 40
    assert {estimate for _, _, estimate in inner.seen} == {"sample"}
    assert 4 <= sum(o.planes[0].index == 8 for o, _, _ in inner.seen) <= 18
    values = np.arange(1, 41)
    assert volume[0, 0, 0, 20] == pytest.approx(values.mean())
    assert std[0, 0, 0, 20] == pytest.approx(values.std(ddof=1))
    assert method.reconstruct(observation, 5, "sample", np.random.default_rng(0))[1] is None


def test_mixed_planes_are_refused(method: Posed) -> None:
    with pytest.raises(InputError, match="parallel axis-aligned sections"):
        mean_of(method, given_by(head(1), [Plane(2, 14), Plane(0, 12)]))


# In the harness -------------------------------------------------------------------------------------------------------


def test_the_harness_samples_it_in_the_scanner_frame(scanner: Prepared, weights: Path, tmp_path: Path) -> None:
    entry = MethodEntry("baselines.posed", GAUSSIAN)
    sample(entry, weights, scanner.store, scanner.split, Sweep(K=(1, 3)), tmp_path)
    manifest = (tmp_path / "manifest-1-of-1.tsv").read_text().splitlines()
    columns = manifest[0].split("\t")
    rows = [dict(zip(columns, line.split("\t"), strict=True)) for line in manifest[1:]]
    assert len(rows) == 2 * len(scanner.split.side("test"))
    assert {(r["method"], r["frame"]) for r in rows} == {("gaussian_posed", "scanner")}


def test_weights_of_the_inner_method_are_read_as_its_own(weights: Path, tmp_path: Path) -> None:
    """What load hands to the method: its tensors, its params, the rest of the config; nothing of it stays on disk."""
    tensors, config = read_weights(weights)
    inner = {n.removeprefix("inner."): a for n, a in tensors.items() if n.startswith("inner.")}
    described = {k: v for k, v in config.items() if k not in ("sha256", "key")}
    write_weights(tmp_path / "own", inner, {**described, **GAUSSIAN})
    alone, wrapped = trivial.load(tmp_path / "own"), posed.load(weights).method
    observation = given_by(head(8), [Plane(1, 12)])
    np.testing.assert_array_equal(mean_of(alone, observation)[0], mean_of(wrapped, observation)[0])
