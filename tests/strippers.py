"""Whole heads, and stand-ins for the programs that strip them, with the real ones' options and names of files."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from xdiff.volumes import write_volume

AFFINE = np.diag([-4.0, -4.0, 4.0, 1.0])
AFFINE[:3, 3] = (80, 90, -70)
# options as in HD_BET/entry_point.py 2.0.1 and deepbet/ui/cli.py 1.0.2: unknown ones end the program
PROGRAM = """#!{python}
import argparse, glob, os, sys
import nibabel as nib, numpy as np
p = argparse.ArgumentParser()
p.add_argument("-i", "--input", required=True); p.add_argument("-o", "--output")
if os.path.basename(sys.argv[0]) == "hd-bet":
    p.add_argument("-device", default="cuda"); p.add_argument("--disable_tta", action="store_true")
    p.add_argument("--save_bet_mask", action="store_true"); p.add_argument("--no_bet_image", action="store_true")
    a = p.parse_args(); folder, end = a.output, "_bet.nii.gz"
    assert a.save_bet_mask and (a.device == "cpu") == a.disable_tta
else:
    p.add_argument("-m", "--mask_output"); p.add_argument("--no_gpu", action="store_true")
    a = p.parse_args(); folder, end = a.mask_output, ".nii.gz"
    assert os.path.isdir(a.output) and os.path.isdir(folder)
with open(os.path.dirname(sys.argv[0]) + "/calls", "a") as calls:
    print(*(os.path.basename(f) for f in sorted(glob.glob(a.input + "/*"))), file=calls)
for f in sorted(glob.glob(a.input + "/*.nii.gz")):
    image = nib.load(f)
    data = image.get_fdata()
    if data.max() > 990:
        print("Traceback: CUDA out of memory"); sys.exit(3)
    if data.max() > 890:
        continue
    mask = (data > (500 if data.max() < 800 else 750)).astype(np.uint8)
    nib.save(nib.Nifti1Image(mask, image.affine), folder + "/" + os.path.basename(f)[:-7] + end)
"""


def head(top: float, seed: int = 0) -> np.ndarray:
    """Brain of 600 in a skull of 100 under a scalp of 400, noise about it; one voxel of `top` tells the stand-ins what to do: up
    to 890 a mask (of that voxel alone from 800), up to 990 none, beyond it an error."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in (40, 44, 36)), indexing="ij"))
    radius = np.sqrt((grid**2).sum(axis=0))
    tissue = np.select([radius < 0.82, radius < 0.9, radius < 1.0], [600, 100, 400], 0)
    image = tissue + np.random.default_rng(seed).uniform(1, 9, tissue.shape)
    image[20, 22, 18] = top
    return image.astype(np.float32)


def write_head(root: Path, i: int, top: float = 700) -> Path:
    """T1w and FLAIR of subject i, the second twice as bright. The T1w."""
    stem = f"sub-{i:02d}/anat/sub-{i:02d}"
    for suffix, scale in (("T1w", 1.0), ("FLAIR", 2.0)):
        write_volume(root / f"{stem}_{suffix}.nii.gz", head(top, i) * scale, AFFINE)
    return root / f"{stem}_T1w.nii.gz"


def write_strippers(folder: Path) -> Path:
    """hd-bet and deepbet-cli; each call leaves a line in FOLDER/calls with the files it was given. The folder, for PATH."""
    folder.mkdir(parents=True)
    for name in ("hd-bet", "deepbet-cli"):
        (folder / name).write_text(PROGRAM.format(python=sys.executable))
        (folder / name).chmod(0o755)
    return folder
