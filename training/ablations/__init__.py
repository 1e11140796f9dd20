"""Small experiments a reader learns from: one question a file, the very training code, minutes on one core.

``python -m training.ablations NAME|all`` trains what the question compares, prints its tables in Markdown and
keeps them as JSON. docs/results.md shows what came out.
"""
