"""The matrix product through its address: against NumPy, and bit for bit against fma in plain Python."""

from types import SimpleNamespace

import numpy as np
import pytest

from fastbp.cpu import gemm
from fastbp.cpu.machine import this_machine
from fastbp.formulas.elementary import fma
from tests.cpu.kernels import REALS, Guarded, in_panels, run, whole_vectors

every_real = pytest.mark.parametrize("real", REALS)
EDGES = (1, 2, 3, 7, 8, 9, 16, 17, 24, 25, 31, 33, 47, 48, 49, 65, 70)
LONG = gemm.K_BLOCK + 1, 2 * gemm.K_BLOCK, 2 * gemm.K_BLOCK + 77


def sizes():
    """Every m and k up to 70, every edge of n, and some k beyond the block."""
    draw = np.random.default_rng(0)
    for size in range(1, 71):
        yield size, int(draw.choice(EDGES)), int(draw.integers(1, 71))
        yield int(draw.integers(1, 30)), int(draw.choice(EDGES)), size
    for n in (*EDGES, 200):
        yield int(draw.integers(1, 30)), n, int(draw.integers(1, 71))
    for k in LONG:
        yield 5, 3, k
        yield 13, 70, k


def multiply(
    real, a, b, c0, *, packed, transposed=False, scattered="no", room=5, bias_behind=False, ones=False
):
    """C from the kernel; B (k, n) is padded to whole vectors, rows of C lie `room` elements apart.

    With `bias_behind`, c0 is one row more of B rather than a vector of its own; with `ones` A has a last row
    of ones; with `scattered` its rows or steps lie in some order, each behind three other elements.
    """
    (m, k), n, size = a.shape, whole_vectors(b.shape[1], real), np.dtype(real).itemsize
    a = np.asfortranarray(a) if transposed else np.ascontiguousarray(a)
    c0_memory = np.zeros(n, real)
    c0_memory[: len(c0)] = c0
    rows_of_b = np.vstack([b, c0]) if bias_behind else b
    padded = np.zeros((len(rows_of_b), n), real)
    padded[:, : b.shape[1]] = rows_of_b
    b_memory = in_panels(rows_of_b, real) if packed else padded
    c = Guarded((m + ones, n + room), real, value=-77.0)
    op = dict(
        m=m, n=n, k=k, a=a, a_row=a.strides[0], a_step=a.strides[1], b=b_memory,
        b_panel=len(rows_of_b) * size if packed else size, b_step=0 if packed else n * size,
        c0=0 if bias_behind else c0_memory, c=c.array, c_row=c.array.strides[0],
        one=np.ones(1, real) if ones else 0,
    )  # fmt: skip
    if scattered != "no":
        _memory, fields = spread(a if scattered == "rows" else a.T, scattered)
        op |= fields
    run(gemm.matrix_product, scattered, "asks" if (m + k) % 2 else "does not ask", real, op=op)
    c.assert_intact()
    assert (c.array[:, n:] == -77).all(), "written between the rows of C"
    return c.array[:, : b.shape[1]]


def spread(rows, scattered):
    """(memory, fields) of an A, or with "steps" its transpose, whose rows lie anywhere in the memory."""
    n, width, size = *rows.shape, rows.itemsize
    order = np.random.default_rng(n).permutation(n)
    memory = np.full((n, width + 5), np.nan, rows.dtype)
    memory[order, 3 : 3 + width] = rows
    table = memory.ctypes.data + order * memory.strides[0]
    strides = dict(a_row=8, a_step=size) if scattered == "rows" else dict(a_row=size, a_step=8)
    return memory, dict(a=table, a_at=3 * size, **strides)


def draw_operands(m, n, k, real, seed):
    """a (m, k), b (k, n), c0 (n,)."""
    draw = np.random.default_rng(seed)
    return tuple(draw.normal(size=shape).astype(real) for shape in ((m, k), (k, n), n))


@every_real
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "unpacked"])
@pytest.mark.parametrize("transposed", [True, False], ids=["transposed", "straight"])
def test_against_numpy(real, packed, transposed):
    for m, n, k in sizes():
        a, b, c0 = draw_operands(m, n, k, real, seed=m * n + k)
        got = multiply(real, a, b, c0, packed=packed, transposed=transposed)
        a, b, c0 = (operand.astype(np.float64) for operand in (a, b, c0))
        bound = (k + 1) * np.finfo(real).eps * (np.abs(a) @ np.abs(b) + np.abs(c0))  # Higham (3.5)
        assert (np.abs(got - (a @ b + c0)) <= bound).all(), (m, n, k)


@every_real
@pytest.mark.parametrize("k", [1, 2, 7, gemm.K_BLOCK + 3])
def test_every_element_is_one_chain_of_fused_multiply_adds(real, k):
    m, n = 3, 5
    a, b, c0 = draw_operands(m, n, k, real, seed=k)
    expected = np.empty((m, n), real)
    for i in range(m):
        for j in range(n):
            total = c0[j]
            for step in range(k):
                total = fma(a[i, step], b[step, j], total)
            expected[i, j] = total
    for packed in (True, False):
        got = multiply(real, a, b, c0, packed=packed)
        assert got.tobytes() == expected.tobytes()


@every_real
def test_an_element_does_not_depend_on_what_stands_beside_it(real):
    a, b, c0 = draw_operands(40, 70, 30, real, seed=1)
    whole = multiply(real, a, b, c0, packed=True)
    for rows in (1, 2, 3, 5, 7, 8, 11):
        for columns in (1, 17, 33, 49):
            part = multiply(real, a[:rows], b[:, :columns], c0[:columns], packed=columns % 2 == 0)
            assert np.array_equal(part, whole[:rows, :columns])


