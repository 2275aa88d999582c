"""The configuration as frozen dataclasses, from YAML or JSON; an unknown key is an error that names it.

Maps (cohorts, grids, methods, sweeps) define; the lists under `run` select; `only` on an entry narrows where it applies.
Overlays merge maps and replace lists, as Snakemake does.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from xdiff.errors import InputError
from xdiff.plain import from_dict, merge, one_of, to_json

EMBEDDED = ("phantom-brain", "phantom-body", "phantom-knee", "gaussian-field")  # made by the workflow itself, nothing to download
HDF5 = ("fastmri", "ismrmrd")  # one contrast per file, no label maps
BY_SERIES = ("dicom", "fastmri")  # contrasts are found by a pattern
LAYOUTS = ("bids", "brats", "msd", "tsv", "dicom", *HDF5, "ukb", *EMBEDDED)
DIXON = ("water", "fat", "in", "opp")  # contrasts of layout ukb
DXA = "dxa"  # another one, as a projection
POLICIES = ("uniform", "centre", "random", "tumour", "off_tumour", "orthogonal", "tilted", "every_fifth", "swap", "projection")
OWN_NUMBER = ("every_fifth",)  # policies that give as many sections as the head has room for: their K is 0
BESIDE = ("truth", "mask_linear")  # rows of masks that are of no method: of the real volumes, and of no image at all
WATER_FAT = ("water", "fat")  # contrasts of a cohort of bodies whose anatomy is measured
ANATOMIES = ("brain", "body", "knee")
TIERS = ("cpu", "gpu", "full")
SKULL_STRIP = ("hd-bet", "deepbet")
ROUTES = ("http", "file", "s3", "synapse", "links", "ukb")
GATED_ROUTES = ("synapse", "links", "ukb")
UKB_TOOLS = ("ukbfetch", "dx")
MOST_AT_ONCE = 10  # downloads of one application that UK Biobank allows
JOIN = "+"
FOLD = ".fold"  # `NAME.fold1`, `NAME.fold2`: cohorts with the same files whose test sides come together as NAME


@dataclass(frozen=True)
class Only:
    """Where an entry applies: empty means everywhere. trained_on: as in `run`, `self` or the names of cohorts."""

    cohorts: tuple[str, ...] = ()
    grids: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    trained_on: tuple[str, ...] = ()
    sweeps: tuple[str, ...] = ()

    def allows(self, cohort: str, grid: str, method: str, origins: Sequence[str], sweep: str) -> bool:
        """`origins`: what the training set is called, one name or two (`self` and the cohort's)."""
        lists = (self.cohorts, self.grids, self.methods, self.trained_on, self.sweeps)
        found = ([cohort], [grid], [method], origins, [sweep])
        return all(not names or set(names) & set(one) for names, one in zip(lists, found, strict=True))


@dataclass(frozen=True)
class Labels:
    """Label maps beside the images: the file's suffix and the meaning of each value (0 is background).

    suffix: in a table of paths its column; for layout msd, whose label maps are in labelsTr, of no consequence.
    """

    suffix: str
    values: dict[int, str]
    optional: bool = False


@dataclass(frozen=True)
class Projection:
    """An image beside the volumes of a cohort that shows each along an axis, such as DXA: read as the contrast of that name."""

    contrast: str
    axis: str = "coronal"

    def __post_init__(self) -> None:
        one_of("cohorts.*.projection.axis", self.axis, ("axial", "coronal", "sagittal"))


@dataclass(frozen=True)
class SplitRule:
    """A committed file; or n_val and n_test patients, for small cohorts; or fractions of patients. By sha256(seed:patient)."""

    file: str = ""
    seed: int = 0
    val: float = 0.1
    test: float = 0.1
    n_val: int = 0
    n_test: int = 0


@dataclass(frozen=True)
class Remote:
    """One thing to fetch: the address of an archive or a file, or SERVER/BUCKET/PREFIX of an open S3 bucket, or an archive's
    Synapse id, or the name of an archive that a link was mailed for, or the file of a bulk list of UK Biobank.

    size_mb: about how much is transferred, for the check of free space; 0 where it is not known before.
    folder: of kind ukb with dx, the folder of the project that holds the field (20201 has its own).
    """

    url: str
    md5: str = ""
    size_mb: int = 0
    folder: str = ""


@dataclass(frozen=True)
class Download:
    """The public route to the raw files of a cohort (xdiff/data/download.py).

    place: regular expressions over names in the archive or bucket -> paths below the cohort's folder (\\1 is a group); the first
    that fits a whole name counts, a name that none fits is left out; empty keeps all names. expect: pattern of files -> how many.
    token_variable: the environment variable with the credentials of a gated set, given on application (apply_at, by_hand); of
    kind `links` it names a text file with the links that were mailed, of kind `ukb` the key file (tool ukbfetch) or the project
    (tool dx). parallel: of kind `ukb`, transfers at once.
    """

    kind: str
    parts: tuple[Remote, ...]
    licence: str
    citation: str
    place: dict[str, str] = field(default_factory=dict)
    expect: dict[str, int] = field(default_factory=dict)
    token_variable: str = ""
    apply_at: str = ""
    by_hand: str = ""
    note: str = ""
    tool: str = ""
    parallel: int = 4

    def __post_init__(self) -> None:
        one_of("download.kind", self.kind, ROUTES)
        if not self.parts:
            raise InputError("cohorts.*.download.parts", "an empty list", "at least one address")
        if self.token_variable and not (self.apply_at and self.by_hand):
            raise InputError("cohorts.*.download", f"token_variable {self.token_variable}", "apply_at and by_hand beside it")
        if self.kind in GATED_ROUTES and not self.token_variable:
            raise InputError("cohorts.*.download", "no token_variable", f"the environment variable for kind {self.kind}")
        one_of("download.tool", self.tool, UKB_TOOLS if self.kind == "ukb" else ("",))
        if not 1 <= self.parallel <= MOST_AT_ONCE:
            raise InputError("download.parallel", self.parallel, f"1 to {MOST_AT_ONCE} transfers at once")
        for pattern in self.place:
            try:
                re.compile(pattern)
            except re.error as error:
                raise InputError("cohorts.*.download.place", f"{pattern!r} ({error})", "a regular expression") from error


@dataclass(frozen=True)
class Cohort:
    """Where the volumes of one cohort are and how they are to be read.

    projection: one of the contrasts is no volume but a projection (data/projected.py). It is then all that is given, in training
    and in every sweep, which are those of policy `projection`: volumes of the other contrasts are made of it.
    anatomy: what the volumes show; of brains alone it matters whether they are skull-stripped.
    read_as: contrast -> the name that it has in models of other cohorts (`trained_on`), which know no other.
    series: contrast -> regular expression that the SeriesDescription of one series (layout dicom), or the `acquisition` of files
    (fastmri), is found by.
    stitch_spacing_mm: layout ukb, of the stitched volumes; 0 for the finest within the stations' sections.
    """

    layout: str
    contrasts: tuple[str, ...]
    root: str = ""
    source: str = ""
    labels: Labels | None = None
    series: dict[str, str] = field(default_factory=dict)
    projection: Projection | None = None
    anatomy: str = "brain"
    read_as: dict[str, str] = field(default_factory=dict)
    foreground: str = "nonzero"
    skull_strip: str = ""
    stitch_spacing_mm: float = 0.0
    norm: str = "p99.5"
    split: SplitRule = field(default_factory=SplitRule)
    exclude: tuple[str, ...] = ()
    generate: dict[str, Any] = field(default_factory=dict)
    download: Download | None = None
    only: Only = field(default_factory=Only)

    def __post_init__(self) -> None:
        one_of("layout", self.layout, LAYOUTS)
        one_of("norm", self.norm, ("p99.5", "none"))
        one_of("anatomy", self.anatomy, ANATOMIES)
        for contrast in self.read_as:
            one_of("cohorts.*.read_as", contrast, self.contrasts)
        one_of("foreground", self.foreground, ("nonzero", "otsu", "all"))
        one_of("skull_strip", self.skull_strip, ("", *SKULL_STRIP))
        if self.skull_strip and (self.foreground != "nonzero" or self.layout in ("ukb", *EMBEDDED)):
            found = f"{self.skull_strip} with layout {self.layout} and foreground {self.foreground}"
            raise InputError("cohorts.*.skull_strip", found, "real volumes, and the nonzero foreground that stripping leaves")
        if not self.contrasts:
            raise InputError("cohorts.*.contrasts", "an empty list", "at least one contrast")
        if self.projection and (self.projection.contrast not in self.contrasts or len(self.contrasts) < 2):
            raise InputError(
                "cohorts.*.projection.contrast", self.projection.contrast, f"one of {list(self.contrasts)}, and others"
            )
        if self.layout in HDF5 and (len(self.contrasts) > 1 or self.labels):
            found = f"{list(self.contrasts)}{' and labels' if self.labels else ''}"
            raise InputError("cohorts.*.contrasts", found, f"one contrast and no labels (layout {self.layout})")
        _check_stitching(self)
        wanted = set(self.contrasts) if self.layout in BY_SERIES else set()
        if set(self.series) != wanted:
            expected = f"{sorted(wanted)} (a pattern per contrast; layouts {', '.join(BY_SERIES)})"
            raise InputError("cohorts.*.series", list(self.series), expected)
        for contrast, pattern in self.series.items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise InputError(f"cohorts.*.series.{contrast}", f"{pattern!r} ({error})", "a regular expression") from error


def _check_stitching(cohort: Cohort) -> None:
    known = (*DIXON, *([DXA] if cohort.projection and cohort.projection.contrast == DXA else []))
    if cohort.layout == "ukb" and not set(cohort.contrasts) <= set(known):
        expected = f"some of {list(DIXON)}, and {DXA} as the `projection` (layout ukb)"
        raise InputError("cohorts.*.contrasts", list(cohort.contrasts), expected)
    if cohort.stitch_spacing_mm < 0 or (cohort.stitch_spacing_mm and cohort.layout != "ukb"):
        expected = "a spacing > 0, or 0 for the finest; with layout ukb alone"
        raise InputError("cohorts.*.stitch_spacing_mm", f"{cohort.stitch_spacing_mm} (layout {cohort.layout})", expected)


@dataclass(frozen=True)
class Grid:
    """The array every volume is put on: shape in voxels, spacing in mm, and the frame.

    frame `centred` puts the foreground box of the (hidden) volume in the middle, a leak; `scanner` uses the affine alone.
    native_axis keeps the sections of that axis as acquired: no interpolation along it, spacing as the file says.
    """

    shape: tuple[int, int, int]
    spacing_mm: float
    frame: str = "centred"
    native_axis: str = ""
    only: Only = field(default_factory=Only)

    def __post_init__(self) -> None:
        one_of("frame", self.frame, ("centred", "scanner"))
        one_of("native_axis", self.native_axis, ("", "axial", "coronal", "sagittal"))
        if self.spacing_mm <= 0 or min(self.shape) < 2 or len(self.shape) != 3:
            raise InputError("grids.*", f"shape {self.shape}, spacing {self.spacing_mm} mm", "three sizes >= 2 and a spacing > 0")


@dataclass(frozen=True)
class MethodEntry:
    """A method is a module with `load` and, where something is learned, `train`; an ablation is another entry.

    stepped: whether the number of steps matters to its samples; where not, a sweep over steps is not repeated.
    learns: false for methods that take nothing from training volumes; they have no rows `trained_on` another cohort.
    """

    module: str
    params: dict[str, Any] = field(default_factory=dict)
    estimates: tuple[str, ...] = ("mean",)
    stepped: bool = False
    min_k: int = 1
    learns: bool = True
    threads: int = 1
    gpu: int = 0
    mem_mb: int = 3000
    runtime_min: int = 60
    only: Only = field(default_factory=Only)


@dataclass(frozen=True)
class Sweep:
    """A product of factors; every combination is one point.

    K: 0 with the policies of OWN_NUMBER, and with no other.
    contrasts_given: which contrasts the given sections carry, `all` or names joined by `+` (see given_contrasts).
    """

    K: tuple[int, ...] = (1,)
    axis: tuple[str, ...] = ("axial",)
    policy: tuple[str, ...] = ("uniform",)
    thickness_mm: tuple[float, ...] = (0.0,)
    contrasts_given: tuple[str, ...] = ("all",)
    steps: tuple[int, ...] = (1,)
    estimate: tuple[str, ...] = ("mean",)
    seed: tuple[int, ...] = (0,)
    only: Only = field(default_factory=Only)

    def __post_init__(self) -> None:
        for name in self.axis:
            one_of("axis", name, ("axial", "coronal", "sagittal"))
        for name in self.policy:
            one_of("policy", name, POLICIES)
        for name in self.estimate:
            if name not in ("mean", "sample") and not re.fullmatch("mean_of_[1-9][0-9]*", name):
                raise InputError("sweeps.*.estimate", name, "mean, sample or mean_of_N")
        if any(k < 0 for k in self.K) or any(not 1 <= s <= 1000 for s in self.steps):
            raise InputError("sweeps.*", f"K {self.K}, steps {self.steps}", "K >= 1 and steps in 1..1000")
        if any((k == 0) != (name in OWN_NUMBER) for k in self.K for name in self.policy):
            raise InputError(
                "sweeps.*", f"K {self.K}, policies {self.policy}", f"K >= 1, or K: [0] with {', '.join(OWN_NUMBER)} alone"
            )
        if self.projects and (self.policy != ("projection",) or self.K != (1,) or self.thickness_mm != (0.0,)):
            raise InputError("sweeps.*", f"K {self.K}, policies {self.policy}", "policy projection alone, with K: [1]")

    @property
    def projects(self) -> bool:
        return "projection" in self.policy


@dataclass(frozen=True)
class Segment:
    """nnU-Net, trained on the real volumes of every cohort with labels whose generated volumes are segmented.

    tier: how much is trained (segment/nnunet.py); epochs, iterations: 0 for the tier's own.
    """

    tier: str = "cpu"
    epochs: int = 0
    iterations: int = 0
    threads: int = 2
    gpu: int = 0
    mem_mb: int = 4000
    runtime_min: int = 120

    def __post_init__(self) -> None:
        one_of("segment.tier", self.tier, TIERS)


@dataclass(frozen=True)
class Run:
    """What of the definitions is run: the product of these lists, narrowed by `only`.

    trained_on: `self`, a cohort, or several joined by `+`: the first one's split, and the others' training sides besides.
    segmented: sweeps whose volumes are segmented where they are run and the cohort has labels.
    """

    cohorts: tuple[str, ...]
    grids: tuple[str, ...]
    methods: tuple[str, ...]
    sweeps: tuple[str, ...]
    trained_on: tuple[str, ...] = ("self",)
    segmented: tuple[str, ...] = ()
    shards: int = 1
    data_shards: int = 1

    def __post_init__(self) -> None:
        for name in ("shards", "data_shards"):
            if getattr(self, name) < 1:
                raise InputError(f"run.{name}", getattr(self, name), "1 or more jobs")


@dataclass(frozen=True)
class Plan:
    """What `xdiff plan` alone reads, so that it changes no job. subjects: of a cohort, about how many there will be; counted with
    where neither its files nor a committed split are there."""

    subjects: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for cohort, count in self.subjects.items():
            if count < 1:
                raise InputError(f"plan.subjects.{cohort}", count, "1 or more subjects")


@dataclass(frozen=True)
class Config:
    """The whole configuration file."""

    cohorts: dict[str, Cohort]
    grids: dict[str, Grid]
    methods: dict[str, MethodEntry]
    sweeps: dict[str, Sweep]
    run: Run
    segment: Segment = field(default_factory=Segment)
    plan: Plan = field(default_factory=Plan)
    data_root: str = ""

    def __post_init__(self) -> None:
        for name in self.plan.subjects:
            one_of("plan.subjects", name, tuple(self.cohorts))
        for kind in ("cohorts", "grids", "methods", "sweeps"):
            for name in getattr(self.run, kind):
                one_of(f"run.{kind}", name, tuple(getattr(self, kind)))
        for name in self.run.segmented:
            one_of("run.segmented", name, tuple(self.sweeps))
        joined = [name for name in self.cohorts if JOIN in name]
        if joined:
            raise InputError("cohorts", repr(joined[0]), f"a name without {JOIN!r}, which joins cohorts in `trained_on`")
        for name in self.run.trained_on:
            parts = parts_of(name)
            for part in parts:
                one_of("run.trained_on", part, tuple(self.cohorts) if len(parts) > 1 else ("self", *self.cohorts))
            if len(set(parts)) < len(parts):
                raise InputError("run.trained_on", repr(name), "each cohort once")
        _check_heads(self)
        for cohort, sweep in sorted({(job.cohort, job.sweep) for job in jobs(self)}):
            for value in self.sweeps[sweep].contrasts_given:
                given_contrasts(value, self.cohorts[cohort].contrasts, f"sweeps.{sweep}.contrasts_given, cohort {cohort}")
            _check_projection(self.cohorts[cohort].projection, self.sweeps[sweep], sweep)


def _check_projection(projection: Projection | None, sweep: Sweep, name: str) -> None:
    if projection and (sweep.axis, sweep.contrasts_given) != ((projection.axis,), (projection.contrast,)):
        found = f"axis {list(sweep.axis)}, contrasts_given {list(sweep.contrasts_given)}"
        raise InputError(f"sweeps.{name}", found, f"axis [{projection.axis}], contrasts_given [{projection.contrast}]")


def _check_heads(config: Config) -> None:
    """A model of skull-stripped volumes has never seen a skull: it is not asked for whole heads."""
    for job in jobs(config):
        for part in parts_of(job.trained_on) if config.cohorts[job.cohort].anatomy == "brain" else ():
            if config.cohorts[part].foreground == "nonzero" and config.cohorts[job.cohort].foreground == "otsu":
                raise InputError(
                    f"run.trained_on: {part}",
                    f"a model of skull-stripped volumes for cohort {job.cohort} of whole heads (foreground: otsu)",
                    f"`skull_strip` for {job.cohort}, training on whole heads, or `only`, which keeps the two apart",
                )


class Job(NamedTuple):
    """One sampling job, as its path spells it."""

    cohort: str
    grid: str
    method: str
    trained_on: str
    sweep: str


def parts_of(trained_on: str) -> tuple[str, ...]:
    """The cohorts that a training set is made of: `a+b` is trained on both, split as `a` is."""
    return tuple(trained_on.split(JOIN))


def jobs(config: Config) -> list[Job]:
    """Every sampling job of the configuration, in a fixed order."""
    run = config.run
    found = []
    product = itertools.product(run.cohorts, run.grids, run.methods, run.trained_on, run.sweeps)
    for cohort, grid, method, origin, sweep in product:
        trained_on = cohort if origin == "self" else origin
        entries = (config.cohorts[cohort], config.grids[grid], config.methods[method], config.sweeps[sweep])
        origins = ("self", cohort) if trained_on == cohort else (trained_on,)
        allowed = all(entry.only.allows(cohort, grid, method, origins, sweep) for entry in entries)
        parts = parts_of(trained_on)
        allowed = allowed and all(config.cohorts[p].only.allows(p, grid, method, origins, sweep) for p in parts)
        allowed = allowed and (trained_on == cohort or config.methods[method].learns)
        allowed = allowed and (entries[0].projection is not None) == entries[3].projects
        job = Job(cohort, grid, method, trained_on, sweep)
        if allowed and job not in found:
            found.append(job)
    return found


def segment_jobs(config: Config) -> list[Job]:
    """Those of the jobs whose volumes are segmented."""
    return [job for job in jobs(config) if job.sweep in config.run.segmented and config.cohorts[job.cohort].labels]


def with_real(masked: Sequence[Job]) -> list[Job]:
    """The jobs whose volumes are segmented, and after them, as methods, the real volumes and the control of every sweep."""
    return [*masked, *dict.fromkeys(job._replace(method=name) for job in masked for name in BESIDE)]


def has_water_fat(cohort: Cohort) -> bool:
    """Whether its volumes have both contrasts of WATER_FAT."""
    return set(WATER_FAT) <= set(cohort.contrasts)


def without_fold(cohort: str) -> str:
    """The name under which a cohort's results stand: `tcga-lgg` of `tcga-lgg.fold1`, part by part of a joined one."""
    return JOIN.join(re.sub(re.escape(FOLD) + "[0-9]+$", "", part) for part in parts_of(cohort))


def given_contrasts(value: str, contrasts: Sequence[str], where: str = "contrasts_given") -> tuple[str, ...]:
    """The contrasts that `all`, or names joined by `+` such as `t1n+t2f`, stand for.

    Raises InputError unless the names are some of `contrasts`, not all, in their order: a set of contrasts has one spelling, so
    that no point is made twice under two names.
    """
    if value == "all":
        return tuple(contrasts)
    names = value.split("+")
    if names != [c for c in contrasts if c in names] or len(names) == len(contrasts):
        raise InputError(where, repr(value), f"all, or some of {list(contrasts)} in this order, joined by +")
    return tuple(names)


def raw_folder(config: Config, cohort: str, results: Path, data_root: Path | None = None) -> Path:
    """Folder that a cohort is read from: below `results` where it is made, stripped or stitched by us, else the user's own."""
    entry = config.cohorts[cohort]
    if entry.layout in ("ukb", *EMBEDDED) or entry.skull_strip:
        return results / "raw" / cohort
    return source_folder(config, cohort, data_root)


def source_folder(config: Config, cohort: str, data_root: Path | None = None) -> Path:
    """Folder of the user's own files, below data_root (argument, config, XDIFF_DATA_ROOT, `data`); nothing is written there."""
    entry = config.cohorts[cohort]
    return (data_root or Path(config.data_root or os.environ.get("XDIFF_DATA_ROOT", "data"))) / (entry.root or cohort)


def load_config(paths: Sequence[Path | str], overrides: Mapping[str, Any] | None = None) -> Config:
    """Read and merge YAML files, later ones over earlier ones, then `overrides`."""
    import yaml

    data: dict[str, Any] = {}
    for path in paths:
        if not Path(path).exists():
            raise InputError(path, "no such file", "a configuration in YAML")
        try:
            overlay = yaml.safe_load(Path(path).read_text()) or {}
        except yaml.YAMLError as error:
            raise InputError(path, f"broken YAML ({' '.join(str(error).split())})", "a configuration in YAML") from error
        if not isinstance(overlay, Mapping):
            raise InputError(path, f"a {type(overlay).__name__}", "a configuration in YAML, a map")
        data = merge(data, overlay)
    return from_dict(Config, merge(data, overrides or {}))


def method_json(entry: MethodEntry) -> str:
    """What of a method's entry its results depend on: not its resources, so that more memory does not mean training again."""
    keys = ("module", "params", "estimates", "stepped", "min_k")
    return to_json({key: getattr(entry, key) for key in keys})


def segment_json(entry: Segment) -> str:
    """What of it the segmenter depends on: not its resources."""
    return to_json({key: getattr(entry, key) for key in ("tier", "epochs", "iterations")})
