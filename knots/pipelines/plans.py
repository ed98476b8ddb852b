"""What to run, checked: from the plain values of a configuration to frozen objects.

Types and names are checked here, before anything is loaded; ranges of merge options by `knots.merge` itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from knots.errors import KnotsError, unknown
from knots.evaluation import MODES, PROTOCOLS
from knots.merging import METHODS
from knots.models.families import FAMILIES
from knots.suites.tasks import SPLITS, Suite, parse_suite

KINDS = ("merged", "ensemble", "zero_shot", "finetuned")
NORMALIZERS = ("measured", "published")
PRECISIONS = ("32", "bf16", "16")
MODEL_KEYS = ("name", "family", "base", "revision", "adapters", "default_suite", "default_finetune")

# The options of `knots.merge` by the type of their values; every other key is an option of the rule.
NUMBERS = ("scale", "density", "drop", "cutoff")
WORDS = ("space", "rule", "dare_rng", "trim")
OTHERS = ("reduce", "weights", "isotropize")
LABELS = ("kind", "method", "source", "seed")


@dataclass(frozen=True)
class ModelPlan:
    """Which base and whose adapters.

    Attributes:
        name: how the model is called in tables.
        family: a key of `FAMILIES`.
        base: folder, `asset:` path or hub id.
        revision: of a hub id; None is its main branch.
        adapters: folder, `asset:` path or hub id, with `{task}` for the task's name.
    """

    name: str
    family: str
    base: str
    revision: str | None
    adapters: str


@dataclass(frozen=True)
class EvalPlan:
    """How predictors are scored.

    Attributes:
        mode: "all", "per_task" or "joint".
        protocol: "float32" or "reference".
        split: which split is scored.
        normalize_by: "measured" or "published" fine-tuned accuracies.
        precision: of the base model, "32", "bf16" or "16".
        batch_size: images that go through the model at once.
    """

    mode: str
    protocol: str
    split: str
    normalize_by: str
    precision: str
    batch_size: int


@dataclass(frozen=True)
class MergePlan:
    """One run of `run_merge`.

    Attributes:
        model: base and adapters.
        suite: the tasks.
        kind: what is scored, one of `KINDS`.
        options: keyword arguments of `knots.merge`; empty where nothing is merged.
        seed: of DARE's masks.
        max_rank: shorten the merge to this rank before it is scored; None keeps it whole.
        scoring: how it is scored.
        trainer: keyword arguments of `lightning.Trainer`.
        root: where the run folders are.
        cache_dir: where data caches are.
        force: run it again where it is finished.
        config: the whole configuration, kept with the run.
    """

    model: ModelPlan
    suite: Suite
    kind: str
    options: Mapping[str, Any]
    seed: int
    max_rank: int | None
    scoring: EvalPlan
    trainer: Mapping[str, Any]
    root: Path
    cache_dir: Path
    force: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """How the run is called: the method's name, or what kind of predictor it is.

        The name follows from space, rule and drop, so it stays true when the user changes them.
        """
        if self.kind != "merged":
            return self.kind
        space, rule, drop = self.options["space"], self.options["rule"], self.options["drop"]
        for name, method in METHODS.items():
            if (method.space, method.rule, "drop" in method.takes) == (space, rule, drop > 0):
                return name
        return f"{'dare, ' if drop > 0 else ''}{space} x {Path(rule).name}"

    @property
    def description(self) -> dict[str, Any]:
        """What `metrics.json` says of the merge; None where it does not apply."""
        options = {key: self.options.get(key) for key in (*WORDS, *NUMBERS, *OTHERS)}
        extra = {key: value for key, value in self.options.items() if key not in options}
        given = {"source": self.config["merge"].get("source")} if self.kind == "merged" else {"source": None}
        return {
            "kind": self.kind,
            "method": self.label,
            **options,
            **extra,
            "max_rank": self.max_rank,
            **given,
        }

    def baseline(self, kind: str) -> MergePlan:
        """The same question put to an unmerged predictor, "zero_shot" or "finetuned"."""
        merge = {"kind": kind, "method": kind}
        config = {**self.config, "merge": merge, "max_rank": None, "seed": 0}
        return replace(self, kind=kind, options={}, max_rank=None, seed=0, force=False, config=config)


def parse_merge(config: Mapping[str, Any]) -> MergePlan:
    """Read the configuration of `experiments/merge.py`.

    Args:
        config: plain values with the keys of `conf/merge.yaml`.

    Raises:
        KnotsError: a value has the wrong type, a name is unknown, or model and suite do not fit.
    """
    model = _parse_model(config["model"], config["adapters"])
    suite = parse_suite(config["suite"])
    modality = FAMILIES[model.family].modality
    if suite.modality != modality:
        raise KnotsError(
            f"suite {suite.name!r} is of {suite.modality}, but model {model.name!r} takes {modality}"
        )
    merge = config["merge"]
    kind = _choice("merge.kind", merge.get("kind"), KINDS)
    rank = config["max_rank"]
    return MergePlan(
        model=model,
        suite=suite,
        kind=kind,
        options=_parse_options(merge) if kind == "merged" else _no_options(kind, merge),
        seed=_seed(config["seed"], merge.get("seed")),
        max_rank=None if rank is None or kind != "merged" else _whole("max_rank", rank),
        scoring=_parse_scoring(config),
        trainer=dict(config["trainer"]),
        root=Path(config["paths"]["output_dir"]).expanduser() / "merge",
        cache_dir=Path(config["paths"]["cache_dir"]).expanduser(),
        force=_flag("force", config["force"]),
        config=config,
    )


def _parse_model(model: Mapping[str, Any], adapters: str | None) -> ModelPlan:
    for key in model:
        if key not in MODEL_KEYS:
            raise unknown("key of model", key, MODEL_KEYS)
    pattern = (
        _text("adapters", adapters) if adapters is not None else _text("model.adapters", model["adapters"])
    )
    if "{task}" not in pattern:
        raise KnotsError(f"adapters={pattern!r} has no {{task}}, where each task's own name goes")
    revision = model["revision"]
    return ModelPlan(
        name=_text("model.name", model["name"]),
        family=_choice("model.family", model["family"], FAMILIES),
        base=_text("model.base", model["base"]),
        revision=None if revision is None else str(revision),
        adapters=pattern,
    )


def _parse_scoring(config: Mapping[str, Any]) -> EvalPlan:
    return EvalPlan(
        mode=_choice("eval.mode", config["eval"]["mode"], MODES),
        protocol=_choice("eval.protocol", config["eval"]["protocol"], PROTOCOLS),
        split=_choice("split", config["split"], SPLITS),
        normalize_by=_choice("normalize_by", config["normalize_by"], NORMALIZERS),
        precision=_choice("precision", str(config["precision"]), PRECISIONS),
        batch_size=_whole("batch_size", config["batch_size"]),
    )


def _parse_options(merge: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of `knots.merge`."""
    options = {key: value for key, value in merge.items() if key not in LABELS}
    for key in NUMBERS:
        options[key] = _number(f"merge.{key}", options[key])
    for key in WORDS:
        options[key] = _text(f"merge.{key}", options[key])
    options["isotropize"] = _flag("merge.isotropize", options["isotropize"])
    if options["weights"] is not None:
        options["weights"] = _numbers("merge.weights", options["weights"])
    return options


