"""The launches of a `DevicePlan`'s step: which kernels, over which grids, on which operations.

The counterpart of what `program.Program` writes for a CPU, in the same order; `_KINDS` says what each kind of
layer adds, see ``operations.py``.
"""

import numpy as np

from . import operations
from .cuda import device, kernels
from .cuda.gemm import tile_for, tile_named
from .cuda.records import OPERATION
from .cuda.rows import LANES, ROWS
from .cuda.shaping import numbers_of
from .formulas.activations import ACTIVATIONS
from .formulas.losses import LOSSES
from .formulas.optimizers import ROOM

_THREADS = 8 if device.SIMULATED else 256  # of a block whose threads take elements

# Blocks of grids whose threads go on to further rows, at most.
_MOST_BLOCKS = 4096


class DeviceProgram:
    """The launches of a plan while they are written: first what they need of the plan's memory, which is
    then allocated, then `write`.

    Attributes
    ----------
    launches : list of callable
        Of a step, each called with the address of the context and the number of rows of the data.
    order : dict
        Launches that write the order of an epoch: of a shuffle (1), of balanced samples (2).
    """

    MOST = 12  # operations of a layer, at most

    def __init__(self, plan):
        self.plan, self.operations, self.launches = plan, [], []
        architecture, parts = plan.architecture, plan.parts
        parts.take("operations", OPERATION.itemsize * self.MOST * (architecture.n_layers + 1))
        for layer, operation in enumerate(architecture.operations):
            if operation.keeps_columns:
                for name, vectors in (("kept", operation.keeps_columns), ("sums", 2)):
                    parts.take((name, layer), vectors * architecture.sizes[layer + 1] * plan.size)
            parts.keep(("numbers", layer), self._numbers_of(operation))
        parts.keep("input_scale", np.array([plan.input_scale], architecture.dtype))
        self._keep_shapes()

    # Constants

    def _numbers_of(self, operation):
        """An operation's settings; a dropout's threshold is an int64."""
        numbers, dtype = operation.numbers(), self.plan.architecture.dtype
        if isinstance(operation, operations.Dropout):
            bits = np.zeros(16, np.uint8)
            bits[:8] = np.array([numbers[0]], np.int64).view(np.uint8)
            bits[8 : 8 + dtype.itemsize] = np.array([numbers[1]], dtype).view(np.uint8)
            return bits
        return np.array((*numbers, 0.0), dtype)

    def _keep_shapes(self):
        """The numbers at `op.shaping` of operations, by what they are for."""
        shaped = self.plan.shaping
        if shaped is None:
            return
        noise = dict(noise=shaped.gradient_noise)
        annealed = dict(first_deviation=shaped.gradient_noise, decay=shaped.gradient_noise_decay)
        self._keep_shape("inputs", noise=shaped.input_noise)
        self._keep_shape("noise", **annealed)
        self._keep_shape("clip", most=shaped.clip_norm)
        for layer in range(self.plan.architecture.n_layers):
            penalties = shaped.penalties[layer]
            self._keep_shape(("collect", layer), *penalties, shaped.clip_value)
            self._keep_shape(("max", layer), most=shaped.max_norms[layer])
            self._keep_shape(("update", layer), *penalties, shaped.clip_value, **noise)

    def _keep_shape(self, name, *numbers, **others):
        self.plan.parts.keep(("shaping", name), numbers_of(self.plan.architecture.dtype, *numbers, **others))

    # Grids: (of blocks, of threads)

    def _elements(self, rows, columns):
        """A thread for an element of (rows, columns), columns along x."""
        wide = min(_THREADS, 1 << max(0, (columns - 1).bit_length()), 4 if device.SIMULATED else 64)
        tall = _THREADS // wide
        return (-(-columns // wide), min(-(-rows // tall), _MOST_BLOCKS)), (wide, tall)

    def _columns(self, n, chunks=None):
        """A thread for each of n columns, along x; of each chunk, where the chunks are along x."""
        threads = min(_THREADS, 64)
        blocks = -(-n // threads)
        return ((blocks, 1) if chunks is None else (chunks, blocks)), (threads, 1)

    def _rows(self, rows):
        return (min(-(-rows // ROWS), _MOST_BLOCKS), 1), (LANES, ROWS)

    def _tiles(self, m, n, chunks=1):
        """(name of the tile, grid) of a product of m rows and n columns, or of one for each chunk."""
        name = tile_for(m, n, self.plan.real)
        edge, threads = tile_named(name, self.plan.real).edge, tile_named(name, self.plan.real).threads
        return name, ((-(-m // edge) * chunks, -(-n // edge)), (threads, 1))

    _ONE = (1, 1), (1, 1)

    # Rows of the program

    def emit(self, factory, *arguments, layer=0, grid=None, **fields):
        """Add the launch of kernel ``factory(*arguments, real)``; `fields` differ from the layer's."""
        record = np.zeros(1, OPERATION)
        for name, value in (self._fields(layer) | fields).items():
            record[name] = value
        place = len(self.operations) * OPERATION.itemsize
        self.operations.append(record)
        arguments = arguments if factory in kernels.WITHOUT_TYPE else (*arguments, self.plan.real)
        self.launches.append(
            self._launch(factory, arguments, grid or self._ONE, self.plan.parts.address("operations") + place)
        )

    def _launch(self, factory, arguments, grid, operation):
        """A function ``launch(context, n)``; a grid of None blocks covers the n rows of the data."""
        kernel, (blocks, threads) = device.kernel(factory, *arguments), grid
        if blocks[0] is not None:
            launch = device.configured(kernel, blocks, threads)
            return lambda context, n: launch(operation, context)
        launches = {}

        def cover(context, n):
            if n not in launches:
                launches[n] = device.configured(kernel, min(-(-n // threads[0]), _MOST_BLOCKS), threads)
            launches[n](operation, context)

        return cover

    def _fields(self, layer):
        plan, architecture, address = self.plan, self.plan.architecture, self.plan.parts.address
        n_in, n_out = architecture.sizes[layer : layer + 2]
        _, x, dx, _ = plan.buffers(layer)
        z, y, dz, kept = plan.buffers(layer + 1)
        operation = architecture.operations[layer]
        first = plan.offsets[layer] * plan.size
        row, bias_row = (ROOM * plan.size * group for group in plan.groups[layer])
        known = dict(
            n_in=n_in, n_out=n_out, use_bias=architecture.biases[layer], x=x, dx=dx,
            x_row=plan.row_bytes(layer), z=z, y=y, dz=dz, z_row=plan.row_bytes(layer + 1),
            w=address("parameters") + first, state_bytes=plan.state_bytes,
            slots=address("slots") + first, slot_bytes=plan.state_bytes,
            hyper=address("hyper") + row, bias_hyper=address("hyper") + bias_row,
            squares=address("squares") + 8 * sum(architecture.sizes[1 : layer + 1]),
            numbers=address(("numbers", layer)), kept=kept, noise=architecture.noise_before(layer),
        )  # fmt: skip
        if layer > 0:
            keeps = ACTIVATIONS[architecture.activations[layer - 1]].keeps
            known["kept_before"] = plan.buffers(layer)[keeps == "y"]
        return known | _KINDS[type(operation)].fields(self, layer, operation)

    def shape_field(self, key):
        """The field `shaping` of an operation."""
        return dict(shaping=self.plan.parts.address(("shaping", key)))

    def update_fields(self, layer):
        """(1 where the gradient of a layer is shaped before its update, else 0; fields of the update)."""
        shaped, fields = self.plan.shaping, dict(collected=self.plan.clips_norm, layer=layer)
        if shaped is None or not shaped.changes_gradient(layer):
            return 0, fields
        return 1, fields | self.shape_field(("update", layer))

    # The step

    def write(self):
        """Write the program itself: its kernels are compiled, its operations go to the device's memory."""
        over_data = (None,), (_THREADS,)
        shuffle = kernels.shuffle_empty, kernels.shuffle_draw, kernels.shuffle_write
        self.order = {
            which: [self._launch(kernel, (), over_data, 0) for kernel in factories]
            for which, factories in {1: shuffle, 2: (kernels.sample_balanced,)}.items()
            if self.plan.task == "train"
        }
        self._write_step()
        self.plan.parts.write("operations", np.concatenate(self.operations))

    def _write_step(self):
        """All launches of a step."""
        plan, n = self.plan, self.plan.architecture.n_layers
        rows, n_inputs = plan.batch_size, plan.architecture.sizes[0]
        self.emit(kernels.begin_step)
        if plan.task == "train":
            groups = (-(-len(plan.settings) // 4), 1), (4, 1)
            self.emit(kernels.prepare, plan.optimizer, plan.schedule or "", grid=groups)
        if plan.weighted is True:
            self.emit(kernels.total_weight)
        scale = dict(numbers=plan.parts.address("input_scale"), grid=self._elements(rows, n_inputs))
        if "sparse" in plan.data:
            self.emit(kernels.empty_rows, grid=scale["grid"])
            kind, grid = plan.data.removeprefix("sparse "), self._rows(rows)
            self.emit(kernels.gather_sparse, kind, **scale | dict(grid=grid))
        elif plan.data == "bytes" or plan.input_scale != 1:
            self.emit(kernels.gather_scaled, plan.data, **scale)
        else:
            self.emit(kernels.gather, grid=scale["grid"])
        if plan.shaping and plan.shaping.input_noise:
            self.emit(kernels.input_noise, grid=self._elements(rows, n_inputs), **self.shape_field("inputs"))
        for layer in range(n):
            self._kind(layer, "forward")
        self._end_forward(n - 1)
        if plan.backward:
            for layer in reversed(range(n)):
                self._backward(layer)
            if plan.wants_dx[0]:
                grid, (_, _, dx, _) = self._elements(rows, n_inputs), plan.buffers(0)
                if plan.input_scale != 1:
                    self.emit(kernels.scale_rows, **scale, x=dx)
                self.emit(kernels.copy_outputs, grid=grid, y=dx, z_row=plan.row_bytes(0), n_out=n_inputs)
            self._phase_two()
        self.emit(kernels.end_of_batch if plan.task in ("predict", "logits") else kernels.end_of_step)

    def _kind(self, layer, what):
        """Let a layer emit its part, unless its output is its input."""
        operation = self.plan.architecture.operations[layer]
        if not operation.passes(self.plan):
            getattr(_KINDS[type(operation)], what)(self, layer, operation)

    def _end_forward(self, layer):
        plan, architecture = self.plan, self.plan.architecture
        rows, n_out, rowwise = plan.batch_size, architecture.sizes[-1], LOSSES[architecture.loss].rowwise
        elements = dict(layer=layer, grid=self._elements(rows, n_out))
        by_rows = dict(layer=layer, grid=self._rows(rows))
        if plan.task == "logits":
            self.emit(kernels.copy_outputs, **elements)
        if plan.task in ("predict", "evaluate") and rowwise:
            self.emit(kernels.softmax_link, **by_rows)
        elif plan.task in ("predict", "evaluate"):
            self.emit(kernels.elementwise_link, architecture.loss, **elements)
        if plan.task not in ("predict", "logits") and rowwise:
            self.emit(kernels.softmax_loss, plan.targets, **by_rows)
        elif plan.task not in ("predict", "logits"):
            self.emit(kernels.elementwise_loss, architecture.loss, **by_rows)
        if plan.weighted:
            self.emit(kernels.weigh_rows, **elements)

    def activation_of_dx(self, layer):
        """The activation before a layer whose backward the product for dx applies; "identity": none."""
        architecture = self.plan.architecture
        joined = any(other.first == layer for other in architecture.operations)
        return "identity" if layer == 0 or joined else architecture.activations[layer - 1]

    def _backward(self, layer):
        plan, architecture = self.plan, self.plan.architecture
        name, behind = architecture.activations[layer], layer + 1
        fused = (
            behind < architecture.n_layers
            and architecture.is_dense(behind)
            and plan.wants_dx[behind]
            and self.activation_of_dx(behind) == name
        )
        if name != "identity" and not fused:
            grid = self._elements(plan.batch_size, architecture.sizes[layer + 1])
            self.emit(kernels.activation_backward, name, layer=layer, grid=grid)
        self._kind(layer, "backward")
        for place, other in enumerate(architecture.operations):
            if other.first == layer and plan.wants_dx[layer]:
                grid = self._elements(plan.batch_size, architecture.sizes[place + 1])
                self.emit(kernels.residual_skip_backward, layer=place, grid=grid)

    def _phase_two(self):
        plan, architecture = self.plan, self.plan.architecture
        learning = [i for i, operation in enumerate(architecture.operations) if operation.learns]
        if plan.task == "train" and plan.shaping and plan.shaping.gradient_noise:
            self.emit(kernels.noise_of_step, **self.shape_field("noise"))
        if plan.clips_norm:
            for layer in learning:
                self._kind(layer, "gradient")
                collect = (
                    kernels.dense_collect if architecture.is_dense(layer) else kernels.scale_shift_collect
                )
                fields = dict(grid=self._columns(architecture.sizes[layer + 1]), layer=layer)
                self.emit(collect, **fields, **self.shape_field(("collect", layer)))
            columns = sum(architecture.sizes[1:])
            fields = dict(squares=plan.parts.address("squares"), n_out=columns)
            self.emit(kernels.clip_factor, **fields, **self.shape_field("clip"))
        for layer in learning:
            if plan.task == "gradient":
                self._kind(layer, "gradient")
                if plan.chunked:
                    n = architecture.parameter_offsets()[layer + 1] - plan.offsets[layer]
                    self.emit(kernels.slots_total, layer=layer, grid=self._columns(n), n_in=n)
            else:
                self._kind(layer, "update")


class _Kind:
    """What a kind of layer emits; see `operations.Operation`. Dense layers apply activations themselves."""

    @staticmethod
    def fields(program, layer, operation):
        return {}

    @staticmethod
    def forward(program, layer, operation):
        raise NotImplementedError

    @staticmethod
    def backward(program, layer, operation):
        pass

    @staticmethod
    def gradient(program, layer, operation):
        pass

    @staticmethod
    def update(program, layer, operation):
        pass


class _Dense(_Kind):
    @staticmethod
    def forward(program, layer, operation):
        plan = program.plan
        tile, grid = program._tiles(plan.batch_size, plan.architecture.sizes[layer + 1])
        name = plan.architecture.activations[layer]
        program.emit(kernels.dense_forward, name, tile, layer=layer, grid=grid)

    @staticmethod
    def backward(program, layer, operation):
        plan = program.plan
        if plan.wants_dx[layer]:
            tile, grid = program._tiles(plan.batch_size, plan.architecture.sizes[layer])
            name = program.activation_of_dx(layer)
            program.emit(kernels.dense_backward, name, tile, layer=layer, grid=grid)

    @staticmethod
    def gradient(program, layer, operation):
        n_in, n_out = program.plan.architecture.sizes[layer : layer + 2]
        tile, grid = program._tiles(n_in + 1, n_out, program.plan.n_slots)
        program.emit(kernels.dense_gradient, tile, layer=layer, grid=grid)

    @staticmethod
    def update(program, layer, operation):
        plan, (n_in, n_out) = program.plan, program.plan.architecture.sizes[layer : layer + 2]
        changes, fields = program.update_fields(layer)
        if plan.chunked or plan.materialise:
            if not plan.clips_norm:
                _Dense.gradient(program, layer, operation)
            grid = program._elements(n_in + 1, n_out)
            program.emit(kernels.dense_apply, plan.optimizer, changes, grid=grid, **fields)
        else:
            tile, grid = program._tiles(n_in + 1, n_out)
            program.emit(kernels.dense_update, plan.optimizer, changes, tile, grid=grid, **fields)
        if plan.shaping and plan.shaping.max_norms[layer]:
            fields = dict(layer=layer, grid=program._columns(n_out))
            program.emit(kernels.dense_max_norm, **fields, **program.shape_field(("max", layer)))


class _Activation(_Kind):
    @staticmethod
    def forward(program, layer, operation):
        architecture = program.plan.architecture
        grid = program._elements(program.plan.batch_size, architecture.sizes[layer + 1])
        program.emit(kernels.activation_take, architecture.activations[layer], layer=layer, grid=grid)

    @staticmethod
    def backward(program, layer, operation):
        if program.plan.wants_dx[layer]:
            grid = program._elements(program.plan.batch_size, program.plan.architecture.sizes[layer + 1])
            program.emit(kernels.hand_back, layer=layer, grid=grid)


class _Dropout(_Kind):
    @staticmethod
    def fields(program, layer, operation):
        return operation.fields(None, layer, None)

    @staticmethod
    def forward(program, layer, operation):
        quarter = (program.plan.architecture.sizes[layer] + 3) // 4
        grid = program._elements(program.plan.batch_size, quarter)
        program.emit(kernels.dropout_forward, layer=layer, grid=grid)

    @staticmethod
    def backward(program, layer, operation):
        if program.plan.wants_dx[layer]:
            grid = program._elements(program.plan.batch_size, program.plan.architecture.sizes[layer])
            program.emit(kernels.dropout_backward, layer=layer, grid=grid)


class _Normalization(_Kind):
    @staticmethod
    def fields(program, layer, operation):
        return dict(use_scale=operation.scale, use_bias=operation.shift)

    @staticmethod
    def gradient(program, layer, operation):
        _Normalization.sums(program, layer, program.plan.n_slots)

    @staticmethod
    def sums(program, layer, slots):
        """dγ and dβ in so many slots; in one they are of the whole batch."""
        grid = program._columns(program.plan.architecture.sizes[layer + 1], slots)
        program.emit(kernels.scale_shift_gradient, layer=layer, grid=grid)

    @staticmethod
    def update(program, layer, operation):
        plan, (changes, fields) = program.plan, program.update_fields(layer)
        if not plan.clips_norm:
            _KINDS[type(operation)].gradient(program, layer, operation)
        grid = program._columns(operation.n_parameters(0, plan.architecture.sizes[layer + 1], True))
        program.emit(kernels.scale_shift_apply, plan.optimizer, changes, grid=grid, **fields)


class _LayerNorm(_Normalization):
    @staticmethod
    def forward(program, layer, operation):
        grid = program._rows(program.plan.batch_size)
        program.emit(kernels.layer_norm_forward, layer=layer, grid=grid)

    @staticmethod
    def backward(program, layer, operation):
        if program.plan.wants_dx[layer]:
            grid = program._rows(program.plan.batch_size)
            program.emit(kernels.layer_norm_backward, layer=layer, grid=grid)


class _BatchNorm(_Normalization):
    @staticmethod
    def fields(program, layer, operation):
        known = _Normalization.fields(program, layer, operation)
        return known | dict(
            kept=program.plan.parts.address(("kept", layer)),
            sums=program.plan.parts.address(("sums", layer)),
        )

    @staticmethod
    def forward(program, layer, operation):
        plan, n = program.plan, program.plan.architecture.sizes[layer]
        statistics = kernels.batch_norm_running
        if plan.batch_statistics:
            statistics = kernels.batch_norm_statistics
        program.emit(statistics, layer=layer, grid=program._columns(n))
        program.emit(kernels.batch_norm_forward, layer=layer, grid=program._elements(plan.batch_size, n))

    @staticmethod
    def backward(program, layer, operation):
        plan, n = program.plan, program.plan.architecture.sizes[layer]
        wants_dx, grid = plan.wants_dx[layer], program._elements(plan.batch_size, n)
        if plan.batch_statistics and (operation.learns or wants_dx):
            _Normalization.sums(program, layer, slots=1)
        if wants_dx and plan.batch_statistics:
            program.emit(kernels.batch_norm_backward, layer=layer, grid=grid)
        elif wants_dx:
            program.emit(kernels.batch_norm_backward_running, layer=layer, grid=grid)

    @staticmethod
    def gradient(program, layer, operation):
        if not program.plan.batch_statistics:  # else the backward has left it there
            _Normalization.gradient(program, layer, operation)


class _Residual(_Kind):
    @staticmethod
    def fields(program, layer, operation):
        _, skip, dskip, _ = program.plan.buffers(operation.first)
        return dict(skip=skip, dskip=dskip, skip_row=program.plan.row_bytes(operation.first))

    @staticmethod
    def forward(program, layer, operation):
        grid = program._elements(program.plan.batch_size, program.plan.architecture.sizes[layer + 1])
        program.emit(kernels.residual_forward, layer=layer, grid=grid)

    @staticmethod
    def backward(program, layer, operation):
        if program.plan.wants_dx[layer]:
            grid = program._elements(program.plan.batch_size, program.plan.architecture.sizes[layer + 1])
            program.emit(kernels.hand_back, layer=layer, grid=grid)


_KINDS = {
    operations.Dense: _Dense,
    operations.Activation: _Activation,
    operations.Dropout: _Dropout,
    operations.LayerNorm: _LayerNorm,
    operations.BatchNorm: _BatchNorm,
    operations.Residual: _Residual,
}
