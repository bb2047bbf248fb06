"""Distillation losses, one file each.

A loss takes the student's outputs first, then the teacher's, and returns one value a sample (N,), in float32 at least;
who trains divides their sum by the number of valid samples. DIST and EnsLoss compare the samples of a batch with
each other and return one value a batch.
"""
