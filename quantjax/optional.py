"""Imports optional packages."""

import importlib
from types import ModuleType

from quantjax.errors import MissingPackageError


def load(package: str, *, extra: str, purpose: str) -> ModuleType:
    """Imports an optional package, or raises an error with the command that installs it.

    Args:
      package: Name that `import` takes.
      extra: Extra of quantjax that installs it.
      purpose: Feature that needs the package; the message's first clause starts with it.

    Raises:
      ModuleNotFoundError: if the package is not installed, with the command that installs it.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        # An error about another name means that the package is installed but broken.
        if (error.name or "").partition(".")[0] != package.partition(".")[0]:
            raise
        raise MissingPackageError(
            f"{purpose} needs {package}, which is not installed: pip install 'quantjax[{extra}]'"
        ) from None
