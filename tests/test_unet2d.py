"""The 2D U-Net: what a section sees, along which axes sections are drawn, how many are counted, and that it learns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from columns import axial_planes, mean_gain_db, plain_core, prepare_columns, scramble
from conftest import Prepared, observe_test

from baselines import unet2d
from baselines.unet2d import Regression, SectionReconstructor, SectionUNet, Settings, axes_of, input_channels, neighbours
from xdiff.checkpoint import read_weights
from xdiff.config import MethodEntry
from xdiff.draws import Checks, Draws, importance, residual
from xdiff.errors import InputError
from xdiff.local import Core, Estimate
from xdiff.loop import Trainer
from xdiff.model.diffusion import OUTLIER, map_channels, section_maps
from xdiff.observation import observe
from xdiff.planes import AnyPlane, Plane, stack
from xdiff.stacks import tilted_stack
from xdiff.train import train
from xdiff.view import View

SMALL = {"channels": [8, 16], "per_volume": 4, "validate_k": [1, 3], "validate_subjects": 1}
AXIAL, CORONAL, CROSSING = [Plane(2, 6), Plane(2, 13)], [Plane(1, 7)], [Plane(0, 9), Plane(2, 11)]


@pytest.fixture(scope="module")
def cohort(heads: Prepared) -> Prepared:
    """Two contrasts, and no size that a power of two divides but one."""
    return heads


@pytest.fixture(scope="module")
def untrained(cohort: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights after no step of training."""
    out = tmp_path_factory.mktemp("untrained") / "unet2d"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xdiff.trained.fit_core", plain_core)
        train("unet2d", MethodEntry("baselines.unet2d", {**SMALL, "steps": 0}), cohort.store, cohort.split, out)
    return out


@pytest.fixture(scope="module")
def scrambled(untrained: Path) -> SectionReconstructor:
    """The same with random numbers in every layer, the zero head too."""
    return unet2d.load(scramble(untrained))


def tilted(cohort: Prepared, count: int) -> list[AnyPlane]:
    subject = cohort.split.side("test")[0]
    return tilted_stack(2, count, cohort.store.foreground(subject), cohort.store.spacing_mm(subject))


# Volumes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("planes", [AXIAL, CORONAL, CROSSING], ids=str)
def test_untrained_is_the_estimate_without_a_network(cohort: Prepared, untrained: Path, planes: list[Plane]) -> None:
    observation = observe_test(cohort, planes)
    known = Core.of(read_weights(untrained)[0]).estimate(observation)
    volume, std, _ = unet2d.load(untrained).reconstruct(observation, 1, "mean", np.random.default_rng(0))
    np.testing.assert_allclose(volume, known.corrected, atol=1e-5)
    np.testing.assert_allclose(std, np.where(observation.known, 0, known.std), atol=1e-6)


@pytest.mark.parametrize("planes", [AXIAL, CORONAL, CROSSING], ids=str)
def test_given_sections_come_back_bit_exact(cohort: Prepared, scrambled: SectionReconstructor, planes: list[Plane]) -> None:
    observation = observe_test(cohort, planes)
    volume, _, _ = scrambled.reconstruct(observation, 1, "mean", np.random.default_rng(0))
    assert volume.shape == (len(cohort.store.contrasts), *cohort.store.shape) and volume.dtype == np.float32
    where = observation.mask
    np.testing.assert_array_equal(volume[:, where], observation.evidence[:, where])
    estimate = scrambled.core.estimate(observation).corrected
    assert np.abs(volume - estimate)[:, ~where].mean() > 1e-3  # elsewhere the network had its say


@pytest.mark.parametrize("count", [1, 5])
def test_oblique_sections_are_met_and_all_axes_drawn(cohort: Prepared, scrambled: SectionReconstructor, count: int) -> None:
    observation = observe_test(cohort, tilted(cohort, count))
    volume, _, evaluations = scrambled.reconstruct(observation, 1, "mean", np.random.default_rng(0))
    for plane, section in zip(observation.planes, observation.sections, strict=True):
        np.testing.assert_allclose(plane.cut(volume), section, atol=1e-3)
    assert evaluations == sum(cohort.store.shape)


def test_evaluations_are_the_sections_that_were_drawn(cohort: Prepared, scrambled: SectionReconstructor) -> None:
    every = SectionReconstructor(scrambled.network, scrambled.core, "all")
    shape = cohort.store.shape
    for planes, given in ((AXIAL, shape[2]), (CORONAL, shape[1]), (CROSSING, sum(shape))):
        counts = [
            one.reconstruct(observe_test(cohort, planes), 1, "mean", np.random.default_rng(0))[2] for one in (scrambled, every)
        ]
        assert counts == [given, sum(shape)]


