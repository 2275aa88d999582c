"""The card of a shipped model, README.md beside its weights, in the form that Hugging Face reads: written from its config."""

from __future__ import annotations

from typing import Any

LICENCE = "apache-2.0"
INTENDED = (
    "Research on methods that reconstruct volumes from few slices, and teaching. What the slices do not show is the most likely"
    " anatomy of the training subjects, not the subject's own."
)
NOT_INTENDED = (
    "Not a medical device. Not for diagnosis, treatment or measurement of a person, and not for finding lesions: a lesion that no"
    " given slice crosses is not in the result, and nothing marks its absence."
)
PLACES = {"known": "the head in the middle of the array", "unknown": "height of the slices unknown, estimated"}


def card(config: dict[str, Any]) -> str:
    """Markdown of a config that `xdiff export` wrote."""
    blocks = [
        _front(config),
        f"# {config['name']}",
        f"A volume of {', '.join(config['contrasts'])} from one slice or a few: `xdiff reconstruct --given slice.nii.gz --model"
        f" {config['name']} --out volume.nii.gz`. This file is written by `xdiff export` from config.json.",
        *("## Intended use", INTENDED, "## Not intended", NOT_INTENDED),
        *("## Data", _data(config)),
        *("## Model", _model(config)),
        *("## Measured", _measured(config["validation"])),
        *("## Limits", _limits(config)),
        *("## What it says of the training subjects", _recovered(config["compression"])),
    ]
    if config.get("replaced"):
        blocks += ["## Replaced", f"Weights {config['replaced']['sha256'][:12]}: {config['replaced']['why']}"]
    return "\n\n".join(blocks) + "\n"


def _front(config: dict[str, Any]) -> str:
    tags = "\n".join(f"- {tag}" for tag in ("mri", "3d", "reconstruction", "medical"))
    return f"---\nlicense: {LICENCE}\nlibrary_name: xdiff\ntags:\n{tags}\ndatasets:\n- {config['trained_on']}\n---"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _data(config: dict[str, Any]) -> str:
    counts = config["subjects"]
    rows = [
        ["source", config["source"]],
        ["subjects", f"{counts['train']} train, {counts['val']} validation, {counts['test']} held out and never read"],
        ["split sha256", config["split"]],
        ["data fingerprint", config["data"]],
        ["grid", f"{config['shape']} voxels at {config['spacing_mm']} mm, RAS+, frame {config['frame']}"],
        ["intensities", f"norm {config['norm']}: in units of the given slices' own 99.5th percentile"],
    ]
    return _table(["", ""], rows)


def _model(config: dict[str, Any]) -> str:
    rows = [
        ["method", f"{config['module']} around {config['params']['module']}"],
        ["settings", f"`{config['params']['params']}`"],
        ["weights sha256", f"{config['sha256']}, licence {LICENCE}"],
        ["trained weights sha256", config["compression"]["source_sha256"]],
        ["basis", f"{config['compression']['even']} even and {config['compression']['odd']} odd components, int8"],
    ]
    return _table(["", ""], rows)


def _measured(validation: dict[str, Any]) -> str:
    """PSNR in unseen on the validation side: shipped, and before the training volumes were compressed."""
    rows = [
        [str(r["K"]), PLACES[r["place"]], f"{r['shipped_db']:.2f}", "–" if r["full_db"] is None else f"{r['full_db']:.2f}"]
        for r in validation["rows"]
    ]
    head = ["K axial slices", "where", "shipped", "uncompressed"]
    note = (
        f"PSNR (dB) in `unseen`, mean over {validation['subjects']} validation subjects, on which the local correction was also"
        " calibrated (a few numbers). Estimate `mean`."
    )
    return f"{note}\n\n{_table(head, rows)}"


def _limits(config: dict[str, Any]) -> str:
    odd = config["out_of_distribution"]
    points = [
        f"One contrast ({', '.join(config['contrasts'])}), skull-stripped heads of adults of one cohort; parallel slices.",
        "Whole heads, other contrasts, children, lesions and implants are outside of what it has seen.",
        f"`xdiff reconstruct` refuses slices of which the training heads leave more than {odd['threshold']:.3f} unexplained: the"
        f" {odd['quantile']:g} quantile of {len(odd['scores'])} sections of training subjects left out one at a time.",
    ]
    return "\n".join(f"- {point}" for point in points)


def _recovered(compression: dict[str, Any]) -> str:
    found = compression["recovered_db"]
    return (
        "The weights hold the mean and a truncated basis of the scatter of the training heads, their mirror images and warped"
        " copies; no row that is made from them is a subject's, and which mixture a subject was is not kept. Who has a training"
        f" subject's volume can project it on the basis: PSNR over the brain {found['train']:.1f} dB for training subjects,"
        f" {found['val']:.1f} dB for validation subjects, whom the basis has not seen."
    )
