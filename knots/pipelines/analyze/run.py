"""Look at task updates: what they do to activations, how large they are, where they agree.

`run_analysis` answers it for the adapters of one model, and for full fine-tunes of the same base beside them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from knots.adapters import Adapter
from knots.analysis.activations import Maps, Similarities, knots_maps, measure_cka, update_maps
from knots.analysis.geometry import Geometry, module_geometry
from knots.analysis.signs import SignConflicts, sign_conflicts
from knots.checks import updates_by_module
from knots.drafts import writing
from knots.errors import KnotsError
from knots.models.attach import check_modules
from knots.models.clip import Clip
from knots.models.full import load_finetuned
from knots.pipelines.analyze.findings import Findings
from knots.pipelines.analyze.plan import AnalysisPlan
from knots.pipelines.analyze.record import write_record
from knots.pipelines.identity import data_identity
from knots.pipelines.trainers import quiet_trainer
from knots.pipelines.workshop import Workshop
from knots.runs import Run, find_run, run_id
from knots.suites.data import Sample, load_split
from knots.updates import Update

log = logging.getLogger(__name__)

Updates = Mapping[str, Sequence[Update]]


def run_analysis(plan: AnalysisPlan, console: Console | None = None, workshop: Workshop | None = None) -> Run:
    """Compare the updates of all tasks as planned; what is finished already is read, not run.

    Args:
        plan: what to look at.
        console: where a progress bar is drawn; None draws none.
        workshop: what runs of this model and suite share, where this is one of several.

    Returns:
        The run, in a folder below `plan.root` with `metrics.json`, `cka.csv`, `geometry.csv`, `tables/` and
        `figures/`.

    Raises:
        KnotsError: adapters, fine-tunes, model and suite do not fit together, options are out of range, the
            trainer has several devices, or a folder cannot be written.
    """
    subject = _Subject(plan, shop := workshop or _shop(plan))
    identity = analysis_identity(plan, shop, subject.full)
    name = run_id(identity)
    found = None if plan.force else find_run(plan.root, name)
    if found is not None:
        log.info("this analysis is finished already: %s", found.folder)
        return found
    device = _device(plan)
    with writing(plan.root, name, config=plan.config, identity=identity) as draft:
        findings = _look(plan, subject, device, console or Console(quiet=True))
        draft.metrics.update(write_record(plan, findings, draft.folder))
    return Run(plan.root / name, draft.metrics, fresh=True)


def finished_analysis(plan: AnalysisPlan) -> Run | None:
    """The analysis if it is finished, else None; nothing is computed.

    Raises:
        KnotsError: adapters or full fine-tunes are not there.
    """
    shop = _shop(plan)
    return find_run(plan.root, run_id(analysis_identity(plan, shop, _Subject(plan, shop).full)))


def _shop(plan: AnalysisPlan) -> Workshop:
    precision = plan.options.precision
    return Workshop(plan.model, plan.suite, precision=precision, data=plan.data, cache_dir=plan.cache_dir)


@dataclass(frozen=True, eq=False)
class _Subject:
    """The adapters, and the full fine-tunes beside them."""

    plan: AnalysisPlan
    shop: Workshop

    @cached_property
    def full(self) -> list[Adapter]:
        """One full fine-tune a task; none where the plan has none."""
        if self.plan.full is None:
            return []
        assert isinstance(self.shop.model, Clip)
        tasks = self.plan.suite.task_names
        return [load_finetuned(self.plan.full.adapter_of(t), self.shop.model, name=t) for t in tasks]

    def updates(self, device: torch.device) -> dict[str, Updates]:
        """The updates of every module that the adapters touch, by what kind they are.

        Raises:
            KnotsError: adapters do not fit each other or the model, or full fine-tunes lack a module.
        """
        for adapter in (*self.shop.adapters, *self.full):
            check_modules(self.shop.model.tower, adapter)
        own = updates_by_module(self.shop.adapters, device)
        found: dict[str, Updates] = {self.plan.model.updates: own}
        if self.full:
            whole = updates_by_module(self.full, device)
            absent = sorted(set(own) - set(whole))
            if absent:
                raise KnotsError(f"the full fine-tunes have no update for module {absent[0]!r}")
            found = {"full": {module: whole[module] for module in own}, **found}
        return found


def analysis_identity(plan: AnalysisPlan, shop: Workshop, full: Sequence[Adapter]) -> dict[str, Any]:
    """What determines the result of `run_analysis`, as plain values; `full`: the full fine-tunes, if any."""
    split = plan.options.split
    data = [data_identity(task, split, plan.cache_dir, shop.reading) for task in plan.suite.tasks]
    return {
        "record": "analysis",
        "family": plan.model.family,
        "base": shop.base.identity,
        "adapters": [[adapter.name, adapter.fingerprint] for adapter in shop.adapters],
        "full": [[adapter.name, adapter.fingerprint] for adapter in full],
        "data": data,
        "options": plan.options.to_json(),
    }


def _look(plan: AnalysisPlan, subject: _Subject, device: torch.device, console: Console) -> Findings:
    updates = subject.updates(device)
    log.info(
        "%s on %s: looking at %d %s items of each of %d tasks",
        *(plan.model.name, plan.suite.name, plan.options.items, plan.options.split, len(plan.suite.tasks)),
    )
    similarities, items = _similarities(plan, subject, updates, device, console)
    geometry = {kind: _geometry(kind, found) for kind, found in updates.items()}
    return Findings(similarities, items, geometry, _signs(plan, updates[plan.model.updates]))


def _similarities(
    plan: AnalysisPlan,
    subject: _Subject,
    updates: Mapping[str, Updates],
    device: torch.device,
    console: Console,
) -> tuple[Similarities, int]:
    """CKA, and the number of items that were looked at."""
    options, shop = plan.options, subject.shop
    sample = Sample(options.items, options.seed)
    data = [
        load_split(task, options.split, plan.cache_dir, shop.reading, sample) for task in plan.suite.tasks
    ]
    items = sum(map(len, data))
    with _bar(items, console) as advance:
        found = measure_cka(
            shop.model,
            _panels(updates, plan),
            data,
            tokens=options.tokens,
            batch_size=plan.batch_size,
            device=device,
            seen=advance,
        )
    return found, items


@contextmanager
def _bar(items: int, console: Console) -> Iterator[Callable[[int], None]]:
    """A progress bar over items; yields what advances it."""
    columns = (TextColumn("activations"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=items)
        yield lambda count: progress.advance(bar, count)


def _panels(updates: Mapping[str, Updates], plan: AnalysisPlan) -> dict[str, Maps]:
    """The panels of figure 2: outputs of the updates of every kind, and the basis that the adapters share."""
    outputs = {kind: {m: update_maps(u) for m, u in found.items()} for kind, found in updates.items()}
    own = updates[plan.model.updates]
    return {**outputs, "knots": {m: knots_maps(u, plan.options.cutoff) for m, u in own.items()}}


def _geometry(kind: str, updates: Updates) -> dict[str, Geometry]:
    log.info("%s: ranks and angles of %d modules", kind, len(updates))
    return {module: module_geometry(found) for module, found in updates.items()}


def _signs(plan: AnalysisPlan, updates: Updates) -> dict[str, SignConflicts]:
    options, found = plan.options, {}
    for space in options.spaces:
        log.info("conflicts of signs in space %s", space)
        found[space] = sign_conflicts(updates, space=space, cutoff=options.cutoff, density=options.density)
    return found


def _device(plan: AnalysisPlan) -> torch.device:
    """The one device of the trainer.

    Raises:
        KnotsError: Lightning refuses the options, or they name several devices.
    """
    trainer = quiet_trainer(plan.trainer)
    if trainer.world_size > 1:
        raise KnotsError(
            f"an analysis runs on one device, the trainer has {trainer.world_size}; use trainer=auto"
        )
    return trainer.strategy.root_device
