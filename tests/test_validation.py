import decimal
import fractions
import os
import pathlib
import types

import numpy as np
import pytest
import scipy.sparse

from fastbp import sparse, validation
from fastbp.formulas.activations import ACTIVATIONS
from fastbp.formulas.losses import LOSSES
from fastbp.initializers import INITIALIZERS
from tests.samples import Frame, read_only

F4, F8 = np.dtype("float32"), np.dtype("float64")
NAN, INF = float("nan"), float("inf")
REAL, CLASSES = LOSSES["mean_squared_error"], LOSSES["softmax_cross_entropy"]
BINARY, COUNT, SIGN = LOSSES["binary_cross_entropy"], LOSSES["poisson"], LOSSES["hinge"]

TABLE = np.array([[1.0, 0.0], [3.0, 2.0], [5.0, 4.0]])


def unaligned(a):
    bytes_ = np.zeros(a.nbytes + 1, np.uint8)
    out = bytes_[1:].view(a.dtype).reshape(a.shape)
    out[:] = a
    assert not out.flags.aligned
    return out


LAYOUTS = {
    "list": lambda a: a.tolist(),
    "tuple of arrays": lambda a: tuple(a),
    "float64": lambda a: a,
    "float32": lambda a: a.astype(np.float32),
    "float16": lambda a: a.astype(np.float16),
    "longdouble": lambda a: a.astype(np.longdouble),
    "int8": lambda a: a.astype(np.int8),
    "uint64": lambda a: a.astype(np.uint64),
    "big-endian": lambda a: a.astype(">f4"),
    "big-endian integers": lambda a: a.astype(">i8"),
    "Fortran": np.asfortranarray,
    "strided": lambda a: np.repeat(np.repeat(a, 2, axis=0), 3, axis=1)[::2, ::3],
    "reversed": lambda a: a[::-1].copy()[::-1],
    "read-only": read_only,
    "unaligned": unaligned,
    "object": lambda a: a.astype(object),
    "objects of every kind": lambda a: np.array(
        [[1, np.False_], [decimal.Decimal(3), np.float32(2)], [fractions.Fraction(5), 4.0]], object
    ),
    "matrix": lambda a: np.asmatrix(a),
    "unmasked": np.ma.masked_array,
    "frame": Frame,
    "memoryview": memoryview,
    "sparse rows": scipy.sparse.csr_matrix,
    "sparse columns of integers": lambda a: scipy.sparse.csc_array(a.astype(np.int8)),
    "sparse triples": lambda a: scipy.sparse.coo_array(a.astype(np.float32)),
}


def assert_kernel_form(a, dtype):
    assert type(a) is np.ndarray
    assert a.dtype == dtype
    assert a.dtype.isnative
    assert a.flags.c_contiguous
    assert a.flags.aligned


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("dtype", [F4, F8])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_inputs_of_every_layout(layout, dtype):
    given = LAYOUTS[layout](TABLE)
    x = validation.inputs(given, 2, dtype)
    assert_kernel_form(x, dtype)
    assert np.array_equal(x, TABLE)


@pytest.mark.parametrize("make", [read_only, np.asarray])
def test_arrays_in_the_right_form_are_not_copied(make):
    x = make(TABLE.astype(np.float32))
    assert np.shares_memory(validation.inputs(x, 2, F4), x)


def test_a_memory_mapped_file_is_not_copied(tmp_path):
    TABLE.astype(np.float32).tofile(tmp_path / "x")
    for mode in ("r", "r+", "c"):
        x = np.memmap(tmp_path / "x", np.float32, mode, shape=TABLE.shape)
        assert np.shares_memory(validation.inputs(x, 2, F4), x)
        y = np.memmap(tmp_path / "x", np.float32, mode, shape=TABLE.shape)
        assert np.shares_memory(validation.targets(y, 3, 2, REAL, F4), y)


