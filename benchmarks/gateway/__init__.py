"""What the controller adds to a request, and what that costs; ``measuring.measures`` does it.

Three processes: an engine without a model (``engine``), or stock vLLM; the real controller before
it with leases, keys, headers, journal and metrics on (``gateway``); and a light client (``load``)
that asks both, the engine's own port and the controller, by turns.
"""
