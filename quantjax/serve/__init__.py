"""Serves a page that searches an index by image, on this machine alone unless told otherwise.

It needs the extra `serve`.
"""

import importlib.util

from quantjax.errors import MissingPackageError

if importlib.util.find_spec("starlette") is None or importlib.util.find_spec("uvicorn") is None:
    raise MissingPackageError(
        "serving a page needs starlette and uvicorn, which are not installed: "
        "pip install 'quantjax[serve]'"
    )

from quantjax.serve.app import make_app
from quantjax.serve.collection import Collection, warm_up
from quantjax.serve.server import listen, serve, url

__all__ = ["Collection", "listen", "make_app", "serve", "url", "warm_up"]
