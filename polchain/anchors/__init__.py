"""Time: publishing a signed head where a stranger can trust the date.

An anchor takes a head and gives a receipt; its check says in which interval the head existed. Every source stands
behind one seam, with a double in memory beside it for tests. Nothing here reads a training state.
"""
