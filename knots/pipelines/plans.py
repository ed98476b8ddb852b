"""What to run, checked: from the plain values of a configuration to frozen objects.

Types and names are checked here, before anything is loaded; ranges of merge options by `knots.merge` itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from knots.errors import KnotsError
from knots.evaluation import MODES, PROTOCOLS, check_protocol, own_mode
from knots.methods import name_of
from knots.models.families import FAMILIES
from knots.pipelines.calibration_plan import Calibration, parse_calibration
from knots.pipelines.model_plan import PRECISIONS, ModelPlan, parse_model
from knots.pipelines.values import choice, flag, names_of, number, numbers, text, whole
from knots.suites.data import DataOptions
from knots.suites.tasks import SPLITS, Suite, parse_suite

KINDS = ("merged", "ensemble", "single", "multitask", "router", "zero_shot", "finetuned")
BASELINES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(KINDS, ("zero_shot", "finetuned")),
    "zero_shot": (),
    "finetuned": (),
}
"""What each kind of predictor is compared with."""

VISION_ONLY: Mapping[str, str] = {
    "ensemble": "which has no ensemble",
    "router": "whose tasks share their labels: nothing is joint, so there is nothing to route",
}
"""Kinds of predictors for images alone, and why a suite of language has none."""

BEST = "best"
"""The single adapter that the validation split chooses."""

NORMALIZERS = ("measured", "published")
AUTO = "auto"
FULL = "full"

# The options of `knots.merge` by the type of their values; every other key is an option of the rule.
NUMBERS = ("scale", "density", "drop", "cutoff")
WORDS = ("space", "rule", "dare_rng", "trim")
OTHERS = ("reduce", "weights", "isotropize")
LABELS = ("kind", "method", "source", "also", "seed", "calibration", "adapter")


@dataclass(frozen=True)
class EvalPlan:
    """How predictors are scored.

    Attributes:
        mode: "all", "per_task" or "joint".
        protocol: "float32" or "reference".
        split: which split is scored.
        normalize_by: "measured" or "published" fine-tuned accuracies.
        precision: of the base model, "32", "bf16" or "16".
        batch_size: images that go through the model at once; of sentences, tokens, where None is what suits
            the device.
    """

    mode: str
    protocol: str
    split: str
    normalize_by: str
    precision: str
    batch_size: int | None


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
        data: how pictures are read.
        calibration: what the rule is shown of the data; None for rules that need none.
        keep_adapter: save the merged adapter with the run; no number depends on it.
        adapter: of kind "single" the task whose adapter is scored, or `BEST`; else None.
        chosen: task -> what its adapter alone reached on the validation split, where that chose `adapter`;
            `bounds.choice_metric` says what was measured.
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
    data: DataOptions = field(default_factory=DataOptions)
    calibration: Calibration | None = None
    keep_adapter: bool = True
    adapter: str | None = None
    chosen: Mapping[str, float] | None = None

    @property
    def label(self) -> str:
        """How the run is called: the method's name, or what kind of predictor it is.

        The name follows from the options, so it stays true when the user changes them.
        """
        if self.kind == "single" and self.adapter != BEST and self.chosen is None:
            return f"single ({self.adapter})"
        if self.kind != "merged":
            return self.kind
        space, rule, dare = self.options["space"], self.options["rule"], self.options["drop"] > 0
        return name_of(self.options) or f"{'dare, ' if dare else ''}{space} x {Path(rule).name}"

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
            **self._adapters,
            **({"adapter": self.adapter} if self.kind == "single" else {}),
            **given,
        }

    @property
    def _adapters(self) -> dict[str, Any]:
        """Which adapters a result is of, where there are several sets; the base's is of none."""
        if self.kind == "zero_shot" or self.model.universe is None:
            return {"universe": None, "shared_init": None}
        return {"universe": self.model.universe, "shared_init": self.model.shared_init}

    def baseline(self, kind: str) -> MergePlan:
        """The same question put to an unmerged predictor, "zero_shot" or "finetuned"."""
        merge = {"kind": kind, "method": kind}
        config = {**self.config, "merge": merge, "max_rank": None, "seed": 0}
        return replace(
            self,
            kind=kind,
            options={},
            max_rank=None,
            seed=0,
            force=False,
            config=config,
            calibration=None,
            adapter=None,
            chosen=None,
        )


