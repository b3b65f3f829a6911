"""How a GPU runs the formulas: the file names of ``cpu/``, the same operations, read side by side."""
