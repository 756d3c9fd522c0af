"""The verifier's side: from a stranger's claim to a verdict, and from two verdicts to a ruling.

The road is integrity, challenge, replay, verdict; each stage takes only what the stage before it made. What is false is
raised, what is measured is returned. This package never imports `prover`, and trusts nothing that the prover wrote.
"""
