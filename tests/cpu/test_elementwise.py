"""Loops over formulas: the same bits as the formula in plain Python, and nothing touched beside the rows."""

import numpy as np
import pytest

from fastbp.cpu import elementwise
from fastbp.formulas.activations import ACTIVATIONS
from fastbp.formulas.optimizers import OPTIMIZERS
from tests.cpu.kernels import REALS, Guarded, cases, run, whole_vectors

every_real = pytest.mark.parametrize("real", REALS)
N_OUT, ROWS = 37, 5


def rows_of(real, *, room):
    """Rows (ROWS, columns + room) from -6 to 6, with the special values; and their operation."""
    columns = whole_vectors(N_OUT, real)
    z = Guarded((ROWS, columns + room), real, value=-77.0)
    z.array[:, :columns] = np.linspace(-6, 6, ROWS * columns).reshape(ROWS, columns)
    z.array[1, :8] = [0.0, -0.0, 0.5, -0.5, 300.0, -300.0, np.inf, np.nan]
    return z, columns


def values(function, *arrays):
    with np.errstate(all="ignore"):
        return np.array([function(*v) for v in zip(*(a.ravel() for a in arrays))], arrays[0].dtype)


@pytest.mark.parametrize(("name", "real"), cases(name for name in ACTIVATIONS if name != "identity"))
@pytest.mark.parametrize("room", [0, 3])
def test_activation(name, real, room):
    row = ACTIVATIONS[name]
    z, columns = rows_of(real, room=room)
    y, dz = (Guarded(z.array.shape, real, value=-77.0) for _ in range(2))
    y.array[:], dz.array[:, :columns] = z.array, 0.75
    inside = slice(1, 4), slice(0, columns)
    op = dict(columns=columns, n_out=N_OUT, z=z.array, y=y.array, dz=dz.array, z_row=z.array.strides[0])
    ctx = dict(rows=3, place=1)
    given = z.array.copy()

    run(elementwise.activation_forward, name, real, op=op, ctx=ctx, real=real)
    expected = given.copy()
    expected[inside] = values(row.forward, given[inside]).reshape(3, columns)
    assert_same_bits(y.array, expected)

    run(elementwise.activation_backward, name, real, op=op, ctx=ctx, real=real)
    kept = (y.array if row.keeps == "y" else given)[inside]
    expected = np.where(np.arange(columns + room) < columns, 0.75, -77.0) * np.ones((ROWS, 1))
    expected = expected.astype(real)
    expected[inside] = values(row.backward, expected[inside].copy(), kept).reshape(3, columns)
    assert_same_bits(dz.array, expected)
    assert np.array_equal(z.array, given, equal_nan=True)
    for guarded in (z, y, dz):
        guarded.assert_intact()


def assert_same_bits(got, expected):
    """Equal, zeros with their signs; one NaN is as good as another."""
    assert np.array_equal(got, expected, equal_nan=True)
    number = ~np.isnan(got)
    assert np.array_equal(np.signbit(got[number]), np.signbit(expected[number]))


@pytest.mark.parametrize(("name", "real"), cases(OPTIMIZERS))
def test_optimizer_prepare(name, real):
    row = OPTIMIZERS[name]
    W, b = np.linspace(0.1, 0.9, len(row.settings)), np.linspace(0.2, 0.8, len(row.settings))
    for step in (1, 2, 100):
        hyper, bias_hyper = Guarded(row.hypers, real, value=0.5), Guarded(row.hypers, real, value=0.5)
        ctx = dict(hyper=hyper.array, bias_hyper=bias_hyper.array, step=step)
        run(elementwise.optimizer_prepare, name, real, op=dict(settings=W), ctx=ctx)
        assert np.array_equal(hyper.array, np.array(row.prepare(tuple(W), step), real))
        assert (bias_hyper.array == 0.5).all()
        run(elementwise.optimizer_prepare, name, real, op=dict(settings=W, bias_settings=b), ctx=ctx)
        assert np.array_equal(hyper.array, np.array(row.prepare(tuple(W), step), real))
        assert np.array_equal(bias_hyper.array, np.array(row.prepare(tuple(b), step), real))
        for guarded in (hyper, bias_hyper):
            guarded.assert_intact()
