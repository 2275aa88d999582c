"""What the official X-Diffusion code gets wrong, one by one: the wrong formula, what it costs, and what is done here.

Each test holds the error in a line or two and calls the functions that the methods, the harness and the metrics really use.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from columns import plain_core
from conftest import HEAD_AFFINE, Prepared
from torch import nn

from baselines import paper_training
from baselines.paper_assembly import VIEWS, SliceAssembly
from baselines.paper_network import PaperSettings, SectionEstimates, Slice, Trained, depth_mm, from_canvas, to_canvas
from baselines.paper_schedule import trained_levels
from baselines.paper_training import NoisePrediction, SliceDraws, limits_of, make_problem, of_one_slice, targets
from baselines.xdiff_paper import SliceDiffusion
from xdiff.data.split import make_split, patient_of, split_by_count, split_by_fraction
from xdiff.data.store import Store
from xdiff.draws import Draws, DrawSettings
from xdiff.errors import InputError
from xdiff.metrics.core import by_region, psnr
from xdiff.metrics.evaluate import evaluate
from xdiff.model import training
from xdiff.model.diffusion import position
from xdiff.observation import Observation, observe
from xdiff.planes import Plane
from xdiff.volumes import read_volume, write_volume

BRATS = (240, 240, 155)
MM = (1.0, 1.0, 1.0)
SETTINGS = PaperSettings(channels=(8, 16), sections=4, validate_subjects=1)


def slice_of(axis: int, index: int, shape: tuple[int, int, int] = BRATS) -> Slice:
    size = [1, *(n for a, n in enumerate(shape) if a != axis)]
    return Slice(Plane(axis, index), np.zeros(size, np.float32), np.ones(1, bool), shape, MM)


@pytest.fixture(scope="module")
def problem(heads: Prepared, tmp_path_factory: pytest.TempPathFactory) -> NoisePrediction:
    core = plain_core(heads.store, heads.split)
    return make_problem(heads.store, heads.split, core, SETTINGS, tmp_path_factory.mktemp("problem"))


@pytest.fixture(scope="module")
def paper(heads: Prepared) -> SliceDiffusion:
    """Random weights in every layer: what is wrong here would be wrong with any."""
    network, rng = SETTINGS.network(2).eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=rng)
    limits = limits_of(heads.store, heads.split.side("train"))
    return SliceDiffusion(Trained(network, limits, SETTINGS))


# Where a section is -------------------------------------------------------------------------------------------------


def test_depth_is_divided_by_one_axis_length_on_all_axes() -> None:
    """The middle sagittal section of a BraTS volume came to lie at 0.77 of the way, the last one outside the head."""

    def official(row: float, axis: int) -> float:
        return row / BRATS[2]

    assert official(119.5, 0) == pytest.approx(0.77, abs=0.01) and official(239, 0) > 1.5
    lines = list(position(BRATS, MM, torch.device("cpu")))[:3]
    for axis, length in enumerate(BRATS):
        line = lines[axis].movedim(axis, 0)[:, 0, 0].numpy()
        assert line[-1] == -line[0] == pytest.approx((length - 1) / 2 / 100)  # of xdiff: symmetrical about its own middle
        own = depth_mm(np.array([0, (length - 1) / 2, length - 1]), axis, slice_of(2, 77))
        np.testing.assert_allclose(own, [-(length - 1) / 2, 0, (length - 1) / 2])  # of the paper's method


def test_target_index_is_drawn_from_240_on_a_155_deep_axis() -> None:
    """A third of the targets did not exist."""
    official = np.random.default_rng(0).integers(240, size=10000)
    assert (official >= BRATS[2]).mean() == pytest.approx(85 / 240, abs=0.02)
    foreground, rng = np.ones((24, 24, 15), bool), np.random.default_rng(0)
    for axis, turn in ((axis, turn) for axis in range(3) for turn in VIEWS[:3]):
        found, length = targets(slice_of(axis, 4, (24, 24, 15)), foreground, turn, 800, rng), (24, 24, 15)[turn.perm[axis]]
        assert set(found) <= set(range(length)) and len(set(found)) >= length - 1  # all that there are
    with pytest.raises(ValueError, match=r"section 200 of the axial axis, expected 0\.\.154"):
        Plane(2, 200).cut(np.zeros((1, *BRATS), np.uint8))


def test_rows_of_xdiff_are_of_the_axis_own_length(heads: Prepared) -> None:
    draws = Draws(heads.store, heads.split.side("train"), plain_core(heads.store, heads.split), DrawSettings())
    draw, rng = draws.one(np.random.default_rng(0)), np.random.default_rng(1)
    for axis, length in enumerate(heads.store.shape):
        rows = training.draw_rows(draw, axis, 500, rng)
        assert rows.min() >= 0 and rows.max() < length and len(set(rows.tolist())) > length / 2


def test_conditioning_slice_is_the_target_slice() -> None:
    """One pair in n taught to copy, and at test time it was scored as a prediction."""
    rng, n = np.random.default_rng(0), 15
    official = rng.integers(n, size=(20000, 2))
    assert (official[:, 0] == official[:, 1]).mean() == pytest.approx(1 / n, abs=0.01)
    for axis in range(3):
        found = targets(slice_of(axis, 4, (24, 24, 15)), np.ones((24, 24, 15), bool), VIEWS[0], 5000, rng)
        assert 4 not in found and 5 in found


def test_given_voxels_are_not_scored_as_predicted(linear_run: Path) -> None:
    """Interpolation has the given sections exactly, which lifts the whole volume's score; the headline leaves them out."""
    rows = evaluate(linear_run)
    score = rows[rows["metric"] == "nmse"].groupby("region")["value"].mean()
    assert score["grid"] < 0.95 * score["unseen"]


