"""The study: what the notebooks and DVC call. It imports `eas`, the method, which knows nothing of it."""
