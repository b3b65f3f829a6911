"""Losses and links on the rows of a block: against the reference, in any order of the data, at extremes."""

import numpy as np
import pytest

from fastbp.cpu import loss
from fastbp.formulas.losses import LOSSES
from tests import reference
from tests.cpu.kernels import REALS, Guarded, cases, run, whole_vectors

every_real = pytest.mark.parametrize("real", REALS)
OPTIONS = {"huber": 0.7, "softmax_cross_entropy": 0.1}
ROWS, DATA = 6, 20  # rows of the block, rows of the data


def targets_for(kind, n, draw):
    """Targets (DATA, n), or (DATA,) where they are classes."""
    return {
        "real": lambda: draw.normal(size=(DATA, n)),
        "binary": lambda: draw.integers(0, 2, (DATA, n)),
        "count": lambda: draw.poisson(2.0, (DATA, n)),
        "sign": lambda: 2 * draw.integers(0, 2, (DATA, n)) - 1,
        "classes": lambda: draw.integers(0, n, DATA),
        "probabilities": lambda: draw.dirichlet(np.ones(n), DATA),
    }[kind]()


class Block:
    """Rows [4, 10) of a batch of 12 that begins at row 3 of the data's order; their logits and targets."""

    def __init__(self, real, n, targets, *, shuffled=True, scale=2.0, option=0.0, room=3):
        draw = np.random.default_rng(n)
        self.real, self.n, self.columns = real, n, whole_vectors(n, real)
        self.order = draw.permutation(DATA) if shuffled else np.arange(DATA)
        # Rows are whole sixteens, for the sums along them, and `room` elements apart.
        self.z, self.dz = (Guarded((ROWS + 2, -(-n // 16) * 16 + room), real) for _ in range(2))
        self.z.array[1:-1, :n] = scale * draw.normal(size=(ROWS, n))
        t = targets_for(targets, n, draw)
        self.targets = t if targets == "classes" else t.astype(real)
        self.row_losses, self.outputs = Guarded(12, real), Guarded((DATA, n), real)
        sixteens = -(-n // 16) * 16
        softmax, elementwise = (ROWS + 2) * (sixteens + 3), 2 * max(loss.OUTPUTS_AT_ONCE, sixteens)
        self.scratch = Guarded(max(softmax, elementwise), real)
        self.op = dict(
            n_out=n, columns=self.columns, y=self.z.array, z=self.z.array, dz=self.dz.array,
            z_row=self.z.array.strides[0],
        )  # fmt: skip
        self.ctx = dict(
            start=3, batch_rows=12, row=4, rows=ROWS, place=1, order=self.order if shuffled else 0,
            targets=self.targets, row_losses=self.row_losses.array, outputs=self.outputs.array,
            option=np.array([option]), scratch=self.scratch.array,
        )  # fmt: skip

    def run(self, factory, *arguments):
        run(factory, *arguments, self.real, op=self.op, ctx=self.ctx)
        for guarded in (self.z, self.dz, self.row_losses, self.outputs, self.scratch):
            guarded.assert_intact()

    @property
    def logits(self):
        return self.z.array[1:-1, : self.n].astype(np.float64)

    @property
    def block_targets(self):
        return self.targets[self.order[3 + 4 :][:ROWS]]

    def check(self, name, option):
        """The gradient and each row's loss against the reference, of a batch of 12 rows."""
        value, gradient, _ = reference.LOSSES[name]
        z, t = self.logits, self.block_targets
        tolerance = 30 * np.finfo(self.real).eps
        expected = gradient(z, t, option) * ROWS / 12
        np.testing.assert_allclose(self.dz.array[1:-1, : self.n], expected, rtol=tolerance, atol=tolerance)
        assert np.isnan(self.dz.array[[0, -1]]).all(), "these rows are others'"
        assert np.isnan(self.dz.array[:, -(-self.n // 16) * 16 :]).all(), "written between rows"
        each = [value(z[i : i + 1], t[i : i + 1], option) for i in range(ROWS)]
        np.testing.assert_allclose(self.row_losses.array[4:10], each, rtol=tolerance, atol=tolerance)
        assert np.isnan(self.row_losses.array[[0, 1, 2, 3, 10, 11]]).all()


@pytest.mark.parametrize(("name", "real"), cases(name for name, row in LOSSES.items() if not row.rowwise))
def test_elementwise_loss(name, real):
    option = OPTIONS.get(name, 0.0)
    for n in (1, 2, 3, 4, 5, 15, 16, 17, 40, 300):
        for shuffled, room in ((True, 3), (False, 3), (True, 0)):  # without room the rows are one run
            block = Block(real, n, LOSSES[name].targets, shuffled=shuffled, option=option, room=room)
            block.run(loss.elementwise_loss, name)
            block.check(name, option)


@every_real
def test_rows_of_four_add_up_as_any_do(real):
    """To the same bits as rows of whole vectors, which are added up by sixteens."""
    results = []
    for columns in (4, 16):
        block = Block(real, 4, "real")
        block.op["columns"] = columns
        block.run(loss.elementwise_loss, "mean_squared_error")
        results.append(block.dz.array[1:-1, :4].tobytes() + block.row_losses.array[4:10].tobytes())
    assert results[0] == results[1]


@every_real
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("targets", ["classes", "probabilities"])
def test_softmax_loss(targets, smoothing, real):
    for n in (2, 3, 15, 16, 17, 40, 300):
        for shuffled in (True, False):
            block = Block(real, n, targets, shuffled=shuffled, option=smoothing)
            block.run(loss.softmax_loss, targets)
            block.check("softmax_cross_entropy", smoothing)


@every_real
def test_classes_and_their_probabilities_give_the_same_bits(real):
    results = []
    for targets in ("classes", "probabilities"):
        block = Block(real, 7, "classes", option=0.1)
        if targets == "probabilities":
            block.ctx["targets"] = np.eye(7, dtype=real)[block.targets]
        block.run(loss.softmax_loss, targets)
        results.append(block.dz.array[1:-1, :7].tobytes() + block.row_losses.array[4:10].tobytes())
    assert results[0] == results[1]


@every_real
@pytest.mark.parametrize("scale", [300.0, 1e30])
@pytest.mark.parametrize("targets", ["classes", "probabilities"])
def test_softmax_loss_of_extreme_logits_is_finite(targets, scale, real):
    block = Block(real, 5, targets, scale=scale)
    block.run(loss.softmax_loss, targets)
    assert np.isfinite(block.row_losses.array[4:10]).all()
    assert np.isfinite(block.dz.array[1:-1, :5]).all()
    block.check("softmax_cross_entropy", 0.0)


@every_real
def test_softmax_loss_of_nan_is_nan(real):
    block = Block(real, 5, "classes")
    block.z.array[2, 3] = np.nan
    block.run(loss.softmax_loss, "classes")
    assert np.isnan(block.row_losses.array[5])
    assert np.isnan(block.dz.array[2, :5]).all()
    assert np.isfinite(block.row_losses.array[[4, 6, 7, 8, 9]]).all()


def run_link(name, block):
    if LOSSES[name].rowwise:
        block.run(loss.softmax_link)
    else:
        block.run(loss.elementwise_link, name)


@pytest.mark.parametrize(("name", "real"), cases(LOSSES))
def test_link(name, real):
    for n in (2, 16, 17, 40):
        block = Block(real, n, "real")
        logits = block.logits
        run_link(name, block)
        # Outputs stand where the rows come in the order, which is the data's own when predicting.
        expected = reference.LOSSES[name][2](logits)
        tolerance = 20 * np.finfo(real).eps
        np.testing.assert_allclose(block.outputs.array[7:13], expected, rtol=tolerance, atol=tolerance)
        assert np.isnan(np.delete(block.outputs.array, np.s_[7:13], axis=0)).all()


@every_real
def test_copy_outputs(real):
    block = Block(real, 17, "real")
    block.run(loss.copy_outputs)
    assert np.array_equal(block.outputs.array[7:13], block.z.array[1:-1, :17])
    assert np.isnan(np.delete(block.outputs.array, np.s_[7:13], axis=0)).all()
