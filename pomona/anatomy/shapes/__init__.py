"""The declarations: one file per shape. A new file is found by itself."""
