"""Public collections that share patients: who trains on one and tests on another has seen test patients."""

from __future__ import annotations

import itertools
import re
import sys
from typing import NamedTuple

from xdiff.config import Cohort, Config, jobs, parts_of

CHALLENGES = tuple(f"BraTS {year}" for year in range(2016, 2024))
ANY_YEAR = "BraTS (year not stated)"
MSD, UPENN, TCGA, FASTMRI = "MSD Task01", "UPENN-GBM", "TCGA-GBM/LGG", "fastMRI"


class Overlap(NamedTuple):
    """Collections of `one` share patients with those of `other`, because of `reason`."""

    one: tuple[str, ...]
    other: tuple[str, ...]
    reason: str


# MSD: Simpson et al., arXiv 1902.09063. Years: name_mapping.csv of BraTS 2020, BraTS21-17_Mapping.xlsx of 2021. TCGA: Bakas
# et al. 2017, doi 10.1038/sdata.2017.117. UPENN-GBM: Bakas et al. 2022, doi 10.1038/s41597-022-01560-7.
KNOWN = (
    Overlap((MSD,), CHALLENGES, "MSD Task01 is made of BraTS 2016 and 2017 cases, which later years kept"),
    Overlap(CHALLENGES, CHALLENGES, "every year of BraTS kept cases of earlier ones"),
    Overlap((TCGA,), (*CHALLENGES, MSD), "TCGA-GBM and TCGA-LGG cases are in BraTS"),
    Overlap((UPENN,), CHALLENGES[CHALLENGES.index("BraTS 2021") :], "UPENN-GBM cases are in BraTS since 2021"),
)
OTHER_TUMOURS = re.compile(r"brats\W*(20\d\d)?\W*(men|met|ped|ssa)\b|meningioma|metastas|pa?ediatric|sahara", re.IGNORECASE)
NAMES = {
    **{f"BraTS 20{year}": rf"brats\W*(20)?{year}(?!\d)" for year in range(16, 23)},
    "BraTS 2023": r"brats\W*(20)?23(?!\d)|syn(51156910|51514110|51514132)",
    MSD: r"task01|\bmsd\b|decathlon",
    UPENN: r"upenn\W*gbm",
    TCGA: r"tcga\W*(gbm|lgg)",
    FASTMRI: r"fast\W*mri",
}


def collection_of(name: str, cohort: Cohort) -> str | None:
    """Which of the collections above a cohort is, by its name, folder and source, else by its layout; None where it is none.

    A cohort of BraTS folders that nothing gives the year of is ANY_YEAR. Meningioma, metastases, children and the sub-Saharan
    cohort of BraTS are other patients.
    """
    text = " ".join((name, cohort.root, cohort.source)).replace("_", " ")
    if cohort.generate or OTHER_TUMOURS.search(text):
        return None
    for collection, pattern in NAMES.items():
        if re.search(pattern, text, re.IGNORECASE):
            return collection
    return {"brats": ANY_YEAR, "msd": MSD}.get(cohort.layout)


def shared(one: str, other: str) -> str | None:
    """Why two collections share patients, or None where none are known to. ANY_YEAR is taken for whichever year would."""
    if one == other:
        return f"both are {one}"
    for overlap in KNOWN:
        for a, b in ((one, other), (other, one)):
            if _within(a, overlap.one) and _within(b, overlap.other):
                return overlap.reason
    return None


def _within(collection: str, group: tuple[str, ...]) -> bool:
    return collection in group or (collection == ANY_YEAR and bool(set(group) & set(CHALLENGES)))


def overlap_warnings(config: Config) -> list[str]:
    """One sentence for each pair of cohorts that are trained on together, or trained on and tested on, and share patients."""
    together, across = set(), set()
    for job in jobs(config):
        parts = parts_of(job.trained_on)
        together |= set(itertools.combinations(sorted(parts), 2))
        across |= {(part, job.cohort) for part in parts if part != job.cohort}
    used = [(pair, "are trained on together") for pair in sorted(together)]
    used += [(pair, "are trained on and tested on") for pair in sorted(across)]
    told = []
    for pair, use in used:
        found = [collection_of(name, config.cohorts[name]) for name in pair]
        reason = shared(*found) if None not in found else None
        if reason:
            told.append(
                f"cohorts {pair[0]} and {pair[1]} {use}, and share patients ({reason}): "
                "what is measured on the shared ones does not hold for new patients"
            )
    return told


def warn_of_overlaps(config: Config) -> None:
    """Say `overlap_warnings` on stderr, before anything is run."""
    for sentence in overlap_warnings(config):
        print(f"warning: {sentence}", file=sys.stderr)
