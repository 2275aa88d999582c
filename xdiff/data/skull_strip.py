"""Skull-stripping of whole heads by a tool that others keep, into a folder of ours; the user's files stay as they are.

The tool gets the first contrast of every subject and gives a brain mask, which is applied to all contrasts: they lie on the
same voxels. `hd-bet` (Isensee et al. 2019, 10.1002/hbm.24750; Apache-2.0) was made for T1w, T1w with contrast agent, T2w and
FLAIR, tumours included; it fetches its weights from Zenodo on first use. `deepbet` (Fisch et al. 2024,
10.1016/j.compbiomed.2024.108845; MIT) was made for T1w and carries its weights in its wheel.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xdiff.config import Cohort
from xdiff.data.cohorts import Files, find_subjects
from xdiff.data.layouts import TABLE
from xdiff.errors import InputError, ManyInputErrors
from xdiff.plain import digest, write_json
from xdiff.volumes import Volume, check_same_pose, read_labels, read_volume, spacing_of, write_volume

RECORD = "stripped.json"
WORK = ".skull_strip"
BRAIN_ML = (200.0, 2300.0)  # from a newborn's to more than any adult's
LAST_LINES = 5


class Tool(NamedTuple):
    """An executable, its arguments for a folder of NAME.nii.gz, and what it calls the mask of NAME."""

    executable: str
    arguments: Callable[[Path, Path, bool], list[str]]
    mask: Callable[[Path, str], Path]


TOOLS = {
    "hd-bet": Tool(
        "hd-bet",
        lambda images, out, gpu: [
            *("-i", str(images), "-o", str(out), "-device", "cuda" if gpu else "cpu", "--save_bet_mask", "--no_bet_image"),
            *([] if gpu else ["--disable_tta"]),  # its own advice: eight times as fast
        ],
        lambda out, name: out / f"{name}_bet.nii.gz",
    ),
    "deepbet": Tool(
        "deepbet-cli",
        # it cannot do without -o, a folder that exists
        lambda images, out, gpu: ["-i", str(images), "-o", str(out.parent), "-m", str(out), *([] if gpu else ["--no_gpu"])],
        lambda out, name: out / f"{name}.nii.gz",
    ),
}


def skull_strip(cohort: Cohort, root: Path, out: Path) -> None:
    """Write the cohort below `root`, stripped, under the same names below `out`. Finished subjects are kept.

    Raises InputError where the tool is missing or fails, and ManyInputErrors for subjects that it gave no brain of.
    """
    subjects = find_subjects(cohort, root)
    for files in subjects:
        _check_place(files, root)
    out.mkdir(parents=True, exist_ok=True)
    for table in ("participants.tsv", TABLE):
        if (root / table).exists():
            shutil.copyfile(root / table, out / table)
    record = json.loads((out / RECORD).read_text()) if (out / RECORD).exists() else {}
    todo = [files for files in subjects if record.get(files.subject) != _key(files, cohort)]
    errors: list[InputError] = []
    if todo:
        masks = _masks(todo, TOOLS[cohort.skull_strip], out / WORK, errors)
        for files in todo:
            if files.subject in masks:
                _apply(files, cohort, masks[files.subject], root, out, record, errors)
        shutil.rmtree(out / WORK)
    print(f"{out}: {len(subjects) - len(errors)} of {len(subjects)} subjects stripped by {cohort.skull_strip}")
    if errors:
        raise ManyInputErrors(errors, len(subjects) - len(errors))


def _check_place(files: Files, root: Path) -> None:
    """Only NIfTI files below the root can be written under the same name elsewhere."""
    for path in [*files.images.values(), *([files.labels] if files.labels else [])]:
        if not path.is_relative_to(root) or ".nii" not in path.suffixes:
            raise InputError(path, "a file that `skull_strip` cannot take", f"a NIfTI file of one contrast below {root}")


def _masks(todo: Sequence[Files], tool: Tool, work: Path, errors: list[InputError]) -> dict[str, Path]:
    """Run the tool once on the first contrast of all subjects; subject -> mask. The tool sees numbers for names."""
    shutil.rmtree(work, ignore_errors=True)
    images, out = work / "images", work / "masks"
    out.mkdir(parents=True)
    names = {}
    for i, files in enumerate(todo):
        try:
            volume = read_volume(next(iter(files.images.values())))
        except InputError as error:
            errors.append(error)
            continue
        names[files.subject] = f"{i:06d}"
        write_volume(images / f"{names[files.subject]}.nii.gz", volume.array, volume.affine)
    if names:
        _run(tool, images, out)
    return {subject: tool.mask(out, name) for subject, name in names.items()}


def _run(tool: Tool, images: Path, out: Path) -> None:
    executable = shutil.which(tool.executable)
    if executable is None:
        raise InputError(tool.executable, "no such program", "it on PATH: pip install 'xdiff[skull-strip]' -c constraints.txt")
    command = [executable, *tool.arguments(images, out, shutil.which("nvidia-smi") is not None)]
    print(" ".join(command), flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    sys.stdout.write(done.stdout)
    if done.returncode:
        last = " / ".join(line.strip() for line in done.stdout.strip().splitlines()[-LAST_LINES:])
        raise InputError(tool.executable, f"exit status {done.returncode}: {last or 'no message'}", "brain masks")


def _apply(
    files: Files, cohort: Cohort, mask_file: Path, root: Path, out: Path, record: dict[str, str], errors: list[InputError]
) -> None:
    """Write one subject, then its line of the record; what is wrong goes to `errors`."""
    try:
        first = next(iter(files.images.values()))
        mask = _brain(mask_file, first)
        for path in files.images.values():
            volume = read_volume(path)
            check_same_pose(volume, mask)
            write_volume(out / path.relative_to(root), np.where(mask.array > 0, volume.array, 0), volume.affine)
        if files.labels is not None:
            target = out / files.labels.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(files.labels, target)
    except InputError as error:
        errors.append(error)
        return
    record[files.subject] = _key(files, cohort)
    write_json(out / RECORD, record)


def _brain(mask_file: Path, image: Path) -> Volume:
    """The mask, if it could be a brain on the voxels of the image."""
    if not mask_file.exists():
        raise InputError(image, "no brain mask (the tool gave none)", "an image that the tool can strip")
    volume = read_volume(image)
    mask = read_labels(mask_file, {0, 1}, volume)
    millilitres = float(mask.array.sum() * np.prod(spacing_of(mask.affine)) / 1000)
    if not BRAIN_ML[0] <= millilitres <= BRAIN_ML[1]:
        raise InputError(image, f"a brain mask of {millilitres:.0f} ml", f"{BRAIN_ML[0]:.0f} to {BRAIN_ML[1]:.0f} ml")
    return mask


def _key(files: Files, cohort: Cohort) -> str:
    """Changes with a source file, the contrasts and the tool."""
    return digest([files.states(), cohort.skull_strip])
