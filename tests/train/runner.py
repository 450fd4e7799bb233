"""A training process for the tests that kill one: ``runner.py WORK_DIR [DELAY]``."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from train.tiny_task import Stream, distance, linear_task

from jaxir.train.loop import TrainConfig, train
from jaxir.train.optimizers import OptimizerConfig

CONFIG = TrainConfig(
    total_steps=40, log_every=4, eval_every=10, save_every=6, mode="min"
)
OPTIMIZER = OptimizerConfig(learning_rate=0.1, ema_decay=0.9)


class SlowStream(Stream):
    """Gives the test time to send its signal, and says where it is."""

    delay = 0.0

    def __next__(self):
        time.sleep(self.delay)
        print(self.position, flush=True)
        return super().__next__()


def main(work_dir, delay=0.0):
    stream = SlowStream()
    stream.delay = delay
    return train(
        linear_task(), stream, CONFIG, optimizer=OPTIMIZER, work_dir=work_dir,
        evaluate=distance,
    )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
