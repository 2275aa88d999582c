"""What speaks against given slices: they are further from the training volumes than these are from each other, or fit better
another way up or as slices of another axis. Each doubt says what was found and what was expected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    """The doubts about given sections whose anatomy was found at `shift` in their array, under the pose model of a method.

    Axis and way up are judged by the middle one of the sections: every search takes a second.
    """
    doubts, own, axis = [], score(known, observation, shift), given[0].axis
    as_given = score(known, _middle(observation), shift)
    others = _other_ways(known, given, observation)
    better = min(others, key=others.get, default=None)
    if better is not None and others[better] < BETTER * as_given:
        name, turned = AXIS_NAMES[better[0]], better[1]
        way = "" if not turned else ", front to back" if name == "axial" else ", top to bottom"
        found = (
            f"{AXIS_NAMES[axis]} slices that fit better as {name} ones{way} (score {others[better]:.3f}, as given {as_given:.3f})"
        )
        doubts.append((found, "the axis and the way up that they are given with"))
    if threshold is not None and own > threshold:
        reason = _reason(known, moved_back(used(observation), shift))
        doubts.append((f"slices unlike the training volumes' (score {own:.3f}){reason}", f"at most {threshold:.3f}"))
    return Verdict(own, threshold, tuple(doubts))


def _middle(observation: Observation) -> Observation:
    """One section of a stack."""
    at = len(observation.planes) // 2
    return replace(observation, planes=observation.planes[at : at + 1], sections=observation.sections[at : at + 1])


def _other_ways(known: PoseModel, given: Sequence[Given], observation: Observation) -> dict[tuple[int, bool], float]:
    """{(axis, turned over): score} of the middle section taken for one of every axis, both ways up, but for the way it is given;
    without the axes along which the array is too short for the stack."""
    found = {}
    for axis in range(3):
        files = [as_axis(one, axis) for one in given]
        array = around(files, observation.shape, observation.spacing_mm, None)
        try:
            there = _middle(observe_given(files, array, observation.contrasts[0], observation.frame))
        except InputError:
            continue
        model = searching(known, axis, observation.spacing_mm, stated=False)
        if axis != given[0].axis:
            found[axis, False] = score(model, there)
        found[axis, True] = score(model, upside_down(there))
    return found


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
