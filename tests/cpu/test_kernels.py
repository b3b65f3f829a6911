"""What holds for every kernel: it calls nothing that could allocate, wait or round as it likes."""

import inspect
import itertools
import struct
import sys

import pytest
from llvmlite import binding as llvm

from fastbp.cpu import (
    activation,
    batch_norm,
    cache,
    dense,
    dropout,
    elementwise,
    gather,
    gemm,
    layer_norm,
    loss,
    residual,
    scale_shift,
    shaping,
    step,
    team,
    tiny,
)
from fastbp.formulas.activations import ACTIVATIONS
from fastbp.formulas.losses import LOSSES
from fastbp.formulas.optimizers import OPTIMIZERS
from fastbp.formulas.schedules import SCHEDULES
from tests.cpu.kernels import DIFFERENT_OPTIMIZERS, cases

# What a kernel may call beside other kernels. No malloc: a step allocates nothing. No exp, log, tanh: libm
# rounds as it likes. fma and fmaf are exact, and called only on processors without the instruction.
ALLOWED = {"memset", "memcpy", "memmove", "fma", "fmaf", "sched_yield", "SwitchToThread"}

_activations = [name for name in ACTIVATIONS if name != "identity"]
_elementwise = [name for name, row in LOSSES.items() if not row.rowwise]

KERNELS = {
    step.run_epochs: [()],
    step.write_order: [()],
    step.run_section: [()],
    step.end_of_step: [()],
    team.barrier: [()],
    gather.find_rows: [()],
    gather.gather: [()],
    gather.gather_scaled: [("bytes",), ("numbers",)],
    gather.gather_sparse: [("bytes",), ("numbers",)],
    gather.scale_rows: [()],
    gather.require_finite: [()],
    gather.check_rows: [()],
    gemm.matrix_product: list(itertools.product(("no", "rows", "steps"), ("asks", "does not ask"))),
    dense.dense_forward: [()],
    dense.dense_forward_unpacked: [()],
    dense.dense_forward_in_order: [()],
    dense.dense_backward: [()],
    dense.dense_gradient: [()],
    dense.dense_update: [(name,) for name in OPTIMIZERS],
    dense.dense_apply: [(name,) for name in OPTIMIZERS],
    dense.dense_pack: [()],
    dense.dense_unpack: [()],
    dense.dense_total: [()],
    dense.dense_collect: [()],
    dense.dense_max_norm: [()],
    tiny.tiny_forward: [()],
    tiny.tiny_backward: [()],
    tiny.tiny_update: [(name,) for name in OPTIMIZERS],
    shaping.input_noise: [()],
    shaping.shape_gradient: [()],
    shaping.clip_factor: [()],
    dropout.dropout_forward: [()],
    dropout.dropout_backward: [()],
    layer_norm.layer_norm_forward: [()],
    layer_norm.layer_norm_backward: [()],
    batch_norm.batch_norm_statistics: [()],
    batch_norm.batch_norm_running: [()],
    batch_norm.batch_norm_forward: [()],
    batch_norm.batch_norm_backward: [()],
    batch_norm.batch_norm_backward_running: [()],
    scale_shift.scale_shift_gradient: [()],
    scale_shift.scale_shift_update: [(name,) for name in OPTIMIZERS],
    scale_shift.scale_shift_apply: [(name,) for name in OPTIMIZERS],
    scale_shift.scale_shift_pack: [()],
    scale_shift.scale_shift_unpack: [()],
    scale_shift.scale_shift_total: [()],
    scale_shift.scale_shift_collect: [()],
    scale_shift.scale_shift_shape: [()],
    activation.activation_take: [()],
    elementwise.hand_back: [()],
    residual.residual_forward: [()],
    residual.residual_skip_backward: [()],
    elementwise.activation_forward: [(name,) for name in _activations],
    elementwise.activation_backward: [(name,) for name in _activations],
    elementwise.optimizer_prepare: [(name,) for name in OPTIMIZERS],
    elementwise.scheduled_settings: [(name,) for name in SCHEDULES],
    loss.elementwise_loss: [(name,) for name in _elementwise],
    loss.elementwise_link: [(name,) for name in _elementwise],
    loss.softmax_loss: [("classes",), ("probabilities",)],
    loss.softmax_link: [()],
    loss.copy_outputs: [()],
    loss.total_weight: [()],
    loss.weigh_rows: [()],
}
# Of these the optimizers that differ only in a formula are compiled by `-m slow`.
SLOW = {dense.dense_apply, tiny.tiny_update, scale_shift.scale_shift_update, scale_shift.scale_shift_apply}
# Public functions that are not kernels: parts of them, and what Python calls.
PARTS = {
    gemm.fill_strip, elementwise.update_loop, gather.data_row, step.run_operations, step.run_until_given_up,
    step.run_batch, team.wait_for_all, team.function, team.bound, step.share_of_blocks, tiny.is_tiny,
    shaping.add_penalty, shaping.add_squares, shaping.add_scaled, shaping.bound_elements,
    shaping.clear_totals, shaping.noise_of_step, shaping.normal_numbers, shaping.shorten,
    scale_shift.vector_bytes, team.gives_up, team.is_given_up,
    team.start_python_thread,
}  # fmt: skip


def test_every_kernel_is_in_the_list():
    modules = (
        activation, batch_norm, dense, dropout, elementwise, gather, gemm, layer_norm, loss, residual,
        scale_shift, shaping, step, team, tiny,
    )  # fmt: skip
    found = {
        function
        for module in modules
        for name, function in vars(module).items()
        if inspect.isfunction(function)
        and function.__module__ == module.__name__
        and not name.startswith("_")
    }
    assert found - PARTS == set(KERNELS)


@pytest.fixture
def machine_code(monkeypatch):
    """A function that gives the machine code of a kernel, from the cache or compiled."""
    monkeypatch.setattr(cache, "_loaded", {})
    monkeypatch.setattr(cache, "_load", lambda symbol, externals, code: (code, None))
    return cache.address


def undefined_symbols(code):
    """Names that an ELF object (64 bits, little-endian) wants from elsewhere."""
    sections = {s.name(): s.data() for s in llvm.ObjectFileRef.from_data(code).sections()}
    names = set()
    for name, _, _, section, _, _ in struct.iter_unpack("<IBBHQQ", sections[b".symtab"]):
        if section == 0 and name != 0:
            names.add(sections[b".strtab"][name:].split(b"\0", 1)[0].decode())
    return names


def every_kernel():
    """(factory, arguments) of every kernel there is, with slow marks as in `kernels.cases`."""
    for factory, all_arguments in KERNELS.items():
        if "real" not in inspect.signature(factory).parameters:
            for names in all_arguments:
                yield pytest.param(factory, names, id="-".join((factory.__name__, *names)))
            continue
        different = DIFFERENT_OPTIMIZERS if factory in SLOW else None
        for case in cases(all_arguments, different=different):
            names, real = case.values
            name = "-".join((factory.__name__, *names, real))
            yield pytest.param(factory, (*names, real), marks=case.marks, id=name)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads ELF")
@pytest.mark.parametrize(("factory", "arguments"), list(every_kernel()))
def test_calls_nothing_but(factory, arguments, machine_code):
    assert undefined_symbols(machine_code(factory, *arguments)) <= ALLOWED


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads ELF")
def test_undefined_symbols_are_found():
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine()
    module = llvm.parse_assembly(
        "declare double @llvm.exp.f64(double) define double @f(double %x) "
        "{ %y = call double @llvm.exp.f64(double %x) ret double %y }"
    )
    assert undefined_symbols(machine.emit_object(module)) == {"exp"}
