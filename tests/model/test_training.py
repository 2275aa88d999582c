"""X-Diffusion's training problem: batches that depend on (seed, step) alone, its checks, and that it learns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from columns import axial_planes, mean_gain_db, plain_core, prepare_columns
from conftest import Prepared

from xdiff.augment import Augmentation
from xdiff.config import MethodEntry
from xdiff.draws import Checks, Draw, Draws, DrawSettings, residual
from xdiff.errors import InputError
from xdiff.loop import Trainer
from xdiff.model import method, training
from xdiff.model.diffusion import make_condition, map_channels
from xdiff.model.training import Denoising, Settings
from xdiff.train import train

TINY = Settings(channels=(8, 16), trunk_channels=(8, 16), features=4, sections=4, validate_k=(1, 3), validate_subjects=1, seed=2)


def problem_of(cohort: Prepared, settings: Settings = TINY) -> Denoising:
    draws = Draws(cohort.store, cohort.split.side("train"), plain_core(cohort.store, cohort.split), settings.draws)
    checks = Checks(draws, cohort.split, settings.validate_k, 1)
    return Denoising(draws, checks, cohort.split.side("val")[:1], settings)


@pytest.fixture(scope="module", params=["field", "heads"])
def problem(request: pytest.FixtureRequest) -> Denoising:
    return problem_of(request.getfixturevalue(request.param))


def test_batch_is_a_function_of_seed_and_step(field: Prepared) -> None:
    first, again, other = problem_of(field), problem_of(field), problem_of(field, replace(TINY, seed=3))
    batches = [first.batch(step) for step in (0, 1, 2)]
    for step in (2, 0, 1):  # another object, another order
        one, two = batches[step], again.batch(step)
        assert one.axis == two.axis
        assert all(torch.equal(getattr(one, name), getattr(two, name)) for name in ("residual", "maps", "rows"))
    assert not torch.equal(batches[0].residual, batches[1].residual)
    assert not torch.equal(batches[0].residual, other.batch(0).residual)


def test_batch_holds_what_its_draws_say(problem: Denoising) -> None:
    store = problem.draws.store
    axes = set()
    for step in range(8):
        batch, rng = problem.batch(step), np.random.default_rng([TINY.seed, step, 1])
        axes.add(batch.axis)
        assert batch.axis == int(rng.integers(3))
        assert batch.residual.shape == (2, len(store.contrasts), *store.shape) and batch.residual.dtype == torch.float32
        assert batch.maps.shape == (2, map_channels(len(store.contrasts)), *store.shape) and batch.rows.shape == (2, 4)
        draw = problem.draws.of_step(TINY.seed, step, 2)[0]
        assert torch.equal(batch.maps[0], make_condition(draw.view, draw.known).maps)
        assert not batch.residual[0][draw.view.known].any()  # what is given needs no prediction
        again = draw.known.corrected + draw.known.std * batch.residual[0]
        np.testing.assert_allclose(again, draw.truth, atol=1e-5)
    assert axes == {0, 1, 2}


def test_residuals_are_about_one_in_units_of_the_scale(field: Prepared) -> None:
    problem = problem_of(field, replace(TINY, draws=DrawSettings(augment=Augmentation(symmetric=True))))
    squares = [(problem.batch(step).residual ** 2).mean().item() for step in range(40)]
    assert np.sqrt(np.mean(squares)) == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_sections_are_drawn_where_there_is_foreground_and_two_beyond(axis: int) -> None:
    foreground = np.zeros((20, 22, 24), dtype=bool)
    foreground[6:12, 1:9, 15:24] = True
    draw = Draw(None, None, None, torch.from_numpy(foreground))  # type: ignore[arg-type]
    expected = [range(4, 14), range(0, 11), range(13, 24)][axis]
    seen = [training.draw_rows(draw, axis, 5, np.random.default_rng(seed)) for seed in range(80)]
    assert all(len(set(rows.tolist())) == 5 for rows in seen)
    assert set(np.concatenate(seen).tolist()) == set(expected)
    assert len(training.draw_rows(draw, axis, 40, np.random.default_rng(0))) == 40  # more than there are


def test_untrained_network_gains_nothing_in_its_own_checks(problem: Denoising) -> None:
    score, scores = problem.validate(Trainer(problem, TINY).average)
    assert score == pytest.approx(0, abs=1e-3)
    assert set(scores) == {"validation", "training"}
    for by_k in scores.values():
        assert set(by_k) == {1, 3}
        assert all(entry["psnr"] == pytest.approx(entry["gaussian"], abs=1e-3) for entry in by_k.values())


def test_score_counts_the_denoising_of_held_out_volumes_besides_the_mean(
    field: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same `mean`, but half of the untrained network's loss: 3.01 dB more."""
    problem = problem_of(field)
    batches = [problem.held_out, problem_of(field).held_out]
    assert len(batches[0]) == training.HELD_OUT
    assert all(torch.equal(a.maps, b.maps) for a, b in zip(*batches, strict=True))
    assert problem.held_out_loss(problem.network) == problem.untrained_loss  # the same noise every time
    monkeypatch.setattr(problem, "held_out_loss", lambda network: problem.untrained_loss / 2)
    assert problem.validate(problem.network)[0] == pytest.approx(10 * np.log10(2), abs=1e-3)


