"""The U-Net baseline: the gaussian row before training, better than it afterwards, the given sections exact."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from columns import axial_planes, mean_gain_db, plain_core, prepare_columns, scramble
from conftest import PRESETS, REPOSITORY, Prepared, observe_test, overlays

from baselines import unet
from baselines.unet import EPSILON, Regression, ResidualUNet, Settings, blocks_to_channels, channels_to_blocks
from xdiff.checkpoint import read_weights, write_weights
from xdiff.config import MethodEntry, load_config
from xdiff.draws import Checks, Draws, importance
from xdiff.errors import InputError
from xdiff.local import Core
from xdiff.loop import Trainer
from xdiff.model.diffusion import make_condition, map_channels, mirror_maps
from xdiff.observation import Observation, observe
from xdiff.planes import Plane
from xdiff.stats import base_of
from xdiff.train import train

SMALL = {"channels": [8, 16], "validate_k": [1, 3], "validate_subjects": 1}


@pytest.fixture(scope="module")
def untrained(cohort: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights after no step of training."""
    out = tmp_path_factory.mktemp("untrained") / "unet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xdiff.trained.fit_core", plain_core)
        train("unet", MethodEntry("baselines.unet", {**SMALL, "steps": 0}), cohort.store, cohort.split, out)
    return out


@pytest.fixture(scope="module")
def scrambled(untrained: Path) -> unet.UNetReconstructor:
    """The same with random numbers in every layer, the zero head too."""
    return unet.load(scramble(untrained))


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


@pytest.mark.parametrize(
    ("params", "found"),
    [({"loss": "l1"}, "loss: found 'l1'"), ({"tta": "flip"}, "tta: found 'flip'"), ({"dropout": 1.0}, "dropout: found 1.0")],
    ids=str,
)
def test_a_choice_that_there_is_not_is_named(params: dict, found: str) -> None:
    with pytest.raises(InputError, match=f"methods.*.params.{found}, expected"):
        Settings.of(params)


