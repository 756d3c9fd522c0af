"""Where a run is kept: the ledger and the checkpoints.

The ledger is one SQLite file per run, and an append is one transaction. Checkpoints are safetensors files named by
their digest. What was acknowledged survives a kill and a power cut. Nothing here knows what training is.
"""
