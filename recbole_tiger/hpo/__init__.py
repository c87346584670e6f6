"""Hyper-parameter sweeps on Ray Tune: spaces in YAML, selection on validation per epoch, one look at the test set.

Nothing outside this folder imports Ray.
"""
