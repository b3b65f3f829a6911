"""Every row of the tables and every operation of the CPU has its kernel; all compile for every GPU."""

import ast
import multiprocessing
import re
from pathlib import Path

import pytest

import fastbp
from fastbp import device_program, operations
from fastbp.cuda import assembly, device, inventory, kernels
from fastbp.formulas.activations import ACTIVATIONS
from fastbp.formulas.losses import LOSSES
from fastbp.formulas.optimizers import OPTIMIZERS
from fastbp.formulas.schedules import SCHEDULES

PACKAGE = Path(fastbp.__file__).parent
# Kernels whose arithmetic is float64 even for float32 networks, as on the CPU: settings of an optimizer, sums
# of losses and weights, lengths of gradients and columns.
IN_FLOAT64 = {
    kernels.train_small, kernels.prepare, kernels.end_of_step, kernels.total_weight, kernels.weigh_rows,
    kernels.clip_factor, kernels.noise_of_step, kernels.dense_collect, kernels.dense_max_norm,
    kernels.scale_shift_collect,
}  # fmt: skip
# Kernels of the CPU that have no namesake, and why.
OTHERWISE = {
    "barrier": "launches follow each other", "matrix_product": "gemm.product, inside the kernels of dense",
    "tiny_forward": "dense_forward", "tiny_backward": "dense_backward", "tiny_update": "dense_update",
    "write_order": "shuffle_empty, _draw and _write",
    "activation_forward": "in dense_forward", "scale_shift_update": "scale_shift_apply, from one slot",
    "dense_total": "slots_total", "scale_shift_total": "slots_total", "shape_gradient": "shaping.shape_one",
    "optimizer_prepare": "step.prepare", "scheduled_settings": "step.prepare",
    "dense_forward_in_order": "the gather is cheap", "find_rows": "the gather is cheap",
    "require_finite": "the host checks", "check_rows": "the host checks",
    "dense_pack": "parameters lie as on the host",
    "dense_unpack": "parameters lie as on the host", "scale_shift_pack": "parameters lie as on the host",
    "scale_shift_unpack": "parameters lie as on the host",
    "dense_forward_unpacked": "parameters lie as on the host",
    "scale_shift_shape": "in scale_shift_apply",
}  # fmt: skip


# Of the instructions in a product's inner loop: multiply-adds.
LEAST_SHARE = 0.8


def kernels_of_the_cpu():
    for file in (PACKAGE / "cpu").glob("*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef) and any(
                isinstance(part, ast.Return) and isinstance(part.value, ast.Call)
                and getattr(part.value.func, "id", None) == "kernel" for part in node.body
            ):  # fmt: skip
                yield file.name, node.name


def test_every_kernel_of_the_cpu_is_there():
    found = {(item.factory.__module__.split(".")[-1] + ".py", item.factory.__name__)
             for item in inventory.items("float32")}  # fmt: skip
    kernels = set(kernels_of_the_cpu())
    assert len(kernels) > 30
    assert {(file, name) for file, name in kernels if name not in OTHERWISE} <= found
    assert set(OTHERWISE) <= {name for _, name in kernels}


def test_every_kernel_that_a_plan_may_launch_is_there():
    launched = {value for value in vars(kernels).values() if callable(value)}
    assert launched == {item.factory for item in inventory.items("float64")}
    for item in inventory.items("float64"):
        assert (item.arguments == ()) == (item.factory in kernels.WITHOUT_TYPE), item.name


def test_every_row_of_the_tables_is_there():
    named = {argument for item in inventory.items("float32") for argument in item.arguments}
    rowwise = {name for name, row in LOSSES.items() if row.rowwise}
    assert {*ACTIVATIONS, *(set(LOSSES) - rowwise), *OPTIMIZERS, *SCHEDULES} <= named
    assert set(device_program._KINDS) == {kind for kind in vars(operations).values() if _is_kind(kind)}


def _is_kind(value):
    return (
        isinstance(value, type) and issubclass(value, operations.Operation)
        and value is not operations.Operation and not value.__name__.startswith("_")
    )  # fmt: skip


