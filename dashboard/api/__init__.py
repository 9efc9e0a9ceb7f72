"""The JSON API under /api/v1: the facts of the pages for other programs.

models: what each answer looks like, for the OpenAPI document; documents: a View as those answers; problems:
errors by RFC 9457; routes: addresses and parameters. Imports the dashboard's data and words, no page.
"""

from wellfed.dashboard.api.routes import PREFIX, create_api

__all__ = ["PREFIX", "create_api"]
