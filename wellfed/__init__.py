"""Wellfed: is every GPU well fed, and if not, what is starving it?

Holds the version, what a training loop imports (`watch`, `step`, `phase`), and the links to the parts:
collectors (run on nodes), analysis (tables to answer), dashboard (answer in a browser), alerts, deploy.
"""

from wellfed.watch import phase, spent, step, totals, watch

__all__ = ["__version__", "phase", "spent", "step", "totals", "watch"]

__version__ = "0.1.0"
