"""The job on FedJAX, whose client step is compiled once and run for one client after another.

    python -m bench.peers.fedjax --model mlp --rounds 10

FedJAX is one process; XLA may use every core inside it. Trap: the first round compiles; it is
reported apart, as the first round of every side is. Initial weights are drawn here, uniformly as
torch draws them, since the networks are written again in jax.
"""

from __future__ import annotations

import fedjax
import jax
import jax.numpy as jnp
import numpy as np
from fedjax.algorithms import fed_avg

from bench import job

Arrays = dict[str, jax.Array]
LAYERS = {
    "mlp": {"dense1": (job.SIDE**2, 128), "dense2": (128, job.CLASSES)},
    "cnn": {
        "conv1": (3, 3, 1, 16),
        "conv2": (3, 3, 16, 32),
        "dense1": (32 * (job.SIDE // 4) ** 2, 64),
        "dense2": (64, job.CLASSES),
    },
}


def initial(model: str) -> Arrays:
    """Return weights and biases."""
    draw, weights = np.random.default_rng(0), {}
    for name, shape in LAYERS[model].items():
        bound = 1 / np.sqrt(np.prod(shape[:-1]))
        weights[name] = jnp.asarray(draw.uniform(-bound, bound, shape), jnp.float32)
        weights[name + "_bias"] = jnp.asarray(draw.uniform(-bound, bound, shape[-1]), jnp.float32)
    return weights


def logits(weights: Arrays, inputs: jax.Array) -> jax.Array:
    """Return ``[n, 10]`` for images ``[n, 1, 28, 28]``; convolutions run channels last."""
    x = inputs.transpose(0, 2, 3, 1)
    for name in ("conv1", "conv2"):
        if name in weights:
            x = jax.lax.conv_general_dilated(
                x, weights[name], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.nn.relu(x + weights[name + "_bias"])
            window = (1, 2, 2, 1)
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")
    x = x.reshape(len(x), -1)
    x = jax.nn.relu(x @ weights["dense1"] + weights["dense1_bias"])
    return x @ weights["dense2"] + weights["dense2_bias"]


def loss(weights: Arrays, batch: Arrays, rng: jax.Array) -> jax.Array:
    """Return the mean cross-entropy."""
    found = jax.nn.log_softmax(logits(weights, batch["x"]))
    return -jnp.mean(jnp.take_along_axis(found, batch["y"][:, None], axis=1))


def main() -> None:
    options = job.read_options()
    clients = []
    for client in range(job.CLIENTS):
        inputs, labels = job.client_examples(client)
        data = {"x": inputs, "y": labels.astype(np.int32)}
        clients.append((str(client).encode(), fedjax.ClientDataset(data)))
    algorithm = fed_avg.federated_averaging(
        jax.grad(loss),
        fedjax.optimizers.sgd(job.RATE),
        fedjax.optimizers.sgd(1.0),
        fedjax.ShuffleRepeatBatchHParams(batch_size=job.BATCH, num_epochs=1, drop_remainder=False),
    )
    state, key = algorithm.init(initial(options.model)), jax.random.PRNGKey(0)
    clock = job.Clock()
    for _ in range(options.rounds):
        key, used = jax.random.split(key)
        keys = jax.random.split(used, job.CLIENTS)
        cohort = [(name, data, own) for (name, data), own in zip(clients, keys, strict=True)]
        state, _ = algorithm.apply(state, cohort)
        jax.block_until_ready(state.params)
        clock.tick()
    inputs, labels = job.test_examples()
    right = jnp.argmax(logits(state.params, inputs), axis=1) == labels
    job.report(clock.rounds, accuracy=float(right.mean()))


if __name__ == "__main__":
    main()