def parse_merge(config: Mapping[str, Any]) -> MergePlan:
    """Read the configuration of `experiments/merge.py`.

    Args:
        config: plain values with the keys of `conf/merge.yaml`.

    Raises:
        KnotsError: a value has the wrong type, a name is unknown, or model and suite do not fit.
    """
    model, suite = parse_subject(config)
    modality = suite.modality
    merge = config["merge"]
    kind = choice("merge.kind", merge.get("kind"), KINDS)
    if kind in VISION_ONLY and modality == "language":
        raise KnotsError(f"merge={kind}: suite {suite.name!r} is of language, {VISION_ONLY[kind]}")
    rank = None if config["max_rank"] == FULL else config["max_rank"]
    return MergePlan(
        model=model,
        suite=suite,
        kind=kind,
        options=_parse_options(merge) if kind == "merged" else _no_options(kind, merge),
        seed=_seed(config["seed"], merge.get("seed")),
        max_rank=None if rank is None or kind != "merged" else whole("max_rank", rank),
        scoring=_parse_scoring(config, model, suite),
        trainer=dict(config["trainer"]),
        root=Path(config["paths"]["output_dir"]).expanduser() / "merge",
        cache_dir=Path(config["paths"]["cache_dir"]).expanduser(),
        force=flag("force", config["force"]),
        config=config,
        data=DataOptions(**config.get("data", {})),
        calibration=parse_calibration(merge.get("calibration")) if kind == "merged" else None,
        keep_adapter=flag("keep_adapter", config["keep_adapter"]),
        adapter=_adapter_alone(kind, merge, suite),
    )


def parse_subject(config: Mapping[str, Any]) -> tuple[ModelPlan, Suite]:
    """Which model and adapters, and which tasks.

    Args:
        config: with the keys `model`, `adapters`, `universe`, `shared_init`, `suite` and `tasks`.

    Raises:
        KnotsError: a value has the wrong type, a name is unknown, or model and suite do not fit.
    """
    model = parse_model(
        config["model"],
        config["adapters"],
        universe=config["universe"],
        shared_init=flag("shared_init", config["shared_init"]),
    )
    suite = parse_suite(config["suite"])
    if config.get("tasks") is not None:
        suite = suite.subset(names_of("tasks", config["tasks"]))
    modality = FAMILIES[model.family].modality
    if suite.modality != modality:
        raise KnotsError(
            f"suite {suite.name!r} is of {suite.modality}, but model {model.name!r} takes {modality}"
        )
    return model, suite


def _parse_scoring(config: Mapping[str, Any], model: ModelPlan, suite: Suite) -> EvalPlan:
    mode = choice("eval.mode", config["eval"]["mode"], MODES)
    protocol = choice("eval.protocol", config["eval"]["protocol"], PROTOCOLS)
    precision = str(config["precision"])
    if suite.modality == "language":
        mode, tokens = own_mode(suite, mode), config["batch_tokens"]
        check_protocol(suite, protocol)
        batch = None if tokens is None else whole("batch_tokens", tokens)
    else:
        batch = whole("batch_size", config["batch_size"])
    return EvalPlan(
        mode=mode,
        protocol=protocol,
        split=choice("split", config["split"], SPLITS),
        normalize_by=choice("normalize_by", config["normalize_by"], NORMALIZERS),
        precision=model.precision
        if precision == AUTO
        else choice("precision", precision, (AUTO, *PRECISIONS)),
        batch_size=batch,
    )


def _parse_options(merge: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of `knots.merge`."""
    options = {key: value for key, value in merge.items() if key not in LABELS}
    for key in NUMBERS:
        options[key] = number(f"merge.{key}", options[key])
    for key in WORDS:
        options[key] = text(f"merge.{key}", options[key])
    options["isotropize"] = flag("merge.isotropize", options["isotropize"])
    if options["weights"] is not None:
        options["weights"] = numbers("merge.weights", options["weights"])
    return options


def _no_options(kind: str, merge: Mapping[str, Any]) -> dict[str, Any]:
    extra = [key for key in merge if key not in LABELS]
    if extra:
        raise KnotsError(f"merge.{extra[0]}={merge[extra[0]]!r}: {kind} merges nothing and takes no options")
    return {}


def _adapter_alone(kind: str, merge: Mapping[str, Any], suite: Suite) -> str | None:
    """Whose adapter is scored alone."""
    if kind == "single":
        return choice("merge.adapter", merge.get("adapter"), (BEST, *suite.task_names))
    if "adapter" in merge:
        raise KnotsError(f"merge.adapter={merge['adapter']!r} is for merge=single, not for kind {kind!r}")
    return None


def _seed(chosen: object, published: object) -> int:
    """The seed that the user chose, else the published one, else 0."""
    seed = chosen if chosen is not None else published if published is not None else 0
    return whole("seed", seed, least=0)