def test_sparse_rows_come_in_pieces(monkeypatch):
    monkeypatch.setattr(sparse, "_BLOCK", 7)
    a = np.random.default_rng(0).random((50, 3)) * (np.random.default_rng(1).random((50, 3)) < 0.3)
    assert np.array_equal(validation.inputs(scipy.sparse.csr_array(a), 3, F8), a)
    assert np.array_equal(validation.targets(scipy.sparse.csr_array(a), 50, 3, REAL, F8), a)
    a[40, 2] = np.nan
    with pytest.raises(ValueError, match="x must be finite; row 40, column 2 is nan"):
        validation.inputs(scipy.sparse.csr_array(a), 3, F8)
    with pytest.raises(ValueError, match=r"x must have shape \(n, 4\); got \(50, 3\)"):
        validation.inputs(scipy.sparse.csr_array(a), 4, F8)
    with pytest.raises(TypeError, match="real numbers; got a sparse one of complex128"):
        validation.inputs(scipy.sparse.csr_array(a * 1j), 3, F8)


def test_inputs_booleans():
    assert validation.inputs([[True, False]], 2, F4).tolist() == [[1, 0]]


def test_inputs_frames_of_pandas():
    pandas = pytest.importorskip("pandas")
    mixed = pandas.DataFrame({"a": [1, 3, 5], "b": [0.0, 2.0, 4.0]})
    assert np.array_equal(validation.inputs(mixed, 2, F4), TABLE)
    assert np.array_equal(validation.inputs(mixed.astype({"a": "Int64"}), 2, F4), TABLE)
    assert np.array_equal(validation.inputs(mixed["a"], 1, F4), TABLE[:, :1])
    with pytest.raises(TypeError, match="row 1, column 0 is a NAType"):
        validation.inputs(pandas.DataFrame({"a": pandas.array([1, None], "Int64"), "b": [1, 2]}), 2, F4)
    with pytest.raises(TypeError, match="row 0, column 1 is 'red'"):
        validation.inputs(pandas.DataFrame({"a": [1], "b": ["red"]}), 2, F4)
    assert validation.targets(pandas.Series([2, 0]), 2, 3, CLASSES, F4).tolist() == [2, 0]
    assert validation.targets(pandas.DataFrame({"y": [2, 0]}), 2, 3, CLASSES, F4).tolist() == [2, 0]


@pytest.mark.parametrize("dtype", [F4, F8])
def test_inputs_that_are_right_are_not_copied(dtype):
    x = TABLE.astype(dtype)
    assert validation.inputs(x, 2, dtype) is x
    column = x[:, 0].copy()
    assert np.shares_memory(validation.inputs(column, 1, dtype), column)
    assert np.shares_memory(validation.inputs(x[0], 2, dtype, row=True), x)


def test_inputs_one_dimensional():
    assert validation.inputs([1, 2, 3], 1, F4).shape == (3, 1)
    assert validation.inputs([1, 2, 3], 1, F4, row=True).shape == (3, 1)
    assert validation.inputs([1, 2, 3], 3, F4, row=True).tolist() == [[1, 2, 3]]
    with pytest.raises(ValueError, match=r"shape \(n, 3\); got \(3,\); one row is x\[None, :\]"):
        validation.inputs([1, 2, 3], 3, F4)


MASKED = np.ma.masked_array(TABLE, mask=TABLE == 3)
RAGGED = [[1, 2], [3]]

