"""The dense layer's kernels, one at a time, on memory laid out by hand; against NumPy."""

import functools

import numpy as np
import pytest

from fastbp.cpu import dense
from fastbp.formulas.optimizers import OPTIMIZERS
from tests.cpu.kernels import DIFFERENT_OPTIMIZERS, REALS, Guarded, cases, in_panels, run, whole_vectors

every_real = pytest.mark.parametrize("real", REALS)
SHAPES = [(1, 1), (3, 5), (17, 33), (100, 49), (8, 16), (5, 130), (130, 5), (2 * dense.ROW_BLOCK + 7, 20)]
VALUES = {"learning_rate": 0.1, "weight_decay": 0.01, "momentum": 0.9, "dampening": 0.2, "epsilon": 1e-6}
SETTINGS = {
    name: tuple(VALUES.get(setting, 0.9) for setting in row.settings) for name, row in OPTIMIZERS.items()
}
every_optimizer = pytest.mark.parametrize(
    ("optimizer", "real"), cases(OPTIMIZERS, different=DIFFERENT_OPTIMIZERS)
)
ROWS = 29


class Layer:
    """W and b as they lie in an arena, and x, z, dx, dz of a few rows with room between the rows."""

    def __init__(self, real, n_in, n_out, *, rows=ROWS, states=0, slots=1, use_bias=True):
        draw = np.random.default_rng(n_in + n_out)
        self.real, self.size = real, np.dtype(real).itemsize
        self.n_in, self.n_out, self.rows = n_in, n_out, rows
        self.columns, wide = whole_vectors(n_out, real), whole_vectors(n_in, real)
        self.W, self.b = draw.normal(size=(n_in, n_out)).astype(real), draw.normal(size=n_out).astype(real)
        if not use_bias:
            self.b[:] = 0
        self.used = (n_in + 1) * self.columns
        lines = -(
            -self.used * self.size // 64
        )  # a plan lays layers out in whole ones: loops run to their end
        stride = lines * 64 // self.size
        # parameters | states | slots, all laid out alike, NaN where nobody has written
        self.arena = Guarded((1 + states + slots, stride), real)
        self.arena.array[: 1 + states] = 0
        self.parameters, self.slots = self.arena.array[0], self.arena.array[1 + states :]
        self.wt = Guarded(wide * self.columns, real, value=0)
        # What stands behind the last column of x and dz is anything.
        self.x, self.z, self.dx, self.dz = (
            Guarded((rows, n + 3), real) for n in (wide, self.columns, wide, self.columns)
        )
        self.x.array[:, :n_in] = draw.normal(size=(rows, n_in))
        self.dz.array[:, :n_out] = draw.normal(size=(rows, n_out))
        self.host = Guarded(n_in * n_out + (n_out if use_bias else 0), real)
        self.host.array[:] = np.concatenate([self.W.ravel(), self.b])[: self.host.array.size]
        self.scratch = Guarded((dense.ROW_BLOCK + 1) * 64, real)
        self.op = dict(
            n_in=n_in, n_out=n_out, x_columns=wide, columns=self.columns, use_bias=use_bias, host=0,
            host_row=n_out * np.dtype(real).itemsize,
            w=self.parameters, wt=self.wt.array,
            x=self.x.array, dx=self.dx.array, x_row=self.x.array.strides[0],
            z=self.z.array, dz=self.dz.array, z_row=self.z.array.strides[0],
            slots=self.slots, slot_bytes=self.slots.strides[0], arena_bytes=self.arena.array.strides[0],
            first_row=0, last_row=n_in, first_column=0, last_column=self.columns,
        )  # fmt: skip
        self.ctx = dict(
            rows=rows, batch_rows=rows, chunk_rows=rows, host=self.host.array, scratch=self.scratch.array,
            hyper=np.zeros(16, real), bias_hyper=np.zeros(16, real),
        )  # fmt: skip

    def run(self, factory, *arguments, op=None, **ctx):
        run(factory, *arguments, self.real, op=self.op | (op or {}), ctx=self.ctx | ctx, real=self.real)
        for guarded in (self.arena, self.wt, self.x, self.z, self.dx, self.dz, self.host, self.scratch):
            guarded.assert_intact()

    def set_hyper(self, optimizer):
        values = OPTIMIZERS[optimizer].prepare(SETTINGS[optimizer], 2)
        self.ctx["hyper"] = np.array(values, self.real)

    def unpacked(self, memory):
        """(W, b) out of memory laid out as the parameters are, by way of the kernel."""
        self.host.array[:] = np.nan
        self.run(dense.dense_unpack, op=dict(w=memory))
        n = self.n_in * self.n_out
        return self.host.array[:n].reshape(self.n_in, self.n_out).copy(), self.host.array[n:].copy()

    def assert_transposed(self, W):
        """W's transpose lies packed, with zeros beyond its columns; its rows beyond n_out are nobody's."""
        rows = np.zeros((self.columns, self.n_in), self.real)
        rows[: self.n_out] = W.T
        row_numbers = np.repeat(np.arange(self.columns)[:, None], self.n_in, axis=1)
        theirs = in_panels(row_numbers, self.real) < self.n_out
        expected = in_panels(rows, self.real)
        assert np.array_equal(self.wt.array[theirs], expected[theirs]), "the transpose is not current"

    def assert_close(self, got, expected, terms=1):
        atol = 20 * terms * np.finfo(self.real).eps
        np.testing.assert_allclose(got, expected, rtol=atol, atol=atol)


