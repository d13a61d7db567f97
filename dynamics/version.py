"""This library's version: the distribution's, and what manifests say, in a checkout that is not installed too."""

__version__ = "0.1.0"
