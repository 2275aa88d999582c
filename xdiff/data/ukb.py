"""UK Biobank's archives to stitched volumes: EID_20201_2_0.zip becomes EID_2_0/EID_2_0_water.nii.gz and what belongs to it.

A visit's folder is made under another name and renamed when it is whole; EID_2_0.json in it says from what and how. A visit is
made again where its archives, the contrasts or the spacing have changed. The user's archives stay as they are.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from xdiff.config import DIXON, DXA, Cohort
from xdiff.data.archives import unpack
from xdiff.data.split import shard_of
from xdiff.data.stations import read_stations
from xdiff.data.stitch import Stitched, stitch
from xdiff.data.ukb_dxa import read_dxa
from xdiff.data.ukb_names import DXA_FIELD, Bulk, find_archives
from xdiff.data.workers import each
from xdiff.errors import InputError, ManyInputErrors
from xdiff.plain import digest, write_json
from xdiff.volumes import write_volume

VERSION = 1  # another one makes every visit again
NEEDED = ("water", "fat")  # for gains and swaps, whatever the cohort's contrasts are


def stitch_cohort(cohort: Cohort, root: Path, out: Path, shard: str = "", workers: int = 1) -> list[InputError]:
    """Stitch the visits below `root` into `out`; those that are there are kept.

    Of a shard i/n every n-th visit, and the errors are returned: the step without shards tries them again. Raises InputError
    where there is no archive, and without a shard ManyInputErrors for visits that could not be stitched.
    """
    if not root.is_dir():
        hint = "a folder of UK Biobank's archives; say where it is with --config data_root=... or XDIFF_DATA_ROOT"
        raise InputError(root, "no such folder", hint)
    visits = [one for one in find_archives(root) if one.subject not in cohort.exclude]
    if not visits:
        raise InputError(root, "no archive", "files such as 1234567_20201_2_0.zip")
    chosen = shard_of(visits, shard) if shard else visits
    out.mkdir(parents=True, exist_ok=True)
    todo = [one for one in chosen if _recorded_key(out / one.subject) != _key(one, cohort, root)]
    errors = []
    for one, result in each(partial(stitch_visit, cohort=cohort, root=root, out=out), todo, workers, _name):
        if isinstance(result, InputError):
            errors.append(result)
        else:
            print(f"{one.subject}: {result}", flush=True)
    print(f"{out}: {len(chosen) - len(errors)} of {len(chosen)} visits stitched, {len(chosen) - len(todo)} of them before")
    if errors and not shard:
        raise ManyInputErrors(errors, len(chosen) - len(errors))
    return errors


def stitch_visit(one: Bulk, cohort: Cohort, root: Path, out: Path) -> str:
    """Stitch one visit; one line on what was repaired. Raises InputError on what cannot be used, naming the archive."""
    contrasts = tuple(dict.fromkeys((*NEEDED, *(c for c in cohort.contrasts if c in DIXON))))
    archive, dxa = root / one.name, _dxa(one, root)
    if DXA in cohort.contrasts and dxa is None:
        raise InputError(root / one._replace(field=DXA_FIELD).name, "no such file", f"beside {one.name}: {DXA} is a contrast")
    for left in out.glob(f".{one.subject}.*"):  # by a process that was killed
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=out, prefix=f".{one.subject}.") as work:
        try:
            folder = _unpacked(archive, Path(work) / "mri")
            stations, unused = read_stations(folder, one.eid, contrasts)
            stitched = stitch(stations, cohort.stitch_spacing_mm, archive)
            scan = read_dxa(_unpacked(dxa, Path(work) / "dxa"), one.eid) if dxa else None
        except InputError as error:
            raise _without_folder(error, work, archive, dxa) from error
        target = Path(work) / one.subject
        write = partial(_write, target, one.subject)
        for contrast, image in stitched.images.items():
            write(contrast, _rounded(image), stitched.affine)
        write("body", stitched.body, stitched.affine)
        for name, image in scan.images.items() if scan else ():
            write(name, image, scan.affine)
        sources = {path.name: _sha256(path) for path in (archive, dxa) if path}
        record = {"key": _key(one, cohort, root), "sources": sources, **stitched.record, "unused_series": unused}
        record |= {"spacing_mm": float(np.linalg.norm(stitched.affine[:3, 0])), "shape": list(stitched.body.shape)}
        write_json(target / f"{one.subject}.json", record | {"dxa": scan.record if scan else None})
        shutil.rmtree(out / one.subject, ignore_errors=True)
        os.rename(target, out / one.subject)
    return _summary(stitched, bool(dxa))


def _unpacked(archive: Path, folder: Path) -> Path:
    folder.mkdir()
    unpack(archive, folder, {})
    return folder


def _without_folder(error: InputError, work: str, archive: Path, dxa: Path | None) -> InputError:
    """The same error, naming what the user has: the archive and the file in it."""
    where = error.where
    for name, path in (("mri", archive), ("dxa", dxa)):
        where = where.replace(f"{work}/{name}", str(path))
    return InputError(where, error.found, error.expected)


def _write(target: Path, subject: str, name: str, image: np.ndarray, affine: np.ndarray) -> None:
    write_volume(target / f"{subject}_{name}.nii.gz", image, affine)


def _rounded(image: np.ndarray) -> np.ndarray:
    """Whole numbers, as the scanner gives them, in half the space; as they are where they do not fit."""
    return np.rint(image).astype(np.int16) if image.max() <= np.iinfo(np.int16).max else image


def _dxa(one: Bulk, root: Path) -> Path | None:
    path = root / one._replace(field=DXA_FIELD).name
    return path if path.is_file() else None


def _key(one: Bulk, cohort: Cohort, root: Path) -> str:
    """Changes with the archives, the contrasts and the spacing."""
    states = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in (root / one.name, _dxa(one, root)) if path]
    return digest([VERSION, states, cohort.contrasts, cohort.stitch_spacing_mm])


def _recorded_key(folder: Path) -> str:
    record = folder / f"{folder.name}.json"
    return json.loads(record.read_text())["key"] if record.exists() else ""


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _name(one: Bulk) -> str:
    return one.name


def _summary(stitched: Stitched, has_dxa: bool) -> str:
    swapped = [str(i) for i, row in enumerate(stitched.record["stations"], 1) if row["swapped"]]
    parts = [str(i) for i, row in enumerate(stitched.record["overlaps"], 1) if row["part_swapped_suspected"]]
    said = [f"fat and water swapped back in station {', '.join(swapped)} (from below)"] if swapped else []
    said += [f"a part swapped in overlap {', '.join(parts)} (from below)? left as it is"] if parts else []
    return "; ".join([f"{'x'.join(map(str, stitched.body.shape))} voxels", *said, *([] if has_dxa else ["no DXA"])])