# Intensities and pose -----------------------------------------------------------------------------------------------


def test_target_sections_are_normalised_one_by_one_with_the_ground_truth(heads: Prepared) -> None:
    """A hidden section twice as bright gave the same target, so that its brightness could not be got wrong."""
    volume = heads.store.volume(heads.split.side("test")[0])
    brighter = volume.copy()
    brighter[..., 15] *= 2

    def official(section: np.ndarray) -> np.ndarray:
        return (section - section.min()) / (section.max() - section.min())

    np.testing.assert_allclose(official(brighter[..., 15]), official(volume[..., 15]), atol=1e-6)
    first, second = (observe(v, [Plane(2, 8)], heads.store.contrasts, MM, "centred") for v in (volume, brighter))
    np.testing.assert_array_equal(first.scale, second.scale)  # of the given section alone
    everywhere = {"grid": (np.ones(volume.shape[1:], bool), float(volume[0].size))}
    scores = {metric: value for _, metric, value in by_region(brighter[0], volume[0], everywhere)}
    assert scores["psnr"] < 40 and scores["mae"] == pytest.approx(float(np.abs(brighter[0] - volume[0]).mean()))


def test_training_targets_keep_their_brightness(heads: Prepared) -> None:
    """What a network is to predict is the volume times one number per contrast, in the draws of both methods."""
    core, subject = plain_core(heads.store, heads.split), heads.split.side("train")[0]
    volume = torch.from_numpy(heads.store.volume(subject))
    inside = torch.from_numpy(heads.store.foreground(subject))
    for kind in (Draws, SliceDraws):
        truth = np.asarray(kind(heads.store, [subject], core, DrawSettings()).case(subject, volume, inside, [Plane(2, 8)]).truth)
        for c in range(2):
            ratio = truth[c][volume[c] > 0.05] / volume[c][volume[c] > 0.05].numpy()
            assert ratio.std() < 1e-5 * ratio.mean()


def test_intensities_become_8_bit(tmp_path: Path) -> None:
    """At most 256 values were left, an error of up to 1/510 of the range; files here have every bit."""
    volume = np.random.default_rng(0).random((9, 8, 7), dtype=np.float32)
    official = np.round(255 * volume).astype(np.uint8) / 255
    assert np.abs(official - volume).max() > 0.9 / 510 and len(np.unique(np.round(255 * volume))) <= 256
    write_volume(tmp_path / "volume.nii.gz", volume, np.eye(4))
    np.testing.assert_array_equal(read_volume(tmp_path / "volume.nii.gz").array, volume)


