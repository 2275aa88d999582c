"""nnU-Net v2 (Isensee et al., Nature Methods 2021), trained on the real volumes of the training patients alone.

Everything lies in nnU-Net's own folders (nnUNet_raw, nnUNet_preprocessed, nnUNet_results below one folder), with its own
trainer, plans and checkpoints, so that its own tools go on with them. What is not used is its command line, whose search for
trainers imports torchvision, which does not load beside every build of torch.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xdiff.data.cohorts import foreground
from xdiff.data.split import Split
from xdiff.data.store import Store
from xdiff.errors import InputError
from xdiff.plain import digest
from xdiff.segment.regions import regions_of
from xdiff.volumes import read_labels, read_volume, write_volume

VERSION = 1  # raise when the same settings train something else
NUMBER = 501  # of the dataset; each segmenter has folders of its own
INDEX = "segmenter.json"  # written last
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
TRAINER = "nnUNetTrainer"


class Tier(NamedTuple):
    """What is trained. widest: most channels of a level, 0 for what nnU-Net plans; batch: most examples of a step, likewise.
    mirrored: whether a prediction averages over mirrored volumes, eight times the work, where the trainer mirrored, too."""

    configuration: str
    planner: str
    folds: tuple[int, ...]
    epochs: int
    iterations: int
    widest: int = 0
    batch: int = 0
    mirrored: bool = True


TIERS = {
    "cpu": Tier("2d", "ExperimentPlanner", (0,), epochs=10, iterations=150, widest=128, batch=16, mirrored=False),  # minutes
    "gpu": Tier("3d_fullres", "ExperimentPlanner", (0,), epochs=100, iterations=250),  # hours
    "full": Tier("3d_fullres", "nnUNetPlannerResEncM", (0, 1, 2, 3, 4), epochs=1000, iterations=250),  # as published
}


@dataclass(frozen=True)
class Settings:
    """tier: one of TIERS; epochs and iterations: 0 for the tier's own."""

    tier: str = "cpu"
    epochs: int = 0
    iterations: int = 0

    def __post_init__(self) -> None:
        if self.tier not in TIERS:
            raise InputError("segment.tier", repr(self.tier), f"one of {', '.join(TIERS)}")
        for name in ("epochs", "iterations"):
            if getattr(self, name) < 0:
                raise InputError(f"segment.{name}", getattr(self, name), "0 (the tier's own) or more")

    @property
    def plan(self) -> Tier:
        tier = TIERS[self.tier]
        return tier._replace(epochs=self.epochs or tier.epochs, iterations=self.iterations or tier.iterations)


def train(store: Store, split: Split, settings: Settings, out: Path) -> None:
    """Export, plan, preprocess and train; the same command again goes on where it stopped, or finds all of it done.

    The validation side of the split is nnU-Net's validation set; with several folds it is one of them, and nnU-Net draws the
    others. Raises InputError where the cohort has no labels, or nnU-Net is not installed.
    """
    key = digest([VERSION, version(), store.fingerprint, split.sha, asdict(settings)])
    out.mkdir(parents=True, exist_ok=True)
    if (out / INDEX).exists() and json.loads((out / INDEX).read_text())["key"] == key:
        print(f"nnU-Net: segmenter of {key[:12]} is there already")
        return
    _start_clean_where_changed(out, key)
    regions = regions_of(store.label_names)
    raw = out / "nnUNet_raw" / _name(store)
    if not (raw / "dataset.json").exists():
        export(store, split, regions, raw)
    with folders(out, loaders=1):
        plans = _plan(store, split, settings.plan, out)
    with folders(out):
        for fold in settings.plan.folds:
            _train_fold(plans, raw / "dataset.json", settings.plan, fold)
    index = {"key": key, "settings": asdict(settings), "dataset": _name(store), "plans": plans["plans_name"], "regions": regions}
    index |= {"contrasts": list(store.contrasts), "nnunetv2": version(), "split": split.sha, "data": store.fingerprint}
    (out / INDEX).write_text(json.dumps(index, indent=1) + "\n")


def version() -> str:
    """Of nnU-Net. Raises InputError where it is not installed."""
    try:
        return importlib.metadata.version("nnunetv2")
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError("nnunetv2", "not installed", "pip install 'xdiff[segment]' -c constraints.txt") from error


def _start_clean_where_changed(out: Path, key: str) -> None:
    started = out / "started.json"
    if started.exists() and json.loads(started.read_text()) != key:
        print(f"nnU-Net: data, split or settings of {out} have changed, starting anew")
        for name in FOLDERS:
            shutil.rmtree(out / name, ignore_errors=True)
    started.write_text(json.dumps(key))


def _name(store: Store) -> str:
    return f"Dataset{NUMBER}_{store.cohort}-{store.grid}"


