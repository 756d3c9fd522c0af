"""Training that can be run again: seeded batches in, checkpoints out.

A `Session` trains for the prover and replays a segment for the verifier; there is no second loop. The folder also turns
a training state into rows and back, hashes it into a manifest, commits to a dataset, derives every random bit from the
run's seed, and measures how far two states lie apart. Only this folder and `integrations` import torch.
"""