def test_stores_keep_more_than_8_bit(heads: Prepared) -> None:
    """What is scored comes from here. (Copies for training on a GPU have 8 bits: resident.py.)"""
    volume = heads.store.volume(heads.split.side("test")[0])
    assert len(np.unique(volume[0])) > 2 * 256


def test_sections_are_stretched_to_a_square() -> None:
    """A coronal section of 240 x 155 pixels became 256 x 256: a ball was drawn 1.55 times as high as wide."""
    x, z = np.meshgrid(np.arange(240) - 119.5, np.arange(155) - 77, indexing="ij")
    ball = torch.from_numpy(((x**2 + z**2) < 50**2).astype(np.float32))[None, None]

    def aspect(image: torch.Tensor) -> float:
        return float(image[0, 0].any(dim=0).sum() / image[0, 0].any(dim=1).sum())

    official = nn.functional.interpolate(ball, (256, 256))
    assert aspect(official) == pytest.approx(240 / 155, rel=0.02)
    canvas = to_canvas(ball, 240)
    assert aspect(canvas > 0) == pytest.approx(1, rel=0.02)
    assert torch.equal(from_canvas(canvas, (240, 155)), ball)


def test_affine_is_lost(tmp_path: Path, linear_run: Path) -> None:
    """A volume saved with the identity lies centimetres from where it belongs; predictions lie where the hidden volume lies."""
    shape = (22, 26, 20)
    corner = np.array([21, 25, 19, 1.0])
    assert np.linalg.norm((np.eye(4) - HEAD_AFFINE) @ corner) > 40  # mm
    array = np.random.default_rng(0).random(shape, dtype=np.float32)
    write_volume(tmp_path / "tilted.nii.gz", array, HEAD_AFFINE)
    again = read_volume(tmp_path / "tilted.nii.gz")
    # the file is read as RAS+: the same values at the same places of the world
    voxel = np.linalg.inv(again.affine) @ HEAD_AFFINE @ np.array([3, 4, 5, 1.0])
    assert again.array[tuple(voxel[:3].round().astype(int))] == array[3, 4, 5]
    manifest = pd.read_csv(linear_run, sep="\t")
    for subject, target, prediction in zip(manifest["subject"], manifest["target"], manifest["prediction"], strict=True):
        np.testing.assert_allclose(read_volume(prediction).affine, Store(target).affine(subject), atol=1e-4)


# What is trained on -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Draws, SliceDraws], ids=["xdiff", "paper"])
def test_pairs_are_frozen_at_start_up(heads: Prepared, kind: type[Draws]) -> None:
    """Every epoch saw the same few pairs; here a step is a function of its number, and no two are alike."""
    rng = np.random.default_rng(0)
    frozen = [tuple(rng.integers(22, size=2)) for _ in range(5)]
    official = [frozen[step % 5] for step in range(20)]
    assert len(set(official)) <= 5
    settings = replace(of_one_slice(DrawSettings()), repeats=1)
    draws = kind(heads.store, heads.split.side("train"), plain_core(heads.store, heads.split), settings)
    seen = [draws.of_step(0, step, 1)[0] for step in range(20)]
    assert len({float(np.asarray(draw.truth).sum()) for draw in seen}) == 20
    again = kind(heads.store, heads.split.side("train"), draws.core, settings).of_step(0, 7, 1)[0]
    np.testing.assert_array_equal(np.asarray(again.truth), np.asarray(seen[7].truth))


MANY = [f"BraTS-GLI-{i:05d}-{visit:03d}" for i in range(100) for visit in range(1 + (i % 4 == 0))]