@contextlib.contextmanager
def folders(out: Path, loaders: int = 0) -> Iterator[None]:
    """Inside, nnU-Net's folders are those below `out`, and it loads training data in so many processes (planning wants one)."""
    wanted = {name: str(out.resolve() / name) for name in FOLDERS}
    wanted |= {"nnUNet_compile": "f", "nnUNet_n_proc_DA": str(loaders), "nnUNet_def_n_proc": "1"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    for name in FOLDERS:
        Path(wanted[name]).mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def export(store: Store, split: Split, regions: dict[str, tuple[int, ...]], raw: Path) -> None:
    """nnU-Net's raw folder of the training and validation sides: imagesTr/SUBJECT_000C.nii.gz, labelsTr/SUBJECT.nii.gz,
    dataset.json (written last). Test subjects are never written."""
    subjects, values = split.side("train") + split.side("val"), {0, *(v for r in regions.values() for v in r)}
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True, exist_ok=True)
    for subject in subjects:
        labels, affine = store.labels(subject), store.affine(subject)
        if labels is None:
            raise InputError(store.folder, f"no labels of {subject}", "a cohort with labels: a segmenter learns from them")
        paths = [raw / "imagesTr" / f"{subject}_{c:04d}.nii.gz" for c in range(len(store.contrasts))]
        for path, image in zip(paths, store.volume(subject), strict=True):
            write_volume(path, image, affine)
        write_volume(raw / "labelsTr" / f"{subject}.nii.gz", labels, affine)
        _check_written(raw / "labelsTr" / f"{subject}.nii.gz", paths, values, affine)
    (raw / "dataset.json").write_text(json.dumps(_dataset(store, regions, len(subjects)), indent=1) + "\n")


def _check_written(labels: Path, images: list[Path], values: set[int], affine: np.ndarray) -> None:
    """Image and labels must lie in the same place when they are read back: nnU-Net does not look."""
    volumes = [read_volume(path) for path in images]
    for volume in (*volumes, read_labels(labels, values, volumes[0])):
        if not np.allclose(volume.affine, affine, atol=1e-4):
            raise ValueError(f"{volume.path}: affine {volume.affine.tolist()}, expected the store's {affine.tolist()}")


def _dataset(store: Store, regions: dict[str, tuple[int, ...]], count: int) -> dict[str, Any]:
    """nnU-Net's dataset.json; overlapping regions are trained as such (regions_class_order: what is written over what)."""
    overlap = any(len(values) > 1 for values in regions.values())
    labels = {name: list(values) if len(values) > 1 else values[0] for name, values in regions.items()}
    described = {
        "channel_names": {str(c): name for c, name in enumerate(store.contrasts)},
        "labels": {"background": 0, **labels},
        "numTraining": count,
        "file_ending": ".nii.gz",
        # SimpleITK refuses affines that are orthonormal to float32 only
        "overwrite_image_reader_writer": "NibabelIO",
    }
    if overlap:
        inner = [set(values) for values in regions.values()][1:] + [set()]
        own = [sorted(set(values) - within) for values, within in zip(regions.values(), inner, strict=True)]
        described["regions_class_order"] = [values[0] for values in own]
    return described


