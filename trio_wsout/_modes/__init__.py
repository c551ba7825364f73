"""The nursery trees, one a mode; each module's docstring draws its tree."""