@every_real
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "unpacked"])
@pytest.mark.parametrize("k", [1, 9, gemm.K_BLOCK, gemm.K_BLOCK + 9])
def test_starts_from_the_row_behind_b(real, packed, k):
    for n in (1, 16, 40, 70):
        operands = draw_operands(21, n, k, real, seed=n)
        expected = multiply(real, *operands, packed=packed)
        assert np.array_equal(multiply(real, *operands, packed=packed, bias_behind=True), expected)


@every_real
@pytest.mark.parametrize("k", [1, 9, gemm.K_BLOCK + 9])
def test_a_row_of_ones(real, k):
    for m in (1, 2, 7, 8, 9, 16, 21):
        for n in (1, 3, 16, 70):
            a, b, c0 = draw_operands(m, n, k, real, seed=m + n)
            expected = multiply(real, np.vstack([a, np.ones((1, k), real)]), b, c0, packed=True)
            assert np.array_equal(multiply(real, a, b, c0, packed=True, transposed=True, ones=True), expected)


@every_real
@pytest.mark.parametrize("scattered", ["rows", "steps"])
def test_scattered_rows_and_steps(real, scattered):
    """To the bits of those side by side."""
    for m, n, k in sizes():
        operands = draw_operands(m, n, k, real, seed=m + n + k)
        for ones in (False, True) if scattered == "steps" else (False,):
            expected = multiply(real, *operands, packed=True, ones=ones)
            got = multiply(real, *operands, packed=True, scattered=scattered, ones=ones)
            assert got.tobytes() == expected.tobytes(), (m, n, k)


@every_real
def test_every_height_and_width_of_tile_is_met(real):
    machine = this_machine()
    heights = {min(m, most) for m, _, _ in sizes() for most in machine.tile_rows}
    widths = {whole_vectors(n, real) % machine.panel(real) or machine.panel(real) for _, n, _ in sizes()}
    assert heights == set(range(1, max(machine.tile_rows) + 1))
    assert widths == {columns for columns, _, _ in machine.tiles(real)}


def tiles_of(monkeypatch, real, **fields):
    """What a product that asks ahead does: [(lines of B that a tile reads, lines that it asks for)].

    Its own code, run as Python, with a tile that only writes down what it is called with.
    """
    tiles, size = [], np.dtype(real).itemsize

    def tile(rows, columns, a, a_at, a_row, a_step, one, b, b_step, c0, c0_row, c, c_row, k, ahead, step):
        read = {
            at // 64 for i in range(k) for at in range(b + i * b_step, b + i * b_step + columns * size, 16)
        }
        tiles.append((read, {(ahead + i * step) // 64 for i in range(k)}))

    monkeypatch.setattr(gemm, "tile", lambda *_: tile)
    monkeypatch.setattr(gemm, "kernel", lambda function: function)
    of_a, of_c = dict(a=1 << 40, a_at=0, a_row=8, a_step=8, one=0), dict(c0=1 << 41, c=1 << 42, c_row=8)
    of_b, of_ahead = dict(b=1 << 30, b_step=0), dict(ahead=0, also=0, also_apart=0, also_parts=0)
    op = SimpleNamespace(**(of_a | of_b | of_c | of_ahead | fields))
    gemm.matrix_product("no", "asks", real)(op, None)
    return tiles


@every_real
@pytest.mark.parametrize(("m", "n", "k"), [(128, 320, 300), (48, 96, 700), (56, 112, 64)])
def test_the_next_panel_is_asked_for_while_one_is_multiplied(monkeypatch, real, m, n, k):
    tiles = tiles_of(monkeypatch, real, m=m, n=n, k=k, b_panel=(k + 1) * np.dtype(real).itemsize)
    first, asked, read, surprises = tiles[0][0], set(), set(), 0
    for needs, asks in tiles:
        surprises += len(needs - read - asked - first)
        read |= needs
        asked |= asks
    assert len(read) > 4 / 3 * len(first)
    assert surprises <= len(read) // 50, "more than the lines that hold an end and a beginning"
    assert len(asked - read) <= len(read) // 4, "asked for more than is needed"


@every_real
@pytest.mark.parametrize(("m", "n", "k"), [(97, 48, 128), (96, 16, 600), (480, 128, 300)])
@pytest.mark.parametrize("parts", [2, 4])
def test_all_that_comes_next_is_asked_for_once(monkeypatch, real, m, n, k, parts):
    """Whole stretches, evenly: no tile asks for much more than its share."""
    stretch, apart = m * 160, 1 << 24
    ahead = dict(ahead=1 << 34, ahead_bytes=stretch, ahead_parts=2, arena_bytes=apart)
    ahead |= dict(also=1 << 35, also_parts=parts - 2, also_apart=2 * apart)
    tiles = tiles_of(monkeypatch, real, m=m, n=n, k=k, b_panel=np.dtype(real).itemsize, b_step=8 * n, **ahead)
    starts = [1 << 34, (1 << 34) + apart, 1 << 35, (1 << 35) + 2 * apart]
    wanted = {(start + at) // 64 for start in starts[:parts] for at in range(0, stretch, 64)}
    asked = [asks for _, asks in tiles]
    assert len(wanted - set().union(*asked)) <= len(wanted) // 20
    assert sum(map(len, asked)) <= 1.5 * len(wanted) + len(asked)
    assert max(map(len, asked)) <= 3 * len(wanted) / len(asked) + 2
