"""Optimizers: against the rules written out, against torch, and their state."""

import math

import numpy as np
import pytest

import specnet
from specnet.training.optimizers import OPTIMIZERS, SGD, Adagrad, Adam, AdamW, Lion, RMSprop
from specnet.training.optimizers import base as machinery
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
every_case = pytest.mark.parametrize(("cls", "settings", "rule", "ours"), CASES.values(), ids=CASES.keys())


def network(dtype="float64"):
    return model_of({"type": "affine", "units": 6}, {"type": "tanh"}, {"type": "affine", "units": 3}, dtype=dtype)


def gradients(model, step):
    """Fill the gradients with numbers that depend on the step; sometimes zero, as behind a ReLU."""
    model.backward(model.forward(np.ones((1, *model.input_shape))))
    for index, gradient in enumerate(model.gradients.values()):
        rng = np.random.default_rng([step, index])
        gradient[...] = rng.normal(size=gradient.shape) * (rng.uniform(size=gradient.shape) > 0.2)


@every_case
def test_fifty_steps_follow_the_rule(cls, settings, rule, ours):
    model = network()
    optimizer = cls(model, learning_rate=0.05, **settings)
    expected = {name: value.copy() for name, value in model.parameters.items()}
    state = {name: {} for name in expected}
    for t in range(1, 51):
        gradients(model, t)
        kept = {name: g.copy() for name, g in model.gradients.items()}
        for name, g in kept.items():
            expected[name] = rule(expected[name], g, state[name], t, **ours)
        optimizer.step()
        assert same_arrays(dict(model.gradients), kept), "a step changed the gradients"
    for name, value in model.parameters.items():
        assert np.allclose(value, expected[name], rtol=1e-12, atol=1e-12), name


@every_case
def test_fifty_steps_equal_torchs(cls, settings, rule, ours):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    model = network()
    if not hasattr(torch.optim, cls.__name__):
        pytest.skip(f"this torch has no {cls.__name__}")
    optimizer = cls(model, learning_rate=0.05, **settings)
    names = {"epsilon": "eps"}
    theirs = [torch.tensor(value.copy(), requires_grad=True) for value in model.parameters.values()]
    other = getattr(torch.optim, cls.__name__)(theirs, lr=0.05, **{names.get(k, k): v for k, v in settings.items()})
    for t in range(50):
        gradients(model, t)
        for tensor, g in zip(theirs, model.gradients.values(), strict=True):
            tensor.grad = torch.tensor(g.copy())
        optimizer.step()
        other.step()
    for value, tensor in zip(model.parameters.values(), theirs, strict=True):
        assert np.allclose(value, tensor.detach().numpy(), rtol=1e-10, atol=1e-12)


@every_case
def test_the_state_is_all_that_is_needed_to_go_on(cls, settings, rule, ours):
    model = network("float32")
    optimizer = cls(model, learning_rate=0.05, **settings)
    for t in range(5):
        gradients(model, t)
        optimizer.step()
    twin = network("float32")
    for name, value in model.parameters.items():
        twin.parameters[name][...] = value
    other = cls(twin, learning_rate=0.05, **settings)
    other.restore({k: v.copy() if isinstance(v, np.ndarray) else v for k, v in optimizer.state.items()})
    for t in range(5, 8):
        for m, o in ((model, optimizer), (twin, other)):
            gradients(m, t)
            o.step()
    assert same_arrays(dict(model.parameters), dict(twin.parameters))


@every_case
def test_blocks_change_nothing(cls, settings, rule, ours, monkeypatch):
    results = []
    for block in (7, 64 * 1024):
        monkeypatch.setattr(machinery, "BLOCK", block)
        model = network()
        optimizer = cls(model, learning_rate=0.05, no_decay={"affine_1.bias"}, **settings)
        for t in range(3):
            gradients(model, t)
            optimizer.step()
        results.append({name: value.copy() for name, value in model.parameters.items()})
    assert same_arrays(*results)


def test_decay_leaves_named_parameters_alone():
    model = network()
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
def test_what_is_frozen_does_not_move(cls, settings, rule, ours):
    model, twin = network(), network()
    optimizer, other = (cls(m, learning_rate=0.05, **settings) for m in (model, twin))
    frozen = {"affine_1.weight", "affine_2.bias"}
    optimizer.freeze(frozen)
    for t in range(3):
        for m, o in ((model, optimizer), (twin, other)):
            gradients(m, t)
            o.step()
    begun = network().parameters
    for name, value in model.parameters.items():
        assert np.array_equal(value, begun[name] if name in frozen else twin.parameters[name]), name
    assert sum(g.size for g in optimizer.gradients) == sum(
        v.size for n, v in model.parameters.items() if n not in frozen
    )


def test_the_learning_rate_may_change_between_steps():
    model = network()
    optimizer = SGD(model, 0.1)
    gradients(model, 0)
    before = model.parameters["affine_1.weight"].copy()
    optimizer.learning_rate = 0.0
    optimizer.step()
    assert np.array_equal(model.parameters["affine_1.weight"], before)


def test_refusals():
    model = network()
    with pytest.raises(specnet.SpecnetError, match="no gradients"):
        SGD(model, 0.1).step()
    for make in (
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
            make()
    with pytest.raises(specnet.SpecnetError, match="another optimizer"):
        SGD(model, 0.1, momentum=0.9).restore(Adam(model).state)


def test_every_optimizer_has_a_document_with_the_same_defaults():
    model = network()
    for name, spec in OPTIMIZERS.items():
        made = spec().build(model, ())
        plain = type(made)(model, made.learning_rate)
        assert type(made).__name__.lower() == name
        for key in ("weight_decay", "momentum", "nesterov", "betas", "epsilon", "alpha"):
            assert getattr(made, key, None) == getattr(plain, key, None), (name, key)


def test_a_mapped_model_trains_like_one_in_memory(tmp_path):
    model = network()
    gradients(model, 0)
    specnet.save(tmp_path / "m.h5", model)
    results = []
    for mmap in (False, True):
        loaded = specnet.load(tmp_path / "m.h5", mmap=mmap)
        optimizer = Adam(loaded, 0.01, weight_decay=0.1)
        for t in range(4):
            gradients(loaded, t)
            optimizer.step()
        results.append({name: value.copy() for name, value in loaded.parameters.items()})
    assert same_arrays(*results)
