"""The generated pages: one module per page."""

COMMAND = "python docs/generate.py"
