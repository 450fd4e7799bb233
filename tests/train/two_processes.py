"""One of two training processes: ``two_processes.py WORK_DIR ADDRESS INDEX DELAY``."""

import sys
import time
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from train.tiny_task import Stream, distance, linear_task

from jaxir.mesh import start_processes
from jaxir.train.loop import TrainConfig, train
from jaxir.train.optimizers import OptimizerConfig

CONFIG = TrainConfig(
    total_steps=30, log_every=2, eval_every=10, save_every=25, mode="min"
)
OPTIMIZER = OptimizerConfig(learning_rate=0.1)


class Half(Stream):
    """This process's rows of each batch."""

    index, delay = 0, 0.0

    def __next__(self):
        time.sleep(self.delay)
        # one write: gloo chatters on the same stream
        sys.stdout.write(f"at {self.position}\n")
        sys.stdout.flush()
        batch = super().__next__()
        return jax.tree.map(lambda x: x[self.index * 4 : self.index * 4 + 4], batch)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    work_dir, address, index, delay = sys.argv[1:]
    start_processes(address, 2, int(index))
    stream = Half()
    stream.index, stream.delay = int(index), float(delay)
    result = train(
        linear_task(), stream, CONFIG, optimizer=OPTIMIZER, work_dir=work_dir,
        evaluate=distance,
    )  # fmt: skip
    kernel = jax.device_get(result.params)["dense"]["kernel"]
    np.save(Path(work_dir) / f"kernel{index}.npy", kernel)