BAD_INPUTS = [
    ([], ValueError, r"at least one row and one column; got shape \(0,\)"),
    (np.empty((0, 2)), ValueError, r"at least one row and one column; got shape \(0, 2\)"),
    (np.empty((3, 0)), ValueError, r"at least one row and one column; got shape \(3, 0\)"),
    (np.zeros((3, 3)), ValueError, r"x must have shape \(n, 2\); got \(3, 3\)"),
    (np.zeros((3, 2, 1)), ValueError, r"x must have shape \(n, 2\); got \(3, 2, 1\)"),
    (np.zeros(3), ValueError, r"x must have shape \(n, 2\); got \(3,\)$"),
    (3.0, ValueError, r"x must have shape \(n, 2\); got \(\)"),
    (RAGGED, ValueError, "rows are equally long; got a list"),
    (np.array([[1, 2], [3]], object), TypeError, "x must hold real numbers; row 0 is a list"),
    ([["1", "2"]], TypeError, "x must hold real numbers; got text"),
    ([[b"1", b"2"]], TypeError, "got bytes"),
    ([[1, "2"]], TypeError, "got text"),
    (np.array([[1, "2"]], object), TypeError, "row 0, column 1 is '2'"),
    ([[1, None]], TypeError, "row 0, column 1 is None"),
    ([[1, 2j]], TypeError, "got complex numbers"),
    (np.array([[1, 2j]], object), TypeError, "row 0, column 1 is 2j"),
    (np.zeros((2, 2), "datetime64[s]"), TypeError, "got dates"),
    (np.zeros((2, 2), "timedelta64[s]"), TypeError, "got durations"),
    (np.zeros(2, [("a", "f4"), ("b", "f4")]), TypeError, "got .*'a'"),
    (None, TypeError, "x must be a table of real numbers; got None"),
    ({"a": 1}, TypeError, "x must be a table of real numbers; got a dict"),
    (iter([[1, 2]]), TypeError, "x must be a table of real numbers; got a list_iterator"),
    (MASKED, ValueError, "x must have no masked elements"),
    ([[1, 2], [3, NAN]], ValueError, "x must be finite; row 1, column 1 is nan"),
    ([[1, 2], [-INF, NAN]], ValueError, "x must be finite; row 1, column 0 is -inf"),
    (np.array([[1, 2], [NAN, 3]], object), ValueError, "x must be finite; row 1, column 0 is nan"),
    (np.asfortranarray([[1, 2], [NAN, 3], [4, INF]]), ValueError, "row 1, column 0 is nan"),
    ([[0, 1e39]], ValueError, "x overflows float32; row 0, column 1 is 1e[+]39"),
    (np.array([[0, 10**400]], object), ValueError, "x overflows float64; row 0, column 1 is 1000"),
]


@pytest.mark.parametrize(("x", "error", "message"), BAD_INPUTS)
def test_inputs_refuses(x, error, message):
    with pytest.raises(error, match=message) as caught:
        validation.inputs(x, 2, F4)
    assert "\n" not in str(caught.value)