def test_held_out_volumes_are_of_the_validation_side(field: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    volume = type(field.store).volume
    problem = problem_of(field)
    monkeypatch.setattr(type(field.store), "volume", lambda self, subject: (seen.append(subject), volume(self, subject))[1])
    monkeypatch.setattr(Denoising, "_spectra", lambda self, draws: problem.spectra)
    Denoising(problem.draws, problem.checks, field.split.side("val"), TINY)
    assert set(seen) == set(field.split.side("val"))


def test_fusion_finds_the_weights_that_the_axes_deserve(field: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """Along the sections' own axis what the linear estimate misses, at t = 1 too large by K + 1 and below by five, along the
    others noise: a share of 1 / (K + 1), then a fifth, and none of them."""
    problem, generator, asked = problem_of(field), torch.Generator().manual_seed(0), []

    def estimates(draw: Draw, state: torch.Tensor, t: float) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append((draw, t, state))
        wanted = residual(draw)
        added = torch.randn((3, *draw.truth.shape), generator=generator)
        added[2] = (len(draw.view.planes) + 1 if t == 1 else 5) * (wanted - 0.3 * wanted)
        return 0.3 * wanted, added

    monkeypatch.setattr(training, "axis_estimates", estimates)
    monkeypatch.setattr(problem, "denoiser", lambda network, draw: draw)
    fusion = problem.fit_fusion(problem.network)
    assert fusion.times[0] == 1 and (np.diff(fusion.times) < 0).all() and fusion.weights.shape == (len(fusion.times), 2, 2)
    sigma = fusion.times[1:] / (1 - fusion.times[1:])
    np.testing.assert_allclose(sigma, training.FUSION_SIGMA, rtol=1e-4)
    assert TINY.validate_k == (1, 3) and fusion.openness[0] < fusion.openness[1]  # three sections leave less open
    by_k = [[[0.25, 0], [0.5, 0]]] + [[[0.2, 0], [0.2, 0]]] * len(sigma)
    np.testing.assert_allclose(fusion.weights, by_k, atol=0.02)
    assert {a.dtype for a in fusion} == {np.dtype(np.float32)}
    draws = [draw for side, _, draw, _ in problem.checks.cases if side == "validation"]
    assert {id(draw) for draw, t, _ in asked if t == 1} == {id(draw) for draw in draws}
    for draw, t, state in asked:
        left = (state - (1 - t) * residual(draw)) / t
        assert left.std().item() == pytest.approx(1, abs=0.03) and left.mean().abs() < 0.03  # the rest is noise


def test_fusion_of_nothing_is_the_mean(field: Prepared) -> None:
    problem = problem_of(field)
    fusion = problem.fit_fusion(problem.network.eval())
    np.testing.assert_allclose(fusion.weights, np.full((1 + len(training.FUSION_SIGMA), 2, 2), 1 / 3))


@pytest.mark.slow
def test_entries_that_differ_in_the_sampler_alone_share_one_training(
    field: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xdiff.trained.fit_core", plain_core)
    params = {
        "channels": [8, 16],
        "trunk_channels": [],
        "steps": 2,
        "validate_every": 1,
        "validate_k": [1],
        "validate_subjects": 1,
    }
    entries = {"plain": {}, "warm": {"sampler": {"start": "warm"}}, "wide": {"slab": 2}}
    trained, run = [], training.run
    monkeypatch.setattr(training, "run", lambda problem, *rest: (trained.append(problem), run(problem, *rest))[1])
    found, histories = {}, {}
    for name, own in entries.items():
        folder = tmp_path / "models" / name
        train(name, MethodEntry("xdiff.model.method", {**params, **own}), field.store, field.split, folder)
        found[name], histories[name] = method.load(folder), (folder / "history.jsonl").read_text()
    assert len(trained) == 2  # plain and warm together, wide alone
    plain, warm = (found[name].network.state_dict() for name in ("plain", "warm"))
    assert all(torch.equal(plain[k], warm[k]) for k in plain) and histories["plain"] == histories["warm"]
    assert found["warm"].sampler.start == "warm" and found["plain"].sampler.start == "noise"
    assert found["wide"].network.slab == 2 and histories["wide"] != histories["plain"]


def test_the_same_seed_gives_the_same_network() -> None:
    first, again, other = (replace(TINY, seed=seed).network(1).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


def test_unknown_parameter_is_named() -> None:
    with pytest.raises(InputError, match="methods.*.params: found unknown key 'chanels'"):
        Settings.of({"chanels": [8, 16]})
    assert Settings.of({"trunk_channels": []}).network(1).trunk is None


@pytest.mark.slow
@pytest.mark.parametrize("trunk", [[8, 16], []], ids=["trunk", "no trunk"])
def test_training_beats_the_gaussian_row_on_volumes_that_nothing_was_chosen_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trunk: list[int]
) -> None:
    monkeypatch.setattr(Draws, "_planes", axial_planes)
    monkeypatch.setattr("xdiff.trained.fit_core", plain_core)
    columns = prepare_columns(tmp_path)
    params = {"channels": [8, 16], "trunk_channels": trunk, "features": 4, "steps": 40, "learning_rate": 4e-3, "ema": 0.95}
    params |= {"validate_every": 20, "validate_k": [1, 3], "draws": {"augment": {"warp": 0.0}}}
    train("xdiff", MethodEntry("xdiff.model.method", params), columns.store, columns.split, tmp_path / "xdiff")
    history = [json.loads(line) for line in (tmp_path / "xdiff/history.jsonl").read_text().splitlines()]
    assert [r["step"] for r in history] == [0, 20, 40] and history[2]["loss"] < 0.8 * history[1]["loss"]
    xdiffusion = method.load(tmp_path / "xdiff")
    assert mean_gain_db(columns, xdiffusion) > 4  # dB; 10 to 12 when this was written
    before = Settings.of(params).network(1).state_dict()
    after = xdiffusion.network.state_dict()
    assert not [k for k in before if torch.equal(before[k], after[k].cpu())]  # what is kept was trained, in every layer
