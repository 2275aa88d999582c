"""The data card of a cohort: licence, citation, gate and route from its config; counts from what lies in its folder."""

from __future__ import annotations

import json
from pathlib import Path

from xdiff.config import EMBEDDED, Cohort
from xdiff.data.cohorts import Files, find_subjects
from xdiff.data.split import patient_of
from xdiff.data.ukb_names import find_archives
from xdiff.errors import InputError

RECORD = "download.json"
NOT_LIVE = (
    "The program's own tests serve a few small files in this layout from the machine they run on; whether the public server"
    " answers as they do was not tried when it was written."
)


def write_card(cohort: Cohort, root: Path, out: Path, name: str) -> None:
    """Write the card of the cohort `name`, whose raw files lie below `root`, as Markdown to `out`."""
    blocks = [f"# {name}", "Written by xdiff from the configuration and from what lies in the folder.", _facts(cohort)]
    blocks += ["## What was found", _found(cohort, root), "## What was checked", _checked(cohort, root)]
    if cohort.download and cohort.download.note:
        blocks += ["## Beware", cohort.download.note]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n\n".join(blocks) + "\n")


def _facts(cohort: Cohort) -> str:
    route = cohort.download
    unknown = "not given in the configuration"
    rows = {"source": cohort.source or ("made by xdiff" if cohort.layout in EMBEDDED else unknown)}
    rows["licence"] = route.licence if route else unknown
    rows["citation"] = route.citation if route else unknown
    if route:
        rows["gate"] = f"on application at {route.apply_at}" if route.token_variable else "none"
        rows["route"] = f"{route.kind}: {', '.join(part.url for part in route.parts)}"
    rows |= {"layout": cohort.layout, "contrasts": ", ".join(cohort.contrasts)}
    if cohort.labels:
        rows["labels"] = ", ".join(f"{value} {meaning}" for value, meaning in cohort.labels.values.items())
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())])


def _found(cohort: Cohort, root: Path) -> str:
    if cohort.layout == "ukb" and (archives := find_archives(root)):
        return f"- {len(archives)} visits of {len({one.eid for one in archives})} participants, a zip each"
    try:
        subjects = find_subjects(cohort, root)
    except InputError as error:
        return f"No subject that could be read: {error}"
    lines = [f"- {len(subjects)} subjects of {len({patient_of(files.subject) for files in subjects})} patients"]
    lines += [f"- {contrast}: {sum(_has(files, contrast) for files in subjects)} volumes" for contrast in cohort.contrasts]
    if cohort.labels:
        lines.append(f"- labels: {sum(files.labels is not None and files.labels.exists() for files in subjects)} maps")
    if cohort.exclude:
        lines.append(f"- left out by the configuration: {', '.join(cohort.exclude)}")
    return "\n".join(lines)


def _has(files: Files, contrast: str) -> bool:
    return files.images[contrast].exists()


def _checked(cohort: Cohort, root: Path) -> str:
    record = root / RECORD
    if not record.exists():
        return "Not downloaded by xdiff: where these files come from, and whether they are whole, was not checked."
    done = json.loads(record.read_text())
    lines = [f"- fetched by xdiff, finished {done['finished']}: {done['files']} files, {done['bytes']} bytes"]
    published = {part.url: part.md5 for part in cohort.download.parts} if cohort.download else {}
    for part in done["parts"]:
        if "missing" in part:
            lines.append(f"- {part['url']}: {part['zips']} zips fetched by {part['tool']}, the checksums in each zip compared")
            lines += [f"- not given by UK Biobank: {name} ({reason})" for name, reason in part["missing"].items()]
        elif "md5" not in part:
            lines.append(f"- {part['url']}: size, and md5 where the listing has one, of every file against the server's listing")
        elif published.get(part["url"]):
            lines.append(f"- {part['url']}: md5 {part['md5']}, as published")
        else:
            lines.append(f"- {part['url']}: md5 {part['md5']}; none to compare with is in the configuration")
    for pattern, expected in cohort.download.expect.items() if cohort.download else ():
        found = sum(1 for _ in root.glob(pattern))
        lines.append(f"- number of files {pattern}: {found}, {'as' if found == expected else f'not {expected} as'} expected")
    return "\n".join([*lines, "- not the voxels: that is what preprocessing does", f"- {NOT_LIVE}"])
