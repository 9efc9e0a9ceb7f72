"""Wellfed: is every GPU well fed, and if not, what is starving it?

Holds the version, what a training loop imports (`watch`, `step`, `phase`), and the links to the parts:
collectors (run on nodes), analysis (tables to answer), dashboard (answer in a browser), alerts, deploy.
"""

import sys
from importlib import import_module
from types import ModuleType

TYPE_CHECKING = False  # typing is not imported: see _Package
if TYPE_CHECKING:
    from wellfed.watch import phase, spent, step, totals, watch

__all__ = ["__version__", "phase", "spent", "step", "totals", "watch"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("wellfed.watch"), name)


class _Package(ModuleType):
    """Loads what a training loop imports with its first use: the process that talks to the driver has none,
    and goes without 2 MiB.
    """

    #: The function; importing the module of the same name would put that in its place.
    watch = property(lambda self: __getattr__("watch"), lambda self, module: None)


sys.modules[__name__].__class__ = _Package
