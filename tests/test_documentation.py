"""The reference documentation: every public name says what it takes, gives and raises, and where from.

Docstrings are numpydoc's; no more of its format is read here than is needed to find what is missing.
"""

import ast
import inspect
import re
import textwrap
from dataclasses import is_dataclass

import pytest

import fastbp
from fastbp import compiled, gradient_check, initializers, layers, optimizers, schedules, views
from fastbp.formulas.activations import ACTIVATIONS
from fastbp.formulas.losses import LOSSES

SECTIONS = ("Parameters", "Attributes", "Returns", "Yields", "Raises", "Notes", "References", "Examples")
# What functions return, and docstrings refer to, beside what is in __all__.
OTHERS = [
    views.Layer, compiled.CompiledNetwork, gradient_check.GradientCheck, optimizers.Optimizer,
]  # fmt: skip
# What nobody but `train` makes.
NOT_MADE = [fastbp.Training, fastbp.DivergenceError]


def public_members(module):
    """Functions and classes that are defined in a module and not private, by name."""
    return {
        f"{module.__name__.removeprefix('fastbp.')}.{name}": each
        for name, each in vars(module).items()
        if not name.startswith("_") and getattr(each, "__module__", None) == module.__name__
        and (inspect.isclass(each) or inspect.isfunction(each))
    }  # fmt: skip


def public_names():
    """Everything that has a docstring for users: name -> function, class or property."""
    found = {}
    for name in fastbp.__all__:
        each = getattr(fastbp, name)
        found |= public_members(each) if inspect.ismodule(each) else {name: each}
    found |= {each.__name__: each for each in OTHERS}
    for name, each in list(found.items()):
        if inspect.isclass(each):
            found |= {f"{name}.{member}": value for member, value in members(each).items()}
    return found


def members(cls):
    """Public methods and properties that a class of ours or one of its bases of ours defines."""
    return {
        name: value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
        for base in reversed(cls.__mro__)
        if base.__module__.startswith("fastbp")
        for name, value in vars(base).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or isinstance(value, (property, classmethod, staticmethod)))
    }


PUBLIC = public_names()
FUNCTIONS = {name: each for name, each in PUBLIC.items() if inspect.isfunction(each)}
CLASSES = {name: each for name, each in PUBLIC.items() if inspect.isclass(each)}


def overridden(name):
    """The methods that one overrides: what they document holds for it too."""
    class_name, _, method = name.rpartition(".")
    bases = CLASSES[class_name].__mro__[1:] if class_name in CLASSES else ()
    return [vars(base)[method] for base in bases if method in vars(base)]


def read(docstring):
    """(summary, {section: text}) of a docstring."""
    text = inspect.cleandoc(docstring or "")
    parts = re.split(rf"^({'|'.join(SECTIONS)})\n-+\n", text, flags=re.MULTILINE)
    return parts[0].strip().split("\n\n")[0], dict(zip(parts[1::2], parts[2::2], strict=True))


def entries(section):
    """What a section lists: name -> its type and description."""
    found, names = {}, []
    for line in section.splitlines():
        if line[:1].strip():
            head, _, kind = line.partition(" : ")
            names = [name.strip().lstrip("*") for name in head.split(",")]
            found |= dict.fromkeys(names, kind)
        for name in names:
            found[name] += "\n" + line
    return found


