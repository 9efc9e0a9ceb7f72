"""A callback that tells Wellfed what a Lightning Trainer's steps wait for. Copy it beside your script.

    trainer = lightning.Trainer(callbacks=[WellfedCallback()])

Run as a script it trains a small model on the CPU: `python examples/lightning_callback.py`. Needs lightning.
"""

from __future__ import annotations

import time
from typing import Any

import lightning
import torch

import wellfed


class WellfedCallback(lightning.Callback):
    """Data wait, evaluation, checkpoints and steps of `fit`."""

    def __init__(self) -> None:
        self._mark = 0.0
        self._step: wellfed.step | None = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """The first wait begins."""
        self._mark = time.perf_counter()

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The batch is there."""
        self._book("data_wait")
        first = batch[0] if isinstance(batch, list | tuple) else batch
        self._step = wellfed.step(samples=len(first) if hasattr(first, "__len__") else 1)
        self._step.__enter__()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """The optimizer has stepped; the next wait begins."""
        if self._step is not None:
            self._step.__exit__(None, None, None)
            self._step = None
        self._mark = time.perf_counter()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """An evaluation has ended; the sanity check before the first step is none."""
        self._book("eval")

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """What comes now is no part of the loop."""
        self._mark = 0.0

    def _book(self, name: str) -> None:
        if self._mark:
            now = time.perf_counter()
            wellfed.spent(name, now - self._mark)
            self._mark = now


class Line(lightning.LightningModule):
    """Logistic regression: enough to see the callback work."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(32, 1)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Mean squared error."""
        inputs, wanted = batch
        return torch.nn.functional.mse_loss(self.layer(inputs), wanted)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.01)


def main() -> None:
    """Trains two epochs on the CPU and prints what was told."""
    data = torch.utils.data.TensorDataset(torch.randn(512, 32), torch.randn(512, 1))
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=[WellfedCallback()],
    )
    trainer.fit(Line(), torch.utils.data.DataLoader(data, batch_size=32))
    print(wellfed.totals())


if __name__ == "__main__":
    main()