def _no_options(kind: str, merge: Mapping[str, Any]) -> dict[str, Any]:
    extra = [key for key in merge if key not in LABELS]
    if extra:
        raise KnotsError(f"merge.{extra[0]}={merge[extra[0]]!r}: {kind} merges nothing and takes no options")
    return {}


def _seed(chosen: object, published: object) -> int:
    """The seed that the user chose, else the published one, else 0."""
    seed = chosen if chosen is not None else published if published is not None else 0
    return _whole("seed", seed, least=0)


def _text(where: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise KnotsError(f"{where}={value!r}; a text is needed")
    return value


def _choice(where: str, value: object, known: Sequence[str] | Mapping[str, Any]) -> str:
    if value not in known:
        raise unknown(where, str(value), known)
    return str(value)


def _number(where: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise KnotsError(f"{where}={value!r}; a number is needed")
    return float(value)


def _numbers(where: str, value: object) -> list[float]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise KnotsError(f"{where}={value!r}; a list of numbers is needed, as [1,0.5]")
    return [_number(where, item) for item in value]


def _whole(where: str, value: object, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise KnotsError(f"{where}={value!r}; a whole number of {least} or more is needed")
    return value


def _flag(where: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise KnotsError(f"{where}={value!r}; true or false is needed")
    return value