def wanted(function):
    """Names of the parameters that a user gives."""
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def source_of(function):
    """The syntax of a function, without that of the functions in it."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]

    def walk(node):
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, (ast.FunctionDef, ast.Lambda)):
                yield child
                yield from walk(child)

    return list(walk(tree))


def returns_something(function):
    return any(
        isinstance(node, (ast.Return, ast.Yield, ast.YieldFrom)) and getattr(node, "value", None) is not None
        and not (isinstance(node.value, ast.Constant) and node.value.value is None)
        for node in source_of(function)
    )  # fmt: skip


def checks_what_it_is_given(function):
    """Whether it raises, or calls a check, itself."""
    return any(
        isinstance(node, ast.Raise)
        or (isinstance(node, ast.Name) and node.id in ("validation", "checks"))
        or (isinstance(node, ast.Attribute) and node.attr in ("check_data", "_check_weights"))
        for node in source_of(function)
    )


def constructors(cls):
    """What runs when one is made, where that is ours."""
    return [
        vars(base)[name]
        for base in cls.__mro__
        for name in ("__init__", "__post_init__", "__new__")
        if base.__module__.startswith("fastbp") and inspect.isfunction(vars(base).get(name))
        and not (is_dataclass(base) and name == "__init__") and hasattr(vars(base)[name], "__code__")
        and vars(base)[name].__code__.co_filename.endswith(".py")
    ]  # fmt: skip


def missing_of_parameters(documented, names):
    there = entries(documented)
    lacking = [name for name in names if name not in there]
    return [f"says nothing of {name}" for name in lacking] + [
        f"tells of {name}, which is no parameter" for name in there if name not in names
    ]


# A tuple, or a name whose documentation has it.
SHAPE = re.compile(r"\([^()]*[,…][^()]*\)|`")


def arrays_without_a_shape(section):
    """Names in a section that are arrays of nobody knows which shape."""
    return [
        name for name, text in entries(section).items()
        if re.search(r"\barrays?\b", text.split("\n")[0]) and not SHAPE.search(text)
    ]  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC)
def test_has_a_summary(name):
    summary, _ = read(PUBLIC[name].__doc__)
    assert len(summary.split()) >= 2, "no docstring, or none that says anything"
    assert summary[-1] in ".:?", summary


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_tells_what_it_takes_gives_and_raises(name):
    function, sections = FUNCTIONS[name], {}
    for each in [*reversed(overridden(name)), function]:
        sections |= read(each.__doc__)[1]
    wrong = missing_of_parameters(sections.get("Parameters", ""), wanted(function))
    if returns_something(function) and not {"Returns", "Yields"} & set(sections):
        wrong.append("does not say what it returns")
    if checks_what_it_is_given(function) and wanted(function) and "Raises" not in sections:
        wrong.append("does not say what it raises")
    for section in ("Parameters", "Returns"):
        wrong += [
            f"{each} is an array of no shape" for each in arrays_without_a_shape(sections.get(section, ""))
        ]
    assert not wrong


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_tells_what_it_is_made_of(name):
    cls = CLASSES[name]
    _, sections = read(cls.__doc__)
    names = [] if cls in NOT_MADE else list(inspect.signature(cls).parameters)
    if "Parameters" in sections:
        wrong = missing_of_parameters(sections["Parameters"], names)
    else:  # of what users are given, and rarely make
        documented = entries(sections.get("Attributes", ""))
        wrong = [f"says nothing of {each}" for each in names if each not in documented]
    if (
        "Parameters" in sections
        and any(map(checks_what_it_is_given, constructors(cls)))
        and "Raises" not in sections
    ):
        wrong.append("does not say what it raises")
    for section in ("Parameters", "Attributes"):
        wrong += [
            f"{each} is an array of no shape" for each in arrays_without_a_shape(sections.get(section, ""))
        ]
    assert not wrong


# A paper by its year, or the library whose formula it is.
SOURCE = re.compile(r"\b(1[89]|20)\d\d\b|\b(PyTorch|Keras|scikit-learn)['’]?s?\b|\btorch\.optim\b")


def formulas():
    """Where each formula that users choose should say where it is from: name, text."""
    for table in (ACTIVATIONS, LOSSES):
        for name, row in table.items():
            source = inspect.getsource(inspect.getmodule(row.forward))
            yield name, re.search(rf"(?ms)^# {row.forward.__name__}\b.*?^[^#]", source)[0]
    for name, function in initializers.INITIALIZERS.items():
        yield name, function.__doc__
    chosen = [*layers.LAYERS.values(), *optimizers.BY_NAME.values(), fastbp.AnnealedNoise]
    chosen += [each for each in public_members(schedules).values() if "Schedule" not in each.__name__]
    for cls in chosen:
        if inspect.isclass(cls) and cls is not schedules.Plateau:
            yield cls.__name__, cls.__doc__


@pytest.mark.parametrize(("name", "text"), [pytest.param(*each, id=each[0]) for each in formulas()])
def test_a_formula_says_where_it_is_from(name, text):
    assert SOURCE.search(text), text


def test_what_is_missing_is_found():
    """The reader of docstrings itself, on one in which everything is wrong."""

    def bad(x, y, *, how=None):
        """Do.

        Parameters
        ----------
        x : array-like
            Rows.
        z, how : int
        """
        if how:
            raise ValueError(how)
        return x

    summary, sections = read(bad.__doc__)
    assert summary == "Do."
    assert missing_of_parameters(sections["Parameters"], wanted(bad)) == [
        "says nothing of y", "tells of z, which is no parameter"
    ]  # fmt: skip
    assert arrays_without_a_shape(sections["Parameters"]) == ["x"]
    assert returns_something(bad)
    assert checks_what_it_is_given(bad)
    assert entries("x : array (n, 2)\n    Of it.\n**more\n    Else.")["more"] == "\n**more\n    Else."
    assert len(PUBLIC) > 150
    assert {"Network.predict", "datasets.split", "schedules.Cosine", "Layer.arrays"} <= set(PUBLIC)
