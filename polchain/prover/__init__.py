"""The prover's side: record a run as it trains, and open what is asked for.

A checkpoint is hashed, stored, appended to the log and signed off the training thread. Thinning decides which states
are kept, and openings answer a verifier's challenge. This package never imports `verifier`.
"""