def test_files_are_split_by_an_unsorted_glob() -> None:
    """The order in which a file system lists names decided who was tested on."""

    def official(names: list[str]) -> set[str]:
        return set(names[int(0.8 * len(names)) :])

    shuffled = random.Random(1).sample(MANY, len(MANY))
    assert len(official(MANY) & official(shuffled)) < 0.5 * len(official(MANY))
    for split in (lambda names: split_by_count(names, 0, 10, 10), lambda names: split_by_fraction(names, 0, 0.1, 0.1)):
        assert split(MANY).sha == split(shuffled).sha


def test_visits_of_one_patient_are_on_both_sides() -> None:
    shuffled = random.Random(1).sample(MANY, len(MANY))
    trained, tested = ({patient_of(s) for s in part} for part in (shuffled[:100], shuffled[100:]))
    assert len(trained & tested) >= 5
    split = split_by_count(shuffled, 0, 10, 10)
    sides = [{patient_of(s) for s in split.side(side)} for side in ("train", "val", "test")]
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2]) and sum(map(len, sides)) == 100
    with pytest.raises(InputError, match="patients on two sides"):
        make_split([("p_ses-1", "p", "train"), ("p_ses-2", "p", "test")])


def test_test_set_is_train_plus_val() -> None:
    train, val = MANY[:100], MANY[100:]
    official = train + val
    assert set(train) <= set(official)
    split = split_by_count(MANY, 0, 10, 10)
    assert not set(split.side("test")) & {*split.side("train"), *split.side("val")} and split.side("test")
    with pytest.raises(InputError, match="listed twice"):
        make_split([("a", "a", "train"), ("a", "a", "test")])


# What is measured ---------------------------------------------------------------------------------------------------


def test_psnr_is_without_the_square_root() -> None:
    """20 log10(1 / MSE) in place of 20 log10(1 / RMSE): every number of decibels doubled."""

    def official(mse: float) -> float:
        return 20 * np.log10(1 / mse)

    truth = np.full((4, 4, 4), 0.5, np.float32)
    ours = by_region(truth, truth + 0.1, {"grid": (np.ones((4, 4, 4), bool), 64.0)})[0]
    assert ours[:2] == ("grid", "psnr") and ours[2] == pytest.approx(20, abs=1e-4) and psnr(0.01) == pytest.approx(20)
    assert official(0.01) == pytest.approx(40)


def test_psnr_is_of_latent_noise(problem: NoisePrediction, linear_run: Path) -> None:
    """Noise that is right to 20 dB at the noisiest step is an image that is off by more than its range. Scores are of files."""
    levels, off = trained_levels(1, "scaled_linear"), 0.1
    image_error = levels.sigma[0] / levels.alpha[0] * off  # of x_0 = (x_t - sigma noise) / alpha
    assert psnr(off**2) == pytest.approx(20) and psnr(image_error**2) < -3
    case = problem.checks.cases[0]
    shown = problem.checks.score(lambda draw: draw.truth + off)  # a volume that is off by as much
    assert shown[case[0]][1]["psnr"] < 20.1
    manifest, rows = pd.read_csv(linear_run, sep="\t").iloc[0], evaluate(linear_run)
    store = Store(manifest["target"])
    predicted = read_volume(manifest["prediction"]).array / store.scale(manifest["subject"])[0]
    error = float(((predicted - store.volume(manifest["subject"])[0]) ** 2).mean())
    mine = (rows["subject"] == manifest["subject"]) & (rows["K"] == manifest["K"]) & (rows["contrast"] == store.contrasts[0])
    found = rows[mine & (rows["region"] == "grid") & (rows["metric"] == "psnr")]["value"].item()
    assert found == pytest.approx(psnr(error), abs=1e-3)


def drawn(method: SliceDiffusion, observation: Observation, seed: int = 0) -> np.ndarray:
    return method.reconstruct(observation, 3, "sample", np.random.default_rng(seed))[0]


