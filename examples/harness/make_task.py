"""Write a task for lm-evaluation-harness in several languages, from the embedded sentences.

    python examples/harness/make_task.py tasks

Its question: which of four sentences is a translation of this English one? A task for lm-evaluation-harness is a YAML
file and a file of rows. The end of its name is the language, so that `neuronxa correlate` knows it.
"""

import json
import sys
from pathlib import Path

from neuronxa_callback import ParallelPairs

LANGUAGES = ("isl_Latn", "deu_Latn", "fra_Latn", "spa_Latn")
TASK = """\
task: translation_{language}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {rows}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{source}}}} ="
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list:
  - metric: acc
  - metric: acc_norm
"""


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for language in LANGUAGES:
        pairs = ParallelPairs.load(f"eng_Latn-{language}")
        rows = folder.resolve() / f"{language}.jsonl"
        with rows.open("w", encoding="utf-8") as file:
            for number, source in enumerate(pairs.source):
                # The right one stands at another place in each row.
                choices = [pairs.target[(number + step) % len(pairs)] for step in (0, 1, 2, 3)]
                answer = number % 4
                choices[0], choices[answer] = choices[answer], choices[0]
                row = {"source": source, "choices": choices, "answer": answer}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        (folder / f"translation_{language}.yaml").write_text(TASK.format(language=language, rows=rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
