"""The command line: one command per stage, made from its definition, and a few that look at things. No logic."""