def test_round_trip_of_the_input_is_saved_as_the_sample(heads: Prepared, paper: SliceDiffusion) -> None:
    """What was saved followed the target and knew nothing of the given slice; a draw follows the slice and knows no target."""

    def official(given: np.ndarray, target: np.ndarray) -> np.ndarray:
        return target.astype(np.float16).astype(np.float32)  # there and back through a lossy code

    volume = heads.store.volume(heads.split.side("test")[0])
    other = volume[:, :, :, ::-1].copy()
    other[..., 9] = volume[..., 9]  # another volume behind the same slice
    assert psnr(float(((official(volume[..., 9], other) - other) ** 2).mean())) > 60
    first, second, third = (
        observe(v, [Plane(2, index)], heads.store.contrasts, MM, "centred") for v, index in ((volume, 9), (other, 9), (volume, 6))
    )
    np.testing.assert_array_equal(drawn(paper, first), drawn(paper, second))
    assert np.abs(drawn(paper, first) - drawn(paper, third)).mean() > 1e-3


class Remembers(nn.Module):
    """A network that says no noise, and remembers in which condition it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.none, self.null = nn.Parameter(torch.zeros(())), []

    def section(self, slabs: torch.Tensor, t: torch.Tensor, maps: torch.Tensor, context: None) -> torch.Tensor:
        self.null += (~maps.flatten(1).any(dim=1)).tolist()
        return self.none * slabs[:, : slabs.shape[1] // 2]


def test_null_condition_at_sampling_was_never_trained(problem: NoisePrediction, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guidance leaned on what the network says of a condition it has never seen. Here such an entry is refused, and the null
    condition is trained where it is used and not asked for where it is not."""
    with pytest.raises(InputError, match="guidance.*no null condition is trained"):
        PaperSettings(drop=0.0, assembly=SliceAssembly(guidance=3.0))
    asked = {}
    for drop in (0.0, 0.1):
        monkeypatch.setattr(problem, "settings", replace(SETTINGS, drop=drop))
        network = Remembers()
        for step in range(50):
            problem.loss(network, problem.batch(0), torch.Generator().manual_seed(step))
        asked[drop] = np.mean(network.null)
    assert asked == {0.0: 0, 0.1: pytest.approx(0.1, abs=0.04)}
    for guidance, expected in ((1.0, 0.0), (3.0, 0.5)):
        network = Remembers()
        trained = Trained(network, np.array([0, 1.0]), replace(SETTINGS, assembly=SliceAssembly(guidance=guidance)))
        estimates = SectionEstimates(trained, slice_of(2, 4, (9, 9, 7)), VIEWS[0], 2)
        with torch.inference_mode():
            estimates(torch.zeros(estimates.shape), 0)
        assert np.mean(network.null) == expected


@pytest.mark.parametrize("draw", [lambda: torch.randn(4), lambda: torch.from_numpy(np.random.rand(4))], ids=["torch", "numpy"])
def test_no_seed_anywhere(heads: Prepared, paper: SliceDiffusion, problem: NoisePrediction, draw: Callable) -> None:
    """A global generator that nobody seeds gives other numbers at every call; none is used here, whatever its state."""
    assert not torch.equal(draw(), draw())
    volume = heads.store.volume(heads.split.side("test")[0])
    observation = observe(volume, [Plane(2, 9)], heads.store.contrasts, MM, "centred")
    made = []
    for _ in range(2):
        draw()  # moves the global generator
        batch = problem.batch(5)
        loss = problem.loss(problem.network, batch, torch.Generator().manual_seed(5)).item()
        weights = SETTINGS.network(2).state_dict()["sections.conv_in.conv.weight"].numpy()
        made.append((drawn(paper, observation), batch.clean.numpy(), weights, loss))
    for first, second in zip(*made, strict=True):
        np.testing.assert_array_equal(first, second)
    assert np.abs(made[0][0] - drawn(paper, observation, seed=1)).mean() > 1e-3


def test_seeds_of_another_training_give_another_network() -> None:
    first, second = (replace(SETTINGS, seed=seed).network(2).state_dict() for seed in (0, 1))
    assert not torch.equal(first["sections.conv_in.conv.weight"], second["sections.conv_in.conv.weight"])
    assert paper_training.HELD_OUT > 1  # fixed pairs, so that two checks differ in the weights alone
