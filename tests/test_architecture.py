"""The house keeps its floors: a module imports only lower ones, and the library knows no Hydra or W&B."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "knots"

# Lowest floor first; the modules of one line may not import each other.
FLOORS = [
    {"errors", "interruption", "threads"},
    {"hub", "files", "prefetching"},
    {"assets", "user_files"},
    {"linalg", "randomness"},
    {"updates"},
    {"adapters", "spaces"},
    {"rules"},
    {"checks", "methods", "prepared"},
    {"merging"},
    {"suites"},
    {"models"},
    {"provenance", "processes"},
    {"runs"},
    {"drafts"},
    {"store"},
    {"training"},
    {"evaluation", "finetuning", "pretraining"},
    {"search", "analysis"},
    {"reporting"},
    {"pipelines"},
]
FLOOR_OF = {name: level for level, names in enumerate(FLOORS) for name in names}
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE or p.name != "__init__.py")


def unit(path):
    """The module or package directly below `knots` that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_lower_floors_or_its_own_package(path):
    here = unit(path)
    assert here in FLOOR_OF, f"{here} stands on no floor: add it to FLOORS"
    for name in imported_modules(path):
        parts = name.split(".")
        if parts[0] == "knots" and len(parts) > 1 and parts[1] in FLOOR_OF and parts[1] != here:
            assert FLOOR_OF[parts[1]] < FLOOR_OF[here], f"{here} imports {parts[1]}, which is not below it"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_library_imports_neither_hydra_nor_wandb(path):
    assert not {name.split(".")[0] for name in imported_modules(path)} & {"hydra", "omegaconf", "wandb"}
