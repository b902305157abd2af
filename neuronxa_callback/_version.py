"""The version, in this one place: the build reads it, and signatures and model cards name it."""

__version__ = "0.2.0"
