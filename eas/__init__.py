"""Elastic Architecture Search: one supernet, one generator, a specialised network for every scenario."""
