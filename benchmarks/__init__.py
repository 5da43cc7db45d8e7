"""How fast Galley is, as ratios to the raw engines and to its peers, measured in one run.

A busy neighbour moves every figure of a run alike, so only the ratios are worth quoting.
"""
