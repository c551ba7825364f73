"""What outlives a process: cursors, each store behind a small public protocol."""
