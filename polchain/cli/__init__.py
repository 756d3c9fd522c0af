"""The command line: verbs in, one answer on stdout, an exit code out.

`app` turns errors into exit codes, `output` is the only printer, and each other file holds one group of verbs. It adds
nothing that the library cannot do, and loads torch only for the verbs that train or replay.
"""
