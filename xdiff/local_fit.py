"""Fitting the core: the linear-Gaussian estimate, then the local correction on what it leaves of the training volumes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy import optimize
from torch import Tensor
from torch.nn import functional

from xdiff.checkpoint import Tensors, keep_once
from xdiff.cuda import training_device
from xdiff.data.split import Split, patient_of
from xdiff.data.store import Store
from xdiff.errors import InputError
from xdiff.gaussian import FIT_K
from xdiff.gaussian_fit import fit
from xdiff.kinds import Kinds
from xdiff.local import LOG_STD, POWERS, Core, LocalNetwork, features, powers, seen_something
from xdiff.observation import (
    NotEnoughSections,
    Point,
    choose_planes,
    leaves_enough_unseen,
    observe,
    projection_point,
    well_filled,
)
from xdiff.plain import digest
from xdiff.planes import AXES, AXIS_NAMES
from xdiff.registration import WarpSettings, fit_warps, warped_volumes
from xdiff.view import View

VERSION = 2  # raise when the same settings fit something else
BATCH = 4096
LEARNING_RATE = 4e-3
REGRESSED = 2**19  # voxels of the regression
RIDGE = 1e-4  # relative to the power of each feature: with few training volumes much of a regression is theirs alone
STD_SHARE = 0.1  # of the loss: what the standard deviation gets
CALIBRATION_CASES = 60
KINDS = Kinds(uniform=0.75)


@dataclass(frozen=True)
class CoreSettings:
    """max_volumes: most training volumes of the linear-Gaussian estimate; cases: training cases of the correction, with `voxels`
    random voxels each; steps and width: of its network; warped_rows: copies of each training volume in the shapes of others that
    join the linear-Gaussian estimate, fewer where max_volumes has no room."""

    max_volumes: int = 400
    warped_rows: int = 0
    cases: int = 1600
    voxels: int = 2500
    steps: int = 4000
    width: int = 128


class Case(NamedTuple):
    """Voxels of one observation: features (C, n, F), residuals (C, n) in the observation's units, and their mean square, without
    the contrast that is a projection: it is known."""

    columns: np.ndarray
    wanted: np.ndarray
    square: float


def fit_core(store: Store, split: Split, settings: CoreSettings, folder: Path | None = None, seed: int = 0) -> Core:
    """Fit on leave-one-out cases of the training side: every K of FIT_K in turn, of all KINDS, along random axes; then in line
    with the validation side (see _calibrate).

    folder: where the core is kept, under a name that tells data, split and settings. Whatever asks for the same again - the
    next method, a training that resumes - takes it from there.
    """
    key = digest([VERSION, store.fingerprint, split.side("train"), split.side("val"), asdict(settings), seed])
    if not folder:
        return _fit(store, split, settings, None, seed)
    # methods train side by side: one fits, the others wait for it
    return _unpacked(keep_once(folder / f"core-{key[:16]}", lambda: _packed(_fit(store, split, settings, folder, seed))))


def _fit(store: Store, split: Split, settings: CoreSettings, folder: Path | None, seed: int) -> Core:
    linear = fit(store, split, settings.max_volumes, added=_warped(store, split.side("train"), settings, folder, seed))
    blank = Core(linear, LocalNetwork(1, 1).to(training_device()))
    cases = list(_cases(blank, store, split.side("train"), (settings.cases, settings.voxels), seed))
    if not cases:
        raise InputError(store.folder, f"training volumes too small for {FIT_K[0]} given section", "more foreground sections")
    network = train_network(cases, settings, seed)
    if split.side("val"):
        _calibrate(network, list(_cases(blank, store, split.side("val"), (CALIBRATION_CASES, settings.voxels), seed + 1)))
    return Core(linear, network.to(blank.device))


def _warped(
    store: Store, subjects: list[str], settings: CoreSettings, folder: Path | None, seed: int
) -> tuple[np.ndarray, list[tuple[str, str]]] | None:
    """What settings.warped_rows asks for and max_volumes has room for."""
    copies = min(settings.warped_rows, settings.max_volumes // len(subjects) - 1 if subjects else 0)
    if copies < settings.warped_rows:
        print(f"gaussian: {max(copies, 0)} of {settings.warped_rows} warped copies of each training volume used (max_volumes)")
    if copies < 1:
        return None
    return warped_volumes(store, fit_warps(store, subjects, WarpSettings(), folder), copies, seed)


def _packed(core: Core) -> Tensors:
    """Unlike weights, with the patients' names: a training leaves them out by name."""
    names = json.dumps(core.linear.patients).encode()
    return {**core.tensors(), "patients": np.frombuffer(names, np.uint8)}


