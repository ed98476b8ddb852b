"""Which updates to look at on which items, checked: from plain values to a frozen plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from knots.analysis.activations import TOKENS_OF
from knots.errors import KnotsError
from knots.pipelines.model_plan import PRECISIONS, ModelPlan, parse_model
from knots.pipelines.plans import parse_subject
from knots.pipelines.values import choice, flag, names_of, number, whole
from knots.spaces import SPACES
from knots.suites.data import DataOptions
from knots.suites.tasks import SPLITS, Suite

ESTIMATORS = ("debiased", "biased")
AUTO = "auto"


@dataclass(frozen=True)
class AnalysisOptions:
    """What determines the result beside model, adapters and suite.

    Attributes:
        split: the items come from.
        items: of each task.
        seed: of their draw.
        tokens: which rows of an item count, a key of `knots.analysis.activations.TOKENS`.
        estimator: of CKA in tables and figures, "debiased" or "biased".
        cutoff: singular values of the shared basis up to this one are dropped.
        spaces: keys of `knots.spaces.SPACES`, where conflicts of signs are counted.
        density: fraction of entries that TIES would keep.
        precision: of the base model, "32", "bf16" or "16".
    """

    split: str
    items: int
    seed: int
    tokens: str
    estimator: str
    cutoff: float
    spaces: tuple[str, ...]
    density: float
    precision: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "spaces": list(self.spaces)}


@dataclass(frozen=True)
class AnalysisPlan:
    """One run of `run_analysis`.

    Attributes:
        model: base and adapters.
        full: full fine-tunes of the same base; None where there are none.
        suite: the tasks.
        options: what determines the result beside them.
        batch_size: images that go through the model at once; of sentences, tokens.
        trainer: keyword arguments of `lightning.Trainer`, which say on which device.
        root: where the run folders are.
        cache_dir: where data caches are.
        force: run it again where it is finished.
        config: the whole configuration, kept with the run.
        data: how pictures are read.
    """

    model: ModelPlan
    full: ModelPlan | None
    suite: Suite
    options: AnalysisOptions
    batch_size: int
    trainer: Mapping[str, Any]
    root: Path
    cache_dir: Path
    force: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)
    data: DataOptions = field(default_factory=DataOptions)


def parse_analysis(config: Mapping[str, Any]) -> AnalysisPlan:
    """Read the configuration of `experiments/analyze.py`.

    Args:
        config: plain values with the keys of `conf/analyze.yaml`.

    Raises:
        KnotsError: a value has the wrong type, a name is unknown, or model, full fine-tunes and suite do not
            fit.
    """
    model, suite = parse_subject(config)
    modality = suite.modality
    if len(suite.tasks) < 2:
        raise KnotsError("an analysis compares tasks: two or more are needed; name them with tasks=[...]")
    options = _parse_options(config, model, modality)
    return AnalysisPlan(
        model=model,
        full=_parse_full(config, model, options.precision),
        suite=suite,
        options=options,
        batch_size=_batch_size(config, modality),
        trainer=dict(config["trainer"]),
        root=Path(config["paths"]["output_dir"]).expanduser() / "analyze",
        cache_dir=Path(config["paths"]["cache_dir"]).expanduser(),
        force=flag("force", config["force"]),
        config=config,
        data=DataOptions(**config.get("data", {})),
    )


def _batch_size(config: Mapping[str, Any], modality: str) -> int:
    key = {"vision": "batch_size", "language": "batch_tokens"}[modality]
    return whole(key, config[key])


def _parse_options(config: Mapping[str, Any], model: ModelPlan, modality: str) -> AnalysisOptions:
    precision, density = str(config["precision"]), number("density", config["density"])
    spaces, cutoff = names_of("spaces", config["spaces"]), number("cutoff", config["cutoff"])
    if not 0 < density <= 1:
        raise KnotsError(f"density={density!r}; allowed: a fraction, 0 < density <= 1")
    if cutoff < 0:
        raise KnotsError(f"cutoff={cutoff!r}; allowed: 0 or more")
    if precision != AUTO:
        choice("precision", precision, (AUTO, *PRECISIONS))
    return AnalysisOptions(
        split=choice("split", config["split"], SPLITS),
        items=whole("items", config["items"]),
        seed=whole("seed", config["seed"], least=0),
        tokens=_tokens(config["tokens"], modality),
        estimator=choice("estimator", config["estimator"], ESTIMATORS),
        cutoff=cutoff,
        spaces=tuple(choice("spaces", space, SPACES) for space in spaces),
        density=density,
        precision=model.precision if precision == AUTO else precision,
    )


def _tokens(value: object, modality: str) -> str:
    known = TOKENS_OF[modality]
    others = {name for names in TOKENS_OF.values() for name in names}
    if value in others and value not in known:
        raise KnotsError(f"tokens={value!r} is not for {modality}; choose one of {', '.join(known)}")
    return choice("tokens", value, known)


def _parse_full(config: Mapping[str, Any], model: ModelPlan, precision: str) -> ModelPlan | None:
    """The full fine-tunes: what `full` says, over what `model` says."""
    values = {key: value for key, value in config["full"].items() if value is not None}
    if values.get("adapters") is None:
        return None
    if model.updates == "full":
        raise KnotsError(
            f"full: the updates of model {model.name!r} are full fine-tunes already; use full=none"
        )
    if values.get("updates", "full") != "full":
        raise KnotsError(f"full.updates={values['updates']!r}: LoRA adapters; full fine-tunes are needed")
    plan = parse_model({**config["model"], **values, "updates": "full"})
    if (plan.family, plan.base) != (model.family, model.base):
        raise KnotsError(
            f"full: {plan.name!r} was made from the base {plan.base!r}, but model {model.name!r} has "
            f"{model.base!r}; say full.base={model.base} if they are the same"
        )
    if precision != "32":
        raise KnotsError(f"precision={precision}: full fine-tunes are held against the base in precision=32")
    return plan
