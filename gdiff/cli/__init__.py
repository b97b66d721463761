"""The command line: thin verbs over configurations, experiments and run folders."""

from gdiff.cli.main import app, main

__all__ = ["app", "main"]