def test_inputs_overflow_is_the_networks():
    assert validation.inputs([[1e39]], 1, F8)[0, 0] == 1e39
    assert validation.inputs([[3.4e38, 1e-300]], 2, F4)[0, 1] == 0  # too small is no error


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("at", [0, validation._BLOCK - 1, validation._BLOCK, 3 * validation._BLOCK + 9])
def test_inputs_finds_the_first_bad_element_in_any_block(at, value):
    x = np.zeros((validation._BLOCK // 2 + 5, 7), np.float32)
    x.reshape(-1)[at] = value
    x[-1, -1] = NAN
    with pytest.raises(ValueError, match=f"row {at // 7}, column {at % 7} is {value}"):
        validation.inputs(x, 7, F4)


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_targets_of_every_layout(layout):
    y = validation.targets(LAYOUTS[layout](TABLE), 3, 2, REAL, F4)
    assert_kernel_form(y, F4)
    assert np.array_equal(y, TABLE)


@pytest.mark.parametrize("y", [[1, 2, 3], [[1], [2], [3]]])
@pytest.mark.parametrize("loss", [REAL, COUNT])
def test_targets_of_one_output(y, loss):
    assert validation.targets(y, 3, 1, loss, F8).tolist() == [[1], [2], [3]]


def test_targets_that_are_right_are_not_copied():
    y = TABLE.astype(F4)
    assert validation.targets(y, 3, 2, REAL, F4) is y
    labels = np.array([0, 1, 1])
    assert np.shares_memory(validation.targets(labels, 3, 2, CLASSES, F4), labels)


@pytest.mark.parametrize(
    "y",
    [
        [0, 2, 1],
        [[0], [2], [1]],
        [0.0, 2.0, 1.0],
        np.array([0, 2, 1], np.uint8),
        np.array([0, 2, 1], ">i4"),
        np.array([0, 2, 1], np.uint64),
        np.array([0, 2, 1], object),
        np.array([0, 9, 2, 9, 1])[::2],
        read_only(np.array([0, 2, 1])),
    ],
)
def test_targets_classes(y):
    labels = validation.targets(y, 3, 3, CLASSES, F4)
    assert_kernel_form(labels, np.int64)
    assert labels.tolist() == [0, 2, 1]


def test_targets_booleans_are_two_classes():
    assert validation.targets([True, False], 2, 2, CLASSES, F4).tolist() == [1, 0]
    with pytest.raises(TypeError, match="classes from 0 to 2; got True and False"):
        validation.targets([True, False], 2, 3, CLASSES, F4)
    with pytest.raises(TypeError, match="classes from 0 to 2; got True and False"):
        validation.targets(np.array([True, False], object), 2, 3, CLASSES, F4)


@pytest.mark.parametrize("y", [[[0.25, 0.75], [1, 0]], [[0, 1], [1, 0]], [[True, False], [False, True]]])
def test_targets_probabilities(y):
    p = validation.targets(y, 2, 2, CLASSES, F4)
    assert_kernel_form(p, F4)
    assert np.array_equal(p, np.array(y, np.float32))
    assert validation.targets([[0.25, 0.750009]], 1, 2, CLASSES, F8).shape == (1, 2)


BAD_TARGETS = [
    # y, rows, outputs, loss, error, message
    ([0, 3, 1], 3, 3, CLASSES, ValueError, "y must hold classes from 0 to 2; row 1 is 3"),
    ([0, -1, 9], 3, 3, CLASSES, ValueError, "row 1 is -1"),
    (np.array([0, 2**63], np.uint64), 2, 3, CLASSES, ValueError, "row 1 is 9223372036854775808"),
    ([0, 0.5, 9], 3, 3, CLASSES, ValueError, "which are integers; row 1 is 0.5"),
    ([0, 1e300], 2, 3, CLASSES, ValueError, r"row 1 is 1e\+300"),
    ([0, NAN], 2, 3, CLASSES, ValueError, "row 1 is nan"),
    ([0, INF], 2, 3, CLASSES, ValueError, "row 1 is inf"),
    (["a", "b"], 2, 3, CLASSES, TypeError, "y must hold integer classes from 0 to 2; got text"),
    ([0, None], 2, 3, CLASSES, TypeError, "integer classes from 0 to 2; row 1 is None"),
    ([0, 0], 2, 1, CLASSES, ValueError, "at least 2 outputs; got 1"),
    (
        [[0, 1], [1, 0]],
        2,
        3,
        CLASSES,
        ValueError,
        r"shape \(2,\) or probabilities of shape \(2, 3\); got \(2, 2",
    ),
    ([[0.5, 0.4]], 1, 2, CLASSES, ValueError, "rows of y must sum to 1; row 0 is 0.9"),
    ([[1, 0], [1.5, -0.5]], 2, 2, CLASSES, ValueError, "probabilities, at least 0; row 1, column 1 is -0.5"),
    ([[NAN, 1]], 1, 2, CLASSES, ValueError, "y must be finite; row 0, column 0 is nan"),
    ([1, 2], 3, 1, REAL, ValueError, r"as many rows as x, 3; got shape \(2,\)"),
    ([], 3, 1, REAL, ValueError, r"as many rows as x, 3; got shape \(0,\)"),
    (1.0, 1, 1, REAL, ValueError, r"as many rows as x, 1; got shape \(\)"),
    ([1.0, 2, 3], 3, 2, REAL, ValueError, r"y must have shape \(3, 2\); got \(3,\)$"),
    ([1, 2, 3], 3, 2, REAL, ValueError, r'; got \(3,\); for classes the network needs loss="softmax_'),
    (TABLE[..., None], 3, 2, REAL, ValueError, r"y must have shape \(3, 2\); got \(3, 2, 1\)"),
    ([1, NAN], 2, 1, REAL, ValueError, "y must be finite; row 1, column 0 is nan"),
    ([1, 1e39], 2, 1, REAL, ValueError, "y overflows float32; row 1"),
    (["1", "2"], 2, 1, REAL, TypeError, "y must hold real numbers; got text"),
    ([1, 2j], 2, 1, REAL, TypeError, "got complex"),
    (RAGGED, 2, 2, REAL, ValueError, "equally long"),
    ([0, 1.01], 2, 1, BINARY, ValueError, "between 0 and 1 for this loss; row 1, column 0 is 1.01"),
    ([0, -0.01], 2, 1, BINARY, ValueError, "between 0 and 1 .* is -0.01"),
    ([0, -1], 2, 1, COUNT, ValueError, "at least 0 for this loss; row 1, column 0 is -1"),
    ([1, 0], 2, 1, SIGN, ValueError, r"-1 or \+1 for this loss; row 1, column 0 is 0"),
    ([1, 2], 2, 1, SIGN, ValueError, r"row 1, column 0 is 2"),
]


@pytest.mark.parametrize(("y", "rows", "outputs", "loss", "error", "message"), BAD_TARGETS)
def test_targets_refuses(y, rows, outputs, loss, error, message):
    with pytest.raises(error, match=message) as caught:
        validation.targets(y, rows, outputs, loss, F4)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("y", "loss"),
    [([0, 1, 0.5], BINARY), ([0, 0.5, 1e6], COUNT), ([-1, 1, 1.0], SIGN), ([True, False, True], BINARY)],
)
def test_targets_at_their_bounds(y, loss):
    assert np.array_equal(validation.targets(y, 3, 1, loss, F8)[:, 0], y)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_every_kind_of_targets_is_known(loss):
    assert loss.targets in {"real", "classes", *validation._TARGETS}


def test_targets_kinds_are_all_used():
    kinds = {loss.targets for loss in LOSSES.values()}
    assert set(validation._TARGETS) <= kinds


KNOWN = {"relu": 1, "leaky_relu": 2, "mean_squared_error": 3, "tanh": 4}


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("rleu", "relu"), ("ReLU", "relu"), ("mse", "mean_squared_error"), ("leakyrelu", "leaky_relu")],
)
@pytest.mark.parametrize("others", [{}, {"_mine": 5, "a__b": 6, "": 7}])
def test_known_name_suggests(name, nearest, others):
    with pytest.raises(ValueError, match=f"unknown loss '{name}': did you mean '{nearest}'"):
        validation.known_name("loss", name, KNOWN | others)


