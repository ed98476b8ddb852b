"""Files shipped with the package: the miniatures' trained weights and tokenizers."""

from importlib.resources import files
from pathlib import Path

from knots.errors import KnotsError

ASSET = "asset:"
"""What a source begins with that names a path below this folder."""


def asset_path(relative: str) -> Path:
    """The path of a file or folder shipped with the package.

    Args:
        relative: path below `knots/assets`, with forward slashes.

    Raises:
        KnotsError: nothing of that name was shipped (the message shows what the nearest folder holds).
    """
    root = Path(str(files(__name__)))
    path = (root / relative).resolve()
    if not path.is_relative_to(root.resolve()):
        raise KnotsError(f"asset {relative!r} lies outside the files shipped with the package")
    if not path.exists():
        near = next(parent for parent in path.parents if parent.is_dir())
        known = sorted(child.name for child in near.iterdir() if not child.name.startswith("_"))
        raise KnotsError(
            f"no asset {relative!r} is shipped with the package ({near.name} holds: "
            f"{', '.join(known) or 'nothing'})"
        )
    return path
