"""The mathematics: scalar formulas, forward above backward, that know nothing of arrays, threads or devices."""
