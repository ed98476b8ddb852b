"""What to search and how, checked: from the plain values of a configuration to frozen objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from knots.errors import KnotsError, unknown
from knots.pipelines.plans import MergePlan, parse_merge
from knots.pipelines.values import choice, names_of, number, numbers, text, whole
from knots.search import Axis, Found, Range, Score, grid_search, line_search, optuna_search
from knots.search.line import BETTER, GoesOn
from knots.search.trials import METRICS
from knots.suites.tasks import SPLITS

KINDS = ("line", "grid", "optuna")
OPTIONS = ("scale", "density", "drop")
"""Merge options that can be searched; a trial always states all of them."""

KEYS: Mapping[str, tuple[str, ...]] = {
    "line": ("name", "kind", "order", "values", "protocols", "seeds"),
    "grid": ("name", "kind", "order", "values", "metric", "seeds"),
    "optuna": ("name", "kind", "order", "ranges", "trials", "seed", "metric", "seeds"),
}
PROTOCOLS = ("per_task", "joint", "language")


@dataclass(frozen=True)
class Procedure:
    """How candidates are chosen and compared.

    Attributes:
        name: of the search, as "reference".
        kind: "line", "grid" or "optuna".
        axes: of a line or a grid; of optuna the ranges.
        metric: what is maximised, one of `METRICS`.
        decimals: digits after which a value is cut before it is compared; None compares it as it is.
        start: where a line starts.
        goes_on: when a line goes on, ">=" or ">".
        trials: how often optuna is asked.
        seed: of optuna's estimator.
    """

    name: str
    kind: str
    axes: tuple[Axis, ...] | tuple[Range, ...]
    metric: str
    decimals: int | None = None
    start: Mapping[str, float] | None = None
    goes_on: GoesOn = ">="
    trials: int = 0
    seed: int = 0

    def run(self, score: Score) -> Found:
        """Search."""
        axes: Any = self.axes
        if self.kind == "optuna":
            return optuna_search(score, axes, trials=self.trials, seed=self.seed)
        if self.kind == "grid":
            return grid_search(score, axes)
        assert self.start is not None
        return line_search(score, axes, self.start, goes_on=self.goes_on)

    @property
    def protocol(self) -> str:
        """In a sentence, what was done."""
        names = ", ".join(axis.name for axis in self.axes)
        rounded = "" if self.decimals is None else f" (rounded to {self.decimals} digits)"
        how = {
            "line": f"one line after the other ({names}), each while its value is {self.goes_on} the best",
            "grid": f"every combination of {names}",
            "optuna": f"{self.trials} times asked of optuna's estimator, seed {self.seed}: {names}",
        }[self.kind]
        return f"{self.name}: {how}; largest {self.metric}{rounded}"

    @property
    def description(self) -> dict[str, Any]:
        """Everything that determines which candidates are tried, as plain values."""
        axes = [
            {key: list(value) if isinstance(value, tuple) else value for key, value in vars(axis).items()}
            for axis in self.axes
        ]
        return {**vars(self), "axes": axes, "start": None if self.start is None else dict(self.start)}


@dataclass(frozen=True)
class SearchPlan:
    """One run of `run_search`.

    Attributes:
        merge: the run whose options are searched, on the split that is searched on.
        procedure: how.
        seeds: of DARE's masks, each searched by itself; one where nothing is dropped.
        test_split: on which the best is measured; None for nowhere.
        config: the whole configuration, kept with the search.
    """

    merge: MergePlan
    procedure: Procedure
    seeds: tuple[int, ...]
    test_split: str | None
    config: Mapping[str, Any]

    @property
    def searched(self) -> tuple[str, ...]:
        """The options that are searched."""
        return tuple(axis.name for axis in self.procedure.axes)

    def candidate(self, options: Mapping[str, float], seed: int) -> MergePlan:
        """The run of a candidate, on the split that is searched on."""
        return replace(self.merge, options={**self.merge.options, **options}, seed=seed)

    def tested(self, options: Mapping[str, float], seed: int) -> MergePlan:
        """The run of a candidate on the test split, with a configuration that says where it comes from."""
        assert self.test_split is not None
        plan = self.candidate(options, seed)
        source = f"search: {self.procedure.protocol}; on the {self.merge.scoring.split} split"
        merge = {**plan.config["merge"], **options, "source": source}
        merge.pop("also", None)  # other published options, which were not asked for
        config = {**plan.config, "merge": merge, "seed": seed, "split": self.test_split}
        return replace(plan, scoring=replace(plan.scoring, split=self.test_split), config=config)


def parse_search(config: Mapping[str, Any]) -> SearchPlan:
    """Read the configuration of `experiments/search.py`.

    Args:
        config: plain values with the keys of `conf/search.yaml`.

    Raises:
        KnotsError: as `parse_merge`; or the search has an unknown key or name, values of a wrong type, or
            nothing to search.
    """
    merge = parse_merge({key: value for key, value in config.items() if key not in ("search", "test_split")})
    if merge.kind != "merged":
        raise KnotsError(f"merge={merge.kind}: {merge.kind} merges nothing, so there is nothing to search")
    if merge.scoring.split == "test":
        raise KnotsError("split='test': options are never chosen on the test split; use split=validation")
    search = config["search"]
    kind = choice("search.kind", search.get("kind"), KINDS)
    for key in search:
        if key not in KEYS[kind]:
            raise unknown(f"key of a search of kind {kind!r}:", str(key), KEYS[kind])
    split = config["test_split"]
    return SearchPlan(
        merge=merge,
        procedure=_procedure(kind, search, merge),
        seeds=_seeds(search["seeds"], merge),
        test_split=None if split is None else choice("test_split", split, SPLITS),
        config=config,
    )


def _seeds(seeds: object, merge: MergePlan) -> tuple[int, ...]:
    if merge.options["drop"] == 0 or seeds is None:
        return (merge.seed,)
    if isinstance(seeds, str) or not isinstance(seeds, Sequence) or not seeds:
        raise KnotsError(f"search.seeds={seeds!r}; null or a list of whole numbers is needed, as [0,1]")
    return tuple(whole("search.seeds", seed, least=0) for seed in seeds)


def _procedure(kind: str, search: Mapping[str, Any], merge: MergePlan) -> Procedure:
    name, order = text("search.name", search["name"]), _searched(search["order"], merge)
    if kind == "optuna":
        return Procedure(
            name=name,
            kind=kind,
            axes=tuple(_range(option, search["ranges"]) for option in order),
            metric=_metric(search["metric"], merge),
            trials=whole("search.trials", search["trials"]),
            seed=whole("search.seed", search["seed"], least=0),
        )
    axes = tuple(_axis(option, search["values"]) for option in order)
    if kind == "grid":
        return Procedure(name=name, kind=kind, axes=axes, metric=_metric(search["metric"], merge))
    where, protocol = _protocol(search["protocols"], merge)
    start = {option: number(f"{where}.start.{option}", protocol["start"].get(option)) for option in order}
    decimals = protocol["decimals"]
    return Procedure(
        name=name,
        kind=kind,
        axes=axes,
        metric=_known_metric(f"{where}.metric", protocol["metric"], merge),
        decimals=None if decimals is None else whole(f"{where}.decimals", decimals, least=0),
        start=start,
        goes_on=">=" if choice(f"{where}.goes_on", protocol["goes_on"], BETTER) == ">=" else ">",
    )


def _searched(order: object, merge: MergePlan) -> list[str]:
    """The options of `search.order` that the method takes."""
    dare, ties = merge.options["drop"] > 0, merge.options["rule"] == "ties"
    # What DARE has thinned out is not trimmed, unless the trimming comes first.
    trims = ties and (not dare or merge.options.get("dare_after") == "trim")
    takes = {"scale": True, "density": trims, "drop": dare}
    asked = [choice("search.order", option, OPTIONS) for option in names_of("search.order", order)]
    found = [option for option in asked if takes[option]]
    if not found:
        raise KnotsError(
            f"search.order={asked}: {merge.label} takes none of them; it takes "
            f"{', '.join(option for option in OPTIONS if takes[option])}"
        )
    return found


def _axis(option: str, values: object) -> Axis:
    given = values.get(option) if isinstance(values, Mapping) else None
    listed = numbers(f"search.values.{option}", given)
    if not listed:
        raise KnotsError(f"search.values.{option}=[]; at least one number is needed")
    return Axis(option, tuple(listed))


def _range(option: str, ranges: object) -> Range:
    given = numbers(f"search.ranges.{option}", ranges.get(option) if isinstance(ranges, Mapping) else None)
    if len(given) != 3 or given[0] > given[1] or given[2] <= 0:
        raise KnotsError(f"search.ranges.{option}={given}; [from, to, step] is needed, as [0.1,1,0.1]")
    return Range(option, *given)


def _protocol(protocols: object, merge: MergePlan) -> tuple[str, Mapping[str, Any]]:
    """The protocol for what is measured, and its place in the configuration."""
    language = merge.suite.modality == "language"
    name = "language" if language else "joint" if merge.scoring.mode == "joint" else "per_task"
    where = f"search.protocols.{name}"
    found = protocols.get(name) if isinstance(protocols, Mapping) else None
    needed = {"metric", "decimals", "goes_on", "start"}
    if not isinstance(found, Mapping) or set(found) != needed or not isinstance(found["start"], Mapping):
        raise KnotsError(f"{where}={found!r}; a mapping with {', '.join(sorted(needed))} is needed")
    return where, found


def _metric(metric: object, merge: MergePlan) -> str:
    if metric == "auto":
        return "hits@3" if merge.scoring.mode == "joint" else "normalized"
    return _known_metric("search.metric", metric, merge)


def _known_metric(where: str, metric: object, merge: MergePlan) -> str:
    chosen = choice(where, metric, METRICS)
    mode = merge.scoring.mode
    if mode != "all" and (chosen.startswith("hits@") != (mode == "joint")):
        raise KnotsError(f"{where}={chosen}: eval={mode} does not measure it; use eval=all")
    return chosen
