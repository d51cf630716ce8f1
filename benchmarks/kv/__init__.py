"""What keeping KV brings and costs: ``torpor bench kv``.

Three parts, in one run. ``transfer``: a KV server of our own against plain copies. ``storing``: a
model beside its twin that keeps no KV. ``first_token``: long prefixes, restored and recomputed,
after whatever can happen to a model.
"""
