"""How a CPU runs the formulas: tiles, loops, one file per operation, the step, the team of threads."""
