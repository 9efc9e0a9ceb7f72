"""The answer written out: `content` says what a report holds, the rest says it in one format each.

terminal (rich), page (one HTML file), markdown, and rows (CSV); JSON is the document itself. Every format
begins with the verdict, then the evidence, then what to do. May import wellfed.analysis.causes and nothing
that computes.
"""
