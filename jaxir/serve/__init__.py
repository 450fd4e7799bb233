"""The search service: HTTP over open indexes, rerankers and encoders.

``requests`` and ``bodies`` read what came, ``batching`` gathers what waits into one
call, ``works`` are the calls, ``systems`` holds the open indexes, ``app`` joins them,
``guard`` stands around it, ``connections`` in front, and ``server`` runs it.
``openapi`` says what is served, ``metrics`` and ``access`` what was.
"""
