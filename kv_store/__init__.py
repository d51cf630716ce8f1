"""The KV tier: what a prompt cost to compute outlives the engine that computed it.

Knows neither controller nor engines. The seams for whoever wires it:

- ``settings``: ``TierSettings`` (one LMCache server), ``KVAttachment`` (for ``EngineSpec.kv``).
- ``lmcache_server.LMCacheServer``: ``start``, ``stop``, ``attachment``, ``client``; one a node.
- ``lmcache_client.LMCacheClient``: ``export`` before an engine sleeps, ``prefetch`` while it
  wakes, ``verify``, ``delete``, by ``Prefix`` (model path, salt, tokens). Raises TierUnavailable.
- ``keys``: ``fingerprint(directory)`` at a start and at each reload of weights,
  ``KVIdentity(...).salt(domain_of(...))`` as the ``cache_salt`` of each request.
- ``placing.place``: all of that as one order about a prefix, and where it lies afterwards.
- ``records.TokenRecords``: the tokens of whatever may come back; ``conversation_records``: what
  else is kept of a conversation, whose values are in ``conversations``.
- ``turns``: how an engine tells the tokens of a conversation's turn.
- ``reports``: what each request found and stored, told by the connector in the engine's core;
  ``workers.kv_seat`` receives it and makes the header ``x-torpor-kv``.

``connector`` and ``connector_worker`` run in vLLM; ``server_main``, ``server_module``,
``server_chunks``, ``durable_adapter`` with its places (``directory_adapter``, ``redis_adapter``,
``s3_adapter``)
and ``seals`` in LMCache's server. See docs/kv.md.
"""
