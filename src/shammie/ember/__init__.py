"""Erase a concept from the token embeddings (Suslik, Shafran and Geva, arXiv 2606.03695), alone or under any eraser."""
