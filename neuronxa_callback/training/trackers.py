"""What a tracker gets beyond the Trainer's log: pictures, the best step, the signatures, and TensorBoard's charts.

Each tracker is found by its callback in the Trainer, and its library is imported only then.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import TrainerCallback
from transformers.integrations import (
    CometCallback,
    MLflowCallback,
    TensorBoardCallback,
    TrackioCallback,
    WandbCallback,
)
from transformers.integrations.integration_utils import rewrite_logs

from neuronxa_callback.training.charts import percentages, write_layout

Image = NDArray[np.uint8]
Fact = str | float


class Tracker:
    """A tracker that the Trainer reports to. Only the first process has one.

    Args:
        callback: the tracker's callback in the Trainer.

    Attributes:
        name: what the tracker is called.
        logs_itself: whether `log` logs the scores, because the tracker's callback would misplace or rename them.
    """

    name: str
    logs_itself = False

    def __init__(self, callback: Any) -> None:
        self.callback = callback

    def log(self, metrics: Mapping[str, float], step: int, epoch: float | None) -> None:
        """Log what the Trainer's log does not bring.

        Args:
            metrics: the scores, as the Trainer logs them.
            step: the step that they belong to. It may be an earlier one.
            epoch: the epoch of that step.
        """

    def show(self, name: str, image: Image, step: int) -> None:
        """Add a picture, uint8 (height, width, 3)."""

    def note(self, facts: Mapping[str, Fact], step: int) -> None:
        """Write facts about the whole run, such as its best step. A new value replaces the old one."""

    def arrange(self, certain: Sequence[str], methods: Sequence[str], quality: Sequence[str]) -> None:
        """Arrange the charts of alignment and quality; see `charts.write_layout`."""


class TensorBoard(Tracker):
    """TensorBoard, through the Trainer's own writer."""

    name = "TensorBoard"

    @property
    def _writer(self) -> Any:
        return self.callback.tb_writer

    def log(self, metrics: Mapping[str, float], step: int, epoch: float | None) -> None:
        """Add the quality scores of 0 to 100 once more as shares, so that they fit on a chart with alignment."""
        if self._writer is not None:
            for tag, value in percentages(metrics).items():
                self._writer.add_scalar(tag, value, step)

    def show(self, name: str, image: Image, step: int) -> None:
        """Add a picture."""
        if self._writer is not None:
            self._writer.add_image(name, image, step, dataformats="HWC")
            self._writer.flush()

    def note(self, facts: Mapping[str, Fact], step: int) -> None:
        """Add each fact as a text at this step, because TensorBoard has no summary of a run."""
        if self._writer is not None:
            for name, value in facts.items():
                self._writer.add_text(name, f"`{value}`", step)
            self._writer.flush()

    def arrange(self, certain: Sequence[str], methods: Sequence[str], quality: Sequence[str]) -> None:
        """Write the layout of the page "Custom Scalars"."""
        if self._writer is not None:
            write_layout(self._writer, certain, methods, quality)


class WeightsAndBiases(Tracker):
    """W&B. Its run is the present one, which its callback joins, too."""

    name = "W&B"

    @property
    def _run(self) -> Any:
        import wandb

        return wandb.run

    def show(self, name: str, image: Image, step: int) -> None:
        """Add a picture in a row of its own, with the axis that the Trainer's rows have."""
        import wandb

        if self._run is not None:
            self._run.log({name: wandb.Image(image), "train/global_step": step})

    def note(self, facts: Mapping[str, Fact], step: int) -> None:
        """Write the facts into the run's summary."""
        if self._run is not None:
            self._run.summary.update(dict(facts))


class MLflow(Tracker):
    """MLflow. Its run is the active one, which its callback joins, too."""

    name = "MLflow"

    def show(self, name: str, image: Image, step: int) -> None:
        """Add a picture to the run's images."""
        import mlflow

        if mlflow.active_run() is not None:  # log_image would begin a run
            mlflow.log_image(image, key=name, step=step)

    def note(self, facts: Mapping[str, Fact], step: int) -> None:
        """Write the facts into the run's tags."""
        import mlflow

        if mlflow.active_run() is not None:
            mlflow.set_tags(dict(facts))


