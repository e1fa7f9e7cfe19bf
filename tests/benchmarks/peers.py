"""What the benchmarks share of other libraries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from contest import cores


def onnx_session(model: str | bytes) -> Any:
    """Return a session of ONNX Runtime on the cores of this process, for the path or the bytes of a model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()  # without this, it also uses cores outside the process's affinity
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def jax_cross_entropy(outputs: Any, classes: Any) -> Any:
    """Return the mean softmax cross-entropy of outputs (batch, classes) with class indices (batch,)."""
    import jax
    import jax.numpy as jnp

    return -jnp.take_along_axis(jax.nn.log_softmax(outputs), classes[:, None], 1).mean()


def jax_adam(loss_of: Callable[[Any], Any], parameters: Any, rate: float) -> Callable[[bool], float]:
    """Return a compiled step of Adam in JAX, which returns the loss if its argument is true."""
    import jax
    import jax.numpy as jnp

    def update(parameters: Any, first: Any, second: Any, t: Any) -> tuple[Any, ...]:
        value, gradient = jax.value_and_grad(loss_of)(parameters)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradient)
        size, root = rate / (1 - 0.9**t), jnp.sqrt(1 - 0.999**t)
        moved = jax.tree.map(lambda p, m, v: p - size * m / (jnp.sqrt(v) / root + 1e-8), parameters, first, second)
        return moved, first, second, value

    compiled = jax.jit(update, donate_argnums=(0, 1, 2))
    state: list[Any] = [parameters, *(jax.tree.map(jnp.zeros_like, parameters) for _ in range(2)), 0]

    def step(needs_loss: bool) -> float:
        state[3] += 1
        *state[:3], loss = compiled(*state[:3], float(state[3]))
        return float(loss) if needs_loss else loss.block_until_ready() and 0.0

    return step
