"""A volume in the browser, beside the truth, the difference and the uncertainty, with a crosshair that they share.

    xdiff view volume.json                      what `xdiff reconstruct` wrote
    xdiff view volume.nii.gz --truth scan.nii.gz --std volume_std.nii.gz --given axial:12 axial:30

Writes one HTML file, beside the volume unless --out says where, and opens it.
"""

from __future__ import annotations

import argparse
import json
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xdiff.errors import InputError
from xdiff.planes import AnyPlane, parse_plane
from xdiff.viewer.page import page
from xdiff.viewer.panels import make_panels
from xdiff.volumes import read_volume
from xdiff.whole_file import whole_file

KEYS = ("files", "planes", "model", "estimate")


@dataclass(frozen=True)
class Shown:
    """Files to be shown and what is known of them; std None where there is none."""

    volume: Path
    std: Path | None
    planes: tuple[AnyPlane, ...]
    facts: tuple[str, ...]


def from_sidecar(path: Path) -> Shown:
    """What `xdiff reconstruct` wrote beside its sidecar. Raises InputError where it is not one."""
    if not path.is_file():
        raise InputError(path, "no such file", "a sidecar of `xdiff reconstruct`")
    try:
        about = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(path, f"broken JSON ({error})", "a sidecar of `xdiff reconstruct`") from error
    missing = [k for k in KEYS if not isinstance(about, dict) or k not in about]
    if missing:
        raise InputError(path, f"no {', '.join(missing)}", "a sidecar of `xdiff reconstruct`")
    volumes = [path.with_name(name) for name in about["files"] if name.endswith((".nii", ".nii.gz"))]
    if not volumes or "name" not in about["model"]:
        raise InputError(path, "no volume or no name of a model", "a sidecar of `xdiff reconstruct`")
    planes = tuple(map(parse_plane, about["planes"]))
    return Shown(volumes[0], volumes[1] if len(volumes) > 1 else None, planes, _facts(about))


def _facts(about: dict[str, Any]) -> tuple[str, ...]:
    model, doubt = about["model"], about.get("out_of_distribution", {})
    facts = [f"Model {model['name']} ({str(model.get('sha256', ''))[:12]})", f"estimate {about['estimate']}"]
    if about["estimate"] != "mean":
        facts.append(f"steps {about['steps']}, seed {about['seed']}")
    return (*facts, *(f"WARNING: {text}" for text in doubt.get("doubts", ())))


def view(shown: Shown, truth: Path | None, out: Path) -> None:
    """Write the page `out`. Raises InputError where the files do not fit together."""
    volume = read_volume(shown.volume)
    panels = make_panels(
        volume, None if truth is None else read_volume(truth), None if shown.std is None else read_volume(shown.std)
    )
    many = f"K = {len(shown.planes)} given slice{'s' if len(shown.planes) > 1 else ''}"
    facts = [many if shown.planes else "given slices: not stated", *shown.facts]
    text = page(shown.volume.name, facts, panels, shown.planes, volume.affine)
    with whole_file(out) as temporary:
        temporary.write_text(text, encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="xdiff view", description="A volume in the browser, offline, in one HTML file.")
    add = parser.add_argument
    add("volume", type=Path, help="NIfTI volume, or the sidecar JSON of `xdiff reconstruct`, which knows the rest")
    add("--truth", type=Path, help="real volume; on other voxels it is resampled to those of the volume, and the page says so")
    add("--std", type=Path, help="standard deviation on the volume's voxels")
    add("--given", nargs="+", default=[], metavar="AXIS:INDEX", help="given slices in the volume's RAS voxels, such as axial:12")
    add("--model", metavar="NAME", help="what made the volume, for the page")
    add("--out", type=Path, help="HTML file to write (default: beside the volume)")
    add("--no-browser", action="store_true", help="write the file, open nothing")
    args = parser.parse_args(argv)
    if args.volume.suffix == ".json":
        if args.std or args.given or args.model:
            raise InputError("--std, --given, --model", "beside a sidecar", "a sidecar alone, which says them, or a volume")
        shown = from_sidecar(args.volume)
    else:
        facts = (f"Model {args.model}" if args.model else "model: not stated",)
        shown = Shown(args.volume, args.std, tuple(map(parse_plane, args.given)), facts)
    stem = shown.volume.name.removesuffix(".gz").removesuffix(".nii")
    out = args.out or shown.volume.with_name(f"{stem}.html")
    view(shown, args.truth, out)
    print(out)
    if not args.no_browser:
        webbrowser.open(out.resolve().as_uri())


if __name__ == "__main__":
    main()
