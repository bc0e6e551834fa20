"""Hospitals tune one vision-language model together and nobody sees an update."""

__version__ = "0.1.0"
