"""The fast paths: one automaton, run by numba, by NumPy or by torch. They take arrays, and know nothing of batches."""
