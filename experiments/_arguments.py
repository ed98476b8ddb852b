"""Arguments as users type them, made into overrides as Hydra reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence


def swept(arguments: Sequence[str]) -> list[str]:
    """The arguments; those that name a cluster's launcher make a sweep, if only of one job."""
    sent = any(argument.startswith("hydra/launcher=slurm") for argument in arguments)
    return ["-m", *arguments] if sent and not {"-m", "--multirun"} & set(arguments) else list(arguments)


def renamed(argument: str, aliases: Mapping[str, str]) -> str:
    """The argument under the key that the configuration has."""
    key, equals, value = argument.partition("=")
    return f"{aliases[key]}={value}" if equals and key in aliases else argument


def with_keys(arguments: Sequence[str], keys: Sequence[str]) -> list[str]:
    """The arguments, those without a key under one of `keys`: the first that was not given otherwise.

    Raises:
        KnotsError: there are more of them than keys, or fewer.
    """
    from knots.errors import KnotsError

    if not keys:
        return list(arguments)
    free = [key for key in keys if not any(argument.startswith(f"{key}=") for argument in arguments)]
    loose = [place for place, argument in enumerate(arguments) if _is_value(argument, arguments[:place])]
    if len(loose) > len(free) or (len(loose) < len(free) and not _HYDRA_SHOWS & set(arguments)):
        given = ", ".join(arguments[place] for place in loose) or "none"
        raise KnotsError(
            f"{len(free)} arguments without a key are needed ({', '.join(free) or 'all have one'}), got "
            f"{len(loose)}: {given}; options are written key=value"
        )
    named = {place: f"{key}={_literal(arguments[place])}" for place, key in zip(loose, free, strict=False)}
    return [named.get(place, argument) for place, argument in enumerate(arguments)]


_HYDRA_SHOWS = {"--cfg", "-c", "--info", "-i"}
_HYDRA_TAKES = {*_HYDRA_SHOWS, "--package", "-p", "--config-dir", "-cd", "--config-path", "-cp"}
"""Hydra's own options after which a value stands; with the first, nothing is run."""


def _is_value(argument: str, before: Sequence[str]) -> bool:
    """Whether an argument stands for itself: no option, nothing that one takes, no override."""
    return "=" not in argument and argument[:1] not in ("-", "~") and not {*before[-1:]} & _HYDRA_TAKES


def _literal(value: str) -> str:
    """A text for Hydra's grammar, which would take 1e5 for a number."""
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + found[2].replace("'", "\\'"), value)
    return f"'{escaped}'"


def quoted(argument: str) -> str:
    """Quote values that Hydra's grammar would take apart: overrides within one, and `{task}`."""
    key, _, value = argument.partition("=")
    if key == "overrides" and value[:1] not in ("'", '"'):
        return f"{key}='{value}'" if "'" not in value else f'{key}="{value}"'
    if "{task}" not in value or "'" in value or '"' in value:
        return argument
    return f"{key}=" + ",".join(f'"{choice}"' for choice in value.split(","))