class CometML(Tracker):
    """Comet ML. Its experiment is the running one, which its callback joins, too."""

    name = "Comet ML"

    @property
    def _experiment(self) -> Any:
        import comet_ml

        return comet_ml.get_running_experiment()

    def show(self, name: str, image: Image, step: int) -> None:
        """Add a picture to the experiment's graphics."""
        if self._experiment is not None:
            self._experiment.log_image(image, name=name, step=step)

    def note(self, facts: Mapping[str, Fact], step: int) -> None:
        """Write the facts into the experiment's "Other" tab."""
        if self._experiment is not None:
            self._experiment.log_others(dict(facts))


class Trackio(Tracker):
    """Trackio. Its callback logs without a step, and Trackio would count the calls instead."""

    name = "Trackio"

    def __init__(self, callback: Any) -> None:
        super().__init__(callback)
        self.logs_itself = self._run is not None  # if there is no run, the callback begins one when it logs

    @property
    def _run(self) -> Any:
        import trackio

        return trackio.context_vars.current_run.get()

    def log(self, metrics: Mapping[str, float], step: int, epoch: float | None) -> None:
        """Log the scores at their own step, with the names that the callback gives them."""
        if self.logs_itself:
            with_epoch = dict(metrics) if epoch is None else {**metrics, "epoch": epoch}
            self._run.log({**rewrite_logs(with_epoch), "train/global_step": step}, step=step)

    def show(self, name: str, image: Image, step: int) -> None:
        """Add a picture at its step."""
        import trackio

        if self._run is not None:
            self._run.log({name: trackio.Image(image), "train/global_step": step}, step=step)

    def note(self, facts: Mapping[str, Fact], step: int) -> None:
        """Write the facts into the run's config, which Trackio stores with the next row."""
        if self._run is not None:
            self._run.config.update(facts)
            self._run._config_logged = False  # Trackio stores a config once, and has no other way to change it


class Aim(Tracker):
    """Aim. Its callback cuts what several keys share out of their names, so that keys become one."""

    name = "Aim"
    logs_itself = True

    def log(self, metrics: Mapping[str, float], step: int, epoch: float | None) -> None:
        """Track the scores by their own names, with the context that the callback gives to such keys."""
        for name, value in metrics.items():
            subset, _, rest = name.partition("_")
            context = {"subset": subset} if subset in ("train", "eval", "test") else {}
            own_name = rest if context else name
            self.callback.experiment.track(value, name=own_name, context=context, step=step, epoch=epoch)

    def show(self, name: str, image: Image, step: int) -> None:
        """Track a picture."""
        import aim

        self.callback.experiment.track(aim.Image(image), name=name, step=step)

    def note(self, facts: Mapping[str, Fact], step: int) -> None:
        """Write the facts into the run's parameters."""
        for name, value in facts.items():
            self.callback.experiment[tuple(name.split("/"))] = value


def trackers_among(callbacks: Sequence[TrainerCallback]) -> list[Tracker]:
    """Return the trackers whose callbacks are among these."""
    kinds: list[tuple[type[TrainerCallback], type[Tracker]]] = [
        (TensorBoardCallback, TensorBoard),
        (WandbCallback, WeightsAndBiases),
        (MLflowCallback, MLflow),
        (CometCallback, CometML),
        (TrackioCallback, Trackio),
    ]
    # Aim brings its own callback. It is in the Trainer only if this module was imported.
    if aims := sys.modules.get("aim.sdk.adapters.hugging_face"):
        kinds.append((aims.AimCallback, Aim))
    return [tracker(callback) for callback in callbacks for kind, tracker in kinds if isinstance(callback, kind)]
