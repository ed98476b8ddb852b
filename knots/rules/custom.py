"""A user's own rule: any function of the coordinates, without a fork."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from knots.errors import KnotsError, unknown
from knots.rules.base import Census, Rule, Site

RuleFunction = Callable[..., Tensor]


@dataclass(frozen=True)
class Custom(Rule):
    """A function `f(coords, **options)` from [T, P, Q] to [P, Q], called once a module.

    Attributes:
        function: the user's function; it must not write into its input.
        options: keyword arguments for it.
    """

    parallel: ClassVar[bool] = False  # nobody has promised that the function keeps no state
    function: RuleFunction
    options: Mapping[str, Any] = field(default_factory=dict)

    def merge(self, site: Site, coords: Tensor, census: Census) -> Tensor:  # noqa: ARG002
        """[T, P, Q] -> [P, Q].

        Raises:
            KnotsError: the function returned something else than a tensor [P, Q].
        """
        merged = self.function(coords, **self.options)
        if not isinstance(merged, Tensor) or merged.shape != coords.shape[1:]:
            got = tuple(merged.shape) if isinstance(merged, Tensor) else type(merged).__name__
            raise KnotsError(
                f"rule {rule_name(self.function)!r} returned {got} for module {site.module!r}; it must "
                f"return one tensor of shape {tuple(coords.shape[1:])} for coordinates {tuple(coords.shape)}"
            )
        return merged.to(coords.dtype)


def option_names(function: RuleFunction) -> tuple[frozenset[str], bool]:
    """The options a rule function takes by name, and whether it takes any others (`**options`)."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    names = {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    return frozenset(names), any(p.kind is p.VAR_KEYWORD for p in parameters)


def resolve_rule(reference: str) -> RuleFunction:
    """Load the function that `path/to/file.py:function` names.

    Raises:
        KnotsError: no such file or function, or the file does not run; the message names which.
    """
    location, _, name = reference.rpartition(":")
    path = Path(location).expanduser()
    if not path.is_file():
        raise KnotsError(f"rule {reference!r}: no such file {str(path)!r}; expected path/to/file.py:function")
    spec = importlib.util.spec_from_file_location(f"knots_user_rule_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise KnotsError(f"rule {reference!r}: {str(path)!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise KnotsError(
            f"rule {reference!r}: {path} does not run: {type(error).__name__}: {error}"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise unknown(f"function in {path}", name, known)
    return function  # type: ignore[no-any-return]


def rule_name(function: RuleFunction) -> str:
    """How messages call a user's rule."""
    return str(getattr(function, "__name__", type(function).__name__))
