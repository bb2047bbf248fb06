"""Networks. `network.ARCHITECTURES` is the table from name to builder."""

from .network import ARCHITECTURES, Network, build, parameter_count, resolve

__all__ = ["ARCHITECTURES", "Network", "build", "parameter_count", "resolve"]
