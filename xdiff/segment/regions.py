"""Regions of a tumour that are scored, from what the label values of a cohort mean."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from xdiff.errors import InputError

# of BraTS: whole tumour, tumour core, enhancing tumour. In the order in which a later one lies within an earlier one
PARTS = {"WT": ("NCR", "ED", "ET"), "TC": ("NCR", "ET"), "ET": ("ET",)}


def regions_of(values: Mapping[int, str]) -> dict[str, tuple[int, ...]]:
    """Region -> label values that make it up: WT, TC and ET where the labels are BraTS' NCR, ED and ET; else each label by its
    name. Raises InputError where there is nothing to score, or numbers have gaps, which nnU-Net does not take."""
    numbers = sorted(values)
    if not numbers or numbers != list(range(1, len(numbers) + 1)):
        raise InputError("cohorts.*.labels.values", dict(values), "labels numbered from 1 without gaps")
    by_name = {name: number for number, name in values.items()}
    if set(by_name) == set(PARTS["WT"]):
        return {region: tuple(sorted(by_name[part] for part in parts)) for region, parts in PARTS.items()}
    return {name: (number,) for number, name in sorted(values.items())}


def region_mask(labels: np.ndarray, values: tuple[int, ...]) -> np.ndarray:
    """Bool array of where `labels` has one of the values."""
    return np.isin(labels, values)
