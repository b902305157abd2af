"""What each tracker itself recorded of one run, read from its own files."""

from __future__ import annotations

import json
import sqlite3
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

Points = list[tuple[int, float]]


@dataclass(frozen=True)
class Recorded:
    """A run as its tracker has it.

    Attributes:
        curves: key as the Trainer logs it, such as "eval_nasca" -> step and value of each point, in the order logged.
        pictures: name -> steps, in the order logged.
        facts: what stands beside the curves, such as "neuronxa/best_step" -> its last value.
    """

    curves: dict[str, Points]
    pictures: dict[str, list[int]]
    facts: dict[str, Any]


def tensorboard(folder: Path) -> Recorded:
    (file,) = folder.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file.parent), size_guidance={"images": 0, "scalars": 0, "tensors": 0}).Reload()
    curves = {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    pictures = {tag: [image.step for image in events.Images(tag)] for tag in events.Tags()["images"]}
    texts = {tag.removesuffix("/text_summary"): events.Tensors(tag) for tag in events.Tags()["tensors"]}
    facts = {
        tag: found[-1].tensor_proto.string_val[0].decode().strip("`")
        for tag, found in texts.items()
        if tag.startswith("neuronxa/")
    }
    return Recorded(_as_logged(curves), pictures, facts)


def wandb(folder: Path) -> Recorded:
    from wandb.proto import wandb_internal_pb2

    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    curves: dict[str, Points] = {}
    pictures: dict[str, list[int]] = {}
    facts: dict[str, Any] = {}
    for written in _records(file.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(written)
        row = _items(record.history.item)
        for key, value in row.items():
            if key.startswith("eval/"):
                curves.setdefault(key, []).append((row["train/global_step"], value))
            elif key.startswith("neuronxa/"):
                assert (file.parent / "files" / value["path"]).is_file()
                pictures.setdefault(key, []).append(row["train/global_step"])
        summary = _items(record.summary.update)
        facts |= {key: value for key, value in summary.items() if key.startswith("neuronxa/")}
    return Recorded(_as_logged(curves), pictures, {key: value for key, value in facts.items() if key not in pictures})


def _items(items: Iterable[Any]) -> dict[str, Any]:
    """Key -> value; W&B writes a picture as several items, whose nested keys begin with its name."""
    found: dict[str, Any] = {}
    for item in items:
        name, *parts = item.nested_key or [item.key]
        value = json.loads(item.value_json)
        found[name] = found.get(name, {}) | {parts[0]: value} if parts else value
    return found


def _records(data: bytes) -> Iterator[bytes]:
    """The records of a W&B file: LevelDB's log format, blocks of 32 KiB, behind a header of seven bytes."""
    at, parts = 7, b""
    while at < len(data):
        left = 32768 - at % 32768
        if left < 7:  # too little for another record; the block is padded
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the whole record, or its last part
            yield parts
            parts = b""


def mlflow(folder: Path) -> Recorded:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (run,) = client.search_runs(["0"])
    histories = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
    curves = {key: [(point.step, point.value) for point in found] for key, found in histories.items()}
    pictures: dict[str, list[int]] = {}
    for artifact in client.list_artifacts(run.info.run_id, "images"):
        name, _, step, *_ = artifact.path.removeprefix("images/").split("+")
        if artifact.path.endswith(".png"):
            pictures.setdefault(name.replace("~", "/"), []).append(int(step))
    facts = {key: value for key, value in run.data.tags.items() if key.startswith("neuronxa/")}
    return Recorded(_only_ours(curves), {name: sorted(steps) for name, steps in pictures.items()}, facts)


def trackio(folder: Path) -> Recorded:
    curves: dict[str, Points] = {}
    pictures: dict[str, list[int]] = {}
    for step, row in trackio_rows(folder):
        assert step == row["train/global_step"] or not any(key.startswith(("eval/", "neuronxa/")) for key in row)
        for key, value in row.items():
            if key.startswith("neuronxa/"):
                assert (folder / "trackio" / "media" / value["file_path"]).is_file()
                pictures.setdefault(key, []).append(step)
            else:
                curves.setdefault(key, []).append((step, value))
    with sqlite3.connect(folder / "trackio" / "huggingface.db") as database:
        ((config,),) = database.execute("select config from configs")
    facts = {key: value for key, value in json.loads(config).items() if key.startswith("neuronxa/")}
    return Recorded(_as_logged(curves), pictures, facts)


def trackio_rows(folder: Path) -> list[tuple[int, dict[str, Any]]]:
    with sqlite3.connect(folder / "trackio" / "huggingface.db") as database:
        rows = database.execute("select step, metrics from metrics order by id").fetchall()
    return [(step, json.loads(row)) for step, row in rows]


def comet_ml(folder: Path) -> Recorded:
    (file,) = folder.glob("comet/*.zip")
    with zipfile.ZipFile(file) as archive:
        lines = archive.read("messages.json").decode().splitlines()
    messages = [(message["type"], message["payload"]) for message in map(json.loads, lines)]
    curves: dict[str, Points] = {}
    pictures: dict[str, list[int]] = {}
    facts: dict[str, Any] = {}
    for kind, payload in messages:
        if kind == "metric_msg":
            metric = payload["metric"]
            curves.setdefault(metric["metricName"], []).append((metric["step"], metric["metricValue"]))
        elif kind == "file_upload" and "figName" in payload["additional_params"]:
            picture = payload["additional_params"]
            pictures.setdefault(picture["figName"], []).append(picture["step"])
        elif kind == "log_other" and payload["key"].startswith("neuronxa/"):
            facts[payload["key"]] = payload["value"]
    return Recorded(_as_logged(curves), pictures, facts)


def aim(folder: Path) -> Recorded:
    from aim import Repo, Run
    from aim.storage.context import Context

    (name,) = Repo(str(folder)).list_all_runs()
    # A run that is opened to be read only sees nothing before `aim storage reindex`.
    run = Run(name, repo=str(folder), system_tracking_interval=None, capture_terminal_logs=False)
    curves = {}
    for metric in run.collect_sequence_info("metric")["metric"]:
        if metric["context"] == {"subset": "eval"}:
            steps, (values, *_) = run.get_metric(metric["name"], Context(metric["context"])).data.numpy()
            curves[f"eval_{metric['name']}"] = list(zip(steps.tolist(), values.tolist(), strict=True))
    names = [images["name"] for images in run.collect_sequence_info("images")["images"]]
    pictures = {name: run.get_image_sequence(name, Context({})).data.indices_list() for name in names}
    facts = {f"neuronxa/{key}": value for key, value in run["neuronxa"].items()}
    return Recorded(curves, pictures, facts)


READERS: dict[str, Callable[[Path], Recorded]] = {
    "tensorboard": tensorboard,
    "wandb": wandb,
    "mlflow": mlflow,
    "trackio": trackio,
    "comet_ml": comet_ml,
    "aim": aim,
}


def _as_logged(curves: dict[str, Points]) -> dict[str, Points]:
    """Only the keys of evaluations, called as the Trainer logs them."""
    return _only_ours({key.replace("eval/", "eval_", 1): points for key, points in curves.items()})


def _only_ours(curves: dict[str, Points]) -> dict[str, Points]:
    return {key: points for key, points in curves.items() if key.startswith("eval_")}
