"""Tasks for lm-evaluation-harness from the embedded sentences, and a results file made by really running it.

    pip install lm-eval==0.4.13
    python -m tests.data.lm_eval.make

"Which of these four sentences is a translation of this one?", in four languages under the names of two benchmarks'
tasks, answered by a tiny Llama with random weights. Of the file only what it says of the machine is taken out.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

from neuronxa_callback.text.pairs import embedded
from tests.conftest import make_tokenizer, tiny_llama

HERE = Path(__file__).parent
TASKS = {
    "belebele_isl_Latn": "isl_Latn",
    "belebele_deu_Latn": "deu_Latn",
    "belebele_fra_Latn": "fra_Latn",
    "belebele_spa_Latn": "spa_Latn",
    "arc_is": "isl_Latn",
    "arc_de": "deu_Latn",
    "arc_fr": "fra_Latn",
}


def main() -> None:
    columns = embedded("heldout.tsv")
    with tempfile.TemporaryDirectory() as folder:
        for name, language in TASKS.items():
            rows = [
                {"source": source, "choices": [columns[language][(i + k) % 100] for k in range(4)], "answer": 0}
                for i, source in enumerate(columns["eng_Latn"][:20])
            ]
            lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
            (Path(folder) / f"{name}.jsonl").write_text(lines, encoding="utf-8")
            (Path(folder) / f"{name}.yaml").write_text(
                f"task: {name}\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {folder}/{name}.jsonl\n"
                "output_type: multiple_choice\ntest_split: test\ndoc_to_text: '{{source}} = '\n"
                "doc_to_choice: '{{choices}}'\ndoc_to_target: answer\n"
                "metric_list:\n  - metric: acc\n  - metric: acc_norm\n"
            )
        tiny_llama(max_position_embeddings=1024).save_pretrained(f"{folder}/one")
        make_tokenizer().save_pretrained(f"{folder}/one")
        command = ["lm_eval", "--model", "hf", "--model_args", f"pretrained={folder}/one,dtype=float32"]
        command += ["--device", "cpu", "--tasks", ",".join(TASKS), "--include_path", folder]
        subprocess.run([*command, "--output_path", f"{folder}/out"], check=True)
        (made,) = Path(folder, "out").rglob("results_*.json")
        results = json.loads(made.read_text(encoding="utf-8"))
        del results["pretty_env_info"], results["git_hash"]
        (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
