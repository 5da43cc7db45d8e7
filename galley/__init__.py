"""Galley: a self-hosted AI API server."""

from importlib.metadata import version

__version__ = version("galley")
