"""Test optimizers against update rules in NumPy, against torch, and their state."""

import math

import numpy as np
import pytest

import specnet
from specnet.training.optimizers import OPTIMIZERS, SGD, Adagrad, Adam, AdamW, Lion, RMSprop
from specnet.training.optimizers import base as optimizers_base
from tests.support import model_of, same_arrays


def sgd(p, g, s, t, lr=0.05, momentum=0.0, nesterov=False, weight_decay=0.0):
    g = g + weight_decay * p
    if momentum:
        s["v"] = momentum * s["v"] + g if t > 1 else g
        g = g + momentum * s["v"] if nesterov else s["v"]
    return p - lr * g


def adam(p, g, s, t, lr=0.05, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0, decoupled=False):
    if decoupled:
        p = p - lr * weight_decay * p
    else:
        g = g + weight_decay * p
    s["m"] = b1 * s.get("m", 0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0) + (1 - b2) * g * g
    return p - lr * (s["m"] / (1 - b1**t)) / (np.sqrt(s["v"] / (1 - b2**t)) + eps)


def rmsprop(p, g, s, t, lr=0.05, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0):
    g = g + weight_decay * p
    s["q"] = alpha * s.get("q", 0) + (1 - alpha) * g * g
    g = g / (np.sqrt(s["q"]) + eps)
    if momentum:
        g = s["b"] = momentum * s.get("b", 0) + g
    return p - lr * g


def adagrad(p, g, s, t, lr=0.05, eps=1e-10, weight_decay=0.0):
    g = g + weight_decay * p
    s["q"] = s.get("q", 0) + g * g
    return p - lr * g / (np.sqrt(s["q"]) + eps)


def lion(p, g, s, t, lr=0.05, b1=0.9, b2=0.99, weight_decay=0.0):
    m = s.get("m", 0)
    s["m"] = b2 * m + (1 - b2) * g
    return p - lr * weight_decay * p - lr * np.sign(b1 * m + (1 - b1) * g)


CASES = {
    "sgd": (SGD, {}, sgd, {}),
    "sgd, momentum": (SGD, {"momentum": 0.9}, sgd, {"momentum": 0.9}),
    "sgd, nesterov": (SGD, {"momentum": 0.9, "nesterov": True}, sgd, {"momentum": 0.9, "nesterov": True}),
    "sgd, decay": (
        SGD,
        {"momentum": 0.5, "weight_decay": 0.1},
        sgd,
        {"momentum": 0.5, "weight_decay": 0.1},
    ),
    "adam": (Adam, {}, adam, {}),
    "adam, settings": (
        Adam,
        {"betas": (0.8, 0.95), "epsilon": 1e-3, "weight_decay": 0.1},
        adam,
        {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "weight_decay": 0.1},
    ),
    "adamw": (AdamW, {}, adam, {"weight_decay": 0.01, "decoupled": True}),
    "rmsprop": (RMSprop, {}, rmsprop, {}),
    "rmsprop, settings": (
        RMSprop,
        {"alpha": 0.9, "momentum": 0.8, "weight_decay": 0.1},
        rmsprop,
        {"alpha": 0.9, "momentum": 0.8, "weight_decay": 0.1},
    ),
    "adagrad": (Adagrad, {}, adagrad, {}),
    "adagrad, decay": (Adagrad, {"weight_decay": 0.1}, adagrad, {"weight_decay": 0.1}),
    "lion": (Lion, {}, lion, {}),
    "lion, settings": (
        Lion,
        {"betas": (0.8, 0.95), "weight_decay": 0.1},
        lion,
        {"b1": 0.8, "b2": 0.95, "weight_decay": 0.1},
    ),
}
every_case = pytest.mark.parametrize(("cls", "settings", "rule", "rule_settings"), CASES.values(), ids=CASES.keys())


def new_model(dtype="float64"):
    return model_of({"type": "affine", "units": 6}, {"type": "tanh"}, {"type": "affine", "units": 3}, dtype=dtype)


def fill_gradients(model, step):
    """Fill the gradients with random values that depend on the step; about 20% are zero, as behind a ReLU."""
    model.backward(model.forward(np.ones((1, *model.input_shape))))
    for index, gradient in enumerate(model.gradients.values()):
        rng = np.random.default_rng([step, index])
        gradient[...] = rng.normal(size=gradient.shape) * (rng.uniform(size=gradient.shape) > 0.2)


@every_case
def test_fifty_steps_follow_the_update_rule(cls, settings, rule, rule_settings):
    model = new_model()
    optimizer = cls(model, learning_rate=0.05, **settings)
    expected = {name: value.copy() for name, value in model.parameters.items()}
    state = {name: {} for name in expected}
    for t in range(1, 51):
        fill_gradients(model, t)
        gradients_before = {name: g.copy() for name, g in model.gradients.items()}
        for name, g in gradients_before.items():
            expected[name] = rule(expected[name], g, state[name], t, **rule_settings)
        optimizer.step()
        assert same_arrays(dict(model.gradients), gradients_before), "a step changed the gradients"
    for name, value in model.parameters.items():
        assert np.allclose(value, expected[name], rtol=1e-12, atol=1e-12), name


@every_case
def test_fifty_steps_equal_those_of_torch(cls, settings, rule, rule_settings):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    model = new_model()
    if not hasattr(torch.optim, cls.__name__):
        pytest.skip(f"this torch has no {cls.__name__}")
    optimizer = cls(model, learning_rate=0.05, **settings)
    names = {"epsilon": "eps"}
    tensors = [torch.tensor(value.copy(), requires_grad=True) for value in model.parameters.values()]
    torch_optimizer = getattr(torch.optim, cls.__name__)(
        tensors, lr=0.05, **{names.get(k, k): v for k, v in settings.items()}
    )
    for t in range(50):
        fill_gradients(model, t)
        for tensor, g in zip(tensors, model.gradients.values(), strict=True):
            tensor.grad = torch.tensor(g.copy())
        optimizer.step()
        torch_optimizer.step()
    for value, tensor in zip(model.parameters.values(), tensors, strict=True):
        assert np.allclose(value, tensor.detach().numpy(), rtol=1e-10, atol=1e-12)