@pytest.mark.parametrize(
    ("name", "ours", "table"),
    [
        ("linear", "identity", ACTIVATIONS), ("swish", "silu", ACTIVATIONS),
        ("logistic", "sigmoid", ACTIVATIONS), ("xavier_uniform", "glorot_uniform", INITIALIZERS),
        ("kaiming_normal", "he_normal", INITIALIZERS), ("cross_entropy", "softmax_cross_entropy", LOSSES),
        ("gpu", "cuda", ("cpu", "cuda")),
    ],
)  # fmt: skip
def test_known_name_knows_what_others_call_it(name, ours, table):
    with pytest.raises(ValueError, match=f"did you mean '{ours}'"):
        validation.known_name("name", name, table)


def test_softmax_is_the_losses():
    with pytest.raises(ValueError, match="the loss 'softmax_cross_entropy' applies it itself"):
        validation.known_name("activation", "softmax", ACTIVATIONS)


def test_what_is_not_alike_is_not_suggested():
    with pytest.raises(ValueError, match="unknown activation 'winnow': known are identity, "):
        validation.known_name("activation", "winnow", ACTIVATIONS)


@pytest.mark.parametrize(("value", "error"), [(7, TypeError), (None, TypeError), ("", ValueError)])
def test_path(value, error):
    with pytest.raises(error, match=r"^folder must be a path"):
        validation.path("folder", value)
    assert validation.path("folder", pathlib.Path("a") / "b") == os.path.join("a", "b")


def test_known_name():
    assert validation.known_name("loss", "tanh", KNOWN) == "tanh"
    with pytest.raises(
        ValueError, match="unknown loss 'zzz': known are relu, leaky_relu, mean_squared_error, tanh"
    ):
        validation.known_name("loss", "zzz", KNOWN)
    for value in (None, 3, len, ["relu"]):
        with pytest.raises(TypeError, match="loss must be a name such as 'relu'; got"):
            validation.known_name("loss", value, KNOWN)


