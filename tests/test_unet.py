"""The U-Net baseline: the gaussian row before training, better than it afterwards, the given sections exact."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from columns import axial_planes, mean_gain_db, plain_core, prepare_columns
from conftest import Prepared, observe_test

from baselines import unet
from baselines.unet import Regression, ResidualUNet, Settings, blocks_to_channels, channels_to_blocks
from xdiff.checkpoint import read_weights, write_weights
from xdiff.config import MethodEntry
from xdiff.draws import Checks, Draws, importance
from xdiff.errors import InputError
from xdiff.local import Core
from xdiff.loop import Trainer
from xdiff.model.diffusion import make_condition, map_channels
from xdiff.planes import Plane
from xdiff.train import train

SMALL = {"channels": [8, 16], "validate_k": [1, 3], "validate_subjects": 1}


@pytest.fixture(scope="module")
def untrained(cohort: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights after no step of training."""
    out = tmp_path_factory.mktemp("untrained") / "unet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unet, "fit_core", plain_core)
        train("unet", MethodEntry("baselines.unet", {**SMALL, "steps": 0}), cohort.store, cohort.split, out)
    return out


@pytest.fixture(scope="module")
def scrambled(untrained: Path) -> unet.UNetReconstructor:
    """The same with random numbers in every layer, the zero head too."""
    tensors, config = read_weights(untrained)
    rng = np.random.default_rng(0)
    names = [name for name in tensors if name.startswith("network.")]
    changed = {name: tensors[name] + 0.1 * rng.standard_normal(tensors[name].shape, dtype=np.float32) for name in names}
    folder = untrained.with_name("scrambled")
    write_weights(folder, tensors | changed, config)
    return unet.load(folder)


# Before training ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("planes", [[Plane(2, 9)], [Plane(1, 7), Plane(1, 15)], [Plane(0, 9), Plane(2, 11)]], ids=str)
def test_untrained_is_the_estimate_without_a_network(cohort: Prepared, untrained: Path, planes: list[Plane]) -> None:
    observation = observe_test(cohort, planes)
    expected = Core.of(read_weights(untrained)[0]).estimate(observation).corrected
    volume, std, _ = unet.load(untrained).reconstruct(observation, 1, "mean", np.random.default_rng(0))
    np.testing.assert_allclose(volume, expected, atol=1e-5)
    known = Core.of(read_weights(untrained)[0]).estimate(observation)
    np.testing.assert_allclose(std, np.where(observation.known, 0, known.std), atol=1e-6)


@pytest.mark.parametrize("planes", [[Plane(2, 6), Plane(2, 13)], [Plane(0, 9), Plane(2, 11)]], ids=str)
def test_given_sections_come_back_bit_exact(cohort: Prepared, scrambled: unet.UNetReconstructor, planes: list[Plane]) -> None:
    observation = observe_test(cohort, planes)
    volume, _, _ = scrambled.reconstruct(observation, 1, "mean", np.random.default_rng(0))
    assert volume.shape == (len(cohort.store.contrasts), *cohort.store.shape) and volume.dtype == np.float32
    where = observation.mask
    np.testing.assert_array_equal(volume[:, where], observation.evidence[:, where])
    for plane, section in zip(planes, observation.sections, strict=True):
        if len({p.axis for p in planes}) == 1:
            np.testing.assert_array_equal(plane.cut(volume), section)
    gaussian = scrambled.core.estimate(observation).corrected
    assert np.abs(volume - gaussian)[:, ~where].mean() > 1e-3  # elsewhere the network had its say


def test_the_generator_changes_nothing(cohort: Prepared, scrambled: unet.UNetReconstructor) -> None:
    observation = observe_test(cohort, [Plane(2, 9)])
    first, second = (scrambled.reconstruct(observation, 1, "mean", np.random.default_rng(s))[0] for s in (0, 1))
    np.testing.assert_array_equal(first, second)


def test_thick_sections_are_met_on_average(scrambled: unet.UNetReconstructor, cohort: Prepared) -> None:
    observation = observe_test(cohort, [Plane(2, 5, 2.5), Plane(2, 12, 2.5)])
    volume, _, _ = scrambled.reconstruct(observation, 1, "mean", np.random.default_rng(0))
    for plane, section in zip(observation.planes, observation.sections, strict=True):
        np.testing.assert_allclose(plane.cut(volume), section, atol=1e-4)