def _unpacked(tensors: Tensors) -> Core:
    names = json.loads(tensors.pop("patients").tobytes())
    core = Core.of(tensors, device=training_device())
    core.linear.patients = tuple(name if isinstance(name, str) else tuple(name) for name in names)
    return core


def _cases(core: Core, store: Store, subjects: list[str], size: tuple[int, int], seed: int) -> Iterator[Case]:
    """`size` = (cases, voxels) random cases, several at a time; fewer where sections do not fit."""

    def one(number: int) -> Case | None:
        rng = np.random.default_rng([seed, 77, number])
        if store.projection:
            point = projection_point(store.projection, number)
        else:
            point = Point(FIT_K[number % len(FIT_K)], AXIS_NAMES[rng.integers(3)], *KINDS.policy(rng), 1, "mean", number)
        return _case(core, store, subjects[rng.integers(len(subjects))], point, size[1], rng)

    core.prepare()
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        yield from filter(None, pool.map(one, range(size[0])))


def _case(core: Core, store: Store, subject: str, point: Point, voxels: int, rng: np.random.Generator) -> Case | None:
    """One volume (or its mirror image) seen through given sections, its patient left out; None where they do not fit."""
    volume, foreground = store.volume(subject), store.foreground(subject)
    if rng.random() < 0.5:
        volume, foreground = volume[:, ::-1], foreground[::-1]
    try:
        planes = choose_planes(point, well_filled(foreground, AXES[point.axis]), None, store.spacing_mm(subject), subject)
    except NotEnoughSections:
        return None
    if not leaves_enough_unseen(planes, foreground):
        return None
    given = [store.projection.contrast] if store.projection else KINDS.contrasts(store.contrasts, rng)
    observation = observe(volume, planes, store.contrasts, store.spacing_mm(subject), store.frame, store.norm, given)
    keep = core.linear.without_patient(patient_of(subject))
    parts = [torch.from_numpy(a).to(core.device) for a in core.linear.estimate_parts(observation, keep)]
    prior, view = core.prior(parts[0], keep), View.of(observation, core.device)
    residual = torch.from_numpy(volume / observation.scale[:, None, None, None]).to(core.device) - parts[0]
    of = store.volumes
    hidden = seen_something(parts[0], prior) & ~view.known[of].any(dim=0)
    chosen = torch.from_numpy(rng.choice(np.flatnonzero(hidden.cpu().numpy()), voxels)).to(core.device)
    with torch.inference_mode():
        found = [[f.expand(view.shape).flatten()[chosen] for f in features(view, *parts, prior, c)] for c in of]
    columns = torch.stack([torch.stack(of_contrast, dim=1) for of_contrast in found])
    wanted, square = residual[of].flatten(1)[:, chosen], (residual[of][:, hidden] ** 2).mean()
    return Case(columns.cpu().numpy(), wanted.cpu().numpy(), float(square))


def train_network(cases: list[Case], settings: CoreSettings, seed: int) -> LocalNetwork:
    """The regression in closed form, then the network on what it leaves, by AdamW with a cosine learning rate on random voxels
    of all cases: squared error in units of each case's own residual, so that few sections do not outweigh many, and the
    likelihood of what is left for the standard deviation."""
    columns, wanted, weight, network = _pool(cases, settings.width, seed)
    generator = torch.Generator().manual_seed(seed)
    some = torch.randperm(len(columns), generator=generator)[:REGRESSED]
    network.linear = _regress(columns[some].float(), wanted[some], weight[some])
    for part in torch.arange(len(columns)).split(REGRESSED):
        wanted[part] -= network.regressed(columns[part].float())
    optimiser = torch.optim.AdamW(network.body.parameters(), LEARNING_RATE, weight_decay=0.01)
    for step in range(settings.steps):
        share = min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * share
        chosen = torch.randint(len(columns), (BATCH,), generator=generator)
        mean, log_std = network.body(columns[chosen].float()).T
        missed = mean - wanted[chosen]
        log_std = log_std.clamp(*LOG_STD)
        likelihood = (0.5 * missed.detach() ** 2 * torch.exp(-2 * log_std) + log_std).mean()
        loss = (weight[chosen] * missed**2).mean() + STD_SHARE * likelihood
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.body.parameters(), 1.0)
        optimiser.step()
    return network.eval()