def test_all_axes_are_the_mean_of_each(
    cohort: Prepared, scrambled: SectionReconstructor, monkeypatch: pytest.MonkeyPatch
) -> None:
    view, known = scrambled.core.known(observe_test(cohort, AXIAL))
    together, _ = unet2d.regress(scrambled.network, view, known, "all")
    apart = []
    for axis in range(3):
        monkeypatch.setattr(unet2d, "axes_of", lambda *_, one=axis: (one,))
        apart.append(unet2d.regress(scrambled.network, view, known, "all")[0])
    torch.testing.assert_close(together, torch.stack(apart).mean(dim=0), atol=1e-5, rtol=1e-4)
    assert (apart[0] - apart[2]).abs().mean() > 1e-3


def test_volume_does_not_depend_on_the_batch(
    cohort: Prepared, scrambled: SectionReconstructor, monkeypatch: pytest.MonkeyPatch
) -> None:
    view, known = scrambled.core.known(observe_test(cohort, CORONAL))
    first, _ = unet2d.regress(scrambled.network, view, known, "all")
    monkeypatch.setattr(unet2d, "PIXELS", 2000)
    torch.testing.assert_close(unet2d.regress(scrambled.network, view, known, "all")[0], first, atol=1e-4, rtol=0)


def test_axes_are_the_given_one_and_all_where_there_is_no_such_axis(field: Prepared) -> None:
    assert axes_of(tuple(AXIAL), "given") == (2,) and axes_of(tuple(CORONAL), "given") == (1,)
    assert axes_of(tuple(AXIAL), "all") == axes_of(tuple(CROSSING), "given") == (0, 1, 2)
    assert axes_of(tuple(tilted(field, 3)), "given") == (0, 1, 2)


# What a section sees ------------------------------------------------------------------------------------------------

SPACING = (4.0, 3.0, 5.0)


def seen(planes: list[Plane]) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    """A random volume of two contrasts, an estimate that is 0.5 everywhere with a standard deviation of 0.2, the neighbours."""
    volume = np.random.default_rng(0).random((2, 9, 8, 10), dtype=np.float32)
    view = View.of(observe(volume, planes, ("a", "b"), SPACING, "centred", "none"))
    half, wide = torch.full(volume.shape, 0.5), torch.full(volume.shape, 0.2)
    return volume, view.evidence.numpy(), neighbours(view, Estimate(half, half, half, wide))


def test_neighbours_are_the_given_sections_before_and_after_with_signed_distances() -> None:
    volume, _, found = seen([Plane(2, 3), Plane(2, 7)])
    assert found.shape == (10, 9, 8, 10)
    (before, off_before, away_before), (after, off_after, away_after) = (
        (half[:2], half[2:4], half[4]) for half in (found[:5], found[5:])
    )
    for z in (4, 5, 6):
        np.testing.assert_array_equal(before[..., z], volume[..., 3])
        np.testing.assert_array_equal(after[..., z], volume[..., 7])
        assert (away_before[..., z] == -(z - 3) * 5 / 40).all() and (away_after[..., z] == (7 - z) * 5 / 40).all()
    np.testing.assert_allclose(off_before[..., 5], (volume[..., 3] - 0.5) / 0.2, rtol=1e-5)
    np.testing.assert_allclose(off_after[..., 5], (volume[..., 7] - 0.5) / 0.2, rtol=1e-5)
    for z in (0, 2):
        assert not before[..., z].any() and not off_before[..., z].any() and (away_before[..., z] == -2 * 10 * 5 / 40).all()
    assert not after[..., 9].any() and not off_after[..., 9].any()
    assert found.abs().max() < OUTLIER


def test_of_several_axes_the_nearest_section_counts() -> None:
    volume, _, found = seen([Plane(0, 0), Plane(2, 9)])
    np.testing.assert_array_equal(found[:2, 1, :, 2], volume[:, 0, :, 2])  # 4 mm after the sagittal one
    np.testing.assert_array_equal(found[5:7, 7, :, 8], volume[:, 7, :, 9])  # 5 mm before the axial one
    assert (found[4, 1, :, 2] == -4 / 40).all() and (found[9, 7, :, 8] == 5 / 40).all()


def test_a_contrast_that_is_not_given_has_no_neighbours() -> None:
    volume = np.random.default_rng(0).random((2, 9, 8, 10), dtype=np.float32)
    view = View.of(observe(volume, [Plane(2, 3)], ("a", "b"), SPACING, "centred", "none", ["a"]))
    half = torch.full(volume.shape, 0.5)
    found = neighbours(view, Estimate(half, half, half, half))
    assert found[[0, 2]].any() and not found[[1, 3]].any()


