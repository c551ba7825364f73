"""What outlives a process: cursors, histories and spools. The protocols that stores follow are public."""