def _plan(store: Store, split: Split, tier: Tier, out: Path) -> dict[str, Any]:
    """nnU-Net's fingerprint, plans (of the tier's size) and preprocessed volumes, where they are not there; returns the plans."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    base = out / "nnUNet_preprocessed" / _name(store)
    done = base / "planned.json"
    if done.exists():
        return json.loads(Path(json.loads(done.read_text())).read_text())
    api.extract_fingerprint_dataset(NUMBER, num_processes=1, check_dataset_integrity=False, verbose=False)
    where = Path(api.nnunetv2.__path__[0]) / "experiment_planning"
    planner = recursive_find_python_class(str(where), tier.planner, "nnunetv2.experiment_planning")
    _, name = api.plan_experiment_dataset(NUMBER, planner)
    path = base / f"{name}.json"
    plans = json.loads(path.read_text())
    if tier.configuration not in plans["configurations"]:
        raise InputError(base, f"plans for {', '.join(plans['configurations'])}", f"the configuration {tier.configuration}")
    _shrink(plans["configurations"][tier.configuration], tier)
    path.write_text(json.dumps(plans, indent=1) + "\n")
    api.preprocess_dataset(NUMBER, name, (tier.configuration,), (1,))
    if len(tier.folds) == 1 and split.side("val"):
        sides = {"train": split.side("train"), "val": split.side("val")}
        (base / "splits_final.json").write_text(json.dumps([sides], indent=1) + "\n")
    done.write_text(json.dumps(str(path)))
    return plans


def _shrink(configuration: dict[str, Any], tier: Tier) -> None:
    if tier.widest:
        widths = configuration["architecture"]["arch_kwargs"]["features_per_stage"]
        configuration["architecture"]["arch_kwargs"]["features_per_stage"] = [min(w // 2, tier.widest) for w in widths]
    if tier.batch:
        configuration["batch_size"] = min(tier.batch, configuration["batch_size"])


def trainer_of(plans: dict[str, Any], dataset: Path, tier: Tier, fold: int, resume: bool) -> Any:
    """nnU-Net's own trainer, with the tier's epochs and iterations."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    known = json.loads(dataset.read_text())
    trainer = nnUNetTrainer({**plans, "continue_training": resume}, tier.configuration, fold, known, device)
    trainer.num_epochs, trainer.num_iterations_per_epoch = tier.epochs, tier.iterations
    trainer.num_val_iterations_per_epoch = max(1, tier.iterations // 5)
    trainer.save_every = 1 if tier.epochs <= 100 else 10
    if trainer.configuration_manager.network_arch_init_kwargs["n_stages"] < 3:
        trainer.enable_deep_supervision = False  # on arrays this small its weights would be 0 / 0
    return trainer


def _train_fold(plans: dict[str, Any], dataset: Path, tier: Tier, fold: int) -> None:
    folder = results_folder(dataset.parent.parent.parent, dataset.parent.name, plans["plans_name"], tier.configuration, fold)
    if (folder / "checkpoint_final.pth").exists():
        return
    latest = folder / "checkpoint_latest.pth"
    trainer = trainer_of(plans, dataset, tier, fold, latest.exists())
    trainer.initialize()
    if latest.exists():
        trainer.load_checkpoint(str(latest))
        print(f"nnU-Net: fold {fold} goes on at epoch {trainer.current_epoch} of {tier.epochs}")
    trainer.run_training()
    if not all(bool(p.isfinite().all()) for p in trainer.network.parameters()):
        (folder / "checkpoint_final.pth").unlink()
        raise FloatingPointError(f"{folder}: weights that are not finite after training, expected finite ones")


def results_folder(out: Path, dataset: str, plans: str, configuration: str, fold: int) -> Path:
    """Where nnU-Net keeps what it trained."""
    return out / "nnUNet_results" / dataset / f"{TRAINER}__{plans}__{configuration}" / f"fold_{fold}"


class Segmenter:
    """A trained nnU-Net, its folds averaged."""

    def __init__(self, out: Path) -> None:
        import torch
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
        from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        if not (out / INDEX).exists():
            raise InputError(out / INDEX, "no such file", "a trained segmenter (xdiff segment train)")
        self.index = json.loads((out / INDEX).read_text())
        tier, name = Settings(**self.index["settings"]).plan, self.index["dataset"]
        dataset = json.loads((out / "nnUNet_raw" / name / "dataset.json").read_text())
        plans = PlansManager(str(out / "nnUNet_preprocessed" / name / f"{self.index['plans']}.json"))
        configuration = plans.get_configuration(tier.configuration)
        inputs = determine_num_input_channels(plans, configuration, dataset)
        heads = plans.get_label_manager(dataset).num_segmentation_heads
        network = nnUNetTrainer.build_network_architecture(plans, configuration, inputs, heads, enable_deep_supervision=False)
        where = [results_folder(out, name, self.index["plans"], tier.configuration, fold) for fold in tier.folds]
        kept = [torch.load(folder / "checkpoint_final.pth", map_location="cpu", weights_only=False) for folder in where]
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.predictor = nnUNetPredictor(
            use_mirroring=tier.mirrored, device=device, perform_everything_on_device=device.type == "cuda", allow_tqdm=False
        )
        weights, mirrored = [k["network_weights"] for k in kept], kept[0]["inference_allowed_mirroring_axes"]
        self.predictor.manual_initialization(network.to(device), plans, configuration, weights, dataset, TRAINER, mirrored)

    def segment(self, volume: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
        """Labels (X, Y, Z) uint8 of a volume (C, X, Y, Z), in the units of the store's volumes.

        Where nnU-Net normalises by the voxels that are not 0, as it does with skull-stripped volumes, everything outside the head
        (cohorts.foreground, `otsu`) is set to 0 first, in generated and real volumes alike: a generated background is nearly 0
        but never is, and a whole array's mean and deviation instead of a brain's make tumours of healthy tissue.
        """
        if any(self.predictor.configuration_manager.use_mask_for_norm):
            volume = volume * foreground(volume, "otsu")
        # nnU-Net's arrays are (C, Z, Y, X), as its readers make them of a NIfTI file
        turned = np.ascontiguousarray(volume.transpose(0, 3, 2, 1), dtype=np.float32)
        found = self.predictor.predict_single_npy_array(turned, {"spacing": list(spacing_mm[::-1])})
        return np.ascontiguousarray(found.transpose(2, 1, 0)).astype(np.uint8)
