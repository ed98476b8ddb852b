"""The model card of what was trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from knots.finetuning.plan import FinetuningPlan
from knots.finetuning.towers import Trainable
from knots.provenance import describe_machine

PACKAGES = ("knots-merging", "torch", "transformers", "peft", "lightning", "numpy")


@dataclass(frozen=True)
class Origin:
    """Where a training starts from, for its card.

    Attributes:
        model: how the model is called in tables.
        base: folder, `asset:` path or hub id.
        revision: commit, tag or branch of a hub id, where it is known.
        suite: the name of the suite that the task belongs to, or the tasks do.
    """

    model: str
    base: str
    revision: str | None
    suite: str

    @property
    def public_base(self) -> str | None:
        """The base by a name that means something elsewhere; None for a folder of this machine."""
        local = not self.base.startswith("asset:") and (
            Path(self.base).expanduser().exists() or self.base.startswith((".", "/", "~"))
        )
        return None if local else self.base


@dataclass(frozen=True)
class Facts:
    """What a card says of the model and the items of a training, in words.

    Attributes:
        subject: the part of the model that was trained, as "the vision tower of"; empty for all of it.
        base: what tells the base from others, beside its name; empty where that says it all.
        task: number of classes, and what else makes up the task.
        data: split -> how much of what was used.
        before: what the accuracy before training is one of.
        tags: for the hub.
    """

    subject: str
    base: str
    task: str
    data: Mapping[str, str]
    before: str
    tags: tuple[str, ...]


def write_card(
    folder: Path,
    origin: Origin,
    name: str,
    facts: Facts,
    plan: FinetuningPlan,
    tower: Trainable,
    accuracies: tuple[float, float],
) -> None:
    """Write `README.md`: base, data, recipe, accuracies and versions; no path and no name of a person.

    Args:
        folder: where the trained tensors are.
        origin: base and suite.
        name: of the task that was learnt.
        facts: about base, task and data.
        plan: the recipe.
        tower: what was trained.
        accuracies: on the validation split in percent, before and after training.
    """
    before, after = accuracies
    base = f"`{origin.public_base}`" if origin.public_base else "a folder of its author's"
    revision = f" at revision `{origin.revision}`" if origin.revision else ""
    content = f" ({facts.base})" if facts.base else ""
    sizes = ", ".join(f"{split} {amount}" for split, amount in facts.data.items())
    machine = describe_machine()
    versions = ", ".join(f"{name} {machine['versions'].get(name)}" for name in PACKAGES)
    commit = (machine["commit"] or {}).get("hash", "unknown")
    text = f"""\
# {name}: {" ".join(filter(None, [tower.kind, "of", facts.subject, origin.model]))}

- Base: {base}{revision}{content}
- Task: `{name}` of suite `{origin.suite}`, {facts.task}
- Data: {sizes}. The test split was not used.
- Accuracy on the validation split: {after:.2f} % ({facts.before}: {before:.2f} %). \
This split also chose the step that was kept.

{tower.remark}

## Recipe

```yaml
{yaml.safe_dump({**asdict(plan), "modules": list(plan.modules)}, sort_keys=False).strip()}
```

Made with Python {machine["python"]}, {versions}; commit {commit}.
"""
    (folder / "README.md").write_text(_front_matter(origin, tower, facts.tags) + text, encoding="utf-8")


def _front_matter(origin: Origin, tower: Trainable, tags: Iterable[str]) -> str:
    """What the hub reads."""
    base = origin.public_base
    hub = base if base and not base.startswith("asset:") else None
    values: dict[str, Any] = {"library_name": tower.library, "tags": list(tags)}
    if hub:
        values |= {"base_model": hub}
    return f"---\n{yaml.safe_dump(values, sort_keys=True)}---\n"


def quoted(names: Iterable[str]) -> str:
    """Names as a card shows them."""
    return ", ".join(f"`{name}`" for name in names)