@pytest.mark.parametrize("shape", [(16, 24), (13, 9), (5, 31)], ids=str)
def test_any_size_is_padded_at_its_ends_and_cut_back(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = SectionUNet(2, (8, 16, 16)).eval()
    torch.nn.init.normal_(network.head.weight)
    maps = torch.randn(3, input_channels(2), *shape, generator=torch.Generator().manual_seed(0))
    padded = torch.zeros(3, input_channels(2), *(-(-n // 4) * 4 for n in shape))
    padded[:, :, : shape[0], : shape[1]] = maps
    with torch.no_grad():
        out, whole = network(maps), network(padded)
    assert out.shape == (3, 2, *shape)
    torch.testing.assert_close(out, whole[:, :, : shape[0], : shape[1]])
    assert out.std() > 0.1


def test_parameters_that_there_are_not_are_named() -> None:
    with pytest.raises(InputError, match="methods.*.params: found unknown key 'chanels'"):
        Settings.of({"chanels": [8, 16]})
    with pytest.raises(InputError, match="methods.*.params.sections: found 'axial', expected one of"):
        Settings.of({"sections": "axial"})
    with pytest.raises(InputError, match="methods.*.params.minutes: found -1"):
        Settings.of({"minutes": -1})


# Training -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["given", "all"])
def problem(heads: Prepared, request: pytest.FixtureRequest) -> Regression:
    settings = Settings.of({**SMALL, "steps": 10, "seed": 4, "sections": request.param})
    draws = Draws(heads.store, heads.split.side("train"), plain_core(heads.store, heads.split), settings.draws)
    return Regression(draws, Checks(draws, heads.split, settings.validate_k, 1), settings)


def test_batch_is_a_function_of_step_alone(problem: Regression) -> None:
    first = [problem.batch(step) for step in (0, 1)]
    again = [problem.batch(step) for step in (1, 0)][::-1]
    for cuts, others in zip(first, again, strict=True):
        assert len(cuts) == problem.settings.volumes
        for cut, other in zip(cuts, others, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(cut, other, strict=True))
    assert not torch.equal(first[0][0].wanted, first[1][0].wanted)


def test_a_cut_holds_what_its_draw_says_of_some_sections(problem: Regression) -> None:
    axes = set()
    for step in range(0, 12, 2):
        for draw, cut in zip(problem.draws.of_step(4, step, 2), problem.batch(step), strict=True):
            axis = int(cut.maps[0, -3:, 0, 0].argmax())  # one-hot
            assert axis in axes_of(draw.view.planes, problem.settings.sections)
            axes.add(axis)
            truth, weights = stack(residual(draw), axis), stack(importance(draw.known), axis)
            all_maps = section_maps(unet2d.inputs(draw.view, draw.known), axis, torch.arange(len(truth)))
            assert cut.maps.shape == (4, input_channels(2), *truth.shape[2:]) and map_channels(2) + 13 == input_channels(2)
            for maps, wanted, weight in zip(*cut, strict=True):
                (row,) = (r for r in range(len(truth)) if torch.equal(maps, all_maps[r]))
                assert torch.equal(wanted, truth[row]) and torch.equal(weight, weights[row])
    assert axes == {0, 1, 2}


def test_untrained_network_gains_nothing_in_its_own_checks(problem: Regression) -> None:
    score, scores = problem.validate(Trainer(problem, problem.settings).average)
    assert score == pytest.approx(0, abs=1e-3)
    assert set(scores) == {"validation", "training"} and set(scores["validation"]) == {1, 3}


@pytest.mark.parametrize(("steps", "more"), [(40, {}), (60, {"base": "none", "sections": "all"})], ids=["given", "from the mean"])
def test_training_beats_the_gaussian_row_on_volumes_that_nothing_was_chosen_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, more: dict
) -> None:
    monkeypatch.setattr(Draws, "_planes", axial_planes)
    monkeypatch.setattr("xdiff.trained.fit_core", plain_core)
    columns = prepare_columns(tmp_path)
    params = {
        "channels": [16, 32],
        "steps": steps,
        "learning_rate": 4e-3,
        "ema": 0.95,
        "validate_every": steps // 2,
        "validate_k": [1, 3],
    }
    params |= {"draws": {"augment": {"warp": 0.0}}, "seed": 1, **more}
    train("unet2d", MethodEntry("baselines.unet2d", params), columns.store, columns.split, tmp_path / "unet2d")
    history = [json.loads(line) for line in (tmp_path / "unet2d/history.jsonl").read_text().splitlines()]
    assert [r["step"] for r in history] == [0, steps // 2, steps] and history[2]["loss"] < 0.8 * history[1]["loss"]
    gain = mean_gain_db(columns, unet2d.load(tmp_path / "unet2d"))
    assert gain > (2 if more else 5)  # from the mean of the training volumes it first has 10 dB to make good
