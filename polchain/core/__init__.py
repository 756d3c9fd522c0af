"""Plain values: canonical bytes, digests, Merkle trees, signed notes. No torch, network, files or clock."""
