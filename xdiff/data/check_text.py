"""The findings of `xdiff check` as a page of text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

MOST_SHOWN = 4
MOST_PROBLEMS = 50


def text_of(data: dict[str, Any]) -> str:
    """The page for what `xdiff.data.check.as_data` gives, ending with a cohort entry to copy."""
    parts = [_head(data), *(_image(name, data) for name in data["images"]), _masks(data), _problems(data), _entry(data)]
    return "\n\n".join(part for part in parts if part)


def _head(data: dict[str, Any]) -> str:
    lines = [
        f"{data['folder']}: layout {data['layout']}, {_n(data['subjects'], 'visit')} of {_n(data['patients'], 'patient')},"
        f" {_n(data['files'], 'file')}",
        f"headers of all, voxels of {data['voxels_of']} subjects spread evenly over the list (--voxels N reads more)",
    ]
    if data["other_suffixes"]:
        lines.append(f"not taken: {_counted(data['other_suffixes'])} (--contrasts names them)")
    if data["split"]:
        lines.append("split: " + ", ".join(f"{n} {side}" for side, n in data["split"].items()))
    return "\n".join(lines)


def _image(name: str, data: dict[str, Any]) -> str:
    image = data["images"][name]
    lines = [
        f"{name}: {image['subjects']} of {data['subjects']}",
        f"  shape        {_counted(image['shapes'])}",
        f"  spacing mm   {_counted(image['spacings_mm'])}",
    ]
    if image["dtypes"]:
        lines += [f"  orientation  {_counted(image['orientations'])}", f"  dtype        {_counted(image['dtypes'])}"]
    if image["intensities"]:
        low, high = image["intensities"]
        lines.append(f"  intensity    {low:g} to {high:g}")
        lines.append(f"  head         {_counted(image['heads'])}; the first: {image['why']}")
    return "\n".join(lines)


def _masks(data: dict[str, Any]) -> str:
    if not data["masks"]:
        return "masks: none"
    values = f"; values in voxels: {_counted(data['mask_values'], 20)}" if data["mask_values"] else ""
    return f"masks: {_counted(data['masks'])}{values}"


def _problems(data: dict[str, Any]) -> str:
    if not data["problems"]:
        return "problems: none"
    lines = [f"problems: {len(data['problems'])} (! would stop the pipeline)"]
    for problem in data["problems"][:MOST_PROBLEMS]:
        mark = "!" if problem["stops"] else "-"
        lines.append(f"  {mark} {problem['where']}: found {problem['found']}, expected {problem['expected']}")
    if len(data["problems"]) > MOST_PROBLEMS:
        lines.append(f"  and {len(data['problems']) - MOST_PROBLEMS} more (--json FILE has all)")
    return "\n".join(lines)


def _entry(data: dict[str, Any]) -> str:
    import yaml

    text = yaml.safe_dump(data["config"], sort_keys=False, default_flow_style=None, width=110).rstrip()
    root = Path(data["folder"]).parent
    excluded = any("exclude" in entry for entry in data["config"]["cohorts"].values())
    note = " (`exclude` leaves out what cannot be used)" if excluded else ""
    return f"mine.yaml{note}:\n\n{text}\n\nsnakemake --cores 2 --configfile mine.yaml --config data_root={root}"


def _n(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _counted(counts: dict[str, int], most: int = MOST_SHOWN) -> str:
    """LPS x 40, RAS x 2; the commonest first, the rest in one number."""
    shown = ", ".join(f"{value} x {n}" for value, n in list(counts.items())[:most])
    left = len(counts) - most
    return f"{shown}, {left} others" if left > 0 else shown
