"""The answer in a browser: a Dash app on FastAPI, one module a page.

May import: wellfed.analysis, wellfed.collectors.catalog. Nothing imports the dashboard but the command line.
"""