@every_case
def test_a_restored_state_continues_bit_for_bit(cls, settings, rule, rule_settings):
    model = new_model("float32")
    optimizer = cls(model, learning_rate=0.05, **settings)
    for t in range(5):
        fill_gradients(model, t)
        optimizer.step()
    restored_model = new_model("float32")
    for name, value in model.parameters.items():
        restored_model.parameters[name][...] = value
    restored = cls(restored_model, learning_rate=0.05, **settings)
    restored.restore({k: v.copy() if isinstance(v, np.ndarray) else v for k, v in optimizer.state.items()})
    for t in range(5, 8):
        for m, o in ((model, optimizer), (restored_model, restored)):
            fill_gradients(m, t)
            o.step()
    assert same_arrays(dict(model.parameters), dict(restored_model.parameters))


@every_case
def test_the_block_size_does_not_change_the_result(cls, settings, rule, rule_settings, monkeypatch):
    results = []
    for block in (7, 64 * 1024):
        monkeypatch.setattr(optimizers_base, "BLOCK", block)
        model = new_model()
        optimizer = cls(model, learning_rate=0.05, no_decay={"affine_1.bias"}, **settings)
        for t in range(3):
            fill_gradients(model, t)
            optimizer.step()
        results.append({name: value.copy() for name, value in model.parameters.items()})
    assert same_arrays(*results)


def test_parameters_in_no_decay_are_not_decayed():
    model = new_model()
    optimizer = AdamW(model, learning_rate=0.1, weight_decay=0.5, no_decay={"affine_1.bias", "affine_2.bias"})
    model.parameters["affine_1.bias"][...] = 1
    before = {name: value.copy() for name, value in model.parameters.items()}
    model.backward(model.forward(np.zeros((1, 5))))
    for gradient in model.gradients.values():
        gradient.fill(0)
    optimizer.step()
    assert np.array_equal(model.parameters["affine_1.bias"], before["affine_1.bias"])
    assert np.allclose(model.parameters["affine_1.weight"], before["affine_1.weight"] * 0.95)


@every_case
def test_frozen_parameters_do_not_change(cls, settings, rule, rule_settings):
    model, unfrozen_model = new_model(), new_model()
    optimizer, unfrozen = (cls(m, learning_rate=0.05, **settings) for m in (model, unfrozen_model))
    frozen = {"affine_1.weight", "affine_2.bias"}
    optimizer.freeze(frozen)
    for t in range(3):
        for m, o in ((model, optimizer), (unfrozen_model, unfrozen)):
            fill_gradients(m, t)
            o.step()
    initial = new_model().parameters
    for name, value in model.parameters.items():
        assert np.array_equal(value, initial[name] if name in frozen else unfrozen_model.parameters[name]), name
    assert sum(g.size for g in optimizer.gradients) == sum(
        v.size for n, v in model.parameters.items() if n not in frozen
    )


def test_the_learning_rate_may_change_between_steps():
    model = new_model()
    optimizer = SGD(model, 0.1)
    fill_gradients(model, 0)
    before = model.parameters["affine_1.weight"].copy()
    optimizer.learning_rate = 0.0
    optimizer.step()
    assert np.array_equal(model.parameters["affine_1.weight"], before)


def test_invalid_settings_are_rejected():
    model = new_model()
    with pytest.raises(specnet.SpecnetError, match="no gradients"):
        SGD(model, 0.1).step()
    for failing_call in (
        lambda: SGD(model, -1),
        lambda: SGD(model, math.nan),
        lambda: SGD(model, 0.1, nesterov=True),
        lambda: SGD(model, 0.1, weight_decay=-1),
        lambda: Adam(model, betas=(1.0, 0.9)),
        lambda: Adam(model, epsilon=-1),
        lambda: RMSprop(model, alpha=1),
        lambda: Adagrad(model, epsilon=-1),
        lambda: Lion(model, betas=(1.0, 0.9)),
    ):
        with pytest.raises(specnet.SpecnetError, match="optimizer: expected"):
            failing_call()
    with pytest.raises(specnet.SpecnetError, match="another optimizer"):
        SGD(model, 0.1, momentum=0.9).restore(Adam(model).state)


def test_every_optimizer_spec_has_the_defaults_of_its_class():
    model = new_model()
    for name, spec in OPTIMIZERS.items():
        from_spec = spec().build(model, ())
        from_class = type(from_spec)(model, from_spec.learning_rate)
        assert type(from_spec).__name__.lower() == name
        for key in ("weight_decay", "momentum", "nesterov", "betas", "epsilon", "alpha"):
            assert getattr(from_spec, key, None) == getattr(from_class, key, None), (name, key)


def test_a_mapped_model_trains_like_one_in_memory(tmp_path):
    model = new_model()
    fill_gradients(model, 0)
    specnet.save(tmp_path / "m.h5", model)
    results = []
    for mmap in (False, True):
        loaded = specnet.load(tmp_path / "m.h5", mmap=mmap)
        optimizer = Adam(loaded, 0.01, weight_decay=0.1)
        for t in range(4):
            fill_gradients(loaded, t)
            optimizer.step()
        results.append({name: value.copy() for name, value in loaded.parameters.items()})
    assert same_arrays(*results)
