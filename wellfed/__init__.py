"""Wellfed: is every GPU well fed, and if not, what is starving it?

Holds the version and the links to the parts: collectors (run on nodes), analysis (tables to
answer), dashboard (answer in a browser), alerts and deploy. Import parts as wellfed.<part>.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
