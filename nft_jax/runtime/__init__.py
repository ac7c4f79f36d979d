"""Machinery that knows nothing of language models: processes, stops, meshes, compilation, files, clocks."""
