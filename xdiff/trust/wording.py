"""How a card puts numbers into sentences, and from where on it calls something shown: every threshold stands here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from xdiff.layout import k_name, span

GOOD, BAD, OPEN, MISSING = "shown", "not so", "undecided", "not measured"
VERDICTS = (GOOD, BAD, OPEN, MISSING)

# Of the intensity scale (99.5th percentile of the volume): less than a step of a 10-bit display, more than rounding of float32.
EXACT = 1e-3
# Nominal 90 % intervals: the band that the evaluation protocol asks of conformal ones.
COVERAGE = (0.87, 0.93)
# A draw of a posterior has 2 times the squared error of its mean; a tenth off is 0.46 dB, as much as methods differ.
SAMPLE_RATIO = (1.8, 2.2)
# Variance of a draw in a band of frequency over the truth's: 1 dB, below what is seen in an image beside another.
BAND = (0.8, 1.25)
# Amplitude of fine detail over the truth's: with less than that, half its power is gone.
DETAIL = 0.7
# Lesions found in generated volumes over those found in real ones by the same segmenter: one in ten lost is one patient in ten.
LESIONS_KEPT = 0.9
# The numbers of given slices that the evaluation protocol asks for.
ALL_K = (1, 2, 3, 5, 10, 31)
# With fewer, the percentile interval is about a tenth narrower than Student's, or more (Hesterberg 2015, Am. Stat. 69:371).
FEW_PATIENTS = 20


class Statement(NamedTuple):
    """What is claimed (`topic`), how it came out (one of VERDICTS), and the sentence with number, n, interval and condition."""

    topic: str
    verdict: str
    text: str


def verdict(lo: float, hi: float, zero: float = 0.0) -> str:
    """GOOD where the whole interval is above `zero`, BAD where it is below, else OPEN, as where there is no interval."""
    return GOOD if lo > zero else BAD if hi < zero else OPEN


def within(row: dict, limits: tuple[float, float]) -> str:
    """Of mean, lo, hi: GOOD where the mean is within the limits, OPEN where only some of its interval is, else BAD."""
    if limits[0] <= row["mean"] <= limits[1]:
        return GOOD
    return OPEN if row["lo"] <= limits[1] and row["hi"] >= limits[0] else BAD


def all_within(rows: pd.DataFrame, limits: tuple[float, float]) -> str:
    return together(within(row, limits) for row in rows[["mean", "lo", "hi"]].to_dict("records"))


def together(verdicts: Iterable[str]) -> str:
    """BAD where one is, else OPEN where one is, else GOOD."""
    found = set(verdicts)
    return next(v for v in (BAD, OPEN, GOOD) if v in found)


def amount(row: pd.Series | dict, unit: str = "", decimals: int = 2, signed: bool = False) -> str:
    """`+0.46 dB [0.27, 0.67]`, from mean, lo and hi; of one patient, who has no interval, `+0.46 dB [no interval]`."""
    mean, lo, hi = (round(float(row[name]), decimals) + 0.0 for name in ("mean", "lo", "hi"))  # + 0.0: no "-0.00"
    number = f"{mean:+.{decimals}f}" if signed else f"{mean:.{decimals}f}"
    ends = "no interval" if np.isnan(lo) else f"{lo:.{decimals}f}, {hi:.{decimals}f}"
    return f"{number} {unit} [{ends}]" if unit and unit != "%" else f"{number}{' %' * (unit == '%')} [{ends}]"


def by_k(rows: pd.DataFrame, unit: str = "", decimals: int = 2, signed: bool = False) -> str:
    """`K = 1: +0.46 dB [0.27, 0.67]; K = 5: ...` of rows with the columns K, mean, lo, hi."""
    lines = rows.sort_values("K").to_dict("records")
    return "; ".join(f"{k_name(int(row['K']))}: {amount(row, unit, decimals, signed)}" for row in lines)


def numbers_of(values: Sequence[float]) -> str:
    """`1, 2, 3 and 5`."""
    words = [f"{value:g}" for value in values]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def ks_of(ks: Iterable[int]) -> str:
    """`K = 1, 2 and 5`; `any K` where as many are given as there is room for."""
    ks = sorted({int(k) for k in ks})
    return f"K = {numbers_of(ks)}" if 0 not in ks else "any K" if len(ks) == 1 else f"any K and {ks_of(k for k in ks if k)}"


def patients(n: pd.Series) -> str:
    """`n = 12 patients`, `n = 8 to 12 patients`."""
    return f"n = {span(n)} patient{'s' * (int(n.max()) != 1)}"


def not_measured(topic: str, why: str) -> Statement:
    """`why`: what is missing, without a full stop."""
    return Statement(topic, MISSING, f"{why[0].upper()}{why[1:]}.")
