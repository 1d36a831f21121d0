"""Texts of marker-set files for tests."""

GOOD = """\
name: toy
special_tokens: ["<|s|>", "<|e|>"]
role_names: {assistant: model}
markers:
  - role: [user, assistant]
    start: "<|s|>{{ role }}\\n"
    end: "<|e|>"
examples:
  - text: "<|s|>user\\nHi<|e|><|s|>model\\nYes<|e|>"
    trained: ["Yes<|e|>"]
"""
