"""Test learning-rate schedules: the formulas of torch, warm-up, and their use in a run."""

import math

import numpy as np
import pytest

import specnet
from specnet.training.schedules import (
    SCHEDULES,
    ConstantSpec,
    CosineSpec,
    ExponentialSpec,
    LinearSpec,
    OneCycleSpec,
    StepSpec,
)

STEPS, EPOCHS = 7, 6
TOTAL = STEPS * EPOCHS


def rates(spec, full=0.1):
    return [spec.rate(full, step, STEPS, EPOCHS) for step in range(TOTAL)]


def test_rates_equal_values_computed_by_hand():
    assert rates(ConstantSpec()) == [0.1] * TOTAL
    assert rates(StepSpec(every_epochs=2, factor=0.5)) == [0.1 * 0.5 ** (s // STEPS // 2) for s in range(TOTAL)]
    assert rates(ExponentialSpec(factor=0.9)) == pytest.approx([0.1 * 0.9 ** (s // STEPS) for s in range(TOTAL)])
    assert rates(LinearSpec(start=1, end=0))[:: TOTAL // 2] == pytest.approx([0.1, 0.05])
    cosine = rates(CosineSpec(minimum=0.02))
    assert cosine[0] == 0.1
    assert cosine[TOTAL // 2] == pytest.approx(0.06)
    one = rates(OneCycleSpec())
    assert one[0] == pytest.approx(0.1 / 25)
    assert max(one) <= 0.1
    assert one[-1] == pytest.approx(0.1 / 25 / 1e4)


def torch_rates(torch, make_scheduler, per_epoch=False):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = make_scheduler(torch.optim.lr_scheduler, optimizer)
    learning_rates = []
    for step in range(TOTAL):
        learning_rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if not per_epoch or (step + 1) % STEPS == 0:
            scheduler.step()
    return learning_rates


CASES = {
    "step": (StepSpec(every_epochs=2, factor=0.3), lambda s, o: s.StepLR(o, 2, 0.3), True),
    "exponential": (ExponentialSpec(factor=0.8), lambda s, o: s.ExponentialLR(o, 0.8), True),
    "cosine": (CosineSpec(minimum=0.01), lambda s, o: s.CosineAnnealingLR(o, TOTAL, 0.01), False),
    "linear": (LinearSpec(start=0.5, end=0.1), lambda s, o: s.LinearLR(o, 0.5, 0.1, TOTAL), False),
    "one cycle": (OneCycleSpec(), lambda s, o: s.OneCycleLR(o, 0.1, TOTAL, cycle_momentum=False), False),
    "one cycle, linear": (
        OneCycleSpec(rise=0.4, start_divisor=10, end_divisor=100, shape="linear"),
        lambda s, o: s.OneCycleLR(
            o, 0.1, TOTAL, pct_start=0.4, div_factor=10, final_div_factor=100, anneal_strategy="linear",
            cycle_momentum=False,
        ),
        False,
    ),
    "warm-up and cosine": (
        CosineSpec(warmup_steps=5, warmup_from=0.2),
        lambda s, o: s.SequentialLR(
            o, [s.LinearLR(o, 0.2, 1, 5), s.CosineAnnealingLR(o, TOTAL - 5)], [5]
        ),
        False,
    ),
    "warm-up and constant": (
        ConstantSpec(warmup_steps=4, warmup_from=0.5), lambda s, o: s.LinearLR(o, 0.5, 1, 4), False
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("spec", "make_scheduler", "per_epoch"), CASES.values(), ids=CASES.keys())
def test_rates_equal_those_of_torch(spec, make_scheduler, per_epoch):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    assert rates(spec) == pytest.approx(torch_rates(torch, make_scheduler, per_epoch), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize(("steps", "epochs", "warmup"), [(1, 1, 0), (1, 1, 5), (2, 1, 1), (1, 3, 0), (10, 1, 9)])
def test_rates_are_finite_for_short_runs(kind, steps, epochs, warmup):
    needed = {"step": {"every_epochs": 1}, "exponential": {"factor": 0.5}}.get(kind, {})
    spec = SCHEDULES[kind](warmup_steps=warmup, **needed)
    for step in range(steps * epochs + 3):
        assert 0 <= spec.rate(0.1, step, steps, epochs) <= 0.1
        assert math.isfinite(spec.rate(0.1, step, steps, epochs))


def test_a_run_uses_the_rates_of_its_schedule():
    learning_rates = []
    x, y = np.ones((8, 2)), np.zeros((8, 1))
    model = specnet.build(specnet.ModelSpec(input_shape=(2,), layers=[{"type": "affine", "units": 1}]))
    history = specnet.fit(
        model, x, y, loss="mean_squared_error", optimizer={"type": "sgd", "learning_rate": 0.1}, epochs=3, batch_size=4,
        schedule={"type": "linear", "end": 0}, listeners=[
            lambda event: learning_rates.append(event.run.optimizer.learning_rate) if event.kind == "step" else None
        ],
    )  # fmt: skip
    assert learning_rates == pytest.approx([0.1 * (6 - step) / 6 for step in range(6)])
    assert history["learning_rate"] == pytest.approx([learning_rates[1], learning_rates[3], learning_rates[5]])
