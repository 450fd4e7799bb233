"""The numbers of docs/results.md, each with the commands that make it again."""
