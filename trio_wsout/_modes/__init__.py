"""The nursery trees, one a mode: `modes` draws them, and chooses the parts of each."""
