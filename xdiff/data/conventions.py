"""What the releases of one kind of data call the same thing: contrasts, channels and labels, all mapped to BraTS 2023's.

Sources: https://www.med.upenn.edu/cbica/brats2020/data.html (labels 1 NCR/NET, 2 ED, 4 ET), Baid et al. 2021 (arXiv 2107.02314),
https://www.synapse.org/Synapse:syn51156910 (BraTS 2023), dataset.json of MSD Task01 (arXiv 1902.09063).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from xdiff.errors import InputError

# ours -> what others call it, compared without regard to case
CONTRASTS = {
    "t1n": ("t1n", "t1", "t1w"),
    "t1c": ("t1c", "t1ce", "t1gd"),
    "t2w": ("t2w", "t2"),
    "t2f": ("t2f", "flair"),
}
NCR, ED, ET = 1, 2, 3  # necrotic (and, before 2023, non-enhancing) core, oedema, enhancing tumour
LABELS = {NCR: "NCR", ED: "ED", ET: "ET"}


@dataclass(frozen=True)
class Release:
    """How some years of BraTS write one subject: FOLDER/FOLDER{separator}{suffix}.nii.gz.

    `labels`: value in the file -> ours; None where the file has ours already.
    """

    folder: re.Pattern[str]
    separator: str
    suffixes: dict[str, str]
    labels: dict[int, int] | None


_LABELS_2017_TO_2021 = {1: NCR, 2: ED, 4: ET}
BRATS = (
    Release(re.compile(r"BraTS-[A-Za-z]+-\d+-\d+"), "-", {name: name for name in CONTRASTS}, None),
    Release(
        re.compile(r"Brats1[789]_\w+_\d+|BraTS20_(Training|Validation|Testing)_\d+|BraTS2021_\d+", re.IGNORECASE),
        "_",
        {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair"},
        _LABELS_2017_TO_2021,
    ),
)
MSD_CHANNELS = ("FLAIR", "T1w", "t1gd", "T2w")
MSD_LABELS = {1: ED, 2: NCR, 3: ET}


def contrast_of(name: str, where: object) -> str:
    """Our name of a contrast; raises InputError for one that the table does not have."""
    for ours, names in CONTRASTS.items():
        if name.lower() in names:
            return ours
    raise InputError(where, f"contrast {name!r}", f"one of {list(CONTRASTS)}, or a name of theirs")


def check_contrasts(contrasts: Iterable[str], layout: str) -> None:
    """Raise InputError unless a cohort asks for contrasts under our names, whatever its files call them."""
    for name in contrasts:
        if name not in CONTRASTS:
            known = [ours for ours, names in CONTRASTS.items() if name.lower() in names]
            wanted = f"{known[0] if known else list(CONTRASTS)} (one convention for all of layout {layout})"
            raise InputError("cohorts.*.contrasts", repr(name), wanted)


def release_of(folder: str) -> Release | None:
    """The years of BraTS that a subject's folder is named as, or None."""
    return next((release for release in BRATS if release.folder.fullmatch(folder)), None)
