"""Dataset distillation: expert trajectories, trajectory matching, and the judging of distilled sets."""
