"""Measure models for the table; after a stop, the same command goes on.

python -m benchmarks.table3 --model .models/smollm2-135m-instruct --bmlama FOLDER --ntrex FOLDER

BMLAMA is BMLAMA-53 in its authors' layout (github.com/Betswish/Cross-Lingual-Consistency, Apache-2.0), and NTREX has
NTREX-128's files (github.com/MicrosoftTranslator/NTREX, CC BY-SA 4.0). A folder of docs/results/table3 holds what is
recorded of each model. The page that shows it is not made yet.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from benchmarks.table3.measure import measure
from neuronxa_callback.cli.output import progress_bar
from neuronxa_callback.model.loading import ModelError
from neuronxa_callback.survey.knowledge.prompts import open_prompts

RESULTS = Path("docs/results/table3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, action="append", required=True, help="a model's folder; may be repeated")
    parser.add_argument("--bmlama", required=True, help="the folder with BMLAMA-53's files")
    parser.add_argument("--ntrex", type=Path, required=True, help="the folder with NTREX-128's files")
    parser.add_argument("--prompts", type=int, default=300, help="facts of BMLAMA-53, from the first on")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of the models' results")
    options = parser.parse_args()
    if options.prompts < 1:
        parser.error("--prompts must be 1 or more.")
    try:
        for model in options.model:
            with progress_bar(Console(stderr=True)) as progress:
                folder = options.results / model.name
                measure(model, open_prompts(options.bmlama), options.ntrex, options.prompts, folder, progress)
    except (ModelError, ValueError, ArithmeticError, OSError) as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