# The network --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 8, 24), (13, 9, 18), (5, 7, 30), (8, 8, 9)], ids=str)
def test_any_size_is_padded_at_its_ends_and_cut_back(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    network = ResidualUNet(2, (8, 16, 16)).eval()
    torch.nn.init.normal_(network.head.weight)
    maps = torch.randn(1, map_channels(2), *shape, generator=torch.Generator().manual_seed(0))
    larger = [-(-n // 8) * 8 for n in shape]
    padded = torch.zeros(1, map_channels(2), *larger)
    padded[:, :, : shape[0], : shape[1], : shape[2]] = maps
    with torch.no_grad():
        out = network(maps)
        whole = network(padded)
    assert out.shape == (1, 2, *shape)
    torch.testing.assert_close(out, whole[:, :, : shape[0], : shape[1], : shape[2]])
    assert out.std() > 0.1


def test_blocks_of_eight_voxels_become_channels_and_voxels_again() -> None:
    volume = torch.arange(2 * 3 * 4 * 6 * 8).float().reshape(2, 3, 4, 6, 8)
    channels = blocks_to_channels(volume)
    assert channels.shape == (2, 24, 2, 3, 4)
    assert torch.equal(channels_to_blocks(channels), volume)
    block = volume[1, 2, 2:4, 4:6, 6:8]
    assert set(channels[1, 16:24, 1, 2, 3].tolist()) == set(block.flatten().tolist())


def test_unknown_parameter_is_named() -> None:
    with pytest.raises(InputError, match="methods.*.params: found unknown key 'chanels'"):
        Settings.of({"chanels": [8, 16]})
    with pytest.raises(InputError, match="methods.*.params.draws.augment: found unknown key 'wrap'"):
        Settings.of({"draws": {"augment": {"wrap": 1.0}}})
    assert Settings.of({"draws": {"augment": {"symmetric": True}}}).draws.augment.symmetric


# Training -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def problem(heads: Prepared) -> Regression:
    settings = Settings.of({**SMALL, "steps": 10, "seed": 4})
    draws = Draws(heads.store, heads.split.side("train"), plain_core(heads.store, heads.split), settings.draws)
    return Regression(draws, Checks(draws, heads.split, settings.validate_k, 1), settings)


def test_batch_is_a_function_of_step_alone(problem: Regression) -> None:
    first = [problem.batch(step) for step in (0, 1)]
    again = [problem.batch(step) for step in (1, 0)][::-1]
    for (maps, residuals, weights), (maps_2, residuals_2, _) in zip(first, again, strict=True):
        assert maps.shape == (2, map_channels(2), 24, 28, 22) and residuals.shape == weights.shape == (2, 2, 24, 28, 22)
        assert maps.dtype == residuals.dtype == torch.float32
        assert torch.equal(maps, maps_2) and torch.equal(residuals, residuals_2)
    assert not torch.equal(first[0][1], first[1][1])


def test_what_is_regressed_is_the_residual_of_the_estimate_that_is_shown(problem: Regression) -> None:
    draws = problem.draws.of_step(4, 2, 2)
    for draw, maps, residual, weight in zip(draws, *problem.batch(2), strict=True):
        assert torch.equal(maps, make_condition(draw.view, draw.known).maps)
        assert torch.equal(weight, importance(draw.known))
        assert not residual[draw.view.known].any()  # what is given needs no prediction
        again = draw.known.corrected + draw.known.std * residual
        np.testing.assert_allclose(again, draw.truth, atol=1e-5)


def test_untrained_network_gains_nothing_in_its_own_checks(problem: Regression) -> None:
    score, scores = problem.validate(Trainer(problem, problem.settings).average)
    assert score == pytest.approx(0, abs=1e-3)
    assert set(scores) == {"validation", "training"}
    for by_k in scores.values():
        assert set(by_k) == {1, 3}
        assert all(entry["psnr"] == pytest.approx(entry["gaussian"], abs=1e-3) for entry in by_k.values())


def test_training_beats_the_gaussian_row_on_volumes_that_nothing_was_chosen_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Draws, "_planes", axial_planes)
    monkeypatch.setattr(unet, "fit_core", plain_core)
    columns = prepare_columns(tmp_path)
    params = {"channels": [16, 32], "steps": 60, "learning_rate": 4e-3, "ema": 0.95, "validate_every": 30, "validate_k": [1, 3]}
    params |= {"draws": {"augment": {"warp": 0.0}}, "seed": 1}
    train("unet", MethodEntry("baselines.unet", params), columns.store, columns.split, tmp_path / "unet")
    history = [json.loads(line) for line in (tmp_path / "unet/history.jsonl").read_text().splitlines()]
    assert [r["step"] for r in history] == [0, 30, 60] and history[2]["loss"] < 0.5 * history[1]["loss"]
    assert mean_gain_db(columns, unet.load(tmp_path / "unet")) > 4  # 8 to 12 when this was written
