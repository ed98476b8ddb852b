"""What all entry points share: composing with Hydra, one clear message for a user's mistake, `--help`.

Nothing heavy is imported before it is needed, so that `--help` and a mistyped override are answered at once.
"""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from experiments import _resolvers  # noqa: F401  registers them
from experiments._arguments import quoted, renamed, swept, with_keys

CONF = Path(__file__).resolve().parents[1] / "conf"
MISTAKE = 2
INTERRUPTED = 130
TERMINATED = 143

Task = Callable[[dict[str, Any]], Sequence[Path] | None]
"""What an entry point does with its configuration; returns the folders of what was asked for."""


def entry_point(
    config_name: str,
    *,
    aliases: Mapping[str, str] | None = None,
    positional: Sequence[str] = (),
    stopped: str = "stopped; no unfinished run was kept",
) -> Callable[[Task], Callable[[], None]]:
    """Turn a function of the resolved configuration into a command.

    The command composes `conf/<config_name>.yaml` with the overrides on the command line. A user's mistake
    gives one message on stderr and exit code 2; in a sweep the other jobs still run. Bugs keep their
    traceback. `KNOTS_TRACEBACK=1` shows a traceback for mistakes too.

    Args:
        config_name: of the primary configuration.
        aliases: other names of keys on the command line, for those that Hydra would take for a group.
        positional: keys whose values may stand on the command line without them, in this order.
        stopped: what is said when the command is stopped from outside.
    """

    def decorate(task: Task) -> Callable[[], None]:
        @functools.wraps(task)
        def command() -> None:
            if {"--help", "-h"} & set(sys.argv[1:]):
                say(_help(config_name, sys.modules[task.__module__].__doc__ or ""), sys.stdout)
                return
            sys.argv[1:] = [renamed(argument, aliases or {}) for argument in swept(sys.argv[1:])]
            try:
                sys.argv[1:] = with_keys(sys.argv[1:], positional)
            except Exception as error:
                _complain(error)
                sys.exit(MISTAKE)
            sys.exit(_run(task, config_name, stopped))

        return command

    return decorate


def _run(task: Task, config_name: str, stopped: str) -> int:
    """Compose and run; returns the exit code."""
    mistakes: list[str] = []
    try:
        # A mistake is not raised: Hydra would stop the other jobs of a sweep.
        run_composed(task, config_name, lambda error: mistakes.append(_complain(error)))
    except (KeyboardInterrupt, SystemExit) as stop:
        code = _stopped(stop)
        if code is None:
            raise
        say(stopped, sys.stderr)
        return code
    except Exception as error:
        _complain(error)
        return MISTAKE
    return MISTAKE if mistakes else 0


def run_composed(
    task: Task,
    config_name: str,
    failed: Callable[[Exception], object],
    finished: Callable[[Sequence[Path]], object] | None = None,
) -> None:
    """Run a task with the configuration that `sys.argv` makes, or with each of a sweep.

    Args:
        task: what is run.
        config_name: of the primary configuration.
        failed: is given what a task raises.
        finished: is given what a task returns; None for nobody.

    Raises:
        Exception: the configuration cannot be composed, in one of many ways.
    """
    from experiments._launcher import register

    # Hydra would print errors its own way and exit with 1: with this it hands them to us.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv[1:] = [quoted(argument) for argument in sys.argv[1:]]

    @functools.wraps(task)
    def job(config: DictConfig) -> None:
        try:
            folders = task(_with_changes(plain(config), list(HydraConfig.get().overrides.task)))
            if finished is not None:
                finished(folders or ())
        except Exception as error:
            failed(error)

    register()
    hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(job)()


def _stopped(stop: BaseException) -> int | None:
    """The exit code of a run that was stopped from outside, as a shell would give it; None if it was not.

    Lightning turns an interrupt into an exit with 1, and SIGTERM (a scheduler's time limit) into one with 0,
    which would look like success.
    """
    if isinstance(stop, KeyboardInterrupt) or isinstance(stop.__context__, KeyboardInterrupt):
        return INTERRUPTED
    return TERMINATED if type(stop).__name__ == "SIGTERMException" else None


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain values, every interpolation resolved; a missing value is an error."""
    values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _with_changes(config: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Note beside the source of published merge options which of them the command line changed."""
    changed = [override for override in overrides if override.lstrip("+~").startswith("merge.")]
    source = config.get("merge", {}).get("source")
    if source and changed:
        config["merge"]["source"] = f"{source}, changed: {' '.join(changed)}"
    return config


