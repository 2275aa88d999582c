"""The public routes of the presets, served small from this machine: the same names in the same archives and buckets."""

from __future__ import annotations

import dataclasses
import gzip
import json
import tarfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import PRESETS, REPOSITORY
from web import Web, md5, tar_of, zip_of

from xdiff.config import Cohort, Remote, load_config
from xdiff.data.card import RECORD
from xdiff.data.download import CARD, FILES, download
from xdiff.errors import InputError

COHORTS = {
    name: cohort
    for preset in ("open-data", "brats")
    for name, cohort in load_config([REPOSITORY / "config.yaml", PRESETS / f"{preset}.yaml"]).cohorts.items()
    if cohort.download
}
IXI = ("IXI002-Guys-0828", "IXI012-HH-1211", "IXI013-HH-1212", "IXI035-IOP-0873")
CHANNELS = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}


def nifti(*shape: int, seed: int = 0, labels: bool = False) -> bytes:
    """A .nii.gz of so many voxels (and channels): an ellipsoid of noise in zeros, or label values 1 to 3."""
    rng = np.random.default_rng([seed, *shape])
    x, y, z = np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in shape[:3]), indexing="ij")
    inside = x**2 + y**2 + z**2 < 1
    inside = inside[..., None] if len(shape) == 4 else inside
    data = np.where(inside, rng.integers(1, 4, shape) if labels else rng.integers(100, 900, shape), 0)
    image = nib.Nifti1Image(data.astype(np.uint8 if labels else np.int16), np.diag([2.0, 2.0, 2.0, 1.0]))
    return gzip.compress(image.to_bytes(), mtime=0)


def msd(n: int = 3) -> dict[str, bytes | tarfile.TarInfo]:
    """Task01_BrainTumour.tar: 4D images, labels, test images, dataset.json, and the `._` files of the macOS that packed it."""
    top = tarfile.TarInfo("Task01_BrainTumour")
    top.type = tarfile.DIRTYPE
    files = {"._Task01_BrainTumour": b"\0\5\x16\7", "Task01_BrainTumour": top}
    files["Task01_BrainTumour/dataset.json"] = json.dumps({"modality": CHANNELS}).encode()
    for i in range(1, n + 1):
        files |= {f"Task01_BrainTumour/imagesTr/BRATS_{i:03d}.nii.gz": nifti(10, 12, 8, 4, seed=i)}
        files |= {f"Task01_BrainTumour/imagesTr/._BRATS_{i:03d}.nii.gz": b"\0\5\x16\7"}
        files |= {f"Task01_BrainTumour/labelsTr/BRATS_{i:03d}.nii.gz": nifti(10, 12, 8, seed=i, labels=True)}
    return {**files, "Task01_BrainTumour/imagesTs/BRATS_485.nii.gz": nifti(10, 12, 8, 4, seed=485)}


def ixi(kind: str) -> dict[str, bytes]:
    """IXI-T1.tar and its like: flat."""
    return {f"{name}-{kind}.nii.gz": nifti(12, 14, 10, seed=i) for i, name in enumerate(IXI)}


def openneuro(n: int = 4) -> dict[str, bytes]:
    """Keys below ds002748/: what is wanted and some of the rest."""
    files = {
        "CHANGES": b"1.0.5",
        "dataset_description.json": b'{"Name": "x", "BIDSVersion": "1.2.1"}',
        "task-rest_bold.json": b"{}",
    }
    rows = "".join(f"sub-{i:02d}\t50\tM\tdepr\n" for i in range(1, n + 1))
    files["participants.tsv"] = b"participant_id\tage\tsex\tgroup\n" + rows.encode()
    for i in range(1, n + 1):
        files[f"sub-{i:02d}/anat/sub-{i:02d}_T1w.nii.gz"] = nifti(12, 14, 10, seed=i)
        files[f"sub-{i:02d}/anat/sub-{i:02d}_T1w.json"] = b"{}"
        files[f"sub-{i:02d}/func/sub-{i:02d}_task-rest_bold.nii.gz"] = b"not wanted"
    return files


def brats(n: int = 2) -> dict[str, bytes]:
    """ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData.zip."""
    top, files = "ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData", {}
    for i in range(n):
        name = f"BraTS-GLI-{i:05d}-000"
        for contrast in ("t1n", "t1c", "t2w", "t2f"):
            files[f"{top}/{name}/{name}-{contrast}.nii.gz"] = nifti(10, 12, 8, seed=i)
        files[f"{top}/{name}/{name}-seg.nii.gz"] = nifti(10, 12, 8, seed=i, labels=True)
    return files


def served(web: Web, name: str, **counts: int) -> Cohort:
    """Serve the cohort `name` of the presets. Its entry, but for the server's name, the archives' md5 and numbers of files."""
    cohort = COHORTS[name]
    parts = []
    for part in cohort.download.parts:
        path = "/" + part.url.split("/", 3)[-1]
        if name == "openneuro-ds002748":
            web.files |= {f"{path}{key}": body for key, body in openneuro().items()}
        else:
            stem = Path(path).stem
            web.files[path] = tar_of(msd() if "Task01" in stem else ixi(stem.removeprefix("IXI-")))
        parts.append(Remote(web.url + path, md5(web.files[path]) if part.md5 else ""))
    expect = dict(zip(cohort.download.expect, counts.values(), strict=True)) if counts else {}
    return dataclasses.replace(cohort, download=dataclasses.replace(cohort.download, parts=tuple(parts), expect=expect))


def refused(cohort: Cohort, root: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        download(cohort, root)
    assert "\n" not in str(caught.value) and not root.exists()
    return caught.value


def files_below(root: Path) -> dict[str, bytes]:
    """All files but the records that the download adds."""
    found = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    return {name: body for name, body in found.items() if name not in (RECORD, FILES, CARD)}


SYNAPSE = '''#!{python}
"""Stands in for Synapse's client, of which it has the one command that is used: synapse get ID --downloadLocation FOLDER."""
import os, pathlib, shutil, sys
verb, entity, flag, folder = sys.argv[1:]
assert (verb, flag) == ("get", "--downloadLocation") and not sys.stdin.read(), sys.argv
token = os.environ.get("SYNAPSE_AUTH_TOKEN")
with open({log!r}, "a") as log:
    log.write(entity + "\\n")
if token != "good-token":
    sys.exit("SynapseAuthenticationError: 401 Client Error: invalid access token")
if not os.path.exists({store!r} + "/" + entity):
    sys.exit("SynapseHTTPError: 403 Client Error: you lack DOWNLOAD access to the requested entity")
for path in pathlib.Path({store!r}, entity).iterdir():
    shutil.copy(path, folder)
print("Downloaded", entity)
'''


def synapse(folder: Path, python: str) -> Path:
    """A folder for the PATH with the command `synapse`, which gives what lies below folder/store/ID, noting it in folder/log."""
    store, command = folder / "store", folder / "bin" / "synapse"
    (store / "syn51514132").mkdir(parents=True)
    (store / "syn51514132/ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData.zip").write_bytes(zip_of(brats()))
    command.parent.mkdir()
    command.write_text(SYNAPSE.format(python=python, store=str(store), log=str(folder / "log")))
    command.chmod(0o755)
    return command.parent
