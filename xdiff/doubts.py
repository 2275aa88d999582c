"""What speaks against given slices: they are further from the training volumes than these are from each other, or fit better
another way up or as slices of another axis. Each doubt says what was found and what was expected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xdiff.errors import InputError
from xdiff.given import Given
from xdiff.observation import Observation
from xdiff.out_of_distribution import score, upside_down
from xdiff.placing import around, as_axis, observe_given, searching
from xdiff.planes import AXIS_NAMES
from xdiff.pose import PoseModel, moved_back, used

BETTER = 0.95  # of the score: slices that fit so much better otherwise are given the wrong way (measured: 24 right of 24)
SHOWS = 0.05  # of the intensity scale: a pixel that shows something
LARGER = 1.15  # times the largest training section
ANTICORRELATED = 0.0


@dataclass(frozen=True)
class Verdict:
    """score of out_of_distribution.py and its threshold, None where the model has none; doubts: (found, expected) each."""

    score: float | None
    threshold: float | None
    doubts: tuple[tuple[str, str], ...]

    def first(self, path: Path) -> tuple[Path, str, str]:
        """What an InputError about the first doubt says."""
        found, expected = self.doubts[0]
        return path, found, f"{expected} (--force goes on all the same, and records it)"

    def plain(self) -> dict:
        """For the sidecar."""
        texts = [f"{found}; expected {expected}" for found, expected in self.doubts]
        return {"score": None if self.score is None else round(self.score, 4), "threshold": self.threshold, "doubts": texts}


def judge(
    known: PoseModel, given: Sequence[Given], observation: Observation, shift: Sequence[int], threshold: float | None
) -> Verdict:
    """The doubts about given sections whose anatomy was found at `shift` in their array, under the pose model of a method."""
    doubts, own, axis = [], score(known, observation, shift), given[0].axis
    others = {(a, turned): found for a in range(3) for turned, found in _as_sections_of(known, given, observation, a)}
    others.pop((axis, False), None)
    if others and min(others.values()) < BETTER * own:
        better, turned = min(others, key=others.get)
        way = "" if not turned else ", front to back" if AXIS_NAMES[better] == "axial" else ", top to bottom"
        found = f"{AXIS_NAMES[axis]} slices that fit better as {AXIS_NAMES[better]} ones{way} (score {others[better, turned]:.3f}"
        doubts.append((f"{found}, as given {own:.3f})", "the axis and the way up that they are given with"))
    if threshold is not None and own > threshold:
        reason = _reason(known, moved_back(used(observation), shift))
        doubts.append((f"slices unlike the training volumes' (score {own:.3f}){reason}", f"at most {threshold:.3f}"))
    return Verdict(own, threshold, tuple(doubts))


def _as_sections_of(
    known: PoseModel, given: Sequence[Given], observation: Observation, axis: int
) -> Iterator[tuple[bool, float]]:
    """(turned over, score) of the sections as ones of an axis, both ways up; nothing where the array is too small for them."""
    array = around([as_axis(one, axis) for one in given], observation.shape, observation.spacing_mm, None)
    try:
        there = observe_given([as_axis(one, axis) for one in given], array, observation.contrasts[0], observation.frame, "p99.5")
    except InputError:  # a stack that is longer than the array: it is of no such axis
        return
    model = searching(known, axis, observation.spacing_mm, stated=False)
    yield False, score(model, there)
    yield True, score(model, upside_down(there))


def _reason(model: PoseModel, there: Observation) -> str:
    """What is most conspicuous about sections, as an aside: "" where nothing in particular is."""
    section, plane = there.sections[len(there.sections) // 2][0], there.planes[len(there.planes) // 2]
    rows = model.linear.rows[:, 0]
    shown = np.array([(plane.cut(row[None].astype(np.float32))[0] > SHOWS).sum() for row in rows])
    if (section > SHOWS).sum() > LARGER * shown.max():
        return ": larger than any of theirs there, perhaps a whole head where brains without skull are expected"
    mean = plane.cut(model.linear.mean)[0]
    inside = (mean > SHOWS) & (section > SHOWS)
    if inside.sum() > 2 and np.corrcoef(mean[inside], section[inside])[0, 1] < ANTICORRELATED:
        return ": dark where they are bright, perhaps another contrast"
    return ""