def _complain(error: Exception) -> str:
    """Print a user's mistake in one message; raise anything else, which is a bug of ours."""
    message = mistake_of(error)
    if message is None or os.environ.get("KNOTS_TRACEBACK"):
        raise error
    say(f"error: {message}", sys.stderr)
    return message


def mistake_of(error: Exception) -> str | None:
    """What the user did wrong, in one paragraph; None if the error is not about that."""
    from knots.errors import KnotsError, unknown

    cause = error.__cause__ or error.__context__
    if isinstance(error, KnotsError):
        return str(error)
    if isinstance(error, OverrideParseException):
        detail = error.message.splitlines()
        reason = next((line for line in detail if not line.startswith(("Error parsing", "See http"))), "")
        return f"cannot read the override {error.override!r}: {reason}; write key=value, lists as [a,b]"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return str(unknown(group, name, _public(error.options)))
    if isinstance(error, ConfigCompositionException) and isinstance(
        cause, ConfigAttributeError | ConfigKeyError
    ):
        return _unknown_key(cause)
    if isinstance(error, ConfigCompositionException):
        # A mistake that a resolver found lies below what OmegaConf and Hydra made of it.
        while cause and not isinstance(cause, KnotsError):
            cause = cause.__cause__ or cause.__context__
        if cause:
            return str(cause)
    if isinstance(error, OmegaConfBaseException):
        return f"{error.full_key or 'configuration'}: {str(error).splitlines()[0]}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
        return f"{error.filename or 'a file'}: {error.strerror}"
    return (
        str(error).partition("\nConfig search path")[0].strip() if isinstance(error, HydraException) else None
    )


def _unknown_key(error: OmegaConfBaseException) -> str:
    """A key that the configuration does not have, with the nearest ones."""
    from knots.errors import unknown

    parent = error.parent_node
    siblings = [str(key) for key in parent if key != "hydra"] if isinstance(parent, DictConfig) else []
    where = str(error.full_key).rpartition(".")[0]
    kind = f"key of {where!r}" if where else "key"
    message = str(unknown(kind, str(error.key), siblings))
    return (
        f"{message}; an option of a rule is added with +{error.full_key}=..." if where == "merge" else message
    )


def _public(options: list[str] | tuple[str, ...]) -> list[str]:
    return [option for option in options if not option.startswith("_")]


def say(text: str, stream: Any) -> None:
    stream.write(text.rstrip() + "\n")


def _help(config_name: str, text: str) -> str:
    """The entry point's own docstring, its groups with their choices, and its keys with their comments."""
    lines = (CONF / f"{config_name}.yaml").read_text(encoding="utf-8").splitlines()
    keys = [f"  {line}" for line in lines if line[:1].isalpha() and not line.startswith("defaults:")]
    groups = [f"  {group:<9} {', '.join(choices)}" for group, choices in _groups(config_name)]
    parts = [text.strip(), "Groups (group=choice):", *groups, "", "Keys (key=value):", *keys]
    more = "Every key of a group can be set, as merge.scale=0.3; --cfg job shows them all, -m sweeps a=1,2."
    return "\n".join([*parts, "", more])


def _groups(config_name: str) -> Iterator[tuple[str, list[str]]]:
    """The config groups that an entry point composes, the default choice first."""
    defaults = yaml.safe_load((CONF / f"{config_name}.yaml").read_text(encoding="utf-8"))["defaults"]
    for entry in defaults:
        group, choice = next(iter(entry.items())) if isinstance(entry, dict) else ("", "")
        folder = CONF / group
        if group and group != "hydra" and folder.is_dir():
            choices = _public(sorted(path.stem for path in folder.glob("*.yaml") if path.stem != choice))
            yield group, [f"{choice or 'null'} (default)", *choices]
