"""The explorer: one page over all studies, on which any superclasses and a bound are picked."""
