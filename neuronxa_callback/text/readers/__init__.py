"""Rows of parallel text from files and data sets, one module a format; an error names the file and the line."""

from neuronxa_callback.text.readers.content import FILES
from neuronxa_callback.text.readers.delimited import cells_as_long_as
from neuronxa_callback.text.readers.files import is_readable, languages_in, open_rows, open_two_files
from neuronxa_callback.text.readers.rows import Row, Rows, flat, languages_of_lp, with_sides

__all__ = [
    "FILES",
    "Row",
    "Rows",
    "cells_as_long_as",
    "flat",
    "is_readable",
    "languages_in",
    "languages_of_lp",
    "open_rows",
    "open_two_files",
    "with_sides",
]