@pytest.mark.parametrize("value", [1, np.int8(1), np.uint64(1), types.SimpleNamespace])
def test_positive_integer(value):
    if value is types.SimpleNamespace:
        value = type("Index", (), {"__index__": lambda self: 1})()
    number = validation.positive_integer("epochs", value)
    assert (number, type(number)) == (1, int)


@pytest.mark.parametrize(
    ("value", "error", "got"),
    [
        (0, ValueError, "0"),
        (-3, ValueError, "-3"),
        (2**31, ValueError, "2147483648"),
        (1.0, TypeError, "1.0"),
        (True, TypeError, "True"),
        (np.True_, TypeError, "True"),
        ("1", TypeError, "'1'"),
        (None, TypeError, "None"),
        (np.ones(2), TypeError, r"a ndarray of shape \(2,\)"),
    ],
)
def test_positive_integer_refuses(value, error, got):
    message = f"^epochs must be an integer at least 1 and at most 2147483647; got {got}$"
    with pytest.raises(error, match=message):
        validation.positive_integer("epochs", value)


def test_integer_bounds():
    assert validation.integer("n", -5) == -5
    assert validation.integer("n", 3, at_least=3, at_most=3) == 3
    for bound in (dict(at_least=4), dict(at_most=2)):
        with pytest.raises(ValueError, match=r"n must be an integer at .* got 3"):
            validation.integer("n", 3, **bound)


def test_seed():
    assert validation.seed(0) == 0
    assert validation.seed(np.uint64(2**64 - 1)) == 2**64 - 1
    for value, error in ((-1, ValueError), (2**64, ValueError), (1.5, TypeError), (None, TypeError)):
        with pytest.raises(
            error, match="seed must be an integer at least 0 and at most 18446744073709551615; got"
        ):
            validation.seed(value)


@pytest.mark.parametrize("value", [0, 0.5, np.float32(0.5), np.int64(0), fractions.Fraction(1, 2)])
def test_real_number(value):
    number = validation.real_number("momentum", value, at_least=0, below=1)
    assert number == value
    assert type(number) is float


@pytest.mark.parametrize("value", [1, -0.1, NAN, INF, -INF, 10**400])
def test_real_number_out_of_bounds(value):
    with pytest.raises(ValueError, match="momentum must be a finite number at least 0 and below 1; got"):
        validation.real_number("momentum", value, at_least=0, below=1)


@pytest.mark.parametrize("value", ["0.5", None, 1j, True, np.array([0.5])])
def test_real_number_of_the_wrong_kind(value):
    with pytest.raises(TypeError, match="momentum must be a finite number; got"):
        validation.real_number("momentum", value)


def test_real_number_open_and_closed_ends():
    assert validation.real_number("r", 1, at_most=1) == 1
    assert validation.real_number("r", 1, at_least=1) == 1
    for bound in (dict(above=1), dict(below=1), dict(at_least=1.5), dict(at_most=0.5)):
        with pytest.raises(ValueError, match="r must be"):
            validation.real_number("r", 1, **bound)


def test_boolean():
    assert validation.boolean("shuffle", np.True_) is True
    assert validation.boolean("shuffle", False) is False
    for value in (0, "yes", None):
        with pytest.raises(TypeError, match="shuffle must be True or False; got"):
            validation.boolean("shuffle", value)


@pytest.mark.parametrize("value", ["float32", np.float32, "f4", np.dtype(">f4").newbyteorder("="), F4])
def test_real_dtype(value):
    assert validation.real_dtype(value) == F4


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("int32", ValueError),
        ("float16", ValueError),
        (">f4", ValueError),
        ("quux", TypeError),
        (None, TypeError),
    ],
)
def test_real_dtype_refuses(value, error):
    if value == ">f4" and not np.little_endian:
        pytest.skip("that is native here")
    with pytest.raises(error, match='dtype must be "float32" or "float64"; got'):
        validation.real_dtype(value)


def test_layer_name():
    assert validation.layer_name("hidden 1") == "hidden 1"
    for value, error in (("", ValueError), ("a.b", ValueError), (1, TypeError)):
        with pytest.raises(error, match="name must be text"):
            validation.layer_name(value)
