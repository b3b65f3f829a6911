"""The mathematics: scalar formulas, forward above backward. They know no arrays, threads or devices."""