def _pool(cases: list[Case], width: int, seed: int) -> tuple[Tensor, Tensor, Tensor, LocalNetwork]:
    """All voxels of all cases: standardised features (N, F) float16, residuals (N,) in the network's unit, weights (N,) that
    give every case the same; and the network, which knows the units."""
    torch.manual_seed(seed)
    network = LocalNetwork(cases[0].columns.shape[-1], width)
    some = torch.from_numpy(np.concatenate([c.columns.reshape(-1, c.columns.shape[-1]) for c in cases[::8]]))
    network.middle, network.wide = some.mean(dim=0), some.std(dim=0) + 1e-6
    square = float(np.mean([c.square for c in cases])) + 1e-12
    network.unit = torch.tensor(math.sqrt(square))
    columns = torch.cat([network.standardised(torch.from_numpy(c.columns)).flatten(0, 1).half() for c in cases])
    wanted = torch.from_numpy(np.concatenate([c.wanted.ravel() for c in cases])) / network.unit
    weight = torch.cat([torch.full((c.wanted.size,), square / (c.square + 1e-3 * square)) for c in cases])
    return columns, wanted, weight / weight.mean(), network


def _regress(known: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """Weighted least squares, (F + 1, POWERS) float32. In float64: near-collinear features are told apart by little."""
    size = (known.shape[1] + 1) * POWERS
    left, right = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    for part in torch.arange(len(known)).split(BATCH):
        ones = functional.pad(known[part], (0, 1), value=1.0)
        rows = (ones[:, :, None] * powers(known[part])[:, None]).flatten(1).double()
        left += rows.T @ (weight[part, None] * rows)
        right += rows.T @ (weight[part] * wanted[part]).double()
    unit = 1 / torch.sqrt(left.diagonal() + 1e-9 * left.diagonal().mean())
    scaled = left * unit[:, None] * unit + RIDGE * torch.eye(size)
    return (unit * torch.linalg.solve(scaled, right * unit)).reshape(-1, POWERS).float()


def _calibrate(network: LocalNetwork, cases: list[Case]) -> None:
    """On cases of the validation side: shrink the regression and what the network adds to it to the shares that serve best
    there, then replace log std by the a + b log std that is likeliest. On its own training volumes the correction errs less,
    most of all where there is most to err about. Without cases all stay as they are."""
    if not cases:
        return
    found = []
    for case in cases:
        with torch.inference_mode():
            known = network.standardised(torch.from_numpy(case.columns)).flatten(0, 1)
            regressed, (added, log_std) = network.regressed(known).numpy(), network.body(known).numpy().T
        weight = np.full(len(known), case.square**-0.5)
        found.append([regressed, added, case.wanted.ravel() / network.unit.item(), log_std, weight])
    regressed, added, wanted, log_std, weight = np.concatenate(found, axis=1).astype(np.float64)
    pair = np.stack([regressed, added], axis=1)
    shares = np.clip(optimize.nnls(weight[:, None] * pair, weight * wanted)[0], 0, 1)
    squares, log_std = (wanted - pair @ shares) ** 2, np.clip(log_std, *LOG_STD)

    def unlikely(line: np.ndarray) -> float:
        new = line[0] + line[1] * log_std
        return float((0.5 * squares * np.exp(-2 * new) + new).mean())

    offset, slope = optimize.minimize(unlikely, [0.0, 1.0], method="Nelder-Mead").x
    last, factors = network.body[-1], torch.tensor([shares[1], slope], dtype=torch.float32)
    with torch.no_grad():
        network.linear *= float(shares[0])
        last.weight *= factors[:, None]
        last.bias *= factors
        last.bias[1] += offset
    print(f"local correction: {shares[0]:.2f} of the regression and {shares[1]:.2f} of the network kept")