@pytest.fixture(params=SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def shape(request):
    return request.param


@pytest.fixture
def packed(real, shape):
    layer = Layer(real, *shape)
    layer.run(dense.dense_pack)
    return layer


@every_real
def test_pack(real, packed):
    assert np.array_equal(packed.parameters[: packed.used], in_panels(np.vstack([packed.W, packed.b]), real))
    packed.assert_transposed(packed.W)


@every_real
def test_pack_without_bias(real):
    layer = Layer(real, 17, 33, use_bias=False)
    layer.run(dense.dense_pack)
    assert np.array_equal(layer.parameters[: layer.used], in_panels(np.vstack([layer.W, 0 * layer.b]), real))
    W, b = layer.unpacked(layer.parameters)
    assert np.array_equal(W, layer.W)
    assert b.size == 0


@every_real
def test_unpack_undoes_pack(real, packed):
    W, b = packed.unpacked(packed.parameters)
    assert np.array_equal(W, packed.W)
    assert np.array_equal(b, packed.b)


@every_real
def test_forward(real, packed):
    packed.run(dense.dense_forward)
    x = packed.x.array[:, : packed.n_in].astype(np.float64)
    z = packed.z.array
    packed.assert_close(z[:, : packed.n_out], x @ packed.W + packed.b, terms=packed.n_in)
    assert np.isnan(z[:, packed.columns :]).all(), "written between rows"


@every_real
def test_forward_of_some_rows_leaves_the_others(real):
    layer = Layer(real, 17, 33)
    layer.run(dense.dense_pack)
    layer.run(dense.dense_forward)
    whole = layer.z.array[:, :33].copy()
    layer.z.array[:] = np.nan
    layer.run(dense.dense_forward, place=5, rows=7)
    assert np.array_equal(layer.z.array[5:12, :33], whole[5:12])
    assert np.isnan(layer.z.array[:5]).all()
    assert np.isnan(layer.z.array[12:]).all()


@every_real
@pytest.mark.parametrize("use_bias", [True, False])
def test_forward_from_the_host_gives_the_same_bits(real, shape, use_bias):
    layer = Layer(real, *shape, use_bias=use_bias)
    layer.run(dense.dense_pack)
    layer.run(dense.dense_forward)
    expected = layer.z.array[:, : layer.n_out].copy()
    layer.z.array[:] = np.nan
    margin = np.full(64, np.nan, real)  # the network keeps room behind its vector
    layer.run(dense.dense_forward_unpacked, host=np.concatenate([layer.host.array, margin]))
    assert np.array_equal(layer.z.array[:, : layer.n_out], expected)


@every_real
def test_backward(real, packed):
    packed.run(dense.dense_backward)
    dz = packed.dz.array[:, : packed.n_out].astype(np.float64)
    packed.assert_close(packed.dx.array[:, : packed.n_in], dz @ packed.W.T, terms=packed.n_out)
    assert np.isnan(packed.dx.array[:, whole_vectors(packed.n_in, real) :]).all(), "written between rows"


@every_real
@pytest.mark.parametrize("use_bias", [True, False])
def test_gradient(real, shape, use_bias):
    layer = Layer(real, *shape, slots=3, use_bias=use_bias)
    layer.run(dense.dense_gradient, block=1)
    assert np.isnan(layer.slots[[0, 2]]).all(), "the other slots are others'"
    dW, db = layer.unpacked(layer.slots[1])
    x, dz = (layer.x.array[:, : layer.n_in], layer.dz.array[:, : layer.n_out].astype(np.float64))
    layer.assert_close(dW, x.T @ dz, terms=ROWS)
    if use_bias:
        layer.assert_close(db, dz.sum(axis=0), terms=ROWS)


@every_real
def test_gradient_in_shares_gives_the_same_bits(real):
    layer = Layer(real, 100, 49, slots=2)
    layer.run(dense.dense_gradient, block=0)
    for first, last in ((0, 40), (40, 48), (48, 100)):
        layer.run(dense.dense_gradient, op=dict(first_row=first, last_row=last), block=1)
    layer.run(dense.dense_gradient, op=dict(first_row=100, last_row=100, last_column=0), block=1)
    assert layer.slots[0].tobytes() == layer.slots[1].tobytes()


@every_optimizer
def test_update(real, optimizer):
    row, hyper_of = OPTIMIZERS[optimizer], OPTIMIZERS[optimizer].prepare
    for shape in ((3, 5), (2 * dense.ROW_BLOCK + 7, 70)):
        layer = Layer(real, *shape, states=row.states)
        layer.run(dense.dense_pack)
        layer.set_hyper(optimizer)
        layer.run(dense.dense_update, optimizer)
        x, dz = layer.x.array[:, : layer.n_in], layer.dz.array[:, : layer.n_out].astype(np.float64)
        W, b = layer.unpacked(layer.parameters)
        hyper = hyper_of(SETTINGS[optimizer], 2)
        states = [layer.unpacked(memory) for memory in layer.arena.array[1 : 1 + row.states]]
        for array, (before, d) in enumerate(((layer.W, x.T @ dz), (layer.b, dz.sum(axis=0)))):
            zeros = [0.0] * row.states
            after = np.array([row.update(w, dw, *zeros, hyper) for w, dw in zip(before.flat, d.flat)])
            for got, expected in zip(((W, b), *states), after.reshape(before.size, -1).T):
                layer.assert_close(got[array].ravel(), expected, terms=ROWS)
        layer.assert_transposed(W)


@every_optimizer
def test_apply_of_a_gradient_in_memory_gives_the_bits_of_update(real, optimizer):
    fused, stored = (Layer(real, 100, 49, states=OPTIMIZERS[optimizer].states) for _ in range(2))
    for layer in (fused, stored):
        layer.run(dense.dense_pack)
        layer.set_hyper(optimizer)
    for _ in range(2):
        fused.run(dense.dense_update, optimizer)
        stored.run(dense.dense_gradient)
        stored.run(dense.dense_apply, optimizer)
    n = 1 + OPTIMIZERS[optimizer].states
    assert fused.arena.array[:n].tobytes() == stored.arena.array[:n].tobytes()
    assert fused.wt.array.tobytes() == stored.wt.array.tobytes()


@every_real
def test_slots_are_added_in_their_order(real):
    layer = Layer(real, 17, 33, slots=4)
    draw = np.random.default_rng(0)
    slots = draw.normal(size=(4, layer.used)).astype(real)
    layer.slots[:] = slots
    layer.run(dense.dense_total, batch_rows=35, chunk_rows=10)
    expected = ((slots[0] + slots[1]) + slots[2]) + slots[3]
    assert layer.slots[0].tobytes() == expected.tobytes()
    # A short last batch fills fewer slots; what an earlier one left in the others does not count.
    layer.slots[:] = slots
    layer.run(dense.dense_total, batch_rows=20, chunk_rows=10)
    assert layer.slots[0].tobytes() == (slots[0] + slots[1]).tobytes()


@pytest.mark.parametrize("in_use", [1, 2, 3])  # one or two are applied from where they lie
@every_real
def test_apply_adds_the_slots(real, in_use):
    layer = Layer(real, 17, 33, slots=3)
    layer.run(dense.dense_pack)
    draw = np.random.default_rng(0)
    slots = draw.normal(size=(3, layer.used)).astype(real)
    layer.slots[:], layer.ctx["hyper"] = slots, np.array([0.5, 0.0], real)
    before = layer.parameters.copy()
    layer.run(dense.dense_apply, "sgd", batch_rows=10 * in_use - 9, chunk_rows=10)
    expected = before - np.dtype(real).type(0.5) * functools.reduce(np.add, slots[:in_use])
    layer.assert_close(layer.parameters, expected)
