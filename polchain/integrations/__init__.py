"""polchain inside other people's training loops.

Each module fits one framework to the same recording that `polchain.record` does, and adds no mechanism of its own. The
frameworks are optional: a module imports its own only when it is imported itself.
"""