def test_a_kernel_compiles_without_a_gpu(numba_cuda):
    item = next(
        item for item in inventory.items("float32") if item.name == "dense_forward(relu, small, float32)"
    )
    (ptx,) = device.compile_ptx(item.factory, item.arguments, (9, 0))
    assert_sound(item, ptx, "float32")
    assert "ld.shared.v4.f32" in ptx
    assert "ld.global.v4.f32" in ptx
    assert "st.global.v4.f32" in ptx


def test_products_and_sums_stay_separate(numba_cuda):
    (ptx,) = device.compile_ptx(kernels.layer_norm_forward, ("float32",), (9, 0))
    assert "mul.rn.f32" in ptx
    assert "mul.f32" not in ptx
    assert "add.f32" not in ptx


def assert_sound(item, ptx, real):
    if real == "float32" and item.factory not in IN_FLOAT64:
        assert ".f64" not in ptx, item.name
    assert ".local" not in ptx, item.name
    assert "call" not in ptx.replace(".calltargets", ""), item.name
    assert not re.search(r"\b(atom|red)\.\S*f(16|32|64)\b", ptx), item.name  # sums in no fixed order
    for loose in ("mul.f32", "add.f32", "sub.f32", "mul.f64", "add.f64", "sub.f64", ".approx", ".ftz"):
        assert loose not in ptx, (item.name, loose)


def _check(job):
    """What is wrong with a kernel, for any GPU; in a process of its own."""
    place, real = job
    item, wrong = _jobs(real)[place], []
    try:
        for capability, ptx, found in item.assembled(*assembly.CAPABILITIES):
            assert_sound(item, ptx, real)
            assert (found.stack, found.spills) == (0, 0), found[:4]
            assert found.shared <= 48 * 1024, "what any GPU gives a block unasked"
            assert assembly.occupancy(found, item.threads, capability) > 0
            if item.is_product:
                name = "FFMA" if real == "float32" else "DFMA"
                multiply_adds, all_of_them = assembly.inner_loop(found.sass, name)
                least = LEAST_SHARE * all_of_them
                assert multiply_adds >= least, (capability, multiply_adds, all_of_them)
    except Exception as error:
        wrong.append(f"{item.name}: {error!r}")
    return wrong


def _jobs(real):
    if real == "float32":
        return inventory.items(real)
    several = [item for item in inventory.items(real) if inventory.SEVERAL in item.arguments]
    return inventory.main_items(real) + several


@pytest.mark.slow
@pytest.mark.parametrize("real", ["float32", "float64"])
def test_every_kernel_is_compiled_and_assembled_for_every_gpu(real, numba_cuda):
    jobs = [(place, real) for place in range(len(_jobs(real)))]
    with multiprocessing.get_context("spawn").Pool() as pool:
        wrong = [each for found in pool.map(_check, jobs, chunksize=4) for each in found]
    assert not wrong, "\n".join(wrong)


def test_the_table_has_a_line_for_a_kernel(numba_cuda, monkeypatch):
    names = inventory.main_items("float32")
    some = [names[0], max(names, key=lambda item: len(item.name))]
    monkeypatch.setattr(inventory, "main_items", lambda real: some)
    head, *lines = inventory.table()
    assert head.split()[:2] == ["kernel,", "sm_90"]
    assert [line.startswith(item.name + " ") for line, item in zip(lines, some)] == [True, True]
    for column in ("registers", "shared", "stack", "occupancy"):
        end = head.index(column) + len(column)
        assert all(line[end - 1 : end + 1].strip() in [*"0123456789%"] for line in lines), column


def test_the_inner_loop_is_found():
    sass = """
    .L_x_0:
        /*0000*/   LDS R1 ;
    .L_x_1:
""" + "        /*0010*/   FFMA R1, R2, R3, R1 ;\n" * 90 + """
        /*0020*/   IADD3 R1 ;
        /*0030*/   @P0 BRA `(.L_x_1) ;
        /*0040*/   BRA `(.L_x_0) ;
"""  # fmt: skip
    assert assembly.inner_loop(sass) == (90, 92)
