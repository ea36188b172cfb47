"""The command line: one lazy entry per command."""