def test_units_and_dropout_reach_the_network() -> None:
    sizes = [sum(p.numel() for p in Settings.of({**SMALL, "res_units": n}).network(1).parameters()) for n in (1, 2, 3)]
    assert sizes[0] < sizes[1] < sizes[2]
    assert sizes[1] == sum(p.numel() for p in Settings.of(SMALL).network(1).parameters())
    network = Settings.of({**SMALL, "dropout": 0.5}).network(1)
    torch.nn.init.normal_(network.head.weight)
    maps = torch.randn(1, map_channels(1), 8, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert not torch.equal(network(maps), network(maps))
        assert torch.equal(network.eval()(maps), network(maps))


def test_the_preset_that_tunes_it_changes_one_setting_at_a_time() -> None:
    """Of the entry of the preset below it, so that weights are shared; and none of them asks for what there is not."""
    preset = PRESETS / "tune-unet.yaml"
    config, below = (load_config([REPOSITORY / "config.yaml", *one]) for one in (overlays(preset), overlays(preset)[:-1]))
    base = config.methods["unet"]
    assert base == below.methods["unet"]
    tuned = {name: entry for name, entry in config.methods.items() if base_of(name) == "unet"}
    assert set(config.run.methods) == {"gaussian", "gaussian_local", "unet", *tuned} and len(tuned) == 14
    changed = []
    for entry in tuned.values():
        assert replace(entry, params=base.params) == base
        assert Settings.of(entry.params) != Settings.of(base.params)
        changed += [key for key in {*entry.params, *base.params} if entry.params.get(key) != base.params.get(key)]
    assert len(changed) == 14 and set(changed) >= {
        "base",
        "channels",
        "learning_rate",
        "steps",
        "draws",
        "tta",
        "loss",
        "dropout",
    }


# The mirror ---------------------------------------------------------------------------------------------------------


def in_the_mirror(cohort: Prepared, planes: list[Plane]) -> tuple[Observation, Observation]:
    """What is given of a test subject, and of its mirror image, left and right exchanged."""
    store, subject = cohort.store, cohort.split.side("test")[0]
    mirrored = [Plane(p.axis, store.shape[0] - 1 - p.index if p.axis == 0 else p.index, p.thickness) for p in planes]
    volume = store.volume(subject)
    pairs = ((volume, planes), (np.ascontiguousarray(volume[:, ::-1]), mirrored))
    return tuple(observe(v, p, store.contrasts, store.spacing_mm(subject), store.frame, store.norm) for v, p in pairs)


PLANES = [[Plane(2, 9)], [Plane(0, 4), Plane(0, 13)], [Plane(0, 5), Plane(2, 11)]]


@pytest.mark.parametrize("planes", PLANES, ids=str)
def test_maps_in_the_mirror_are_those_of_the_mirror_image(
    cohort: Prepared, scrambled: unet.UNetReconstructor, planes: list[Plane]
) -> None:
    here, there = (make_condition(*scrambled.core.known(o)).maps for o in in_the_mirror(cohort, planes))
    torch.testing.assert_close(mirror_maps(here[None])[0], there, atol=2e-3, rtol=0)
    assert not torch.allclose(mirror_maps(here[None])[0], here, atol=0.1)


@pytest.mark.parametrize("planes", PLANES[:2], ids=str)
def test_averaged_with_the_mirror_left_and_right_are_treated_alike(
    cohort: Prepared, scrambled: unet.UNetReconstructor, planes: list[Plane]
) -> None:
    both = in_the_mirror(cohort, planes)
    apart = {}
    for tta in ("none", "mirror"):
        method = unet.UNetReconstructor(scrambled.network, scrambled.core, tta)
        here, there = (method.reconstruct(o, 1, "mean", np.random.default_rng(0))[0] for o in both)
        apart[tta] = np.abs(here[:, ::-1] - there).max()
    assert apart["mirror"] < 2e-3 < 1e-2 < apart["none"]


def test_weights_say_whether_the_mirror_is_asked(untrained: Path) -> None:
    tensors, config = read_weights(untrained)
    folder = untrained.with_name("mirrored")
    write_weights(folder, tensors, {**config, "params": {**config["params"], "tta": "mirror"}})
    assert (unet.load(untrained).tta, unet.load(folder).tta) == ("none", "mirror")


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


def with_settings(problem: Regression, **changed: object) -> Regression:
    return Regression(problem.draws, problem.checks, replace(problem.settings, **changed))


def test_losses_are_those_of_the_residual_by_its_weight(problem: Regression) -> None:
    """Of an untrained network, which answers 0."""
    batch, generator = problem.batch(0), torch.Generator()
    squares = batch[2] * batch[1] ** 2
    assert problem.loss(problem.network, batch, generator).item() == pytest.approx(squares.mean().item(), rel=1e-5)
    robust = with_settings(problem, loss="charbonnier")
    expected = torch.sqrt(squares + EPSILON**2).mean().item()
    assert robust.loss(robust.network, batch, generator).item() == pytest.approx(expected, rel=1e-5)


def test_which_features_are_left_out_is_a_function_of_the_generator_alone(problem: Regression) -> None:
    dropping, batch, values = with_settings(problem, dropout=0.5), problem.batch(0), []
    torch.nn.init.normal_(dropping.network.head.weight)
    for seed in (0, 0, 1):
        torch.manual_seed(len(values))  # the global state must not matter
        values.append(dropping.loss(dropping.network, batch, torch.Generator().manual_seed(seed)).item())
    assert values[0] == values[1] != values[2]


def test_untrained_network_gains_nothing_in_its_own_checks(problem: Regression) -> None:
    score, scores = problem.validate(Trainer(problem, problem.settings).average)
    assert score == pytest.approx(0, abs=1e-3)
    assert set(scores) == {"validation", "training"}
    for by_k in scores.values():
        assert set(by_k) == {1, 3}
        assert all(entry["psnr"] == pytest.approx(entry["gaussian"], abs=1e-3) for entry in by_k.values())


@pytest.mark.parametrize("more", [{}, {"loss": "charbonnier", "dropout": 0.05, "tta": "mirror"}], ids=["plain", "tuned"])
def test_training_beats_the_gaussian_row_on_volumes_that_nothing_was_chosen_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict
) -> None:
    monkeypatch.setattr(Draws, "_planes", axial_planes)
    monkeypatch.setattr("xdiff.trained.fit_core", plain_core)
    columns = prepare_columns(tmp_path)
    params = {"channels": [16, 32], "steps": 60, "learning_rate": 4e-3, "ema": 0.95, "validate_every": 30, "validate_k": [1, 3]}
    params |= {"draws": {"augment": {"warp": 0.0}}, "seed": 1, **more}
    train("unet", MethodEntry("baselines.unet", params), columns.store, columns.split, tmp_path / "unet")
    history = [json.loads(line) for line in (tmp_path / "unet/history.jsonl").read_text().splitlines()]
    assert [r["step"] for r in history] == [0, 30, 60] and history[2]["loss"] < (0.5 if not more else 0.8) * history[1]["loss"]
    assert mean_gain_db(columns, unet.load(tmp_path / "unet")) > 4  # 8 to 12 when this was written
