"""The Hugging Face Trainer's steps, by a callback:

    from wellfed.integrations.transformers import WellfedCallback

    Trainer(..., callbacks=[WellfedCallback()])

What lies between two steps is the wait for the next batch, less the evaluation and the checkpoint that the
Trainer did there: it tells when those end, and nothing comes between them and what was before.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from transformers import TrainerCallback

import wellfed

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

__all__ = ["WellfedCallback"]


class WellfedCallback(TrainerCallback):  # type: ignore[misc]
    """Counts steps and samples, and tells data wait, evaluation and checkpoint from the steps themselves."""

    def __init__(self) -> None:
        self._mark = 0.0
        self._step: wellfed.step | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
    ) -> None:
        """The first wait begins."""
        self._mark = time.perf_counter()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
    ) -> None:
        """The batch is there."""
        self._book("data_wait")
        # With several processes each counts its own share.
        samples = getattr(args, "train_batch_size", 1) * getattr(args, "gradient_accumulation_steps", 1)
        self._step = wellfed.step(samples=samples)
        self._step.__enter__()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
    ) -> None:
        """The optimizer has stepped; the next wait begins."""
        if self._step is not None:
            self._step.__exit__(None, None, None)
            self._step = None
        self._mark = time.perf_counter()

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
    ) -> None:
        """An evaluation has ended."""
        self._book("eval")

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
    ) -> None:
        """A checkpoint has been written."""
        self._book("checkpoint")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: object
    ) -> None:
        """What comes now is no part of the loop."""
        self._mark = 0.0

    def _book(self, name: str) -> None:
        if self._mark:
            now = time.perf_counter()
            wellfed.spent(name, now - self._mark)
            self._mark = now
