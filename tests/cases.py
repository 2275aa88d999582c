"""What tests of training draws share: a core with some local correction, draws of a cohort, and when two draws are the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from columns import plain_core
from conftest import Prepared

from xdiff.augment import Augmentation
from xdiff.draws import Draw, Draws, DrawSettings
from xdiff.local import Core

PLAIN = DrawSettings(augment=Augmentation(warp=0.0))
THIN = replace(PLAIN, orthogonal=0.0, tilted=0.0, thick=0.0, fewer=0.0)  # sections of one axis, of all contrasts
Case = tuple[Prepared, Core]


def core_of(cohort: Prepared) -> Core:
    """A plain core with some local correction: which does not matter here."""
    core = plain_core(cohort.store, cohort.split)
    with torch.no_grad():
        core.network.body[-1].weight.normal_(0, 1.0, generator=torch.Generator().manual_seed(0))
    return core


def make_draws(case: Case, settings: DrawSettings = PLAIN, subjects: list[str] | None = None, resident: bool = False) -> Draws:
    cohort, core = case
    return Draws(cohort.store, subjects or cohort.split.side("train"), core, settings, resident)


def same(a: Draw, b: Draw) -> bool:
    return all(np.allclose(one, other, rtol=1e-4, atol=1e-5) for one, other in zip(a.known, b.known, strict=True))
