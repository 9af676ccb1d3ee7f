"""Two names of the public face are modules as well as functions: `sp.game(...)` and `saddlepoint.game`, `sp.systems()`
and `saddlepoint.systems`. Importing a submodule binds its name in the package, so these two modules are made callable.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


def also_callable(module: str, home: str) -> None:
    """Make a module that is being imported callable: a call goes to the function `home` ("module:function")."""
    where, _, name = home.partition(":")

    class CallableModule(ModuleType):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return getattr(importlib.import_module(where), name)(*args, **kwargs)

    sys.modules[module].__class__ = CallableModule
