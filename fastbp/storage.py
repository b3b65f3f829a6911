"""Networks on disk: safetensors, with the architecture as JSON in the metadata. No pickle."""


def save(network, path):
    """Write a network to a file."""
    raise NotImplementedError


def load(path):
    """Read a network from a file."""
    raise NotImplementedError
