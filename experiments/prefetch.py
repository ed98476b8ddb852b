"""Fetch everything that later jobs read, for nodes without internet, and check that it is here.

uv run experiments/prefetch.py model=vit_b_32              what merges and searches of this model read
uv run experiments/prefetch.py model=vit_b_32 splits=[test,validation,train]  and what fine-tuning reads
uv run experiments/prefetch.py experiment=table1           what the rows of an experiment read
uv run experiments/prefetch.py experiment=table1 overrides="tasks=[mnist,svhn]"  as reproduce.py takes them
uv run experiments/prefetch.py model=llama3_8b fetch=false fetch nothing, only check

Base, text tower, adapters and files of data go to the hub's cache (HF_HOME), items as runs read them and
class features to paths.cache_dir: both must be on a file system that the jobs see. Then a process with
HF_HUB_OFFLINE=1, as the jobs have it, opens all of it. What cannot be had is named with its reason, and the
exit code is 2; the same command fetches what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from experiments._cli import entry_point

if TYPE_CHECKING:
    from knots.pipelines.needs import Need

OF_A_MODEL = (
    *("model", "suite", "tasks", "adapters", "universe", "shared_init"),
    *("calibrated", "precision", "data"),
)
"""Keys and groups that say what an experiment says itself."""


@entry_point("prefetch", stopped="stopped; what is whole is kept, the same command fetches the rest")
def main(config: dict[str, Any]) -> None:
    """Fetch, check, show."""
    from huggingface_hub import constants
    from rich.text import Text

    from experiments._session import session
    from knots.errors import KnotsError
    from knots.pipelines.prefetch import complaint, run_prefetch, states_view
    from knots.pipelines.values import flag

    needs = list(_needs(config))
    with session() as console:
        states = run_prefetch(needs, fetches=flag("fetch", config["fetch"]))
        console.print(states_view(states))
        for name, place in (("hub", constants.HF_HUB_CACHE), ("data, heads", config["paths"]["cache_dir"])):
            console.print(Text(f"{name}: {place}"), soft_wrap=True)
    missing = complaint(states)
    if missing is not None:
        raise KnotsError(missing)


def _needs(config: dict[str, Any]) -> Iterator[Need]:
    """Of the experiment, where one is named, else of the model."""
    from experiments._compose import composer
    from experiments.reproduce import PUBLISHED
    from knots.pipelines.needs import experiment_needs, model_need, parse_splits
    from knots.pipelines.reproduce import parse_experiment
    from knots.pipelines.values import flag
    from knots.reporting.published import load_published

    if config.get("experiment") is None:
        yield model_need(config)
        return
    _refuse_what_is_of_a_model()
    splits, heads = parse_splits(config["splits"]) or (), flag("heads", config["heads"])
    whole = {**config, "run": True, "force": False}
    reproduction = parse_experiment(whole, composer(whole), load_published(PUBLISHED))
    for need in experiment_needs(reproduction.plan):
        yield need.also(splits, heads=heads)


def _refuse_what_is_of_a_model() -> None:
    """A change that an experiment would not see is a mistake."""
    from hydra.core.hydra_config import HydraConfig

    from knots.errors import KnotsError

    for override in HydraConfig.get().overrides.task:
        if override.lstrip("+~").partition("=")[0].partition(".")[0] in OF_A_MODEL:
            raise KnotsError(
                f"{override}: an experiment names its own models and tasks; to change them for all of its "
                f'runs, as with experiments/reproduce.py, use overrides="{override}"'
            )


if __name__ == "__main__":
    main()
