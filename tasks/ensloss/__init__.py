"""EnsLoss: training by random derivatives of all valid classification losses, and sweeps that compare it."""
