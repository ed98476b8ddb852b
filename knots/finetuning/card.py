"""The model card of what was trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from knots.finetuning.plan import FinetuningPlan
from knots.finetuning.towers import Trainable
from knots.provenance import describe_machine
from knots.suites.data import ImageArrays
from knots.suites.tasks import ImageTask

PACKAGES = ("knots-merging", "torch", "transformers", "peft", "lightning", "numpy")


@dataclass(frozen=True)
class Origin:
    """Where a training starts from, for its card.

    Attributes:
        model: how the model is called in tables.
        base: folder, `asset:` path or hub id.
        revision: commit, tag or branch of a hub id, where it is known.
        suite: the name of the suite that the task belongs to.
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


def write_card(
    folder: Path,
    origin: Origin,
    task: ImageTask,
    data: Mapping[str, ImageArrays],
    plan: FinetuningPlan,
    tower: Trainable,
    results: Mapping[str, float],
    base_hash: str,
) -> None:
    """Write `README.md`: base, data, recipe, accuracies and versions; no path and no name of a person.

    Args:
        folder: where the trained tensors are.
        origin: base and suite.
        task: what was learnt.
        data: the splits that were used, by name.
        plan: the recipe.
        tower: what was trained.
        results: accuracies on the validation split in percent, `zero_shot` and `finetuned`.
        base_hash: SHA-256 of the base's vision tower and the task's heads.
    """
    base = f"`{origin.public_base}`" if origin.public_base else "a folder of its author's"
    revision = f" at revision `{origin.revision}`" if origin.revision else ""
    sizes = ", ".join(f"{split} {len(arrays)} pictures" for split, arrays in data.items())
    machine = describe_machine()
    versions = ", ".join(f"{name} {machine['versions'].get(name)}" for name in PACKAGES)
    commit = (machine["commit"] or {}).get("hash", "unknown")
    text = f"""\
# {task.name}: {tower.kind} of the vision tower of {origin.model}

- Base: {base}{revision} (vision tower and text heads: SHA-256 `{base_hash[:16]}`)
- Task: `{task.name}` of suite `{origin.suite}`, {len(task.classes)} classes; prompts: {_quoted(task)}
- Data: {sizes}. The test split was not used.
- Accuracy on the validation split: {results["finetuned"]:.2f} % (the base without training: \
{results["zero_shot"]:.2f} %). This split also chose the step that was kept.

Text heads and projections are the base's own, unchanged.

## Recipe

```yaml
{yaml.safe_dump({**asdict(plan), "modules": list(plan.modules)}, sort_keys=False).strip()}
```

Made with Python {machine["python"]}, {versions}; commit {commit}.
"""
    (folder / "README.md").write_text(_front_matter(origin, tower) + text, encoding="utf-8")


def _front_matter(origin: Origin, tower: Trainable) -> str:
    """What the hub reads."""
    base = origin.public_base
    hub = base if base and not base.startswith("asset:") else None
    values: dict[str, Any] = {"library_name": tower.library, "tags": ["clip", "image-classification"]}
    if hub:
        values |= {"base_model": hub}
    return f"---\n{yaml.safe_dump(values, sort_keys=True)}---\n"


def _quoted(task: ImageTask) -> str:
    return ", ".join(f"`{template}`" for template in task.templates)
