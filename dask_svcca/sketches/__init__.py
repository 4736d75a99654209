"""Sketches: a layer as a few thousand numbers, made once, whose products estimate how alike any two layers are."""
